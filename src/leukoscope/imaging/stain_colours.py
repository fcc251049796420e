"""The plane of the stains in optical density, and the hue of stain and lamp.

A picture is described by hundreds of medians of a few thousand pixels each, and most of the time
of :func:`numpy.quantile` on so few is spent before it looks at one of them; quantiles here do
without that cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.background import on_grid
from leukoscope.imaging.observation import Observation
from leukoscope.imaging.stain import optical_density

_FEWEST_IN_PLANE = 64  # pixels that a plane is fitted to
_MOST = 4000  # more are thinned; a plane needs no more
_BINS = 9
_RAREST = 1 / 50  # share of the pixels below which a bin gets no more weight
_FEWEST = 30  # points of the grid that a colour needs
_FEWEST_NUCLEAR = 60  # pixels of nuclei that their hue needs
_GROUND = 0.05  # share of a picture in which the ground must show to tell its colour
_APART = 2  # px between the pixels that are correlated; next ones share noise
_SHORTEST = 1e-3
STAIN_STATISTICS: tuple[str, ...] = (
    *(f"ground_{c}" for c in "lab"),
    *(f"red_cells_{c}" for c in "lab"),
    *(f"{part}_{c}" for part in ("red_cells", "chromatin") for c in ("red", "green", "blue")),
    "across",
)
"""Names, in order, of what :func:`finished_stains` returns; NaN where there is nothing to read.

* ``ground_l`` …, ``red_cells_l`` …: median CIELAB of plain ground and of red cells.
* ``red_cells_red`` …: their optical density against the ground as a unit vector, which says the
  hue of the stain but not its amount.
* ``chromatin_red`` …: the direction in which the density of nuclei varies most, likewise; read
  only where no ground shows, like the next.
* ``across``: mean density of leukocytes along the normal of the plane that the stains of the whole
  data set span, which amounts of stain do not move, but light and white balance do.

