"""Decision curves: what acting on a predicted probability is worth (Vickers & Elkin 2006)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError
from leukoscope.evaluation.intervals import Interval, Resampling, Sampling

FloatArray = NDArray[np.float64]

THRESHOLDS: Final = tuple(round(0.02 * i, 2) for i in range(1, 50))
"""Probabilities from which one acts: .02 to .98."""


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

    def to_json(self) -> dict[str, Any]:
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
    groups: Sequence[str] | NDArray[Any] | None = None,
    **how: Unpack[Sampling],
) -> DecisionCurve:
    """TP / n − FP / n · t / (1 − t) at each threshold t, with intervals over groups.

    Args:
        positive: (n,) whether each image truly is positive.
        probability: (n,) predicted probability of that, 0–1.
        thresholds: Each inside (0, 1).
        groups: (n,) unit that is resampled; None means images.
        **how: See :class:`~leukoscope.evaluation.intervals.Sampling`.

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
