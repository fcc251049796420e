"""Calibration slope and intercept (Cox 1958): how predictions would have to be stretched and moved.

The slope β makes softmax(β log p + α) fit the outcomes best: 1 is right, below 1 the probabilities
are too extreme, above 1 not extreme enough. For two classes the intercept is that of
calibration-in-the-large (slope kept at 1): 0 is right, above 0 the last class is more frequent than
predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.evaluation.intervals import Interval, Resampling, Sampling
from leukoscope.evaluation.jackknife import LEAST_DF, spread
from leukoscope.evaluation.metrics import check_predictions
from leukoscope.evaluation.softmax import softmax

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_STEPS: Final = 60
_MOST: Final = 100.0  # a slope or intercept beyond this means that the classes are separated
_PERFECT: Final = -1e-3  # log likelihood of separated classes
_SMALLEST: Final = 1e-12  # probability


def recalibration(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    *,
    groups: Sequence[str] | NDArray[Any] | None = None,
    **how: Unpack[Sampling],
) -> dict[str, Interval]:
    """Calibration slope and, for two classes, intercept, with jackknife intervals over groups.

    The groups are left out by one Newton step from the whole fit (Pregibon 1981).

    Args:
        y_true: (n,) class indices.
        y_prob: (n, K) probabilities.
        groups: (n,) unit that is left out; None means images.
        **how: See :class:`~leukoscope.evaluation.intervals.Sampling`; only the confidence counts.

    Returns:
        ``slope`` and, for two classes, ``intercept``; NaN where the classes are separated without
        an error, or only one occurs.

    Raises:
        DataError: Shapes do not fit, a true class is unknown, or there is no image.

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
    variance, df = spread(without, [groups], draws.sums(np.ones(len(draws.member))))
    quantile = t.ppf((1 + draws.confidence) / 2, max(df, LEAST_DF))
    half = float(quantile) * variance**0.5
    return Interval(value, value - half, value + half, len(groups), len(groups), draws.reliable)