The colour of cytoplasm is left out: how basophilic it is, is morphology.
"""
_RAW = len(STAIN_STATISTICS) - 1 + 3 + 9  # mean and covariance of density in place of ``across``
_Float = NDArray[np.float64]


def quantile(values: NDArray[np.generic], share: float) -> float:
    """:func:`numpy.quantile` (linear interpolation) of all values; computed in float64.

    Args:
        values: Any shape, at least one value, no NaN.
        share: 0 to 1.

    >>> quantile(np.array([3.0, 1.0, 2.0]), 0.5), quantile(np.array([0, 10], np.uint8), 0.75)
    (2.0, 7.5)
    """
    flat = values.ravel()
    place = share * (len(flat) - 1)
    below = int(place)
    above = min(below + 1, len(flat) - 1)
    sorted_there = np.partition(flat, (below, above))
    low, high = float(sorted_there[below]), float(sorted_there[above])
    return low + (high - low) * (place - below)


def thinned_places(mask: NDArray[np.bool_], most: int) -> NDArray[np.intp]:
    """Places of the true pixels in the flat mask; of more than twice ``most`` only every kth.

    >>> thinned_places(np.array([[True, False], [True, True]]), 1).tolist()
    [0]
    """
    places = np.flatnonzero(mask)
    return places[:: max(1, len(places) // most)]


@dataclass(frozen=True)
class StainPlane:
    """A plane in optical density."""

    normal: NDArray[np.float64]  # (3,) float64 unit vector across it, its blue component positive
    offset: float  # where along the normal the plane lies; depends on the light


def stain_plane(smooth: NDArray[np.float32], region: NDArray[np.bool_]) -> StainPlane | None:
    """The plane of least variance through the densities of a region.

    Pixels are weighted so that all strengths of stain count alike, however large the nucleus is.

    Args:
        smooth: (H, W, 3) intensities 0–255 without grain.

    Returns:
        None where the region is too small.
    """
    if np.count_nonzero(region) < _FEWEST_IN_PLANE:
        return None
    pixels = smooth.reshape(-1, 3)[thinned_places(region, _MOST)]
    density = -np.log((pixels.astype(np.float64) + 1) / 256)
    strength = density.sum(axis=1)
    edges = np.linspace(quantile(strength, 0.02), quantile(strength, 0.98), _BINS)
    place = np.clip(np.digitize(strength, edges), 0, _BINS - 1)
    counts = np.bincount(place, minlength=_BINS)
    weights = 1 / np.maximum(counts[place], len(density) * _RAREST)
    mean = weights @ density / weights.sum()
    away = density - mean
    _, directions = np.linalg.eigh((away * weights[:, None]).T @ away)
    normal = np.asarray(directions[:, 0], np.float64)
    normal = normal if normal[2] >= 0 else -normal
    return StainPlane(normal, float(normal @ mean))


def stain_statistics(seen: Observation) -> _Float:
    """Colours of the ground and of red cells, or the hue of chromatin where there are none.

    Returns:
        (24,) float64, what :func:`finished_stains` makes :data:`STAIN_STATISTICS` of; NaN where
        there is nothing to read.
    """
    nothing = np.full(3, np.nan)
    if not seen.cut_out:
        lab, ground, red = seen.ground_colours
        if ground.mean() >= _GROUND:
            density = optical_density(on_grid(seen.image), 255)
            plain, stained = _median(density[ground]), _median(density[red])
            hue = None if plain is None or stained is None else stained - plain
            colours = (_median(lab[part].astype(np.float64)) for part in (ground, red))
            known = [nothing if v is None else v for v in colours]
            return np.concatenate([*known, _unit(hue), np.full(_RAW - 9, np.nan)])
    return np.concatenate([np.full(9, np.nan), _unit(_chromatin(seen)), _within(seen)])


def finished_stains(values: _Float) -> _Float:
    """(n, 13) :data:`STAIN_STATISTICS` of the numbers (n, 24) of all images of a data set."""
    known = values[~np.isnan(values[:, -1])]
    found = np.full((len(values), len(STAIN_STATISTICS)), np.nan)
    found[:, :-1] = values[:, : len(STAIN_STATISTICS) - 1]
    if len(known):
        pooled = known[:, -9:].mean(axis=0).reshape(3, 3)
        normal = np.linalg.eigh(pooled)[1][:, 0]
        normal = normal if normal[2] >= 0 else -normal
        found[:, -1] = values[:, -12:-9] @ normal
    return found


def _chromatin(seen: Observation) -> _Float | None:
    """Principal direction of density inside nuclei, free of noise.

    Covariances of pixels two apart, whose noise is independent, make up the matrix.
    """
    smooth = cv2.GaussianBlur(seen.image, (0, 0), 0.8)
    mask = (seen.masks.nucleus & seen.lit).astype(np.uint8)
    inside = np.asarray(cv2.erode(mask, np.ones((5, 5), np.uint8)) > 0)
    if inside.sum() < _FEWEST_NUCLEAR:
        return None
    density = optical_density(np.asarray(smooth, np.uint8), 255)
    away = density - density[inside].mean(axis=0)
    matrix = np.zeros((3, 3))
    for first, second in (
        (np.s_[:-_APART], np.s_[_APART:]),
        (np.s_[:, :-_APART], np.s_[:, _APART:]),
    ):
        both = inside[first] & inside[second]
        matrix += away[first][both].T @ away[second][both]
    axis = np.asarray(np.linalg.eigh(matrix + matrix.T)[1][:, -1], np.float64)
    return axis if axis.sum() >= 0 else -axis


def _within(seen: Observation) -> _Float:
    """Mean and covariance of the density inside leukocytes."""
    smooth = np.asarray(cv2.GaussianBlur(seen.image, (0, 0), 1.0), np.uint8)
    mask = (seen.masks.cell & seen.lit).astype(np.uint8)
    inside = np.asarray(cv2.erode(mask, np.ones((5, 5), np.uint8)) > 0)
    if inside.sum() < _FEWEST_NUCLEAR:
        return np.full(12, np.nan)
    density = optical_density(smooth, 255)[inside]
    return np.concatenate([np.median(density, axis=0), np.cov(density.T).ravel()])


def _median(values: _Float) -> _Float | None:
    return np.asarray(np.median(values, axis=0), np.float64) if len(values) >= _FEWEST else None


def _unit(values: _Float | None) -> _Float:
    length = 0.0 if values is None else float(np.linalg.norm(values))
    return np.full(3, np.nan) if values is None or length < _SHORTEST else values / length
