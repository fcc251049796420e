"""What cells show: the shape and area of leukocytes, and the picture's scale by red cells."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.containers import plausible_scale
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
DIAMETER_UM = 7.5
"""Mean diameter of a normal red cell on a dry smear, within about 10 %."""
LEUKOCYTE_UM = 12.0
"""Diameter of a lymphocyte, lymphoblast or granulocyte on a smear, within about a third."""
_SMALLEST_PX = 8.0
_FEWEST = 20  # red cells that a scale is estimated from
_ROUND = 0.8  # 4π area / outline²
_FILLED = 0.93  # area over that of the convex hull: one cell, not two


def shape_statistics(seen: Observation) -> NDArray[np.float64]:
    """Silhouettes of the leukocytes.

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


def _cell(outline: NDArray[np.int32], size: int, nucleus: NDArray[np.uint8]) -> list[float]:
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


def red_cell_diameters(seen: Observation) -> NDArray[np.float64]:
    """(k,) diameters in px of red cells that lie alone and whole in a picture.

    Args:
        seen: The image with its masks; pictures of cut-out cells have none.
    """
    if seen.cut_out:
        return np.empty(0)
    green = cv2.GaussianBlur(seen.image[:, :, 1], (0, 0), 1.0)
    near = cv2.dilate(seen.masks.cell.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    free = ~near if seen.bar is None else ~near & ~seen.bar.mask
    level, _ = cv2.threshold(green[free].reshape(-1, 1), 0, 255, cv2.THRESH_OTSU)
    stained = ((green <= level) & free).astype(np.uint8)
    found, _ = cv2.findContours(stained, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    height, width = stained.shape
    diameters = []
    for outline in found:
        x, y, w, h = cv2.boundingRect(outline)
        inside = x > 0 and y > 0 and x + w < width and y + h < height
        area = cv2.contourArea(outline)
        if not inside or area < np.pi / 4 * _SMALLEST_PX**2:
            continue
        solid = area / max(1.0, cv2.contourArea(cv2.convexHull(outline)))
        if solid >= _FILLED and 4 * np.pi * area / cv2.arcLength(outline, True) ** 2 >= _ROUND:
            diameters.append(2 * np.sqrt(area / np.pi))
    return np.array(diameters)


def scale_of_red_cells(observations: Iterable[Observation]) -> float | None:
    """µm per pixel by the median red cell of several pictures of one scale.

    Returns:
        None where fewer than 20 red cells lie alone, or where it is no scale of a microscope.
    """
    found = np.concatenate([np.empty(0), *map(red_cell_diameters, observations)])
    return plausible_scale(DIAMETER_UM / float(np.median(found))) if len(found) >= _FEWEST else None


def scale_of_leukocytes(observations: Iterable[Observation]) -> float | None:
    """µm per pixel by the median leukocyte of pictures of one cell on black: roughly.

    Enough to tell whether pixels are much smaller than what the optics resolve.

    Returns:
        None where most pictures show no such cell, or where it is no scale of a microscope.
    """
    seen = list(observations)
    areas = [int(one.masks.cell.sum()) for one in seen if one.cut_out]
    if 2 * len(areas) <= len(seen) or not np.median(areas):
        return None
    return plausible_scale(LEUKOCYTE_UM / (2 * float(np.sqrt(np.median(areas) / np.pi))))
