"""The plane that the stains of a region span in optical density.

By the law of Beer and Lambert the density of a pixel is the sum of its stains' densities, each a
direction times an amount. Two stains span a plane, whatever their amounts; what lies across it was
not made by them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FEWEST = 64  # pixels that a plane is told from
_MOST = 4000  # more are thinned; a plane needs no more
_BINS = 9
_RAREST = 1 / 50  # share of the pixels below which a bin gets no more weight


@dataclass(frozen=True)
class StainPlane:
    """A plane in optical density.

    Attributes:
        normal: (3,) float64 unit vector across it, its blue component positive.
        offset: Where along the normal the plane lies; hangs on the light.
    """

    normal: NDArray[np.float64]
    offset: float


def stain_plane(smooth: NDArray[np.float32], region: NDArray[np.bool_]) -> StainPlane | None:
    """The plane of least variance through the densities of a region.

    Pixels are weighted so that all strengths of stain count alike, however large the nucleus is.

    Args:
        smooth: (H, W, 3) intensities 0–255 without grain.
        region: (H, W) bool.

    Returns:
        None where the region is too small.
    """
    pixels = smooth[region]
    if len(pixels) < _FEWEST:
        return None
    pixels = pixels[:: max(1, len(pixels) // _MOST)]
    density = -np.log((pixels.astype(np.float64) + 1) / 256)
    strength = density.sum(axis=1)
    low, high = (float(edge) for edge in np.quantile(strength, [0.02, 0.98]))
    edges = np.linspace(low, high, _BINS)
    place = np.clip(np.digitize(strength, edges), 0, _BINS - 1)
    counts = np.bincount(place, minlength=_BINS)
    weights = 1 / np.maximum(counts[place], len(density) * _RAREST)
    mean = weights @ density / weights.sum()
    away = density - mean
    _, directions = np.linalg.eigh((away * weights[:, None]).T @ away)
    normal = np.asarray(directions[:, 0], np.float64)
    normal = normal if normal[2] >= 0 else -normal
    return StainPlane(normal, float(normal @ mean))
