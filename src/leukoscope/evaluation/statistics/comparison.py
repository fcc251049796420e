"""Paired comparison of predictors on the same images, exact tests, and parity of engines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Literal, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.config.guarantees import BOUNDS, Parity
from leukoscope.core.errors import DataError
from leukoscope.core.known_classes import Roles
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.statistics.drawn import drawn_metric
from leukoscope.evaluation.statistics.intervals import (
    Interval,
    Resampling,
    Sampling,
    bootstrap_mean,
    proportion_interval,
)
from leukoscope.evaluation.statistics.leaderboard import PERMUTATIONS, exchange_test, holm_adjusted
from leukoscope.evaluation.statistics.metrics import check_predictions, metric_of, weighted_metrics

DifferenceVerdict = Literal["better", "worse", "not distinguishable"]
UNCLEAR: DifferenceVerdict = "not distinguishable"


@dataclass(frozen=True)
class PredictorPair:
    """Two predictors on the same images, and the metric that tells them apart."""

    y_true: ArrayLike
    prob_a: ArrayLike  # (n, K) probabilities of the first predictor
    prob_b: ArrayLike  # (n, K) probabilities of the second, for the same images in the same order
    class_names: Sequence[str]
    groups: Sequence[str] | NDArray[np.generic] | None = None
    metric: str = "accuracy"
    roles: Roles | None = None  # what the user's own classes stand for

    @classmethod
    def of_tables(
        cls,
        a: PredictionTable,
        b: PredictionTable,
        groups: Mapping[str, str] | None = None,
        metric: str = "accuracy",
    ) -> PredictorPair:
        """Two tables on the labelled images that both have.

        Args:
            a: One row per image, such as the test rows of one recipe, protocol and input.

        Raises:
            DataError: Other classes, two rows for one image, true classes that differ, no common
                image, or an image without a group.
        """
        y_true, prob_a, prob_b, labels = common_images(a, b, groups)
        return cls(y_true, prob_a, prob_b, a.class_names, labels, metric)


@dataclass(frozen=True)
class Comparison:
    """Difference of one metric between two predictors."""

    metric: str
    difference: Interval  # first minus second, with its interval
    p: float  # p-value of the exchange test
    p_holm: float  # the p-value corrected for all comparisons of the family
    verdict: DifferenceVerdict  # what the test says of the first against the second
    n: int  # number of images that both have

    def to_json(self) -> dict[str, object]:
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


def compare(family: Sequence[PredictorPair], **how: Unpack[Sampling]) -> list[Comparison]:
    """Test the pairs that answer one question, all together.

    Each pair gets the interval of its difference and an exchange test; the p-values are corrected
    over the family (Holm 1979). ``better`` and ``worse`` need both a corrected p-value below
    1 − confidence and a reliable interval that leaves 0 out.

    Args:
        family: The pairs; each counts in the correction of the others.

    >>> y, right, wrong = [0, 1] * 20, np.eye(2)[[0, 1] * 20], np.eye(2)[[1, 0] * 20]
    >>> [c.verdict for c in compare([PredictorPair(y, right, wrong, ["healthy", "all"])])]
    ['better']
    """
    level = 1 - how.get("confidence", 0.95)
    # So many that the smallest p-value is significant even after the correction.
    permutations = max(PERMUTATIONS, math.ceil(2 * len(family) / level))
    p_values = [
        exchange_test(
            pair.y_true, pair.prob_a, pair.prob_b, pair.class_names, metric=pair.metric,
            groups=pair.groups, roles=pair.roles, permutations=permutations,
            seed=how.get("seed", 0),
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


def paired_difference(pair: PredictorPair, **how: Unpack[Sampling]) -> Interval:
    """The difference of a pair's metric, first minus second, the same resampled groups for both."""
    truth, first = check_predictions(pair.y_true, pair.prob_a, pair.class_names)
    _, second = check_predictions(pair.y_true, pair.prob_b, pair.class_names)
    resampling = Resampling.of(pair.groups, truth, **how)
    names, metric, roles = pair.class_names, pair.metric, pair.roles
    one = np.ones((1, len(truth)))
    a, b = (
        float(weighted_metrics(truth, p, names, one, [metric], roles)[metric][0])
        for p in (first, second)
    )
    drawn_a, drawn_b = (
        drawn_metric(resampling, truth, p, names, metric, roles) for p in (first, second)
    )
    return resampling.interval(a - b, drawn_a - drawn_b)


