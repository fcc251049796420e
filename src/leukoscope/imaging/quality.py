"""How good a picture is, without a reference; the numbers warn, they never decide a class."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

QUALITY_MEASURES: tuple[str, ...] = ("brightness", "contrast", "sharpness", "snr", "saturation")


def measure_quality(image: NDArray[np.uint8]) -> dict[str, float]:
    """Five measures of an image; all finite, for constant images too.

    With Y the luma of ITU-R BT.601 (0–255):

    * ``brightness``: mean of Y, 0–255.
    * ``contrast``: standard deviation of Y (RMS contrast), 0–127.5.
    * ``sharpness``: variance of the 3×3 Laplacian of Y (Pech-Pacheco et al. 2000,
      doi 10.1109/ICPR.2000.903548); low where the image is out of focus.
    * ``snr``: mean of Y over the standard deviation of its noise, the latter by the fast
      estimator of Immerkær (1996, doi 10.1006/cviu.1996.0060); the noise is taken to be at
      least that of quantisation, 1/√12, so a constant image has a finite ratio.
    * ``saturation``: mean of (max − min) / max over the channels, 0–1; 0 for black pixels.

    Args:
        image: (H, W, 3) uint8 RGB.

    >>> measure_quality(np.full((8, 8, 3), 100, np.uint8))["sharpness"]
    0.0
    """
    luma = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(luma))
    # OpenCV throughout: its sums are in double precision as well, and several times faster; whole
    # numbers in 16 bits, and norms in place of its standard deviation, twice as fast again.
    laplacian = cv2.Laplacian(luma, cv2.CV_16S, ksize=1)
    share = 1 / laplacian.size
    sharpness = cv2.norm(laplacian, cv2.NORM_L2SQR) * share
    sharpness -= (cv2.sumElems(laplacian)[0] * share) ** 2
    red, green, blue = cv2.split(image)
    highest = cv2.max(cv2.max(red, green), blue)
    spread = cv2.subtract(highest, cv2.min(cv2.min(red, green), blue))
    saturation = cv2.divide(spread, np.maximum(highest, 1), dtype=cv2.CV_32F)
    return {
        "brightness": mean,
        "contrast": deviation,
        "sharpness": max(0.0, sharpness),
        "snr": mean / max(noise_level(luma), 12**-0.5),
        "saturation": float(cv2.mean(saturation)[0]),
    }


def noise_level(luma: NDArray[np.uint8]) -> float:
    """Standard deviation of the noise by Immerkær's fast estimator (1996, eq. 4).

    Args:
        luma: (H, W) uint8 grey values.

    >>> noise_level(np.zeros((9, 9), np.uint8))
    0.0
    """
    # The difference of two Laplacians ignores constant and linear structure.
    kernel = np.array([1, -2, 1], np.float32)
    response = cv2.sepFilter2D(luma, cv2.CV_16S, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)
    return float(np.sqrt(np.pi / 2) * cv2.norm(response, cv2.NORM_L1) / response.size / 6)
