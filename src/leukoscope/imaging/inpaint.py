"""Regions painted over with the unstained ground of the smear."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

NO_GROUND = (200, 200, 200)
"""RGB used where an image has no background at all."""

GROUND_TOLERANCE = 0.24  # log intensity; what differs more from the ground is stained
_DARK_OFFSET = 16  # added to intensities, so that sensor noise in the dark does not count
LOG_INTENSITY = np.log(np.arange(256, dtype=np.float32) + _DARK_OFFSET)
_GRID_PX = 56  # the ground is smooth: about this many rows and columns tell it
_REACH = 0.07  # share of the side over which the ground may differ from a quadratic surface
_BLOCK = 8  # side of the squares of texture; that of JPEG, so that its pattern stays
_CALM = 12  # so many of the smoothest squares show plain ground
_DULL = 0.03  # log intensity by which ground may be darker than the fitted surface
_FEATHER = 0.014  # share of the side over which paint fades into what surrounds it
_STAINED = 0.93  # of the ground's green; what is darker is a cell
_SLIVER = 0.004  # of the squared side; a red cell covers about 0.009
_FEWEST = 12  # points of the grid that a ground is fitted to
_Float = NDArray[np.float32]
_WORKING_PX = 96  # longer side at which places are looked for
_RADII = (0.12, 0.1, 0.075)  # share of the longer side; the largest that leaves enough
_CLOSE_UP_RADIUS = 0.42  # for pictures of one cell
_CLOSE_UP = 0.2  # a cell with a larger inner radius is seen in a close-up
_HALO = 0.018  # kept free around each cell
_SHARE = 0.3  # of the image that is covered at least
_MOST = 0.72  # of the image that is covered, if smaller discs can help it
_CRUMB = 0.03  # less than this share of a disc gets no disc of its own
_Mask = NDArray[np.uint8]


def log_intensity(image: NDArray[np.uint8]) -> _Float:
    """(H, W, 3) float32 logarithms of the intensities of an image, less steep in the dark."""
    return np.asarray(cv2.LUT(image, LOG_INTENSITY), np.float32)


def fit_ground(sample: _Float, plain: _Float, known: NDArray[np.bool_] | None = None) -> _Float:
    """The unstained ground as a quadratic surface: lamps and lenses tint the corners.

    Fitted by least squares to the pixels near the plain colour; the ridge term keeps the surface
    flat where a crowded field shows no ground.

    Args:
        sample: (h, w, 3) log intensities on a coarse grid.
        plain: (3,) log intensity of the ground, roughly.
        known: (h, w) points that may be ground; all by default.

    Returns:
        (h, w, 3) log intensities.
    """
    terms = _quadratic_terms(*sample.shape[:2])
    offset = sample - plain
    fit = np.zeros((6, 3))
    for tolerance in (GROUND_TOLERANCE, GROUND_TOLERANCE / 2):
        near = np.abs(offset - terms @ fit).max(axis=2) < tolerance
        if known is not None:
            near &= known
        design = terms[near]
        ridge = np.diag([0.0, *[0.03 * near.size] * 5])
        ridge[0, 0] = 1e-6
        fit = np.linalg.solve(design.T @ design + ridge, design.T @ offset[near])
    return np.asarray(terms @ fit + plain, np.float32)


@lru_cache(maxsize=8)
def _quadratic_terms(height: int, width: int) -> NDArray[np.float64]:
    """(h, w, 6): 1, x, y, x², xy, y² over [−1, 1]²."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=2)


