"""Smoothing and grey-level morphology."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray


def gaussian_blur(image: NDArray[np.uint8], sigma_px: float) -> NDArray[np.uint8]:
    """Convolve with a Gaussian; borders are mirrored.

    Args:
        image: (H, W, 3) uint8 RGB.
        sigma_px: Standard deviation, above 0.
    """
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px), np.uint8)


def bilateral_filter(
    image: NDArray[np.uint8], diameter_px: int, sigma_colour: float, sigma_px: float
) -> NDArray[np.uint8]:
    """Mean of near pixels of like colour (Tomasi & Manduchi 1998, doi 10.1109/ICCV.1998.710815).

    Args:
        image: (H, W, 3) uint8 RGB.
        diameter_px: Of the neighbourhood.
        sigma_colour: Standard deviation of the weight over differences of levels.
        sigma_px: Standard deviation of the weight over distances.
    """
    return np.asarray(cv2.bilateralFilter(image, diameter_px, sigma_colour, sigma_px), np.uint8)


def morphology(
    pixels: NDArray[np.uint8], operation: Literal["open", "close"], radius_px: int
) -> NDArray[np.uint8]:
    """Open or close by an ellipse (Serra 1982); a radius of 0 changes nothing.

    Args:
        pixels: (H, W, 3) uint8 RGB, each channel for itself, or an (H, W) mask of 0 and 1.
        operation: Opening removes what is lighter and smaller than the ellipse, closing what is
            darker and smaller.
        radius_px: Of the ellipse, at least 0.
    """
    if radius_px == 0:
        return pixels
    side = 2 * radius_px + 1
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    how = cv2.MORPH_OPEN if operation == "open" else cv2.MORPH_CLOSE
    return np.asarray(cv2.morphologyEx(pixels, how, ellipse), np.uint8)
