"""Groups of linked images, and their division into parts of wanted sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_NEAR = 0.1  # sum of squared deviations of shares over the wanted share


def component_labels(n: int, pairs: Iterable[Sequence[int]]) -> list[int]:
    """Connected components of the links.

    Args:
        pairs: Links; the first two entries of each are indices below n.

    Returns:
        For each image the smallest index of its component.

    >>> component_labels(5, [(3, 1), (1, 4)])
    [0, 1, 2, 1, 1]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.array([(pair[0], pair[1]) for pair in pairs], dtype=np.int64).reshape(-1, 2)
    links = coo_array((np.ones(len(ends), np.bool_), (ends[:, 0], ends[:, 1])), shape=(n, n))
    _, component = connected_components(links, directed=False)
    _, first, number = np.unique(component, return_index=True, return_inverse=True)
    return [int(index) for index in first[number]]


def components(n: int, pairs: Iterable[Sequence[int]]) -> list[list[int]]:
    """The components of two and more images, each sorted, in the order of their first images.

    >>> components(5, [(3, 1), (1, 4)])
    [[1, 3, 4]]
    """
    return group_equal(component_labels(n, pairs))


def pairs_of_groups(groups: Iterable[Sequence[int]]) -> list[Pair]:
    """Links that join each group: its first image with each other one.

    >>> pairs_of_groups([[1, 3, 4]])
    [(1, 3), (1, 4)]
    """
    return [(group[0], other) for group in groups for other in group[1:]]


def group_equal(values: Sequence[Hashable]) -> list[list[int]]:
    """Groups of indices that share a value; empty strings share nothing.

    >>> group_equal(["a", "b", "a", ""])
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
    x -= np.add.reduce(x) / np.float32(x.size)  # a mean without what ``mean`` does around it
    y -= np.add.reduce(y) / np.float32(y.size)
    return float(x @ y / (np.sqrt((x @ x) * (y @ y)) + 1e-6))


def join_groups(*labellings: Sequence[Hashable]) -> IntArray:
    """Connected components of images that share a label in any of several labellings.

    Args:
        labellings: Each (n,) labels; an empty label (``""``) joins nothing.

    Returns:
        (n,) component numbers, in the order of the components' first images.

    >>> join_groups(["a", "a", "b", "c"], ["", "x", "x", ""]).tolist()
    [0, 0, 0, 1]
    """
    pairs = []
    for labels in labellings:
        first: dict[Hashable, int] = {}
        pairs += [(first.setdefault(label, i), i) for i, label in enumerate(labels) if label != ""]
    roots = component_labels(len(labellings[0]), pairs)
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def count_classes(units: IntArray, labels: IntArray, num_classes: int) -> FloatArray:
    """Images of each class in each unit, (G, K).

    >>> count_classes(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1.0, 1.0], [0.0, 1.0]]
    """
    size = int(units.max()) + 1 if len(units) else 0
    counts = np.bincount(units * num_classes + labels, minlength=size * num_classes)
    return counts.reshape(size, num_classes).astype(np.float64)


def allocate(
    counts: FloatArray,
    shares: Sequence[float],
    rng: np.random.Generator,
    *,
    jitter: float = 0.0,
    present_in: Iterable[int] = (),
) -> IntArray:
    """Put every unit into one part: the largest first, where most of its classes is missing.

    A unit goes to the part in which the squared relative deviation from the wanted numbers of
    images, summed over the classes and over all images together, falls most. Ties are broken
    by ``rng``.

    Args:
        counts: (G, K) images of each class in each unit, in an order that does not depend on
            the order of files.
        shares: Wanted share of each part; they are scaled to a sum of 1.
        jitter: Spread of a random factor on the sizes by which units are ordered, for a further
            attempt after one that did not fit.
        present_in: Parts that shall get every class, if a unit can be moved there from the
            first part without taking the class from it.

    Returns:
        (G,) index of the part of each unit.
    """
    columns = np.column_stack([counts, counts.sum(axis=1)])
    total = columns.sum(axis=0)
    scale = 1 / np.maximum(total, 1.0) ** 2
    wanted = np.asarray(shares, dtype=np.float64) / sum(shares)
    missing = [list(row) for row in wanted[:, None] * total * scale]
    gains = (columns * scale).tolist()
    sizes = columns[:, -1] * np.exp(jitter * rng.standard_normal(len(counts)))
    order = np.lexsort((rng.random(len(counts)), -sizes))
    ties = rng.random((len(counts), len(wanted))) * 1e-12
    part = np.zeros(len(counts), dtype=np.int64)
    rows = columns.tolist()
    for unit, tie in zip(order.tolist(), ties.tolist(), strict=True):
        own = rows[unit]
        benefit = [
            sum(c * m for c, m in zip(own, lack, strict=True)) + t
            for lack, t in zip(missing, tie, strict=True)
        ]
        best = max(range(len(benefit)), key=benefit.__getitem__)
        part[unit] = best
        missing[best] = [m - g for m, g in zip(missing[best], gains[unit], strict=True)]
    for target in present_in:
        _bring_classes(counts, part, target)
    return part


def allocate_at_random(
    counts: FloatArray,
    shares: Sequence[float],
    rng: np.random.Generator,
    *,
    present_in: Iterable[int] = (),
) -> IntArray:
    """As :func:`allocate`, but small units are as likely as large ones to be in any part.

    Units are placed in a random order until a division is near enough to the wanted shares of all
    images and of each class; the nearest of 50 is taken where none is. The nearest of all would
    again be one whose held-out parts are made of small units.
    """
    columns = np.column_stack([counts, counts.sum(axis=1)])
    total = np.maximum(columns.sum(axis=0), 1.0)
    wanted = np.asarray(shares, dtype=np.float64) / sum(shares)
    targets = tuple(present_in)

    def deviation(part: IntArray) -> float:
        held = np.stack([columns[part == k].sum(axis=0) for k in range(len(wanted))])
        return float(((held / total - wanted[:, None]) ** 2 / wanted[:, None]).sum())

    drawn = [allocate(counts, shares, rng, jitter=5.0, present_in=targets) for _ in range(50)]
    return next((part for part in drawn if deviation(part) < _NEAR), min(drawn, key=deviation))


def _bring_classes(counts: FloatArray, part: IntArray, target: int) -> None:
    """Move the smallest unit of each class that ``target`` lacks there from part 0."""
    for name in range(counts.shape[1]):
        holds = counts[:, name] > 0
        givers = np.flatnonzero(holds & (part == 0))
        if (holds & (part == target)).any() or len(givers) < 2:
            continue
        for unit in givers[np.argsort(counts[givers].sum(axis=1), kind="stable")]:
            others = (part == 0) & (np.arange(len(part)) != unit)
            if (counts[others][:, counts[unit] > 0].sum(axis=0) > 0).all():
                part[unit] = target
                break
