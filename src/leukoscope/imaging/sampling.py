"""Quantiles and thinned pixels: what NumPy does for arrays of any kind, without that cost.

A picture is described by hundreds of medians of a few thousand pixels each, and most of the time
of :func:`numpy.quantile` on so few is spent before it looks at one of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
