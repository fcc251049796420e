"""Links between images, and the connected components they make."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]


def join_pairs(n: int, pairs: Iterable[Sequence[int]]) -> list[int]:
    """Connected components by union–find.

    Args:
        n: Number of images.
        pairs: Links; the first two entries of each are indices below n.

    Returns:
        For each image the smallest index of its component.

    >>> join_pairs(5, [(3, 1), (1, 4)])
    [0, 1, 2, 1, 1]
    """
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for pair in pairs:
        a, b = root(pair[0]), root(pair[1])
        parent[max(a, b)] = min(a, b)
    return [root(i) for i in range(n)]


def components(n: int, pairs: Iterable[Sequence[int]]) -> list[list[int]]:
    """The components of two and more images, each sorted, in the order of their first images.

    >>> components(5, [(3, 1), (1, 4)])
    [[1, 3, 4]]
    """
    return equal_values(join_pairs(n, pairs))


def chain(groups: Iterable[Sequence[int]]) -> list[Pair]:
    """Links that join each group: its first image with each other one.

    >>> chain([[1, 3, 4]])
    [(1, 3), (1, 4)]
    """
    return [(group[0], other) for group in groups for other in group[1:]]


def equal_values(values: Sequence[Hashable]) -> list[list[int]]:
    """Groups of indices that share a value; empty strings share nothing.

    >>> equal_values(["a", "b", "a", ""])
    [[0, 2]]
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for i, value in enumerate(values):
        if value != "":
            groups[value].append(i)
    return [group for group in groups.values() if len(group) > 1]


def correlation(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    """Pearson's of two pictures of one size, as float32; 0 where one of them is flat."""
    x, y = a.astype(np.float32).ravel(), b.astype(np.float32).ravel()
    x -= x.mean()
    y -= y.mean()
    return float(x @ y / (np.sqrt((x @ x) * (y @ y)) + 1e-6))
