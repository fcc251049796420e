"""Which region to paint over, so that it does not tell what was there."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_WORKING_PX = 96  # longer side at which places are looked for
_RADII = (0.12, 0.1, 0.075)  # share of the longer side; the largest that leaves enough
_CLOSE_UP_RADIUS = 0.42  # for pictures of one cell
_CLOSE_UP = 0.2  # a cell with a larger inner radius is seen in a close-up
_HALO = 0.018  # kept free around each cell
_SHARE = 0.3  # of the image that is covered at least
_MOST = 0.72  # of the image that is covered, if smaller discs can help it
_CRUMB = 0.03  # less than this share of a disc gets no disc of its own

_Mask = NDArray[np.uint8]


def cover_region(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Discs over all cells, and over more places until a fixed share of the image is covered.

    A region cut along the cells would tell their size, shape and number to whoever sees only the
    background. So every cell gets a disc of one radius, whatever its size, and discs are added at
    places that are the same for all images until 30 % of the image is covered; more would cost
    background that the probe is meant to see.

    * The radius is 0.12 of the longer side: no blast is larger at the usual magnifications. What
      reaches beyond its disc is covered as it is, with a halo.
    * A picture of one large cell (inner radius above 0.2) gets discs of 0.42.
    * In dense fields whose discs would cover more than 72 %, smaller discs (0.1, 0.075, at last
      only halos) keep some background. Beyond 30 % the covered share still tells that there were
      many cells.

    Args:
        cells: (H, W) bool, all that must be covered.

    Returns:
        (H, W) bool; contains ``cells`` with a halo.
    """
    side = max(cells.shape)
    mask = cells.astype(np.uint8)
    inner = float(cv2.distanceTransform(mask, cv2.DIST_L2, 3).max()) if mask.any() else 0.0
    own = np.asarray(cv2.dilate(mask, _disc(max(2, round(_HALO * side)))), np.uint8)
    if inner > _CLOSE_UP * side and not cells.all():
        return _with_discs(own, mask, _CLOSE_UP_RADIUS * side) > 0
    for share in _RADII:
        region = _with_discs(own, mask, share * side)
        if region.mean() <= _MOST:
            return _add_decoys(region, share * side) > 0
    return own > 0


def _with_discs(own: _Mask, cells: _Mask, radius: float) -> _Mask:
    """Greedy cover: the next disc goes where most is left to be covered."""
    height, width = cells.shape
    scale = min(1.0, _WORKING_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    left = cv2.resize(cells * np.float32(1), size, interpolation=cv2.INTER_AREA)
    small = radius * scale
    region = own.copy()
    while True:
        heap = cv2.GaussianBlur(left, (0, 0), max(0.5, small / 2))
        _, _, _, (x, y) = cv2.minMaxLoc(heap)
        before = float(left.sum())
        cv2.circle(left, (x, y), max(1, round(small)), 0.0, -1)
        if before - float(left.sum()) < _CRUMB * np.pi * small**2:
            return region
        centre = (round((x + 0.5) / scale), round((y + 0.5) / scale))
        cv2.circle(region, centre, round(radius), 1, -1)


def _add_decoys(region: _Mask, radius: float) -> _Mask:
    height, width = region.shape
    for x, y in _PLACES:
        if region.mean() >= _SHARE:
            break
        cv2.circle(region, (round(x * width), round(y * height)), round(radius), 1, -1)
    return region


def _halton(count: int, base: int) -> list[float]:
    """The first numbers of the van der Corput sequence, evenly spread over 0 to 1."""
    numbers = []
    for index in range(1, count + 1):
        value, part = 0.0, 1.0
        while index:
            part /= base
            index, digit = divmod(index, base)
            value += digit * part
        numbers.append(value)
    return numbers


_PLACES = tuple(zip(_halton(200, 2), _halton(200, 3), strict=True))


def _disc(radius: int) -> _Mask:
    side = 2 * radius + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
