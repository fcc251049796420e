"""Colour and grain of a picture as a few numbers, in which no shape of a cell is left."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.background import colour_statistics, histogram

_LEVELS = 4


def describe_appearance(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What a picture looks like from afar: its colours, their relation, its grain at four scales.

    A network's features are made to ignore stain and light, so that a negative of a field looks
    to them much like the field; these numbers do not.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (29,) float64: ``colour_statistics`` in units of 16 grey levels (21), the mean difference
        of the channels red − green and green − blue over the darkest and over the lightest
        quarter of the pixels in the same units (4), and log₂(1 + standard deviation) of what each
        of four steps of a Laplacian pyramid of the luma takes away (4; Burt & Adelson 1983).

    >>> describe_appearance(np.full((64, 64, 3), 32, np.uint8))[[0, 1, -1]].tolist()
    [2.0, 0.0, 0.0]
    """
    luma = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    below = np.cumsum(histogram(luma)) / luma.size
    low, high = np.searchsorted(below, (0.25, 0.75))
    contrasts = []
    for darkest, lightest in ((0, low), (high, 255)):
        inside = cv2.inRange(luma, int(darkest), int(lightest))
        red, green, blue = cv2.mean(image, inside)[:3]
        contrasts += [red - green, green - blue]
    colours = np.array([*colour_statistics(image), *contrasts])
    return np.concatenate([colours / 16, _grain(luma)])


def _grain(luma: NDArray[np.uint8]) -> list[float]:
    """log₂(1 + standard deviation) of each step of a Laplacian pyramid."""
    picture, found = luma.astype(np.float32), []
    for _ in range(_LEVELS):
        smaller = cv2.pyrDown(picture)
        again = cv2.pyrUp(smaller, dstsize=(picture.shape[1], picture.shape[0]))
        deviation = cv2.meanStdDev(cv2.subtract(picture, again))[1]
        found.append(float(np.log2(1 + deviation[0, 0])))
        picture = np.asarray(smaller, np.float32)
    return found
