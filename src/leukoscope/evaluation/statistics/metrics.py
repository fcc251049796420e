"""Classification metrics, computed for many bootstrap weightings of the same images at once."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError, UnknownNameError
from leukoscope.core.known_classes import Roles
from leukoscope.core.labels import malignant_mask

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
ECE_BINS = 15
_BLOCK = 1 << 18  # elements worked on at once: about the size of a core's cache
HISTORY_METRICS: Final[Mapping[str, Literal["accuracy", "weighted_f1", "log_loss"]]] = {
    "val_loss": "log_loss",
    "val_accuracy": "accuracy",
    "val_f1": "weighted_f1",
}
"""The columns of a training's history, and the metric that each is on validation images."""


@dataclass(frozen=True)
class Metric:
    """One metric: its name, its title, and the kind of its interval.

    Attributes:
        name: As in every file; one of a class has the class behind it, as in ``recall_pro_b``.
        interval: How its limits are found: as a proportion of images, or as one in which each
            class has its own weight; from bins of confidence; or from the jackknife on the log
            scale (unbounded) or the logit scale (0 to 1).
        overall: Whether it has a value over all classes.
        per_class: Whether it has a value for each class, against all others.
        malignant: Whether it tells malignant from healthy classes.
        percent: Whether it is written as a percentage.
        higher_is_better: Which way is better.
        of_images: Whether it is a mean over images, so that it stands where a class is missing.
    """

    name: str
    title: str
    interval: Literal["proportion", "by class", "binned", "log", "logit"] = "logit"
    overall: bool = True
    per_class: bool = False
    malignant: bool = False
    percent: bool = False
    higher_is_better: bool = True
    of_images: bool = False


METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("accuracy", "Accuracy", "proportion", percent=True, of_images=True),
            Metric("balanced_accuracy", "Balanced accuracy", "by class", percent=True),
            Metric("macro_f1", "Macro F1", "by class", percent=True),
            Metric("weighted_f1", "Weighted F1", "by class", percent=True),
            Metric("weighted_precision", "Weighted precision", "by class", percent=True),
            Metric(
                "precision", "Precision", "proportion", overall=False, per_class=True, percent=True
            ),
            Metric("recall", "Recall", "proportion", overall=False, per_class=True, percent=True),
            Metric(
                "specificity",
                "Specificity",
                "proportion",
                overall=False,
                per_class=True,
                percent=True,
            ),
            Metric("f1", "F1", "by class", overall=False, per_class=True, percent=True),
            Metric("roc_auc", "ROC AUC", per_class=True),
            Metric("pr_auc", "PR AUC", per_class=True),
            Metric("log_loss", "Log loss", "log", higher_is_better=False, of_images=True),
            Metric("brier", "Brier score", "log", higher_is_better=False, of_images=True),
            Metric("ece", "ECE", "binned", higher_is_better=False, of_images=True),
            Metric(
                "recall_malignant",
                "Malignant found (recall)",
                "proportion",
                overall=False,
                malignant=True,
                percent=True,
            ),
            Metric(
                "specificity_malignant",
                "Not malignant, cleared (specificity)",
                "proportion",
                overall=False,
                malignant=True,
                percent=True,
            ),
            Metric("roc_auc_malignant", "ROC AUC", overall=False, malignant=True),
        )
    }
)
"""Every metric, in the order of files and tables.

A new one is an entry here and its formula below, in ``from_confusion``, ``_from_probabilities``
(then also in ``_OF_PROBABILITIES``) or ``_from_ranks``.
"""


_OF_PROBABILITIES = frozenset({"log_loss", "brier", "ece"})
_OF_RANKS = ("roc_auc", "pr_auc")


def metric_of(name: str) -> Metric:
    """The metric behind a name, with or without a class.

    >>> metric_of("recall_pro_b").title, metric_of("log_loss").higher_is_better
    ('Recall', False)

    Raises:
        UnknownNameError: There is no such metric.
    """
    if name in METRICS:
        return METRICS[name]
    for metric in METRICS.values():
        if metric.per_class and name.startswith(f"{metric.name}_"):
            return metric
    raise UnknownNameError("metric", name, METRICS)


def of_confusion(name: str) -> bool:
    """Whether a metric follows from the confusion matrix alone.

    >>> of_confusion("recall_pro_b"), of_confusion("ece"), of_confusion("roc_auc_malignant")
    (True, False, False)
    """
    return name not in _OF_PROBABILITIES and not name.startswith(_OF_RANKS)


