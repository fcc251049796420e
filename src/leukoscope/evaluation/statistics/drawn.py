"""One metric in every replicate of a bootstrap over groups."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.known_classes import Roles
from leukoscope.evaluation.statistics.intervals import Resampling
from leukoscope.evaluation.statistics.metrics import (
    confusion_cells,
    divide_or_nan,
    from_confusion,
    malignant_classes,
    of_confusion,
    weighted_metrics,
)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_MOST_GROUPS: Final = 400
"""Up to so many groups the pairs of all of them are counted once, and not in each replicate."""


def drawn_metric(
    resampling: Resampling,
    y_true: IntArray,
    y_prob: FloatArray,
    class_names: Sequence[str],
    metric: str,
    roles: Roles | None = None,
) -> FloatArray:
    """A metric of the same predictions in each replicate.

    What can be counted is counted once, and a replicate weighs it by how often the groups were
    drawn, which gives the same numbers: the confusion matrix of each group and, of few groups, the
    pairs of images between each two, since an area under the ROC curve is a share of pairs, one
    of the class and one of another (Mann & Whitney 1947).

    Args:
        resampling: Of the n images.
        y_true: (n,) class indices.
        y_prob: (n, K) probabilities.
        metric: One of :func:`~leukoscope.evaluation.statistics.metrics.metric_names`.

    Returns:
        (replicates,) float64, NaN where undefined.
    """
    if of_confusion(metric):
        confusion = resampling.sums(confusion_cells(y_true, y_prob))
        mask = malignant_classes(class_names, roles)
        return _joined(
            from_confusion(counts @ confusion, class_names, mask)[metric]
            for counts in resampling.counts()
        )
    if metric == "roc_auc" and resampling.n_groups <= _MOST_GROUPS:
        return _areas(y_true, y_prob, resampling)
    return _joined(
        weighted_metrics(y_true, y_prob, class_names, weights, [metric], roles)[metric]
        for weights in resampling.weights()
    )


def _joined(blocks: Iterable[FloatArray]) -> FloatArray:
    """Blocks of replicates as one array."""
    return np.concatenate(list(blocks))


def _areas(y_true: IntArray, y_prob: FloatArray, resampling: Resampling) -> FloatArray:
    """(replicates,) mean area under the ROC curve over classes; two classes are one problem."""
    counts = _joined(resampling.counts())
    classes = [1] if y_prob.shape[1] == 2 else range(y_prob.shape[1])
    areas = np.stack([_area(y_true == k, y_prob[:, k], resampling, counts) for k in classes])
    return np.asarray(areas.mean(axis=0), np.float64)


def _area(
    positive: NDArray[np.bool_], score: FloatArray, resampling: Resampling, counts: FloatArray
) -> FloatArray:
    """(B,) area under the ROC curve of one class, from how often each group is drawn (B, G)."""
    pairs = _pairs_won(positive, score, resampling.member, resampling.n_groups)
    won = np.einsum("bg,bg->b", counts @ pairs, counts)
    of_class = resampling.sums(positive.astype(np.float64))
    others = resampling.sums((~positive).astype(np.float64))
    return divide_or_nan(won, (counts @ of_class) * (counts @ others))


def _pairs_won(
    positive: NDArray[np.bool_], score: FloatArray, member: IntArray, groups: int
) -> FloatArray:
    """(G, G) pairs of an image of the class in one group that is above another's; ties are half."""
    won = np.zeros((groups, groups))
    own, of_class = member[positive], score[positive]
    for group in range(groups):
        others = np.sort(score[(member == group) & ~positive])
        if len(others):
            below, upto = (np.searchsorted(others, of_class, side) for side in ("left", "right"))
            won[:, group] = np.bincount(own, (below + upto) / 2, minlength=groups)
    return won
