"""The fields of the most similar colours: one slide has one stain."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from leukoscope.datasets.neighbour_search import blocks, room

_MOST_DISTANCES = 2**25  # held at a time


def nearest_in_colour(colour: NDArray[np.float32], neighbours: int) -> NDArray[np.int32]:
    """For each image the most similar ones, after robust scaling of each statistic.

    Args:
        colour: (n, d) float32.
        neighbours: Number wanted.

    Returns:
        (n, min(neighbours, n − 1) + 1) int32 indices, the image itself among them.
    """
    middle = np.median(colour, axis=0)
    low, high = np.percentile(colour, [25, 75], axis=0)
    scaled = np.clip((colour - middle) / (high - low + 1e-6), -3, 3).astype(np.float32)
    squares = (scaled**2).sum(axis=1)
    count = min(neighbours + 1, len(colour))
    nearest = room((len(colour), count), np.int32)
    size = min(1024, max(1, _MOST_DISTANCES // len(colour)))
    for rows in blocks(np.arange(len(colour)), size):
        distance = squares[None, :] - 2 * scaled[rows] @ scaled.T
        nearest[rows] = np.argpartition(distance, count - 1, axis=1)[:, :count]
    return nearest


def partners_of(nearest: NDArray[np.int32], side: NDArray[np.bool_] | None) -> Iterator[list[int]]:
    """For each image those after it that are among its neighbours, or have it among theirs.

    Args:
        nearest: (n, k) of :func:`nearest_in_colour`.
        side: (n,) where given, only pairs across it.

    Yields:
        n sorted lists of indices.
    """
    for rows in blocks(np.arange(len(nearest))):
        first, last = int(rows[0]), int(rows[-1])
        found = []
        for part in blocks(np.arange(len(nearest))):
            near = nearest[part]
            low, high = np.minimum(part[:, None], near), np.maximum(part[:, None], near)
            keep = (low >= first) & (low <= last) & (low != high)
            if side is not None:
                keep &= side[low] != side[high]
            found.append((low[keep] - first) * len(nearest) + high[keep])
        pairs = np.unique(np.concatenate(found))
        ends = np.searchsorted(pairs, np.arange(1, len(rows)) * len(nearest))
        yield from (part.tolist() for part in np.split(pairs % len(nearest), ends))
