"""Under which conditions a picture was taken, read from the picture alone, fast enough for each.

Beside the measures of ``imaging.quality`` these are what damage of a known kind moves (see
``imaging.corruption``). None of them says that a picture is good.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.stain import BLACK

_CELLS = 8  # rows and columns of the grid on which light is told
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
        image: (H, W, 3) uint8 RGB.
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
