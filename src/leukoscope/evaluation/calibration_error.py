"""How far probabilities are from frequencies, and what the Brier score consists of.

Names, beside ``log_loss``, ``brier`` and ``ece`` (equal-width bins) of ``metrics``: ``ece_mass``
(equal-mass bins of the top probability), ``ece_class`` (class-wise, equal-width bins; Kull et al.
2019), ``ece_adaptive`` (class-wise, equal-mass bins; the ACE of Nixon et al. 2019),
``reliability``, ``resolution`` and ``uncertainty`` (Murphy 1973).

Binned errors are biased upwards: a perfectly calibrated model scores above 0, the more the fewer
images a bin has. Compare them before and after on the same images; do not read them alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.evaluation.intervals import Interval, Resampling, Sampling
from leukoscope.evaluation.metrics import (
    ECE_BINS,
    calibration_bin,
    check_predictions,
    weighted_metrics,
)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MAIN = ("log_loss", "brier", "ece", "ece_mass")


def calibration_measures(
    y_true: ArrayLike,
    after: ArrayLike,
    before: ArrayLike | None = None,
    *,
    groups: Sequence[str] | None = None,
    **how: Unpack[Sampling],
) -> dict[str, dict[str, Interval]]:
    """Every measure after and before calibration, and the change, on the same resamples.

    Only ``MAIN`` measures have limits: under resampling the others grow by more than they vary.

    Args:
        y_true: (n,) class indices.
        after: (n, K) calibrated probabilities.
        before: (n, K) softmax of the raw logits; None where there are none.
        groups: (n,) unit that is resampled; None means images.
        **how: See :class:`~leukoscope.evaluation.intervals.Sampling`.

    Returns:
        ``after`` and, where there are raw logits, ``before`` and ``change`` (after − before, the
        main measures), each by name of the measure.

    Raises:
        DataError: Shapes do not fit, a true class is unknown, or there is no image.

    >>> y_prob = [[0.8, 0.2]] * 10 + [[0.3, 0.7]] * 10
    >>> found = calibration_measures([0] * 7 + [1] * 10 + [0] * 3, y_prob, replicates=50)["after"]
    >>> {name: round(found[name].value, 3) for name in ("ece_mass", "reliability", "resolution")}
    {'ece_mass': 0.05, 'reliability': 0.005, 'resolution': 0.04}
    """
    names = [str(i) for i in range(np.asarray(after).shape[-1])]
    truth, prob = check_predictions(y_true, after, names)
    draws = Resampling.of(groups, truth, **how)
    bins = {"after": _Bins(truth, prob, names)}
    if before is not None:
        bins["before"] = _Bins(*check_predictions(y_true, before, names), names)
    whole = {key: own.measure(np.ones((1, len(truth)))) for key, own in bins.items()}
    drawn: dict[str, dict[str, FloatArray]] = {}
    for key, own in bins.items():
        blocks = [own.measure(weights) for weights in draws.weights()]
        drawn[key] = {name: np.concatenate([block[name] for block in blocks]) for name in MAIN}
    if before is not None:
        for values in (whole, drawn):
            values["change"] = {m: values["after"][m] - values["before"][m] for m in MAIN}
    unknown = np.full(1, np.nan)
    return {
        key: {
            name: draws.interval(float(value[0]), drawn[key].get(name, unknown))
            for name, value in values.items()
        }
        for key, values in whole.items()
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