def grid_step(image: NDArray[np.uint8]) -> int:
    """Spacing in pixels of the grid on which the ground is fitted."""
    height, width = image.shape[:2]
    return max(1, int(max(height, width)) // _GRID_PX)


def paint_ground(image: NDArray[np.uint8], hole: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Paint ``hole`` over with plain ground, with the grain of the image's own ground.

    The paint does not depend on what lies in the hole, nor on its shape: a smooth surface
    through the ground outside, and squares of grain taken from there in an order fixed for all
    images. Slivers of cells that the hole's edge cuts off are painted over too.

    Returns:
        (H, W, 3) uint8 RGB; unchanged but for the hole, slivers and a narrow seam around them.
    """
    if not hole.any():
        return image.copy()
    height, width = hole.shape
    step = grid_step(image)
    known = ~hole[::step, ::step]
    if known.sum() < _FEWEST:
        return np.where(hole[:, :, None], np.array(NO_GROUND, np.uint8), image)
    coarse = _coarse_ground(log_intensity(image[::step, ::step]), known)
    ground = np.asarray(cv2.resize(coarse, (width, height)), np.float32)
    region = hole | _slivers(image, hole, ground)
    feather = max(1.0, _FEATHER * max(height, width))
    away = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, 3)
    mixed = ground  # image + share · (paint − image), in one array
    mixed += _grain(image, hole)
    mixed -= image
    mixed *= cv2.cvtColor(np.maximum(0, 1 - away / feather), cv2.COLOR_GRAY2RGB)
    mixed += image
    mixed += 0.5
    return np.clip(mixed, 0, 255, out=mixed).astype(np.uint8)


def _coarse_ground(sample: _Float, known: NDArray[np.bool_]) -> _Float:
    """(h, w, 3) intensities of the ground: the fitted surface, bent to what is seen near by."""
    green = sample[:, :, 1][known]
    plain = np.median(sample[known][green >= np.percentile(green, 85)], axis=0)
    surface = fit_ground(sample, plain, known)
    rest = sample - surface
    # Pale red cells pull the surface down; what is brighter pulls it back up.
    ground = known & (rest.min(axis=2) > -_DULL) & (rest.max(axis=2) < GROUND_TOLERANCE / 2)
    weight = ground.astype(np.float32)
    sigma = _REACH * max(known.shape)
    total = cv2.GaussianBlur(weight, (0, 0), sigma)
    local = cv2.GaussianBlur(rest * weight[:, :, None], (0, 0), sigma)
    surface += local / (total + 0.02)[:, :, None]
    return np.asarray(np.exp(surface) - _DARK_OFFSET, np.float32)


def _slivers(
    image: NDArray[np.uint8], hole: NDArray[np.bool_], ground: _Float
) -> NDArray[np.bool_]:
    """Pieces, at most half a red cell, of what is darker than the ground and cut by the hole."""
    green = cv2.GaussianBlur(image[:, :, 1], (0, 0), 1.0)
    flags = hole.astype(np.uint8)
    stained = ((green < _STAINED * ground[:, :, 1]) & ~hole).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(stained, connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < _SLIVER * max(hole.shape) ** 2
    kernel = np.ones((5, 5), np.uint8)
    cut = np.zeros(len(stats), np.bool_)
    cut[labels[cv2.dilate(flags, kernel) > 0]] = True
    cut[0] = False
    found = (cut & small).astype(np.uint8)[labels]
    return np.asarray(cv2.dilate(found, kernel) > 0)


def _grain(image: NDArray[np.uint8], hole: NDArray[np.bool_]) -> _Float:
    """(H, W, 3) float32 deviations of ground from its own local mean, in squares of ground."""
    height, width = hole.shape
    rows, columns = height // _BLOCK, width // _BLOCK
    if not rows or not columns:
        return np.zeros(image.shape, np.float32)
    inner = np.s_[: rows * _BLOCK, : columns * _BLOCK]
    cut = (rows, _BLOCK, columns, _BLOCK)
    free = ~hole[inner].reshape(cut).any(axis=(1, 3))
    if not free.any():
        return np.zeros(image.shape, np.float32)
    fine = cv2.subtract(image, cv2.GaussianBlur(image, (0, 0), 2.0), dtype=cv2.CV_32F)
    squares = np.asarray(fine, np.float32)[inner].reshape(*cut, 3).transpose(0, 2, 1, 3, 4)[free]
    rough = np.square(squares[..., 1]).mean(axis=(1, 2))
    calm = squares[np.argsort(rough, kind="stable")[:_CALM]]
    order = _order(-(-height // _BLOCK), -(-width // _BLOCK))
    chosen = calm[order % len(calm)].transpose(0, 2, 1, 3, 4)
    return chosen.reshape(order.shape[0] * _BLOCK, -1, 3)[:height, :width]


@lru_cache(maxsize=8)
def _order(rows: int, columns: int) -> NDArray[np.int64]:
    """(rows, columns) numbers that say which square goes where, fixed for all images."""
    return np.random.default_rng(0).integers(0, 2**31, (rows, columns))


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
    own = np.asarray(cv2.dilate(mask, disc(max(2, round(_HALO * side)))), np.uint8)
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


def disc(radius: int) -> _Mask:
    """A filled circle of ones, (2 · radius + 1) pixels wide, for erosion and dilation."""
    side = 2 * radius + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
