"""Selective prediction: how wrong the model is on the images that it is surest of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError
from leukoscope.evaluation.intervals import Interval, Resampling, Sampling

FloatArray = NDArray[np.float64]


def risk_coverage(confidence: ArrayLike, wrong: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Error rate among the most confident images, as more and more of them are answered.

    Images of equal confidence share their errors, so that the curve hangs on no order of them.

    Args:
        confidence: (n,) the surer the larger.
        wrong: (n,) bool or 0/1, whether the prediction is wrong.

    Returns:
        (n,) coverage 1/n … 1 and (n,) risk in [0, 1] (El-Yaniv & Wiener 2010).

    Raises:
        DataError: There is no image, or shapes do not fit.

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
        groups: (n,) unit that is resampled; None means images.
        **how: See :class:`~leukoscope.evaluation.intervals.Sampling`.

    Returns:
        AURC and E-AURC with their intervals.

    Raises:
        DataError: There is no image, or shapes do not fit.

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
