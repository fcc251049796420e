"""What cutting out, cropping and lighting leave at the frame of a picture."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.background import ground_surface
from leukoscope.imaging.observation import Observation
from leukoscope.imaging.stain_colours import stain_plane

_DEPTHS = ((0.0, 2.3), (2.6, 4.5))  # px inside the edge of a cut-out
_AWAY = 3.0  # px from the nucleus, next to which the optics mix its light with that of cytoplasm
_INSIDE = 4.6  # px inside that edge; there the plane of stains is estimated
_FEWEST = 24
_LEAST = 0.25  # grey levels
_GROUND = 0.1  # share of the picture that must be plain ground to tell its light

_RIM = ("rim",)
_SURROUND = tuple(f"surround_{name}" for name in ("red", "green", "blue", "spread", "near"))
_BORDERS = tuple(
    f"{side}_{name}" for side in ("top", "bottom", "left", "right") for name in ("level", "step")
)
_LIGHT = tuple(f"light_{c}_{term}" for c in "lab" for term in ("x", "y", "radial"))
_PLACE = ("offset_x", "offset_y", "margin_x", "margin_y")

FRAME_STATISTICS: tuple[str, ...] = (*_RIM, *_SURROUND, *_BORDERS, *_LIGHT, *_PLACE)
"""Names, in order, of what :func:`frame_statistics` returns; NaN where there is nothing to read.

* ``rim`` of a cut-out cell: density of the outermost 2 px minus that of the next 2, where the
  nucleus is not near, across the plane of the cell's stains
  (:mod:`leukoscope.imaging.stain_colours`): a cell's margin is more or less stained than what lies
  inside, and stays in that plane; a rim that was darkened, tinted or feathered leaves it.
* ``surround_*``: colour outside a cut-out cell, its spread, and what is not black next to the cell.
* ``top_*`` …: first row or column against the next ones: its level and its step, in units of the
  steps further inside.
* ``light_*``: plane and radial term of the ground (vignette), where ground shows.
* ``offset_*``, ``margin_*``: place of a cut-out cell: its centre from that of the picture, and the
  asymmetry of the empty margins. Not their size, which is that of the cell.
"""

_Bool = NDArray[np.bool_]


def frame_statistics(seen: Observation) -> NDArray[np.float64]:
    """Numbers of the frame: rim of a cut-out, surround, borders, vignette, place.

    Returns:
        (len(FRAME_STATISTICS),) float64; NaN where there is nothing to read.
    """
    cut = seen.cut_out
    luma = np.asarray(cv2.cvtColor(seen.image, cv2.COLOR_RGB2GRAY), np.float32)
    rim = _rim(seen) if cut else [np.nan] * len(_RIM)
    surround = _surround(seen) if cut else [np.nan] * len(_SURROUND)
    borders = [np.nan] * len(_BORDERS) if cut else _borders(luma)
    light = [np.nan] * len(_LIGHT) if cut else _light(seen)
    place = _place(seen.lit) if cut else [np.nan] * len(_PLACE)
    return np.array([*rim, *surround, *borders, *light, *place], np.float64)


def _rim(seen: Observation) -> list[float]:
    """Rings inside the edge of a cut-out, across the plane of its stains."""
    depth = np.asarray(cv2.distanceTransform(_solid(seen.lit), cv2.DIST_L2, 5), np.float32)
    plane = stain_plane(
        np.asarray(cv2.GaussianBlur(seen.image, (0, 0), 1.0), np.float32), depth > _INSIDE
    )
    if plane is None:
        return [np.nan] * len(_RIM)
    table = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
    across = np.asarray(cv2.transform(cv2.LUT(seen.image, table), plane.normal[None]), np.float32)
    nucleus = (seen.masks.nucleus & seen.lit).astype(np.uint8)
    away = np.asarray(cv2.distanceTransform(1 - nucleus, cv2.DIST_L2, 5), np.float32)
    rings = [across[(depth > a) & (depth <= b) & (away > _AWAY)] for a, b in _DEPTHS]
    if min(map(len, rings)) < _FEWEST:
        return [np.nan] * len(_RIM)
    outer, inner = (float(np.median(ring)) for ring in rings)
    return [outer - inner]


def _solid(lit: _Bool) -> NDArray[np.uint8]:
    """What is lit, without single pixels of noise in the black."""
    kernel = np.ones((3, 3), np.uint8)
    return np.asarray(cv2.morphologyEx(lit.astype(np.uint8), cv2.MORPH_OPEN, kernel), np.uint8)


def _surround(seen: Observation) -> list[float]:
    far = np.asarray(cv2.dilate(_solid(seen.lit), np.ones((13, 13), np.uint8)) == 0)
    if far.sum() < _FEWEST:
        return [np.nan] * len(_SURROUND)
    colours = seen.image[far].astype(np.float64)
    near = np.asarray(cv2.dilate(_solid(seen.lit), np.ones((7, 7), np.uint8)) > 0) & ~seen.lit
    of_near = float(seen.image[near].mean()) if near.any() else 0.0
    return [*colours.mean(axis=0), float(colours.std()), of_near]


def _borders(luma: NDArray[np.float32]) -> list[float]:
    found: list[float] = []
    for turned in (luma, luma[::-1], luma.T, luma.T[::-1]):
        if turned.shape[0] < 12:
            return [np.nan] * len(_BORDERS)
        steps = np.abs(np.diff(turned[:10], axis=0)).mean(axis=1)
        usual = float(np.median(steps[2:])) + _LEAST
        level = float(np.median(turned[0] - turned[2])) / usual
        found += [level, float(np.log2((steps[0] + _LEAST) / usual))]
    return found


def _light(seen: Observation) -> list[float]:
    lab, ground, _ = seen.ground_colours
    if ground.mean() < _GROUND:
        return [np.nan] * len(_LIGHT)
    return [float(term) for term in ground_surface(lab, ground)]


def _place(lit: _Bool) -> list[float]:
    solid = _solid(lit)
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    if not len(rows):
        return [np.nan] * len(_PLACE)
    height, width = lit.shape
    found = []
    for first, last, side in ((columns[0], columns[-1], width), (rows[0], rows[-1], height)):
        before, after = int(first), side - 1 - int(last)
        found.append(((before - after) / 2, (before - after) / max(2, before + after)))
    (offset_x, margin_x), (offset_y, margin_y) = found
    return [offset_x, offset_y, margin_x, margin_y]
