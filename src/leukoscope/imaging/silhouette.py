"""Shape, number and covered area of leukocytes: morphology and disease, no shortcut."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.observation import Observation

_OF_A_CELL = ("area", "elongation", "solidity", "roundness", "waviness", "nucleus_share")
_SPREADS = ("median", "spread")
_SMALLEST = 1e-3  # share of the picture; smaller pieces are no leukocytes

SHAPE_STATISTICS: tuple[str, ...] = tuple(
    f"{name}_{spread}" for name in _OF_A_CELL for spread in _SPREADS
)
"""Names, in order, of what :func:`shape_statistics` returns, over the leukocytes of a picture.

``area`` in shares of the picture (log₂); ``elongation``: minor over major axis; ``solidity``: area
over that of the convex hull; ``roundness``: 4π area / outline²; ``waviness``: spread of the
distance of the outline from the centre; ``nucleus_share``: area of the nucleus over the cell's.
"""
COUNT_STATISTICS: tuple[str, ...] = ("cells", "cell_area", "nucleus_area", "painted_area")
"""Names, in order, of what :func:`count_statistics` returns: number of leukocytes, and shares of
the picture that they, their nuclei, and the paint that removes them cover."""


def shape_statistics(seen: Observation) -> NDArray[np.float64]:
    """Silhouettes of the leukocytes.

    Args:
        seen: The image with its masks.

    Returns:
        (len(SHAPE_STATISTICS),) float64; NaN where there is no leukocyte.
    """
    nucleus = seen.masks.nucleus.astype(np.uint8)
    rows = [_cell(outline, seen.masks.cell.size, nucleus) for outline in _outlines(seen)]
    if not rows:
        return np.full(len(SHAPE_STATISTICS), np.nan)
    values = np.array(rows)
    spread = np.subtract(*np.percentile(values, [75, 25], axis=0))
    return np.stack([np.median(values, axis=0), spread], axis=1).ravel()


def count_statistics(seen: Observation) -> NDArray[np.float64]:
    """How many leukocytes there are and what they cover.

    Args:
        seen: The image with its masks.

    Returns:
        (len(COUNT_STATISTICS),) float64.
    """
    masks = seen.masks
    shares = (masks.cell.mean(), masks.nucleus.mean(), seen.removal.mean())
    return np.array([len(_outlines(seen)), *shares], np.float64)


def _outlines(seen: Observation) -> list[NDArray[np.int32]]:
    mask = seen.masks.cell.astype(np.uint8)
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    least = _SMALLEST * mask.size
    return [np.asarray(c, np.int32) for c in found if len(c) >= 8 and cv2.contourArea(c) >= least]


def _cell(
    outline: NDArray[np.int32], size: int, nucleus: NDArray[np.uint8]
) -> list[float]:  # fmt: skip
    area = cv2.contourArea(outline)
    (x, y), axes, _ = cv2.fitEllipse(outline)
    away = np.hypot(*(outline[:, 0, :] - (x, y)).T)
    left, top, width, height = cv2.boundingRect(outline)
    inner = np.zeros((height, width), np.uint8)
    cv2.drawContours(inner, [outline], 0, 1, -1, offset=(-left, -top))
    dark = nucleus[top : top + height, left : left + width] & inner
    return [
        float(np.log2(area / size)),
        min(axes) / max(*axes, 1e-6),
        area / max(1.0, cv2.contourArea(cv2.convexHull(outline))),
        4 * np.pi * area / max(1.0, cv2.arcLength(outline, True) ** 2),
        float(away.std() / max(1.0, away.mean())),
        float(dark.sum()) / max(1, int(inner.sum())),
    ]
