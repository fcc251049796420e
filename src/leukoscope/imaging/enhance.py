"""Contrast enhancement."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray


def clahe(image: NDArray[np.uint8], clip_limit: float, tiles: int) -> NDArray[np.uint8]:
    """Contrast-limited adaptive histogram equalisation of L in CIELAB (Zuiderveld 1994).

    Args:
        image: (H, W, 3) uint8 RGB.
        clip_limit: Largest height of a histogram bin relative to the mean, above 0.
        tiles: Number of tiles along each side, at least 1.

    Returns:
        (H, W, 3) uint8 RGB; a and b are those of the input.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    # A fresh object each time: OpenCV's keeps state and must not be shared between threads.
    equaliser = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(tiles, tiles))
    lab[:, :, 0] = equaliser.apply(np.ascontiguousarray(lab[:, :, 0]))
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), np.uint8)


def adaptive_clahe(
    image: NDArray[np.uint8], clip_limits: Sequence[float], tiles: Sequence[int]
) -> NDArray[np.uint8]:
    """The CLAHE, of all pairs of settings, with the largest standard deviation of grey levels.

    Args:
        image: (H, W, 3) uint8 RGB.
        clip_limits: To choose from, not empty.
        tiles: To choose from, not empty.

    Returns:
        (H, W, 3) uint8 RGB; of equal results the first, limits before tiles.
    """
    candidates = (clahe(image, limit, number) for limit, number in product(clip_limits, tiles))
    return max(candidates, key=_grey_deviation)


def _grey_deviation(image: NDArray[np.uint8]) -> float:
    _, deviation = cv2.meanStdDev(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    return float(deviation[0, 0])
