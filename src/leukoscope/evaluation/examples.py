"""Which images a person should look at: telling predictions, and labels that are likely wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError, UnknownNameError

_T = TypeVar("_T")
EXAMPLE_KINDS = ("right", "wrong", "least-certain", "confident-wrong")
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def choose_examples(
    kind: str, y_true: NDArray[np.int64], probs: NDArray[np.float64]
) -> list[list[int]]:
    """Rows worth a look, class by class, the first ones first.

    ``right`` and ``wrong`` begin with the prediction of median confidence, so that a reader sees
    what is usual; ``least-certain`` with the largest entropy of the probabilities (Shannon 1948),
    right or wrong; ``confident-wrong`` with the largest probability of the wrong class.

    Returns:
        For each of the K true classes its rows in order; some lists may be empty.

    >>> probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    >>> choose_examples("least-certain", np.array([0, 0, 0]), probs)
    [[1, 2, 0], []]
    >>> choose_examples("confident-wrong", np.array([0, 1, 0]), probs)
    [[2], [1]]
    """
    if kind not in EXAMPLE_KINDS:
        raise UnknownNameError("kind of example", kind, EXAMPLE_KINDS)
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

    >>> entropy(np.array([[1.0, 0.0], [0.5, 0.5]])).round(3).tolist()
    [0.0, 0.693]
    """
    logs = np.log(probs, out=np.zeros_like(probs), where=probs > 0)
    return np.asarray(np.abs(-(probs * logs).sum(axis=1)))


def interleave(lists: Sequence[Sequence[_T]], count: int) -> list[_T]:
    """The first of each list, then the second of each, until there are ``count``.

    >>> interleave([[1, 2, 3], [], [7]], 3)
    [1, 7, 2]
    """
    rounds = zip_longest(*lists)
    return [row for turn in rounds for row in turn if row is not None][:count]


@dataclass(frozen=True, eq=False)
class LabelErrors:
    """What confident learning says of n labels.

    Attributes:
        thresholds: (K,) mean probability of each class among the images that carry it; infinite
            for a class that no image carries.
        counts: (K, K) the confident joint: rows are given labels, columns what images count as.
        likely: (n,) bool, whether the image counts as another class than its label.
        suggested: (n,) class index: what a likely error counts as, else the most probable class.
        margin: (n,) normalised margin p(given) − max over others, in [−1, 1]; the lower, the
            likelier the label is wrong.
    """

    thresholds: FloatArray
    counts: IntArray
    likely: NDArray[np.bool_]
    suggested: IntArray
    margin: FloatArray


def confident_learning(y: ArrayLike, probs: ArrayLike) -> LabelErrors:
    """Find likely label errors (Northcutt et al. 2021, equations 1 and 2, "confident joint").

    Args:
        y: (n,) given labels, class indices.
        probs: (n, K) probabilities by models that were not fitted on the image.

    Raises:
        DataError: There is no image, shapes do not fit, or a label is unknown.

    >>> probs = [[.9, .1], [.8, .2], [.1, .9], [.2, .8], [.3, .7]]
    >>> found = confident_learning([0, 0, 0, 1, 1], probs)
    >>> found.likely.tolist(), found.counts.tolist()
    ([False, False, True, False, False], [[2, 1], [0, 1]])
    """
    labels, p = np.asarray(y, dtype=np.int64), np.asarray(probs, dtype=np.float64)
    if p.ndim != 2 or labels.shape != p.shape[:1] or not len(labels):
        raise DataError(
            f"label errors: expected labels (n,) and probabilities (n, K) with n ≥ 1, "
            f"got {labels.shape} and {p.shape}"
        )
    k = p.shape[1]
    if labels.min() < 0 or labels.max() >= k:
        raise DataError("label errors: every image needs a label of a known class")
    rows = np.arange(len(labels))
    carried = np.bincount(labels, minlength=k)
    sums = np.bincount(labels, weights=p[rows, labels], minlength=k)
    thresholds = np.divide(sums, carried, out=np.full(k, np.inf), where=carried > 0)
    # Sums of equal numbers may round above the number itself.
    reached = np.where(p >= thresholds - 1e-12, p, -1.0)
    counted = reached.max(axis=1) >= 0
    as_class = np.where(counted, reached.argmax(axis=1), -1)
    counts = np.bincount(labels[counted] * k + as_class[counted], minlength=k * k).reshape(k, k)
    likely = counted & (as_class != labels)
    others = p.copy()
    others[rows, labels] = -np.inf
    return LabelErrors(
        thresholds=thresholds,
        counts=counts,
        likely=likely,
        suggested=np.where(likely, as_class, p.argmax(axis=1)),
        margin=p[rows, labels] - others.max(axis=1),
    )


def joint_distribution(counts: ArrayLike, carried: ArrayLike) -> FloatArray:
    """Estimated joint distribution of given and true labels (Northcutt et al. 2021, equation 3).

    Each row of the confident joint is scaled to the number of images that carry its label, then
    the whole to 1; the sum off the diagonal is the estimated share of wrong labels.

    Args:
        counts: (K, K) the confident joint.
        carried: (K,) number of images with each label.

    >>> joint_distribution([[3, 1], [0, 2]], [8, 2]).round(2).tolist()
    [[0.6, 0.2], [0.0, 0.2]]
    """
    c, n = np.asarray(counts, dtype=np.float64), np.asarray(carried, dtype=np.float64)
    sums = c.sum(axis=1)
    # A label of which no image is counted says nothing of errors: it is taken as it is.
    shares = np.where(sums[:, None] > 0, c / np.maximum(sums, 1)[:, None], np.eye(len(c)))
    return np.asarray(shares * n[:, None] / n.sum())


def margin_uncertainty(probs: ArrayLike) -> FloatArray:
    """1 − (largest − second largest probability): 1 where two classes tie (Scheffer et al. 2001).

    Args:
        probs: (n, K) probabilities, K ≥ 2.

    >>> margin_uncertainty([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).tolist()
    [1.0, 0.0]
    """
    ordered = np.sort(np.asarray(probs, dtype=np.float64), axis=1)
    return np.asarray(1 - (ordered[:, -1] - ordered[:, -2]))


def review_order(errors: LabelErrors, conflict: ArrayLike) -> IntArray:
    """Images whose labels need a look first, the most suspicious one first.

    Args:
        conflict: (n,) bool, whether the same picture, or an overlapping one, has another label.

    Returns:
        Indices of likely errors, of other images whose most probable class is not their label, and
        of conflicts, by margin. A conflict's innocent side has a high margin and so comes last.
    """
    rows = np.flatnonzero(errors.likely | (errors.margin < 0) | np.asarray(conflict, dtype=bool))
    return np.asarray(rows[np.argsort(errors.margin[rows], kind="stable")], dtype=np.int64)
