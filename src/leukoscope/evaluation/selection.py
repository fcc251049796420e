"""How much the best of several configurations flatters itself, because it was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import DataError
from leukoscope.evaluation.intervals import Resampling
from leukoscope.evaluation.metrics import weighted_metrics

Criterion = Literal["accuracy", "weighted_f1", "log_loss"]


@dataclass(frozen=True)
class CorrectedBest:
    """The best configuration's value on the images that chose it, and without that advantage.

    Attributes:
        chosen: Index of the best configuration.
        value: Its value on all images, which is optimistic.
        corrected: Mean value, over the replicates, of the configuration that won on the drawn
            images, measured on those that were not drawn.
        low: 2.5th percentile of the same.
        high: 97.5th percentile.
        n_groups: Number of groups that were drawn from.
    """

    chosen: int
    value: float
    corrected: float
    low: float
    high: float
    n_groups: int


def corrected_best(
    y_true: NDArray[np.int64],
    y_prob: Sequence[NDArray[np.float64]],
    class_names: Sequence[str],
    criterion: Criterion,
    *,
    groups: Sequence[str] | None = None,
    replicates: int = 500,
    seed: int = 0,
) -> CorrectedBest:
    """Bootstrap bias correction of the choice among configurations.

    Each replicate draws groups of images with replacement, chooses the configuration that is
    best on them, and measures it on the images that were not drawn (Tsamardinos, Greasidou &
    Borboudakis 2018, Machine Learning 107:1895, "BBC-CV"). The choice of an epoch within each
    configuration is not corrected for.

    Args:
        y_true: (n,) class indices of the validation images.
        y_prob: For each configuration (n, K) probabilities.
        class_names: K names.
        criterion: What chooses; ``log_loss`` is better when smaller.
        groups: (n,) what is drawn as a whole; None draws images.
        replicates: Number of replicates.
        seed: Of the draws.

    Raises:
        DataError: There is no configuration.

    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], 50)
    >>> coins = [np.eye(2)[rng.integers(0, 2, 100)] for _ in range(30)]
    >>> best = corrected_best(y, coins, ["healthy", "all"], "accuracy")
    >>> best.value > 0.56 > best.corrected > 0.44
    True
    """
    if not len(y_prob):
        raise DataError("the best of no configurations was asked for")
    draws = Resampling.of(groups, y_true, replicates=replicates, seed=seed)
    sign = -1.0 if criterion == "log_loss" else 1.0

    def measure(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(configurations, B) of the criterion."""
        return np.stack(
            [
                weighted_metrics(y_true, p, class_names, weights, [criterion])[criterion]
                for p in y_prob
            ]
        )

    everything = measure(np.ones((1, len(y_true))))[:, 0]
    left_out: list[float] = []
    for weights in draws.weights():
        drawn, rest = measure(weights), measure((weights == 0).astype(np.float64))
        winners = (sign * drawn).argmax(axis=0)
        left_out += rest[winners, np.arange(len(winners))].tolist()
    values = np.array([value for value in left_out if np.isfinite(value)])
    if len(values):
        low, high = np.quantile(values, [0.025, 0.975])
        corrected = float(values.mean())
    else:  # every draw held every group: there is only one
        corrected = low = high = float("nan")
    chosen = int((sign * everything).argmax())
    return CorrectedBest(
        chosen, float(everything[chosen]), corrected, float(low), float(high), draws.n_groups
    )