def common_images(
    a: PredictionTable, b: PredictionTable, groups: Mapping[str, str] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.str_] | None]:
    """What two tables say of the labelled images that both have, in the order of their ids.

    Returns:
        (n,) true classes, (n, K) probabilities of ``a`` and of ``b``, (n,) groups or None.
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


def _verdict(difference: Interval, metric: str) -> DifferenceVerdict:
    """What the interval says, where the test already has."""
    if math.isnan(difference.low) or not difference.reliable:
        return UNCLEAR
    if difference.low <= 0 <= difference.high:
        return UNCLEAR
    rises = difference.low > 0
    return "better" if rises == metric_of(metric).higher_is_better else "worse"


@dataclass(frozen=True)
class DeLong:
    """Difference of two areas under the ROC curve on the same images."""

    difference: float  # first area minus second
    low: float  # lower limit of its 95 % interval
    high: float
    p: float


@dataclass(frozen=True)
class PairedTests:
    """Where two classifiers disagree about what is right.

    Attributes:
        only_first_right: Images that only the first has right.
        only_second_right: Images that only the second has right.
        effect: Cohen's g, the first's share of these images minus ½ (Cohen 1988, chapter 5; from
            .05 small, .15 medium, .25 large); None where they never disagree.
        independent: Whether no images are grouped.
        mcnemar_p: p-value of McNemar's exact test (1947); None where images are not independent.
        delong: Test of the area under the ROC curve; None where images are not independent or
            have more than two classes.
    """

    only_first_right: int
    only_second_right: int
    effect: float | None
    independent: bool
    mcnemar_p: float | None
    delong: DeLong | None

    def to_json(self) -> dict[str, object]:
        """For a JSON file."""
        return asdict(self)


def paired_tests(
    a: PredictionTable, b: PredictionTable, groups: Mapping[str, str] | None = None
) -> PairedTests:
    """Count disagreements, and test them where images are independent.

    Args:
        b: One row per labelled image; only images that both tables have are counted.
        groups: Image id → group; None means that no images are grouped.

    Raises:
        DataError: An image stands twice in a table.

    >>> table = lambda p: PredictionTable.build(["benign", "all"], ["x", "y", "z"],
    ...     [[1 - v, v] for v in p], recipe="r", protocol="random", fold=0, part="test",
    ...     y_true=[0, 1, 1])
    >>> found = paired_tests(table([0.1, 0.9, 0.9]), table([0.9, 0.1, 0.9]))
    >>> found.only_first_right, found.effect, found.mcnemar_p
    (2, 0.5, 0.5)
    """
    from scipy.stats import binomtest

    a, b = _labelled(a), _labelled(b)
    ids, rows_a, rows_b = np.intersect1d(a.image_id, b.image_id, return_indices=True)
    a, b = a.take(rows_a), b.take(rows_b)
    first, second = (t.probs.argmax(axis=1) == t.y_true for t in (a, b))
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    units = {groups[image_id] for image_id in ids.tolist()} if groups is not None else ids
    independent = len(units) == len(ids)
    p = None
    if independent:
        p = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    two = independent and len(a.class_names) == 2 and len(np.unique(a.y_true)) == 2
    return PairedTests(
        only_first,
        only_second,
        round(only_first / discordant - 0.5, 4) if discordant else None,
        independent,
        p,
        delong(a.y_true == 1, a.probs[:, 1], b.probs[:, 1]) if two else None,
    )


def delong(positive: ArrayLike, first: ArrayLike, second: ArrayLike) -> DeLong | None:
    """Compare two correlated areas under the ROC curve.

    DeLong, DeLong & Clarke-Pearson (1988), the structural components by mid-ranks (Sun & Xu 2014).

    Args:
        positive: (n,) bool.
        first: (n,) scores of the first classifier, larger for positive images.
        second: (n,) scores of the second.

    Returns:
        None where the difference has no variance, or a class has fewer than two images.

    >>> delong([True, True, False, False], [4, 3, 2, 1], [4, 2, 3, 1]).difference
    0.25
    """
    truth = np.asarray(positive, dtype=bool)
    if min(truth.sum(), (~truth).sum()) < 2:
        return None
    parts = [_components(np.asarray(score, dtype=np.float64), truth) for score in (first, second)]
    (area_a, pos_a, neg_a), (area_b, pos_b, neg_b) = parts
    variance = (pos_a - pos_b).var(ddof=1) / truth.sum() + (neg_a - neg_b).var(ddof=1) / (
        ~truth
    ).sum()
    if variance <= 0:
        return None
    error, value = float(np.sqrt(variance)), area_a - area_b
    half = NormalDist().inv_cdf(0.975) * error
    p = 2 * NormalDist().cdf(-abs(value) / error)
    return DeLong(value, value - half, value + half, p)


def _components(
    score: NDArray[np.float64], positive: NDArray[np.bool_]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Area, and each image's share of the other class that it is ordered right against."""
    from scipy.stats import rankdata

    ranks = rankdata(score)
    m, n = positive.sum(), (~positive).sum()
    of_positive = (ranks[positive] - rankdata(score[positive])) / n
    of_negative = 1 - (ranks[~positive] - rankdata(score[~positive])) / m
    return float(of_positive.mean()), of_positive, of_negative


