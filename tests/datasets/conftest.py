"""Small smears, and folders laid out as the published data sets are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Draw = Callable[..., Image]
Put = Callable[..., Path]


def _smear(seed: int, size: int = 128, ground: tuple[int, int, int] = (244, 240, 246)) -> Image:
    """A field of red cells and a few leukocytes, unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    image = np.full((size, size, 3), ground, np.uint8)
    for _ in range(size * size // 350):
        x, y, r = int(rng.integers(size)), int(rng.integers(size)), int(rng.integers(5, 9))
        cv2.circle(image, (x, y), r, (205, 190, 205), -1, cv2.LINE_AA)
        cv2.circle(image, (x, y), r // 2, (225, 212, 222), -1, cv2.LINE_AA)
    for _ in range(5):
        x, y, r = int(rng.integers(size)), int(rng.integers(size)), int(rng.integers(9, 13))
        cv2.circle(image, (x, y), r, (110, 60, 160), -1, cv2.LINE_AA)
        cv2.circle(image, (x + 3, y - 2), r // 3, (140, 90, 180), -1, cv2.LINE_AA)
    noise = rng.normal(0, 2, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def smear() -> Draw:
    """Draws a small field."""
    return _smear


@pytest.fixture(scope="session")
def put() -> Put:
    """Writes an image; a number stands for a tiny picture of that seed."""

    def write(path: Path, image: Image | int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(image, int):
            image = np.random.default_rng(image).integers(0, 256, (16, 16, 3)).astype(np.uint8)
        suffix = path.suffix.lower()
        lossless = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
        done, data = cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]), lossless)
        assert done
        path.write_bytes(data.tobytes())
        return path

    return write
