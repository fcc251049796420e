"""Paired comparison of predictors on the same images, with one definition of "better".

A predictor is better than another where two things hold: the exchange test over groups has a
p-value below the level after Holm's correction over the whole family of comparisons, and the
interval of the difference is reliable and leaves 0 out. Everything else is not distinguishable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError
from leukoscope.evaluation.intervals import Interval, Resampling, Sampling
from leukoscope.evaluation.leaderboard import PERMUTATIONS, exchange_test, holm_adjusted
from leukoscope.evaluation.metrics import LOWER_IS_BETTER, check_predictions, weighted_metrics
from leukoscope.evaluation.predictions import PredictionTable

Verdict = Literal["better", "worse", "not distinguishable"]
UNCLEAR: Verdict = "not distinguishable"


@dataclass(frozen=True)
class Pair:
    """Two predictors on the same images, and the metric that tells them apart.

    Attributes:
        y_true: (n,) class indices.
        prob_a: (n, K) probabilities of the first predictor.
        prob_b: (n, K) probabilities of the second, for the same images in the same order.
        class_names: K names.
        groups: (n,) label of the group of each image; None means every image for itself.
        metric: Name of the metric.
    """

    y_true: ArrayLike
    prob_a: ArrayLike
    prob_b: ArrayLike
    class_names: Sequence[str]
    groups: Sequence[str] | NDArray[Any] | None = None
    metric: str = "accuracy"

    @classmethod
    def of_tables(
        cls,
        a: PredictionTable,
        b: PredictionTable,
        groups: Mapping[str, str] | None = None,
        metric: str = "accuracy",
    ) -> Pair:
        """Two tables on the labelled images that both have.

        Args:
            a: One row per image, such as the test rows of one recipe, protocol and input.
            b: Likewise.
            groups: Image id → group; None means every image for itself.
            metric: Name of the metric.

        Raises:
            DataError: Other classes, two rows for one image, true classes that differ, no common
                image, or an image without a group.
        """
        y_true, prob_a, prob_b, labels = common_images(a, b, groups)
        return cls(y_true, prob_a, prob_b, a.class_names, labels, metric)


@dataclass(frozen=True)
class Comparison:
    """Difference of one metric between two predictors.

    Attributes:
        metric: Name of the metric.
        difference: First minus second, with its interval.
        p: Of the exchange test.
        p_holm: The same, corrected for all comparisons of the family.
        verdict: Of the first against the second.
        n: Number of images that both have.
    """

    metric: str
    difference: Interval
    p: float
    p_holm: float
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
            "p": round(self.p, 5),
            "p_holm": round(self.p_holm, 5),
        }


def compare(family: Sequence[Pair], **how: Unpack[Sampling]) -> list[Comparison]:
    """Test the pairs that answer one question, all together.

    Each pair gets the interval of its difference and an exchange test; the p-values are corrected
    over the family (Holm 1979). ``better`` and ``worse`` need both a corrected p-value below
    1 − confidence and a reliable interval that leaves 0 out.

    Args:
        family: The pairs; each counts in the correction of the others.
        **how: See :class:`~leukoscope.evaluation.intervals.Sampling`.

    Returns:
        One result a pair, in their order.

    Raises:
        DataError: Shapes do not fit, a true class is unknown, or there is no image.
        UnknownNameError: The metric does not exist for these classes.

    >>> y, right, wrong = [0, 1] * 20, np.eye(2)[[0, 1] * 20], np.eye(2)[[1, 0] * 20]
    >>> [c.verdict for c in compare([Pair(y, right, wrong, ["healthy", "all"])])]
    ['better']
    """
    level = 1 - how.get("confidence", 0.95)
    # So many that the smallest p-value is significant even after the correction.
    permutations = max(PERMUTATIONS, math.ceil(2 * len(family) / level))
    p_values = [
        exchange_test(
            pair.y_true, pair.prob_a, pair.prob_b, pair.class_names, metric=pair.metric,
            groups=pair.groups, permutations=permutations, seed=how.get("seed", 0),
        )
        for pair in family
    ]  # fmt: skip
    results = []
    for pair, p, corrected in zip(family, p_values, holm_adjusted(p_values), strict=True):
        interval = paired_difference(pair, **how)
        verdict = _verdict(interval, pair.metric) if corrected < level else UNCLEAR
        n = len(np.asarray(pair.y_true))
        results.append(Comparison(pair.metric, interval, p, corrected, verdict, n))
    return results


def paired_difference(pair: Pair, **how: Unpack[Sampling]) -> Interval:
    """The difference of a pair's metric, first minus second, the same resampled groups for both.

    Args:
        pair: What is compared.
        **how: See :class:`~leukoscope.evaluation.intervals.Sampling`.

    Raises:
        DataError: Shapes do not fit, a true class is unknown, or there is no image.
        UnknownNameError: The metric does not exist for these classes.
    """
    truth, first = check_predictions(pair.y_true, pair.prob_a, pair.class_names)
    _, second = check_predictions(pair.y_true, pair.prob_b, pair.class_names)
    resampling = Resampling.of(pair.groups, truth, **how)

    def difference(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b = (
            weighted_metrics(truth, prob, pair.class_names, weights, [pair.metric])[pair.metric]
            for prob in (first, second)
        )
        return a - b

    value = float(difference(np.ones((1, len(truth))))[0])
    drawn = np.concatenate([difference(weights) for weights in resampling.weights()])
    return resampling.interval(value, drawn)


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
        DataError: As :meth:`Pair.of_tables`.
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


def _verdict(difference: Interval, metric: str) -> Verdict:
    """What the interval says, where the test already has."""
    if math.isnan(difference.low) or not difference.reliable:
        return UNCLEAR
    if difference.low <= 0 <= difference.high:
        return UNCLEAR
    return "better" if (difference.low > 0) != (metric in LOWER_IS_BETTER) else "worse"
