"""Calibration error, Brier decomposition, and calibration slope and intercept (Cox 1958)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.evaluation.calibration.scaling import softmax
from leukoscope.evaluation.statistics.intervals import (
    Interval,
    Resampling,
    Sampling,
    bootstrap_metrics,
)
from leukoscope.evaluation.statistics.limits import (
    LEAST_DF,
    calibrated_errors,
    debiased_error,
    jackknife_variance,
)
from leukoscope.evaluation.statistics.metrics import (
    ECE_BINS,
    calibration_bin,
    check_predictions,
    weighted_metrics,
)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
PROPER = ("log_loss", "brier")
MAIN = (*PROPER, "ece", "ece_mass")
_STEPS: Final = 60
_MOST: Final = 100.0  # a slope or intercept beyond this means that the classes are separated
_PERFECT: Final = -1e-3  # log likelihood of separated classes
_SMALLEST: Final = 1e-12  # probability


def calibration_measures(
    y_true: ArrayLike,
    after: ArrayLike,
    before: ArrayLike | None = None,
    *,
    groups: Sequence[str] | NDArray[np.generic] | None = None,
    **how: Unpack[Sampling],
) -> dict[str, dict[str, Interval]]:
    """Every measure after and before calibration, and the change, on the same resamples.

    Only ``MAIN`` measures have limits, and only the ``PROPER`` ones their change: binned errors
    grow under resampling by more than they vary, so that differences of them mislead.

    Args:
        before: (n, K) softmax of the raw logits; None where there are none.

    Returns:
        ``after`` and, where there are raw logits, ``before`` and ``change`` (after − before, the
        main measures), each by name of the measure.

    >>> y_prob = [[0.8, 0.2]] * 10 + [[0.3, 0.7]] * 10
    >>> found = calibration_measures([0] * 7 + [1] * 10 + [0] * 3, y_prob, replicates=50)["after"]
    >>> {name: round(found[name].value, 3) for name in ("ece_mass", "reliability", "resolution")}
    {'ece_mass': 0.05, 'reliability': 0.005, 'resolution': 0.04}
    """
    names = [str(i) for i in range(np.asarray(after).shape[-1])]
    truth, prob = check_predictions(y_true, after, names)
    probs = {"after": prob}
    if before is not None:
        probs["before"] = check_predictions(y_true, before, names)[1]
    result = {key: _measured(truth, p, names, groups, **how) for key, p in probs.items()}
    if before is not None:
        draws = Resampling.of(groups, truth, **how)
        result["change"] = _changes(truth, prob, probs["before"], names, draws)
        for name in ("ece", "ece_mass"):
            value = result["after"][name].value - result["before"][name].value
            result["change"][name] = draws.interval(value, np.full(1, np.nan))
    return result


def _measured(
    truth: IntArray,
    prob: FloatArray,
    names: Sequence[str],
    groups: Sequence[str] | NDArray[np.generic] | None,
    **how: Unpack[Sampling],
) -> dict[str, Interval]:
    """Every measure of some probabilities."""
    draws, bins = Resampling.of(groups, truth, **how), _Bins(truth, prob, names)
    main = bootstrap_metrics(truth, prob, names, groups=groups, names=(*PROPER, "ece"), **how)
    main["ece_mass"] = draws.binned(bins.top)
    whole = bins.measure(np.ones((1, len(truth))))
    unknown = np.full(1, np.nan)
    return {
        name: main[name] if name in main else draws.interval(float(value[0]), unknown)
        for name, value in whole.items()
    }


def _changes(
    truth: IntArray,
    after: FloatArray,
    before: FloatArray,
    names: Sequence[str],
    draws: Resampling,
) -> dict[str, Interval]:
    """After minus before of the proper scores, on the same resamples."""

    def change(weights: FloatArray) -> dict[str, FloatArray]:
        new, old = (weighted_metrics(truth, p, names, weights, PROPER) for p in (after, before))
        return {name: new[name] - old[name] for name in PROPER}

    whole, drawn = change(np.ones((1, len(truth)))), [change(w) for w in draws.weights()]
    return {
        name: draws.interval(float(whole[name][0]), np.concatenate([d[name] for d in drawn]))
        for name in PROPER
    }


def ece_by_chance(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    *,
    groups: Sequence[str] | NDArray[np.generic] | None = None,
    **how: Unpack[Sampling],
) -> dict[str, object]:
    """The band in which the ECE of a calibrated model of this size lies, and the ECE beyond it.

    Args:
        groups: (n,) what resembles each other; None means every image for itself.

    Returns:
        ``ece``; ``expected``, ``low``, ``high`` of a calibrated model; ``debiased``; and
        ``explained``, whether chance alone could give so high an error.

    >>> y_prob = [[0.8, 0.2]] * 100
    >>> found = ece_by_chance([0] * 50 + [1] * 50, y_prob)
    >>> round(found["ece"], 3), found["explained"], found["expected"] < 0.05 < found["debiased"]
    (0.3, False, True)
    """
    names = [str(i) for i in range(np.asarray(y_prob).shape[-1])]
    truth, prob = check_predictions(y_true, y_prob, names)
    draws = Resampling.of(groups, truth, **how)
    confidence, right = prob.max(axis=1), prob.argmax(axis=1) == truth
    drawn = calibrated_errors(
        confidence, right, calibration_bin(confidence), draws.member,
        replicates=draws.replicates, seed=draws.seed,
    )  # fmt: skip
    error = float(weighted_metrics(truth, prob, names, np.ones((1, len(truth))), ["ece"])["ece"][0])
    tail = (1 - draws.confidence) / 2
    low, expected, high = np.quantile(drawn, tail), drawn.mean(), np.quantile(drawn, 1 - tail)
    return {
        "ece": error,
        "expected": float(expected),
        "low": float(low),
        "high": float(high),
        "debiased": debiased_error(error, float(expected)),
        "explained": bool(error <= high),
    }


def mass_bin(values: FloatArray, bins: int = ECE_BINS) -> IntArray:
    """The equal-mass bin of each value; equal values stay together.

    >>> mass_bin(np.array([0.1, 0.2, 0.3, 0.4]), 2).tolist()
    [0, 0, 1, 1]
    """
    inner = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(inner, values).astype(np.int64)


class _Bins:
    """Which image stands in which bin, ready for any weighting of the images.

    Attributes:
        top: (n, bins) right minus confidence, in the equal-mass bin of the top probability.
        width: (n, K · bins) outcome minus probability of each class, in equal-width bins.
        mass: (n, K · bins) the same in equal-mass bins.
        inside: (n, K · bins) 1 in the equal-mass bin of each class.
    """

    def __init__(self, truth: IntArray, prob: FloatArray, names: Sequence[str]) -> None:
        self.truth, self.prob, self.names = truth, prob, names
        self.outcome = np.eye(len(names))[truth]
        confidence = prob.max(axis=1)
        right = (prob.argmax(axis=1) == truth) - confidence
        gap = self.outcome - prob
        columns = range(len(names))
        self.top = _spread(mass_bin(confidence), right)
        self.width = np.hstack([_spread(calibration_bin(prob[:, k]), gap[:, k]) for k in columns])
        places = [mass_bin(prob[:, k]) for k in columns]
        self.mass = np.hstack([_spread(places[k], gap[:, k]) for k in columns])
        self.inside = np.hstack([_spread(place, np.ones(len(truth))) for place in places])

    def measure(self, weights: FloatArray) -> dict[str, FloatArray]:
        """Every measure under each of B weightings, (B,) each."""
        total, k = weights.sum(axis=1), len(self.names)
        values = weighted_metrics(
            self.truth, self.prob, self.names, weights, ("log_loss", "brier", "ece")
        )
        in_mass = weights @ self.mass
        values["ece_mass"] = np.abs(weights @ self.top).sum(axis=1) / total
        values["ece_class"] = np.abs(weights @ self.width).sum(axis=1) / total / k
        values["ece_adaptive"] = np.abs(in_mass).sum(axis=1) / total / k
        n = weights @ self.inside
        squared = np.divide(in_mass**2, n, out=np.zeros_like(n), where=n > 0)
        halved = 2 if k == 2 else 1  # as the Brier score of two classes
        share = weights @ self.outcome / total[:, None]
        values["reliability"] = squared.sum(axis=1) / total / halved
        values["uncertainty"] = (share * (1 - share)).sum(axis=1) / halved
        # What is left is Murphy's resolution and the two terms within bins that Stephenson,
        # Coelho & Jolliffe 2008 add to it, so that the three always make up the Brier score.
        values["resolution"] = values["reliability"] + values["uncertainty"] - values["brier"]
        return values


def _spread(place: IntArray, values: FloatArray) -> FloatArray:
    """(n, bins) each value in the column of its bin."""
    out = np.zeros((len(values), ECE_BINS))
    out[np.arange(len(values)), place] = values
    return out


def recalibration(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    *,
    groups: Sequence[str] | NDArray[np.generic] | None = None,
    **how: Unpack[Sampling],
) -> dict[str, Interval]:
    """Calibration slope and, for two classes, intercept, with jackknife intervals over groups.

    The groups are left out by one Newton step from the whole fit (Pregibon 1981).

    Args:
        groups: (n,) unit that is left out; None means images.

    Returns:
        ``slope`` and, for two classes, ``intercept``; NaN where the classes are separated without
        an error, or only one occurs.

    >>> y_prob = [[0.8, 0.2]] * 100 + [[0.2, 0.8]] * 100
    >>> found = recalibration([0] * 80 + [1] * 20 + [0] * 20 + [1] * 80, y_prob)
    >>> {name: abs(round(interval.value, 3)) for name, interval in found.items()}
    {'slope': 1.0, 'intercept': 0.0}
    """
    names = [str(i) for i in range(np.asarray(y_prob).shape[-1])]
    truth, prob = check_predictions(y_true, y_prob, names)
    draws = Resampling.of(groups, truth, **how)
    log_p = np.log(np.maximum(prob, _SMALLEST))
    n, k = log_p.shape
    constants = np.broadcast_to(np.eye(k)[:, 1:], (n, k, k - 1))
    design = np.concatenate([log_p[:, :, None], constants], axis=2)
    start = np.zeros(k)
    start[0] = 1.0
    result = {"slope": _fitted(design, np.zeros((n, k)), truth, draws, start)}
    if k == 2:
        result["intercept"] = _fitted(constants, log_p, truth, draws, np.zeros(1))
    return result


def _fitted(
    design: FloatArray, offset: FloatArray, truth: IntArray, draws: Resampling, start: FloatArray
) -> Interval:
    """The first coefficient of softmax(offset + design · θ) with its interval.

    ``design`` is (n, K, P), ``offset`` (n, K), ``start`` (P,).
    """
    unknown = Interval(np.nan, np.nan, np.nan, draws.n_groups, 0, reliable=False)
    if len(np.unique(truth)) < 2:
        return unknown
    theta, previous = start, -np.inf
    for _ in range(_STEPS):
        score, hessian, value = _derivatives(design, offset, truth, theta)
        if value - previous < 1e-10 and previous > -np.inf:
            break
        try:
            step = np.linalg.solve(hessian.sum(axis=0), score.sum(axis=0))
        except np.linalg.LinAlgError:
            return unknown
        theta, previous = _climb(design, offset, truth, theta, step, value), value
        if np.abs(theta).max() > _MOST or value > _PERFECT:
            return unknown
    s, h = draws.sums(score), draws.sums(hessian)
    try:
        without = theta - np.linalg.solve(h.sum(axis=0) - h, s[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        return unknown
    return _interval(float(theta[0]), without[:, 0], draws)


def _climb(
    design: FloatArray, offset: FloatArray, truth: IntArray, theta: FloatArray,
    step: FloatArray, value: float,
) -> FloatArray:  # fmt: skip
    """A Newton step, halved until the likelihood rises."""
    for half in range(12):
        further: FloatArray = theta + step / 2**half
        if _derivatives(design, offset, truth, further)[2] >= value - 1e-12:
            return further
    return theta


def _derivatives(
    design: FloatArray, offset: FloatArray, truth: IntArray, theta: FloatArray
) -> tuple[FloatArray, FloatArray, float]:
    """Score (n, P), information (n, P, P) and the log likelihood."""
    p = softmax(offset + design @ theta)
    rows = np.arange(len(truth))
    mean = np.einsum("nk,nkp->np", p, design)
    information = np.einsum("nk,nkp,nkq->npq", p, design, design)
    information -= mean[:, :, None] * mean[:, None, :]
    likelihood = np.log(np.maximum(p[rows, truth], _SMALLEST)).sum()
    return design[rows, truth] - mean, information, float(likelihood)


def _interval(value: float, without: FloatArray, draws: Resampling) -> Interval:
    from scipy.stats import t

    groups = np.arange(draws.n_groups)
    variance, df = jackknife_variance(without, [groups], draws.sums(np.ones(len(draws.member))))
    quantile = t.ppf((1 + draws.confidence) / 2, max(df, LEAST_DF))
    half = float(quantile) * variance**0.5
    return Interval(value, value - half, value + half, len(groups), len(groups), draws.reliable)
