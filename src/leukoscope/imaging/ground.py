"""The unstained ground of a smear: its colour everywhere, and regions painted over with it."""

from __future__ import annotations

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
_FEWEST = 12  # points of the grid that a ground is told from

_Float = NDArray[np.float32]


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
    y, x = np.meshgrid(
        np.linspace(-1, 1, sample.shape[0]), np.linspace(-1, 1, sample.shape[1]), indexing="ij"
    )
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=2)
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


def grid_step(image: NDArray[np.uint8]) -> int:
    """Spacing in pixels of the grid on which the ground is told."""
    height, width = image.shape[:2]
    return max(1, int(max(height, width)) // _GRID_PX)


def paint_ground(image: NDArray[np.uint8], hole: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Paint ``hole`` over with plain ground, with the grain of the image's own ground.

    The paint knows nothing of what lies in the hole, nor of the hole's shape: a smooth surface
    through the ground outside, and squares of grain taken from there in an order fixed for all
    images. Slivers of cells that the hole's edge cuts off are painted over too.

    Args:
        image: (H, W, 3) uint8 RGB.
        hole: (H, W) bool.

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
    paint = ground + _grain(image, hole)
    feather = max(1.0, _FEATHER * max(height, width))
    away = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, 3)
    share = np.maximum(0, 1 - away / feather)[:, :, None]
    mixed = image + share * (paint - image)
    return np.asarray(np.clip(mixed + 0.5, 0, 255), np.uint8)


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
    order = np.random.default_rng(0).integers(0, 2**31, (-(-height // _BLOCK), -(-width // _BLOCK)))
    chosen = calm[order % len(calm)].transpose(0, 2, 1, 3, 4)
    return chosen.reshape(order.shape[0] * _BLOCK, -1, 3)[:height, :width]
