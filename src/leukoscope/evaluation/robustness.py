"""What damage to the images costs a model: curves, errors over all damage, and the envelope.

Every interval resamples whole groups. A difference is paired: the same images, damaged and not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.config.robustness import Condition
from leukoscope.evaluation.statistics.intervals import (
    Interval,
    Resampling,
    Sampling,
    bootstrap_mean,
    bootstrap_metrics,
)

FloatArray = NDArray[np.float64]
CONDITION_METRICS = ("accuracy", "ece")
ACCEPT = 0.99  # of the images that the model stands, this share lies inside a limit
LEAST_CAUGHT = 0.5  # a limit that catches fewer of the worst images is no check


@dataclass(frozen=True)
class ConditionOutputs:
    """Outputs of one model for the same images under one condition.

    Attributes:
        probs: (n, K) calibrated probabilities.
        review: (n,) bool, whether a person should look at the image.
        reject: (n,) bool, whether the image would be refused; None where the model has no gate.
    """

    probs: FloatArray
    review: NDArray[np.bool_]
    reject: NDArray[np.bool_] | None


@dataclass(frozen=True)
class ConditionSample:
    """The images that every condition is measured on."""

    class_names: tuple[str, ...]
    y_true: NDArray[np.int64]
    groups: Sequence[str]  # (n,) unit of each image that intervals resample
    how: Sampling = field(default_factory=Sampling)
    fits: NDArray[np.int64] | None = None  # see bootstrap_metrics

    def mean(self, values: ArrayLike) -> Interval:
        """Mean of one number an image, with its interval."""
        return bootstrap_mean(values, groups=self.groups, y_true=self.y_true, **self.how)

    def wrong(self, answers: ConditionOutputs) -> FloatArray:
        """(n,) 1 where the most probable class is not the true one, else 0."""
        return np.asarray(answers.probs.argmax(axis=1) != self.y_true, np.float64)

    def describe(
        self, condition: tuple[str, int, float], answers: ConditionOutputs, clean: ConditionOutputs
    ) -> Condition:
        """Accuracy, ECE, shares of decisions, and the accuracy minus that on ``clean``.

        ``condition`` is the name of the corruption, its severity and its level.
        """
        metrics = bootstrap_metrics(
            self.y_true, answers.probs, self.class_names,
            groups=self.groups, names=CONDITION_METRICS, fits=self.fits, **self.how,
        )  # fmt: skip
        lost = self.mean(self.wrong(clean) - self.wrong(answers))
        corruption, severity, level = condition
        found = Condition(
            corruption=corruption,
            severity=severity,
            level=level,
            **{name: interval.estimate for name, interval in metrics.items()},
            review=self.mean(answers.review).estimate,
            difference=lost.estimate,
        )
        if answers.reject is None:
            return found
        return found.model_copy(update={"reject": self.mean(answers.reject).estimate})

    def corruption_error(self, errors: FloatArray, reference: FloatArray | None = None) -> Interval:
        """:func:`mean_corruption_error` with its interval.

        Args:
            errors: (C, S, n) of :meth:`wrong`, one row a corruption and severity.
            reference: Likewise of another model on the same images; None gives the plain mean.
        """
        resampling = Resampling.of(self.groups, self.y_true, **self.how)
        drawn = []
        for weights in resampling.weights():
            weights /= weights.sum(axis=1, keepdims=True)
            own = np.moveaxis(errors @ weights.T, 2, 0)
            other = None if reference is None else np.moveaxis(reference @ weights.T, 2, 0)
            drawn.append(mean_corruption_error(own, other))
        whole = mean_corruption_error(
            errors.mean(axis=2), None if reference is None else reference.mean(axis=2)
        )
        return resampling.interval(float(whole), np.concatenate(drawn))


def mean_corruption_error(errors: ArrayLike, reference: ArrayLike | None = None) -> FloatArray:
    """Mean corruption error (Hendrycks & Dietterich 2019, arXiv 1903.12261, section 4.1).

    With error E of the model f and of a reference r, for corruptions c and severities s:
    CE_c = Σ_s E^f_{s,c} / Σ_s E^r_{s,c}, and mCE the mean of CE_c over the corruptions. In the
    paper r is AlexNet; here it is the first recipe of the comparison. Without a reference: the
    plain mean of E over corruptions and severities, as later benchmarks report it.

    Args:
        errors: (…, C, S) error rates, 0–1.
        reference: Likewise; where it makes no error at all under a corruption, that corruption
            and so the mean is NaN.

    >>> float(mean_corruption_error([[0.2, 0.4], [0.1, 0.1]], [[0.4, 0.8], [0.1, 0.1]]))
    0.75
    >>> round(float(mean_corruption_error([[0.2, 0.4], [0.1, 0.1]])), 3)
    0.2
    """
    own = np.asarray(errors, np.float64).sum(axis=-1)
    if reference is None:
        return np.asarray(np.asarray(errors, np.float64).mean(axis=(-2, -1)))
    other = np.asarray(reference, np.float64).sum(axis=-1)
    ratio = np.divide(own, other, out=np.full_like(own, np.nan), where=other > 0)
    return np.asarray(ratio.mean(axis=-1), np.float64)


def tolerated(lows: Sequence[float | None], bound: float) -> int:
    """The largest severity, counted without a gap from 1, whose loss stays within a bound.

    The lower limit of the paired difference of accuracy must not lie below ``-bound``. Severities
    are tested in their order up to the first that fails, so that testing several needs no
    correction (a fixed sequence; Maurer et al. 1995).

    Args:
        lows: That limit at severity 1, 2 …

    >>> tolerated([-0.01, -0.07, -0.02], 0.05)
    1
    """
    for severity, low in enumerate(lows):
        if low is None or low < -bound:
            return severity
    return len(lows)


def fit_limit(
    values: Sequence[FloatArray], severity: int, side: Literal["low", "high", "both"]
) -> dict[str, float]:
    """The limit of one measure that keeps the images which a model stands, and no others.

    It lies where 1 % of the images of the condition nearest to it are beyond: of the undamaged
    ones, or of a tolerated severity.

    Args:
        values: (n,) values of the measure, undamaged first, then severity 1, 2 …

    Returns:
        ``low`` and ``high`` as far as they are checked; ``caught`` and ``caught_worst``: the
        share of the images that lie outside at the first severity beyond, and at the last. Only
        these two where the last is less than half: the measure cannot tell. Where every severity
        is tolerated there are neither, and the limit is where the measurement ended.

    >>> blurred = [np.full(9, 90.0), np.full(9, 50.0), np.full(9, 20.0)]
    >>> fit_limit(blurred, 1, "low")
    {'caught': 1.0, 'caught_worst': 1.0, 'low': 50.0}
    """
    inside, beyond = values[: severity + 1], values[severity + 1 :]
    limits = {}
    if side in ("low", "both"):
        limits["low"] = float(min(np.quantile(v, 1 - ACCEPT) for v in inside))
    if side in ("high", "both"):
        limits["high"] = float(max(np.quantile(v, ACCEPT) for v in inside))
    if not beyond:
        return limits
    first, last = (float(is_beyond(v, **limits).mean()) for v in (beyond[0], beyond[-1]))
    kept = limits if last >= LEAST_CAUGHT else {}
    return {"caught": first, "caught_worst": last, **kept}


def is_beyond(
    values: FloatArray, low: float | None = None, high: float | None = None
) -> NDArray[np.bool_]:
    """(n,) bool, whether each value lies outside the limits that there are."""
    outside = np.zeros(len(values), np.bool_)
    if low is not None:
        outside |= values < low
    if high is not None:
        outside |= values > high
    return outside
