"""What a threshold does: ROC, reliability, risk–coverage, decision curves, operating points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.config.guarantees import OperatingTarget
from leukoscope.core.errors import DataError
from leukoscope.evaluation.statistics.intervals import Interval, Resampling, Sampling
from leukoscope.evaluation.statistics.metrics import ECE_BINS, calibration_bin, check_predictions

FloatArray = NDArray[np.float64]
THRESHOLDS: Final = tuple(round(0.02 * i, 2) for i in range(1, 50))
"""Probabilities from which one acts: .02 to .98."""


@dataclass(frozen=True, eq=False)
class Curve:
    """One curve of one class against the rest."""

    x: FloatArray  # (t,) false-positive rate, in [0, 1]
    y: FloatArray  # (t,) true-positive rate, in [0, 1]


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence against accuracy in equal-width bins of the top probability."""

    edges: FloatArray  # (bins + 1,) borders
    n: NDArray[np.int64]  # (bins,) number of images
    confidence: FloatArray  # (bins,) mean top probability, NaN in an empty bin
    accuracy: FloatArray  # (bins,) share of right predictions, NaN in an empty bin


def roc_curves(
    y_true: ArrayLike, y_prob: ArrayLike, class_names: Sequence[str]
) -> dict[str, Curve]:
    """One-versus-rest ROC curve of each class that has both positive and negative images.

    >>> curve = roc_curves([0, 1], [[0.8, 0.2], [0.3, 0.7]], ["healthy", "all"])["all"]
    >>> curve.x.tolist(), curve.y.tolist()
    ([0.0, 0.0, 1.0], [0.0, 1.0, 1.0])
    """
    from sklearn.metrics import roc_curve

    truth, prob = check_predictions(y_true, y_prob, class_names)
    curves = {}
    for i, name in enumerate(class_names):
        positive = truth == i
        if positive.any() and not positive.all():
            x, y, _ = roc_curve(positive, prob[:, i])
            curves[name] = Curve(x, y)
    return curves


def reliability(y_true: ArrayLike, y_prob: ArrayLike, *, bins: int = ECE_BINS) -> Reliability:
    """Reliability diagram (DeGroot & Fienberg 1983) of the top label; the bins of ``ece``.

    >>> diagram = reliability([0, 1], [[0.9, 0.1], [0.6, 0.4]], bins=2)
    >>> diagram.n.tolist(), diagram.accuracy.tolist()
    ([0, 2], [nan, 0.5])
    """
    k = np.asarray(y_prob).shape[-1]
    truth, prob = check_predictions(y_true, y_prob, [str(i) for i in range(k)])
    top = prob.max(axis=1)
    place = calibration_bin(top, bins)
    n = np.bincount(place, minlength=bins)
    empty = np.where(n > 0, n, np.nan)
    hits = np.bincount(place, weights=prob.argmax(axis=1) == truth, minlength=bins)
    return Reliability(
        edges=np.linspace(0, 1, bins + 1),
        n=n,
        confidence=np.bincount(place, weights=top, minlength=bins) / empty,
        accuracy=hits / empty,
    )


