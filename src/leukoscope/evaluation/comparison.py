"""Paired comparison of two predictors on the same images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError
from leukoscope.evaluation.intervals import Interval, Resampling, Sampling
from leukoscope.evaluation.metrics import LOWER_IS_BETTER, check_predictions, weighted_metrics
from leukoscope.evaluation.predictions import PredictionTable

Verdict = Literal["better", "worse", "not distinguishable"]


@dataclass(frozen=True)
class Comparison:
    """Difference of one metric between two predictors.

    Attributes:
        metric: Name of the metric.
        difference: First minus second, with its interval.
        verdict: Of the first against the second: ``better`` or ``worse`` where the interval
            leaves 0 out and is reliable, else ``not distinguishable``.
        n: Number of images that both have.
    """

    metric: str
    difference: Interval
    verdict: Verdict
    n: int

    def to_json(self) -> dict[str, Any]:
        """For ``metrics.json``."""
        return {
            "metric": self.metric,
            "difference": self.difference.to_json(),
            "verdict": self.verdict,
            "n": self.n,
            "n_groups": self.difference.n_groups,
        }


def compare_predictions(
    y_true: ArrayLike,
    prob_a: ArrayLike,
    prob_b: ArrayLike,
    class_names: Sequence[str],
    *,
    metric: str = "accuracy",
    groups: Sequence[str] | NDArray[Any] | None = None,
    **how: Unpack[Sampling],
) -> Comparison:
    """Bootstrap the difference of a metric, with the same resampled groups for both.

    Args:
        y_true: (n,) class indices.
        prob_a: (n, K) probabilities of the first predictor.
        prob_b: (n, K) probabilities of the second, for the same images in the same order.
        class_names: K names.
        metric: Name of the metric.
        groups: (n,) label of the group of each image; None means every image for itself.
        **how: See :class:`~leukoscope.evaluation.intervals.Sampling`.

    Raises:
        DataError: Shapes do not fit, a true class is unknown, or there is no image.
        UnknownNameError: The metric does not exist for these classes.

    >>> y, right, wrong = [0, 1] * 20, np.eye(2)[[0, 1] * 20], np.eye(2)[[1, 0] * 20]
    >>> compare_predictions(y, right, wrong, ["healthy", "all"]).verdict
    'better'
    """
    truth, first = check_predictions(y_true, prob_a, class_names)
    _, second = check_predictions(y_true, prob_b, class_names)
    resampling = Resampling.of(groups, truth, **how)

    def difference(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b = (
            weighted_metrics(truth, prob, class_names, weights, [metric])[metric]
            for prob in (first, second)
        )
        return a - b

    value = float(difference(np.ones((1, len(truth))))[0])
    drawn = np.concatenate([difference(weights) for weights in resampling.weights()])
    interval = resampling.interval(value, drawn)
    return Comparison(metric, interval, _judge(interval, metric), len(truth))


def compare_tables(
    a: PredictionTable,
    b: PredictionTable,
    *,
    groups: Mapping[str, str] | None = None,
    metric: str = "accuracy",
    **how: Unpack[Sampling],
) -> Comparison:
    """Compare two tables on the labelled images that both have.

    Args:
        a: One row per image, such as the test rows of one recipe, protocol and input.
        b: Likewise.
        groups: Image id → group; None means every image for itself.
        metric: Name of the metric.
        **how: See :class:`~leukoscope.evaluation.intervals.Sampling`.

    Raises:
        DataError: Other classes, two rows for one image, true classes that differ, no common
            image, or an image without a group.
    """
    y_true, prob_a, prob_b, labels = common_images(a, b, groups)
    return compare_predictions(
        y_true,
        prob_a,
        prob_b,
        a.class_names,
        metric=metric,
        groups=labels,
        **how,
    )


def common_images(
    a: PredictionTable, b: PredictionTable, groups: Mapping[str, str] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.str_] | None]:
    """What two tables say of the labelled images that both have, in the order of their ids.

    Args:
        a: One row per image.
        b: Likewise.
        groups: Image id → group; None means every image for itself.

    Returns:
        (n,) true classes, (n, K) probabilities of ``a`` and of ``b``, (n,) groups or None.

    Raises:
        DataError: As :func:`compare_tables`.
    """
    if a.class_names != b.class_names:
        raise DataError(
            f"comparison: the classes differ: {', '.join(a.class_names)} and "
            f"{', '.join(b.class_names)}"
        )
    for table in (a, b):
        if len(np.unique(table.image_id)) != len(table):
            raise DataError("comparison: an image has two rows; select one part and fold set")
    ids, rows_a, rows_b = np.intersect1d(
        a.image_id, b.image_id, assume_unique=True, return_indices=True
    )
    labelled = (a.y_true[rows_a] >= 0) & (b.y_true[rows_b] >= 0)
    ids, rows_a, rows_b = ids[labelled], rows_a[labelled], rows_b[labelled]
    if len(ids) == 0:
        raise DataError("comparison: the two have no labelled image in common")
    if (a.y_true[rows_a] != b.y_true[rows_b]).any():
        raise DataError("comparison: the two give different true classes for the same image")
    labels = None
    if groups is not None:
        absent = [image_id for image_id in ids.tolist() if image_id not in groups]
        if absent:
            raise DataError(f"comparison: {len(absent)} images have no group, e.g. {absent[0]}")
        labels = np.array([groups[image_id] for image_id in ids.tolist()])
    return a.y_true[rows_a], a.probs[rows_a], b.probs[rows_b], labels


def _judge(difference: Interval, metric: str) -> Verdict:
    if math.isnan(difference.low) or not difference.reliable:
        return "not distinguishable"
    if difference.low <= 0 <= difference.high:
        return "not distinguishable"
    return "better" if (difference.low > 0) != (metric in LOWER_IS_BETTER) else "worse"
