"""Image quality and picture conditions, without a reference; they warn, never decide a class."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.stain import BLACK

QUALITY_MEASURES: tuple[str, ...] = ("brightness", "contrast", "sharpness", "snr", "saturation")
_CELLS = 8  # rows and columns of the grid on which light is measured
_BLOCK = 8  # side of the squares of JPEG
FROM_QUALITY = ("sharpness", "snr")
BEYOND: Mapping[tuple[str, str], str] = {
    ("brightness", "low"): "darker",
    ("brightness", "high"): "brighter",
    ("sharpness", "low"): "blurrier",
    ("sharpness", "high"): "grainier",
    ("snr", "low"): "noisier",
    ("stain_strength", "low"): "more faded",
    ("stain_balance", "low"): "stained redder",
    ("stain_balance", "high"): "stained bluer",
    ("unevenness", "high"): "lit less evenly",
    ("blockiness", "high"): "more strongly compressed",
}
"""How a picture beyond a limit of a measure is described; the sides that a limit may have."""
_V, _U = (2 * np.indices((_CELLS, _CELLS)).reshape(2, -1) + 1) / _CELLS - 1  # edges at −1, 1


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


def measure_conditions(image: NDArray[np.uint8], quality: Mapping[str, float]) -> dict[str, float]:
    """The measures by which an envelope is checked; all finite.

    * ``sharpness``, ``snr``: as in ``quality``.
    * ``brightness``: mean of luma, but for black surroundings of a cell that was cut out.
    * ``stain_strength``: optical density of the darkest stain against the ground: log of the 95th
      over the 5th percentile of green. The lamp's brightness cancels.
    * ``stain_balance``: of pixels at least half as dense, (red − blue) / sum of the mean optical
      densities against the ground; high where blue-violet dye prevails.
    * ``unevenness``: share of the light that is lost along the steepest direction of a plane
      through the brightest luma of 8 × 8 squares, 0–1.
    * ``blockiness``: mean step of luma across the borders of 8 × 8 px squares over that elsewhere;
      1 where nothing was compressed, or nothing is left of it after a resize.

    Args:
        quality: Of the same image, from :func:`leukoscope.imaging.quality.measure_quality`.

    >>> from leukoscope.imaging.quality import measure_quality
    >>> plain = np.full((32, 32, 3), 200, np.uint8)
    >>> measure_conditions(plain, measure_quality(plain))["stain_strength"]
    0.0
    """
    luma = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    lit = np.asarray(cv2.threshold(luma, BLACK - 1, 255, cv2.THRESH_BINARY)[1], np.uint8)
    strength, balance = _stain(image, lit)
    return {
        **{name: quality[name] for name in FROM_QUALITY},
        "brightness": float(cv2.mean(luma, lit)[0]),
        "stain_strength": strength,
        "stain_balance": balance,
        "unevenness": _unevenness(luma),
        "blockiness": _blockiness(luma),
    }


def _stain(image: NDArray[np.uint8], lit: NDArray[np.uint8]) -> tuple[float, float]:
    channels = [np.asarray(channel, np.uint8) for channel in cv2.split(image)]
    grounds = [_percentile(channel, lit, 0.95) for channel in channels]
    green = channels[1]
    strength = float(np.log((grounds[1] + 1) / (_percentile(green, lit, 0.05) + 1)))
    if strength <= 0:
        return 0.0, 0.0
    limit = int((grounds[1] + 1) * np.exp(-strength / 2))
    dark = cv2.threshold(green, limit, 255, cv2.THRESH_BINARY_INV)[1]
    dense = np.asarray(cv2.bitwise_and(lit, dark), np.uint8)
    levels = np.arange(256)
    densities = []
    for channel, ground in zip(channels, grounds, strict=True):
        counts = _histogram(channel, dense)
        table = np.maximum(np.log((ground + 1) / (levels + 1.0)), 0)
        densities.append(float(counts @ table / max(counts.sum(), 1)))
    total = sum(densities)
    return strength, (densities[0] - densities[2]) / total if total > 0 else 0.0


def _histogram(channel: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(cv2.calcHist([channel], [0], mask, [256], [0, 256]), np.float64).ravel()


def _percentile(channel: NDArray[np.uint8], mask: NDArray[np.uint8], share: float) -> int:
    """The level below which ``share`` of the masked pixels lie; 0 where there are none."""
    total = np.cumsum(_histogram(channel, mask))
    return int(np.searchsorted(total, share * total[-1])) if total[-1] else 0


def _unevenness(luma: NDArray[np.uint8]) -> float:
    """See :func:`measure_conditions`; 0 where fewer than half of the squares are lit."""
    small = cv2.resize(luma, (4 * _CELLS, 4 * _CELLS), interpolation=cv2.INTER_AREA)
    light = np.asarray(small).reshape(_CELLS, 4, _CELLS, 4).max(axis=(1, 3)).ravel()
    lit = light >= BLACK
    if lit.sum() < _CELLS * _CELLS / 2:
        return 0.0
    design = np.stack([np.ones(lit.sum()), _U[lit], _V[lit]], axis=1)
    solution = np.linalg.solve(design.T @ design, design.T @ np.log(light[lit].astype(np.float64)))
    return float(1 - np.exp(-2 * np.abs(solution[1:]).sum()))


def _blockiness(luma: NDArray[np.uint8]) -> float:
    ratios = []
    for axis in (0, 1):
        length = luma.shape[axis]
        if length <= _BLOCK:
            continue
        after, before = (luma[1:], luma[:-1]) if axis == 0 else (luma[:, 1:], luma[:, :-1])
        apart = np.asarray(cv2.absdiff(after, before))
        steps = np.asarray(cv2.reduce(apart, 1 - axis, cv2.REDUCE_AVG, dtype=cv2.CV_64F)).ravel()
        border = np.arange(1, length) % _BLOCK == 0
        if steps[~border].any():
            ratios.append(float(steps[border].mean() / steps[~border].mean()))
    return float(np.mean(ratios)) if ratios else 1.0
