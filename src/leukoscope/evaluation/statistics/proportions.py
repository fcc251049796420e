"""Metrics that are a share of images, some of them with a weight for each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from leukoscope.core.errors import DataError
from leukoscope.core.known_classes import Roles
from leukoscope.evaluation.statistics.metrics import (
    FloatArray,
    IntArray,
    divide_or_nan,
    malignant_classes,
    metric_of,
)


def hits_and_trials(
    name: str,
    y_true: IntArray,
    y_prob: FloatArray,
    class_names: Sequence[str],
    roles: Roles | None = None,
) -> tuple[FloatArray, FloatArray] | None:
    """Hits and trials of a metric that is a proportion of images, by class or as a whole.

    The metric is Σ hits / Σ trials. Of accuracy, recall, specificity and precision each image is a
    trial or none. Balanced accuracy, F1 and the means of F1 and of precision give the images of
    each class a weight: F1 is 2 TP over the images of the class and those called so. All weights
    are scaled so that the trials sum to the number of images that, equally weighted, would tell as
    much (Kish 1965).

    Returns:
        (n,) hits and (n,) trials ≥ 0, no trials where the metric is undefined; None for a metric
        that is no proportion.

    >>> y_prob = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> found = hits_and_trials("recall_all", np.array([0, 1, 1]), y_prob, ["healthy", "all"])
    >>> [row.tolist() for row in found]
    [[0.0, 1.0, 0.0], [0.0, 1.0, 1.0]]
    """
    metric = metric_of(name)
    class_name = name.removeprefix(metric.name).removeprefix("_")
    predicted = y_prob.argmax(axis=1)
    if metric.interval == "by class":
        own = list(class_names).index(class_name) if class_name else None
        return _by_class(metric.name, y_true, predicted, len(class_names), own)
    if metric.interval != "proportion":
        return None
    if metric.of_images:
        return (predicted == y_true).astype(np.float64), np.ones(len(y_true))
    mask = np.array([class_name == other for other in class_names], dtype=bool)
    if metric.malignant:
        found = malignant_classes(class_names, roles)
        mask = mask if found is None else found
    if not mask.any():
        raise DataError(
            f"metric {name}: expected one of the classes {', '.join(class_names)}, got {class_name}"
        )
    real, called = mask[y_true], mask[predicted]
    if metric.name.startswith("specificity"):
        real, called = ~real, ~called
    trials = called if metric.name == "precision" else real
    return (real & called).astype(np.float64), trials.astype(np.float64)


def _by_class(
    metric: str, y_true: IntArray, predicted: IntArray, k: int, own: int | None
) -> tuple[FloatArray, FloatArray]:
    """Hits and trials of a mean over classes, or of the class ``own``."""
    support, called = (np.bincount(found, minlength=k) for found in (y_true, predicted))
    below = {"balanced_accuracy": support, "weighted_precision": called}.get(
        metric, support + called
    )
    share = support / len(y_true) if metric.startswith("weighted") else np.full(k, 1 / k)
    if own is not None:
        share = np.eye(k)[own]
    undefined = (share > 0) & ((support == 0) | (below == 0))
    if undefined.any():
        return np.zeros(len(y_true)), np.zeros(len(y_true))
    weight = divide_or_nan(share, below.astype(np.float64))
    weight[share == 0] = 0.0
    trials = np.zeros(len(y_true))
    if metric != "weighted_precision":
        trials += weight[y_true]
    if metric != "balanced_accuracy":
        trials += weight[predicted]
    trials *= trials.sum() / np.square(trials).sum()
    return trials * (predicted == y_true), trials
