"""Mild damage that no haematologist would notice, to see how much of a model's skill survives it.

Each function takes and gives uint8 RGB of any size and uses no random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def blurred(image: Image, sigma_px: float) -> Image:
    """Gaussian blur with a standard deviation in pixels of the file."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px), np.uint8)


def compressed(image: Image, quality: int) -> Image:
    """Written as JPEG (4:2:0) of a quality and read again."""
    done, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    again = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert done
    assert again is not None
    return np.ascontiguousarray(np.asarray(again, np.uint8)[:, :, ::-1])


def scaled(image: Image, share: float) -> Image:
    """Resized by a factor: averaged when smaller, linear when larger."""
    height, width = (max(1, round(side * share)) for side in image.shape[:2])
    how = cv2.INTER_AREA if share < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)


def resampled(image: Image, share: float = 0.8) -> Image:
    """Resized by a factor and back."""
    height, width = image.shape[:2]
    small = scaled(image, share)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


DEGRADATIONS: Mapping[str, Callable[[Image], Image]] = MappingProxyType(
    {
        "blur-0.5": partial(blurred, sigma_px=0.5),
        "blur-1": partial(blurred, sigma_px=1.0),
        "jpeg-95": partial(compressed, quality=95),
        "jpeg-85": partial(compressed, quality=85),
        "size-90": partial(scaled, share=0.9),
        "size-110": partial(scaled, share=1.1),
        "resampled": resampled,
    }
)
"""Name of each kind of :data:`leukoscope.config.study.DEGRADED` → what does it."""