def weighted_ranking(
    positive: NDArray[np.bool_], score: FloatArray, weights: FloatArray, *, precise: bool = True
) -> tuple[FloatArray, FloatArray]:
    """Area under the ROC curve and average precision, each weighting separately.

    Ties share their rank: the ROC curve runs straight through a group of equal scores
    (Fawcett 2006, algorithm 3), which makes its area the Mann–Whitney statistic
    P(s⁺ > s⁻) + ½ P(s⁺ = s⁻). Average precision is Σ (Rₜ − Rₜ₋₁) Pₜ over distinct scores t,
    without interpolation.

    Args:
        positive: (n,) bool, whether the image belongs to the positive class.
        score: (n,) float64, larger means more likely positive.
        weights: (B, n) float64 ≥ 0, multiplicity of each image in each weighting.
        precise: Whether the average precision is wanted; it is NaN otherwise.

    Returns:
        Two arrays (B,) in [0, 1]; NaN where a weighting has no positive or no negative image: with
        positives alone every order has a precision of 1.

    >>> y, s = np.array([False, False, True, True]), np.array([0.1, 0.4, 0.35, 0.8])
    >>> area, precision = weighted_ranking(y, s, np.ones((1, 4)))
    >>> float(area[0]), round(float(precision[0]), 4)
    (0.75, 0.8333)
    """
    replicates, n = weights.shape
    area, precision = np.full(replicates, np.nan), np.full(replicates, np.nan)
    if n == 0:
        return area, precision
    order = np.argsort(-score, kind="stable")
    ranked, hit = score[order], positive[order].astype(np.float64)
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), n - 1)
    step = max(1, _BLOCK // n)
    for start in range(0, replicates, step):
        rows = slice(start, start + step)
        block = weights[rows][:, order]
        seen = np.cumsum(block, axis=1)
        found = np.cumsum(block * hit, axis=1)
        if len(ends) < n:
            seen, found = seen[:, ends], found[:, ends]
        gain = np.diff(found, axis=1, prepend=0.0)
        area[rows] = _area(seen, found, gain)
        if precise:
            precision[rows] = _precision(seen, found, gain)
    return area, precision


def _area(seen: FloatArray, found: FloatArray, gain: FloatArray) -> FloatArray:
    """Area under the ROC curve from cumulative weights (b, t) of all and of positive images."""
    missed = np.diff(seen - found, axis=1, prepend=0.0)
    positives = found[:, -1]
    pairs = np.einsum("bt,bt->b", missed, found - gain / 2)
    return divide_or_nan(pairs, positives * (seen[:, -1] - positives))


def _precision(seen: FloatArray, found: FloatArray, gain: FloatArray) -> FloatArray:
    """Average precision of the same."""
    positives = found[:, -1]
    share = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
    total = np.einsum("bt,bt->b", gain, share)
    return divide_or_nan(np.where(seen[:, -1] > positives, total, np.nan), positives)


def divide_or_nan(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """``numerator / denominator``, NaN where the denominator is not positive.

    >>> divide_or_nan(np.array([1.0, 0.0]), np.array([4.0, 0.0])).tolist()
    [0.25, nan]
    """
    result = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def metric_names(class_names: Sequence[str], roles: Roles | None = None) -> tuple[str, ...]:
    """Every metric that these classes have.

    >>> metric_names(["healthy", "all"])[-2:]
    ('specificity_malignant', 'roc_auc_malignant')
    >>> metric_names(["aml", "hairy_cell"])[-1]
    'pr_auc_hairy_cell'

    Args:
        roles: What the user's own classes stand for, see :func:`~leukoscope.core.labels.role_of`.
    """
    overall = [metric.name for metric in METRICS.values() if metric.overall]
    each = [metric.name for metric in METRICS.values() if metric.per_class]
    per_class = [f"{metric}_{name}" for name in class_names for metric in each]
    if malignant_classes(class_names, roles) is None:
        return (*overall, *per_class)
    return (*overall, *per_class, *(m.name for m in METRICS.values() if m.malignant))


def compute_metrics(
    y_true: ArrayLike, y_prob: ArrayLike, class_names: Sequence[str], roles: Roles | None = None
) -> dict[str, float]:
    """All metrics of one set of predictions.

    Args:
        y_prob: (n, K) probabilities, rows sum to 1.
        roles: As in :func:`metric_names`.

    Returns:
        Name → value; NaN where undefined.

    >>> y_prob = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]
    >>> metrics = compute_metrics([0, 1, 1], y_prob, ["healthy", "all"])
    >>> round(metrics["accuracy"], 4), metrics["recall_all"], metrics["roc_auc"]
    (0.6667, 0.5, 1.0)
    """
    truth, prob = check_predictions(y_true, y_prob, class_names)
    values = weighted_metrics(truth, prob, class_names, np.ones((1, len(truth))), roles=roles)
    return {name: float(value[0]) for name, value in values.items()}


def confusion_matrix(y_true: ArrayLike, y_pred: ArrayLike, num_classes: int) -> IntArray:
    """Counts (K, K): rows are true classes, columns are predicted ones.

    >>> confusion_matrix([0, 1, 1], [0, 1, 0], 2).tolist()
    [[1, 0], [1, 1]]
    """
    flat = np.asarray(y_true, dtype=np.int64) * num_classes + np.asarray(y_pred, dtype=np.int64)
    return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes)


def weighted_f1(confusion: ArrayLike) -> float:
    """F1 of each class of a confusion matrix, averaged with the class sizes as weights.

    >>> round(weighted_f1([[3, 1], [1, 3]]), 2)
    0.75

    Args:
        confusion: (K, K) counts, rows are true classes.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    return float(from_confusion(counts.reshape(1, -1), (), None)["weighted_f1"][0])


def weighted_metrics(
    y_true: IntArray,
    y_prob: FloatArray,
    class_names: Sequence[str],
    weights: FloatArray,
    names: Collection[str] | None = None,
    roles: Roles | None = None,
) -> dict[str, FloatArray]:
    """Metrics of the same predictions under B weightings of the images.

    Args:
        y_true: (n,) class indices 0 … K − 1.
        weights: (B, n) multiplicities ≥ 0, such as those of bootstrap replicates.
        names: Those that are wanted; None for all.
        roles: As in :func:`metric_names`.

    Returns:
        Name → (B,) float64, NaN where undefined; in the order of :func:`metric_names`.
    """
    available = metric_names(class_names, roles)
    wanted = set(available if names is None else names)
    for name in sorted(wanted.difference(available)):
        raise UnknownNameError("metric", name, available)
    mask = malignant_classes(class_names, roles)
    ranked = {name for name in wanted if name.startswith(_OF_RANKS)}
    values: dict[str, FloatArray] = {}
    if any(map(of_confusion, wanted)):
        confusion = weights @ confusion_cells(y_true, y_prob)
        values |= from_confusion(confusion, class_names, mask)
    if wanted & _OF_PROBABILITIES:
        values |= _from_probabilities(y_true, y_prob, weights)
    if ranked:
        values |= _from_ranks(y_true, y_prob, class_names, weights, mask, ranked)
    return {name: values[name] for name in available if name in wanted}


def check_predictions(
    y_true: ArrayLike, y_prob: ArrayLike, class_names: Sequence[str]
) -> tuple[IntArray, FloatArray]:
    """The arrays with their types, if metrics can be computed from them."""
    truth, prob = np.asarray(y_true, dtype=np.int64), np.asarray(y_prob, dtype=np.float64)
    n, k = len(truth), len(class_names)
    if truth.ndim != 1 or prob.shape != (n, k):
        raise DataError(
            f"metrics: expected y_true (n,) and y_prob (n, {k}), got {truth.shape}, {prob.shape}"
        )
    if n == 0:
        raise DataError("metrics: expected at least one image, got none")
    if truth.min() < 0 or truth.max() >= k:
        raise DataError(
            f"metrics: the true class of {int(((truth < 0) | (truth >= k)).sum())} images is "
            f"unknown",
            hint="Leave images without a label out.",
        )
    if not np.isfinite(prob).all():
        raise DataError("metrics: a probability is NaN or infinite")
    return truth, prob


def calibration_bin(confidence: FloatArray, bins: int = ECE_BINS) -> IntArray:
    """The equal-width bin of each confidence; bins are open on the left, closed on the right.

    >>> calibration_bin(np.array([0.0, 0.1, 0.11, 1.0]), 10).tolist()
    [0, 0, 1, 9]
    """
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def malignant_classes(
    class_names: Sequence[str], roles: Roles | None = None
) -> NDArray[np.bool_] | None:
    """(K,) which classes are malignant; None where that cannot be said of each, or all are alike.

    >>> malignant_classes(["aml", "hairy_cell", "basophil"], {"hairy_cell": "malignant"}).tolist()
    [True, True, False]
    """
    mask = malignant_mask(class_names, roles)
    return None if mask is None else np.array(mask, dtype=bool)


def confusion_cells(y_true: IntArray, y_prob: FloatArray) -> FloatArray:
    """(n, K · K) the confusion matrix of each image; the predicted class is the most probable one.

    Any weighting of the rows sums to a weighted confusion matrix, row after row.
    """
    n, k = y_prob.shape
    cells = np.zeros((n, k * k))
    cells[np.arange(n), y_true * k + y_prob.argmax(axis=1)] = 1.0
    return cells


def from_confusion(
    confusion: FloatArray, class_names: Sequence[str], mask: NDArray[np.bool_] | None
) -> dict[str, FloatArray]:
    """Every metric that :func:`of_confusion` names.

    Args:
        confusion: (B, K · K) weighted confusion matrices, rows are true classes.
        mask: (K,) of :func:`malignant_classes`.

    Returns:
        Name → (B,).
    """
    k = math.isqrt(confusion.shape[1])
    confusion = confusion.reshape(-1, k, k)
    hit = np.diagonal(confusion, axis1=1, axis2=2)
    support, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    total = support.sum(axis=1)
    rest = total[:, None] - support
    per_class = {
        "precision": divide_or_nan(hit, predicted),
        "recall": divide_or_nan(hit, support),
        "specificity": divide_or_nan(rest - predicted + hit, rest),
        "f1": np.where(support > 0, divide_or_nan(2 * hit, support + predicted), np.nan),
    }
    values = {
        "accuracy": divide_or_nan(hit.sum(axis=1), total),
        "balanced_accuracy": per_class["recall"].mean(axis=1),
        "macro_f1": per_class["f1"].mean(axis=1),
        # an absent class has weight 0 in this average, so it may stay undefined
        "weighted_f1": divide_or_nan((support * np.nan_to_num(per_class["f1"])).sum(axis=1), total),
        # undefined where a class that has images is never predicted
        "weighted_precision": divide_or_nan(
            np.where(support > 0, support * per_class["precision"], 0.0).sum(axis=1), total
        ),
    }
    for metric, array in per_class.items():
        values |= {f"{metric}_{name}": array[:, i] for i, name in enumerate(class_names)}
    if mask is not None:
        positive, negative = support[:, mask].sum(axis=1), support[:, ~mask].sum(axis=1)
        found = confusion[:, mask][:, :, mask].sum(axis=(1, 2))
        cleared = confusion[:, ~mask][:, :, ~mask].sum(axis=(1, 2))
        values["recall_malignant"] = divide_or_nan(found, positive)
        values["specificity_malignant"] = divide_or_nan(cleared, negative)
    return values


def _from_probabilities(
    y_true: IntArray, y_prob: FloatArray, weights: FloatArray
) -> dict[str, FloatArray]:
    """Log loss, Brier score, and expected calibration error (Guo et al. 2017, eq. 3).

    The Brier score is Σ over classes of (p − y)² (Brier 1950), halved for two classes as is
    customary there, so that it lies in [0, 1] for two and in [0, 2] for more classes.
    """
    n, k = y_prob.shape
    rows = np.arange(n)
    total = weights.sum(axis=1)
    smallest = np.finfo(np.float64).eps
    surprise = -np.log(np.clip(y_prob[rows, y_true], smallest, 1.0))
    squared = ((y_prob - np.eye(k)[y_true]) ** 2).sum(axis=1) / (2 if k == 2 else 1)
    confidence = y_prob.max(axis=1)
    gap = np.zeros((n, ECE_BINS))
    gap[rows, calibration_bin(confidence)] = (y_prob.argmax(axis=1) == y_true) - confidence
    return {
        "log_loss": divide_or_nan(weights @ surprise, total),
        "brier": divide_or_nan(weights @ squared, total),
        "ece": divide_or_nan(np.abs(weights @ gap).sum(axis=1), total),
    }


def _from_ranks(
    y_true: IntArray,
    y_prob: FloatArray,
    class_names: Sequence[str],
    weights: FloatArray,
    mask: NDArray[np.bool_] | None,
    wanted: Collection[str],
) -> dict[str, FloatArray]:
    """Areas under the curves; two classes are one problem whose positive class is the last."""
    values: dict[str, FloatArray] = {}
    if mask is not None and "roc_auc_malignant" in wanted:
        malignant = y_prob[:, mask].sum(axis=1)
        values["roc_auc_malignant"] = weighted_ranking(
            mask[y_true], malignant, weights, precise=False
        )[0]
    if not set(wanted) - {"roc_auc_malignant"}:
        return values
    precise = any(name.startswith("pr_auc") for name in wanted)
    areas, precisions = zip(
        *(
            weighted_ranking(y_true == i, y_prob[:, i], weights, precise=precise)
            for i in range(len(class_names))
        ),
        strict=True,
    )
    one = len(class_names) == 2
    values |= {
        "roc_auc": areas[-1] if one else np.mean(areas, axis=0),
        "pr_auc": precisions[-1] if one else np.mean(precisions, axis=0),
    }
    for name, area, precision in zip(class_names, areas, precisions, strict=True):
        values |= {f"roc_auc_{name}": area, f"pr_auc_{name}": precision}
    return values
