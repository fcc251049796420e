"""Which predictions to look at: typical ones and telling ones, never the prettiest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import UnknownNameError

_T = TypeVar("_T")
KINDS = ("right", "wrong", "least-certain", "confident-wrong")


def choose_examples(
    kind: str, y_true: NDArray[np.int64], probs: NDArray[np.float64]
) -> list[list[int]]:
    """Rows worth a look, class by class, the first ones first.

    ``right`` and ``wrong`` begin with the prediction of median confidence, so that a reader sees
    what is usual; ``least-certain`` with the largest entropy of the probabilities (Shannon 1948),
    right or wrong; ``confident-wrong`` with the largest probability of the wrong class.

    Args:
        kind: One of :data:`KINDS`.
        y_true: (n,) class indices.
        probs: (n, K) probabilities.

    Returns:
        For each of the K true classes its rows in order; some lists may be empty.

    Raises:
        UnknownNameError: No such kind.

    >>> probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    >>> choose_examples("least-certain", np.array([0, 0, 0]), probs)
    [[1, 2, 0], []]
    >>> choose_examples("confident-wrong", np.array([0, 1, 0]), probs)
    [[2], [1]]
    """
    if kind not in KINDS:
        raise UnknownNameError("kind of example", kind, KINDS)
    confidence = probs.max(axis=1)
    right = probs.argmax(axis=1) == y_true
    keep = {"right": right, "least-certain": np.ones(len(right), dtype=bool)}.get(kind, ~right)
    chosen = []
    for label in range(probs.shape[1]):
        rows = np.flatnonzero(keep & (y_true == label))
        if kind == "least-certain":
            rank = -entropy(probs[rows])
        elif kind == "confident-wrong":
            rank = -confidence[rows]
        else:
            middle = np.median(confidence[rows]) if len(rows) else 0.0
            rank = np.abs(confidence[rows] - middle)
        chosen.append([int(row) for row in rows[np.argsort(rank, kind="stable")]])
    return chosen


def entropy(probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shannon entropy of each row in nats; 0 for a certain one.

    Args:
        probs: (n, K) probabilities.

    >>> entropy(np.array([[1.0, 0.0], [0.5, 0.5]])).round(3).tolist()
    [0.0, 0.693]
    """
    logs = np.log(probs, out=np.zeros_like(probs), where=probs > 0)
    return np.asarray(np.abs(-(probs * logs).sum(axis=1)))


def in_turn(lists: Sequence[Sequence[_T]], count: int) -> list[_T]:
    """The first of each list, then the second of each, until there are ``count``.

    >>> in_turn([[1, 2, 3], [], [7]], 3)
    [1, 7, 2]
    """
    rounds = zip_longest(*lists)
    return [row for turn in rounds for row in turn if row is not None][:count]