def _labelled(table: PredictionTable) -> PredictionTable:
    known = table.take(table.y_true >= 0)
    if len(np.unique(known.image_id)) != len(known):
        raise DataError("paired tests: an image has two rows; select one part and fold set")
    return known


def measure_parity(
    reference: ArrayLike,
    found: ArrayLike,
    y: ArrayLike | None = None,
    groups: Sequence[str] | NDArray[np.generic] | None = None,
    **how: Unpack[Sampling],
) -> Parity:
    """Compare logits of the same images.

    Args:
        reference: (n, K) of the trained network, or of an engine in fp32.
        found: (n, K) of the engine in question.
        y: (n,) class indices, to compare accuracies; None leaves that out.
        groups: (n,) by which the interval of the accuracies' difference resamples; where no
            image changes sides, it is that of no change among so many groups, either way
            (Clopper & Pearson 1934).

    >>> measure_parity([[2.0, 0.0], [0.0, 4.0]], [[2.0, 0.1], [0.0, 4.0]]).max_abs
    0.1
    >>> measure_parity([[2.0, 0.0], [0.0, 4.0]], [[0.0, 2.0], [0.0, 4.0]], [0, 1]).accuracy_change
    -0.5
    """
    old, new = np.asarray(reference, np.float64), np.asarray(found, np.float64)
    scale = max(1.0, float(np.abs(old).max()))
    # A NaN must fail every bound, and a record holds finite numbers only.
    difference = np.nan_to_num(np.abs(new - old), nan=1e30, posinf=1e30).max()
    was, now = old.argmax(axis=1), new.argmax(axis=1)
    rows = np.arange(len(old))
    changed = old[rows, was] - old[rows, now] > BOUNDS["fp32"].logits * scale
    parity = Parity(
        n=len(old), max_abs=float(difference), scale=scale, changed=float(changed.mean())
    )
    if y is None:
        return parity
    truth = np.asarray(y)
    gain = (now == truth).astype(float) - (was == truth)
    interval = bootstrap_mean(gain, groups=groups, **how)
    low, high = interval.low, interval.high
    if not gain.any():  # no spread to resample: as many groups could still have missed a change
        confidence = how.get("confidence", 0.95)
        high = proportion_interval(0, interval.n_groups, confidence=confidence)[1]
        low = -high
    limits = {"accuracy_change": interval.value, "low": low, "high": high}
    return parity.model_copy(update=limits)