def risk_coverage(confidence: ArrayLike, wrong: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Error rate among the most confident images, as more and more of them are answered.

    Images of equal confidence share their errors, so that the curve does not depend on their order.

    Args:
        confidence: (n,) the surer the larger.
        wrong: (n,) bool or 0/1, whether the prediction is wrong.

    Returns:
        (n,) coverage 1/n … 1 and (n,) risk in [0, 1] (El-Yaniv & Wiener 2010).

    >>> coverage, risk = risk_coverage([0.9, 0.8, 0.7, 0.6], [0, 0, 1, 1])
    >>> coverage.tolist(), risk.round(3).tolist()
    ([0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.333, 0.5])
    """
    order, errors = _ordered(confidence, wrong)
    n = np.arange(1, len(order) + 1)
    return n / len(order), np.cumsum(errors) / n


def aurc(
    sure: ArrayLike,
    wrong: ArrayLike,
    *,
    groups: Sequence[str] | None = None,
    **how: Unpack[Sampling],
) -> tuple[Interval, Interval]:
    """Area under the risk–coverage curve, and how much of it a perfect order would spare.

    AURC is the mean of the risk over the coverages 1/n … 1; the excess (E-AURC) is AURC minus
    that of the same number of errors in the perfect order, all of them last (Geifman, Uziel &
    El-Yaniv 2019, equation 4 with its sum written out).

    Args:
        sure: (n,) confidence, the surer the larger.
        wrong: (n,) whether the prediction is wrong.

    >>> area, excess = aurc([0.9, 0.8, 0.7, 0.6], [0, 1, 0, 0], replicates=50)
    >>> round(area.value, 4), round(excess.value, 4)
    (0.2708, 0.2083)
    """
    order, errors = _ordered(sure, wrong)
    draws = Resampling.of(groups, np.zeros(len(order), np.int64), **how)
    whole = _areas(errors, np.ones((1, len(order))))
    blocks = [_areas(errors, weights[:, order]) for weights in draws.weights()]
    area, excess = (
        draws.interval(float(whole[i][0]), np.concatenate([block[i] for block in blocks]))
        for i in (0, 1)
    )
    return area, excess


def _ordered(confidence: ArrayLike, wrong: ArrayLike) -> tuple[NDArray[np.int64], FloatArray]:
    """The order from sure to unsure, and the errors in it, shared among equals."""
    sure, errors = np.asarray(confidence, np.float64), np.asarray(wrong, np.float64)
    if sure.ndim != 1 or sure.shape != errors.shape or len(sure) == 0:
        raise DataError(
            f"risk and coverage: expected confidence (n,) and wrong (n,) with n ≥ 1, "
            f"got {sure.shape} and {errors.shape}"
        )
    order = np.argsort(-sure, kind="stable")
    tie = np.unique(-sure[order], return_inverse=True)[1]
    return order, (np.bincount(tie, weights=errors[order]) / np.bincount(tie))[tie]


def _areas(errors: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(B,) AURC and E-AURC of images in order, (B, n) times each."""
    answered, wrong = np.cumsum(weights, axis=1), np.cumsum(weights * errors, axis=1)
    total = answered[:, -1:]

    def mean_risk(failed: FloatArray) -> FloatArray:
        risk = np.divide(failed, answered, out=np.zeros_like(failed), where=answered > 0)
        return np.asarray((weights * risk).sum(axis=1) / total[:, 0])

    area = mean_risk(wrong)
    best = mean_risk(np.maximum(0.0, answered - (total - wrong[:, -1:])))
    return area, area - best


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit over the threshold, in true positives an image.

    Attributes:
        prevalence: Share of positive images.
        thresholds: (T,) probability from which one acts; it says that one missed case is as bad
            as (1 − t) / t false alarms.
        model: (T,) net benefit of acting on the model.
        treat_all: (T,) of acting on every image; acting on none is worth 0.
        gain: (T,) of the model over the better of acting on all and on none.
    """

    prevalence: float
    thresholds: tuple[float, ...]
    model: tuple[Interval, ...]
    treat_all: tuple[float, ...]
    gain: tuple[Interval, ...]

    def to_json(self) -> dict[str, object]:
        """For ``metrics.json``: one list a line."""
        return {
            "prevalence": self.prevalence,
            "n_groups": self.model[0].n_groups,
            "reliable": self.model[0].reliable,
            "thresholds": list(self.thresholds),
            "model": _lists(self.model),
            "treat_all": list(self.treat_all),
            "gain": _lists(self.gain),
        }


def net_benefit(
    positive: ArrayLike,
    probability: ArrayLike,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    groups: Sequence[str] | NDArray[np.generic] | None = None,
    **how: Unpack[Sampling],
) -> DecisionCurve:
    """TP / n − FP / n · t / (1 − t) at each threshold t, with intervals over groups.

    Args:
        positive: (n,) whether each image truly is positive.
        probability: (n,) predicted probability of that, 0–1.
        thresholds: Each inside (0, 1).

    Raises:
        DataError: There is no image, shapes do not fit, or a threshold is outside (0, 1).

    >>> curve = net_benefit([True, True, False, False], [0.9, 0.4, 0.6, 0.1], thresholds=[0.5])
    >>> curve.model[0].value, curve.treat_all
    (0.0, (0.0,))
    """
    ill, p = np.asarray(positive, dtype=bool), np.asarray(probability, np.float64)
    at = np.asarray(thresholds, np.float64)
    if p.shape != ill.shape or not ((at > 0) & (at < 1)).all():
        raise DataError("decision curve: expected a probability an image and thresholds in (0, 1)")
    draws = Resampling.of(groups, ill.astype(np.int64), **how)
    odds = at / (1 - at)
    act = p[:, None] >= at
    worth = np.where(ill[:, None], act, -odds * act)
    of_all = np.where(ill[:, None], 1.0, -odds)
    sums = draws.sums(np.hstack([worth, of_all, np.ones((len(p), 1))]))

    def curves(counts: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(B, T) net benefit of the model, and its gain, under B draws of the groups."""
        total = counts @ sums
        mean = total[:, :-1] / total[:, -1:]
        model, everyone = np.split(mean, 2, axis=1)
        return model, model - np.maximum(everyone, 0.0)

    whole = [row[0] for row in curves(np.ones((1, draws.n_groups)))]
    parts = [curves(counts) for counts in draws.counts()]
    drawn = [np.concatenate([part[i] for part in parts]) for i in range(2)]
    model, gain = (
        tuple(draws.interval(float(v), d) for v, d in zip(row, columns.T, strict=True))
        for row, columns in zip(whole, drawn, strict=True)
    )
    everyone = ill.mean() - (1 - ill.mean()) * odds
    return DecisionCurve(
        float(ill.mean()), tuple(at.tolist()), model, tuple(everyone.tolist()), gain
    )


def _lists(intervals: Sequence[Interval]) -> dict[str, list[float | None]]:
    rows = [interval.to_json() for interval in intervals]
    return {key: [row[key] for row in rows] for key in ("value", "low", "high")}


@dataclass(frozen=True)
class ChosenThreshold:
    """A threshold, or why there is none.

    Attributes:
        threshold: Flagged where P(malignant) ≥ threshold; None where the data cannot support it.
        n: Malignant calibration images (or patients); images of one group count as their weights
            say, rounded down.
        misses: How many of them the threshold may miss.
        bound: Clopper–Pearson upper bound of the share missed; with the fewest possible misses
            where there is no threshold.
        needed: Fewest malignant images (or patients) with which the promise could be made.
    """

    threshold: float | None
    n: int
    misses: int
    bound: float
    needed: int


def miss_bound(misses: float, n: float, confidence: float) -> float:
    """One-sided Clopper–Pearson (1934) upper bound of a share.

    >>> round(miss_bound(0, 299, 0.95), 5), miss_bound(0, 0, 0.95)
    (0.00997, 1.0)
    """
    from scipy.special import betaincinv

    return 1.0 if misses >= n else float(betaincinv(misses + 1, n - misses, confidence))


def images_needed(miss: float, confidence: float) -> int:
    """Fewest images, none of them missed, that support the promise: ln(1 − c) / ln(1 − miss).

    >>> images_needed(0.01, 0.95), images_needed(0.05, 0.95)
    (299, 59)
    """
    return math.ceil(math.log1p(-confidence) / math.log1p(-miss) - 1e-9)


def choose_threshold(
    p_malignant: ArrayLike,
    target: OperatingTarget,
    patients: Sequence[str] | NDArray[np.generic] | None = None,
    weights: ArrayLike | None = None,
) -> ChosenThreshold:
    """The largest threshold whose promise the malignant calibration images support.

    With k misses allowed, the threshold is the (k + 1)-th smallest P(malignant), and k the
    largest number whose Clopper–Pearson bound keeps to the target. The share that an order
    statistic of n independent draws leaves below itself is Beta(k + 1, n − k), so the bound
    holds although the threshold was chosen on the same images (a one-sided tolerance limit,
    Wilks 1941).

    Args:
        p_malignant: (n,) of the truly malignant calibration images.
        patients: (n,) of each image, where the target is about patients: a patient counts with
            the largest P(malignant) of the images, and is missed where none is flagged.
        weights: (n,) what each image counts for where the target is about images, so that the
            bound rests on as many independent images as theirs are worth; None counts all fully.

    >>> from leukoscope.config.guarantees import parse_operating_point as parse
    >>> target = parse("miss at most 5 % of malignant fields, with 95 % confidence")
    >>> choose_threshold(np.linspace(0.2, 1, 93), target)  # doctest: +ELLIPSIS
    ChosenThreshold(threshold=0.208..., n=93, misses=1, bound=0.0499..., needed=59)
    """
    values = np.asarray(p_malignant, dtype=np.float64)
    counts = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    if patients is not None:
        names, member = np.unique(np.asarray(patients), return_inverse=True)
        highest = np.full(len(names), -np.inf)
        np.maximum.at(highest, member, values)
        values, counts = highest, np.ones(len(names))
    order = np.argsort(values, kind="stable")
    missed = np.concatenate([[0.0], np.cumsum(counts[order])])  # by a threshold at each value
    total = float(missed[-1])
    n, misses = int(total + 1e-9), -1
    while (
        misses + 1 < len(values)
        and miss_bound(missed[misses + 1], total, target.confidence) <= target.miss
    ):
        misses += 1
    needed = images_needed(target.miss, target.confidence)
    if misses < 0:
        return ChosenThreshold(None, n, 0, miss_bound(0, total, target.confidence), needed)
    bound = miss_bound(missed[misses], total, target.confidence)
    return ChosenThreshold(float(values[order][misses]), n, misses, bound, needed)
