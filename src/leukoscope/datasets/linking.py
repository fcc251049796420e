"""Links between images, and the connected components they make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
    members: dict[int, list[int]] = {}
    for i, first in enumerate(join_pairs(n, pairs)):
        members.setdefault(first, []).append(i)
    return [group for group in members.values() if len(group) > 1]


def chain(groups: Iterable[Sequence[int]]) -> list[Pair]:
    """Links that join each group: its first image with each other one.

    >>> chain([[1, 3, 4]])
    [(1, 3), (1, 4)]
    """
    return [(group[0], other) for group in groups for other in group[1:]]
