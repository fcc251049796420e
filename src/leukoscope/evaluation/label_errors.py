"""Which labels are likely wrong: confident learning on out-of-fold probabilities.

Northcutt, Jiang & Chuang 2021 (Journal of Artificial Intelligence Research 70, 1373–1411). An image
is counted as class j where its probability of j reaches the mean probability that j has among the
images labelled j; images labelled i and counted as j ≠ i are likely errors. The threshold of each
class is its own, so a class on which the model is generally unsure needs less to be believed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


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


def closeness(probs: ArrayLike) -> FloatArray:
    """1 − (largest − second largest probability): 1 where two classes tie (Scheffer et al. 2001).

    Args:
        probs: (n, K) probabilities, K ≥ 2.

    >>> closeness([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]).tolist()
    [1.0, 0.0]
    """
    ordered = np.sort(np.asarray(probs, dtype=np.float64), axis=1)
    return np.asarray(1 - (ordered[:, -1] - ordered[:, -2]))


def review_order(errors: LabelErrors, conflict: ArrayLike) -> IntArray:
    """Images whose labels need a look first, the most suspicious one first.

    Args:
        errors: Of n labels.
        conflict: (n,) bool, whether the same picture, or an overlapping one, has another label.

    Returns:
        Indices of likely errors, of other images whose most probable class is not their label, and
        of conflicts, by margin. A conflict's innocent side has a high margin and so comes last.
    """
    rows = np.flatnonzero(errors.likely | (errors.margin < 0) | np.asarray(conflict, dtype=bool))
    return np.asarray(rows[np.argsort(errors.margin[rows], kind="stable")], dtype=np.int64)
