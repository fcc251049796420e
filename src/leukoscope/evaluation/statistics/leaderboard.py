"""Ranks of several predictors on the same images, and how far choosing the best flatters it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError
from leukoscope.core.known_classes import Roles
from leukoscope.evaluation.statistics.intervals import Resampling, Sampling
from leukoscope.evaluation.statistics.metrics import (
    METRICS,
    check_predictions,
    metric_of,
    weighted_metrics,
)

FloatArray = NDArray[np.float64]
_BLOCK = 1 << 17  # weights held at once
PERMUTATIONS = 1999  # smallest p-value .0005, small enough after correction for 20 comparisons
LeaderboardCriterion = Literal["accuracy", "weighted_f1", "log_loss"]


@dataclass(frozen=True)
class Rank:
    """The rank of one predictor among several, with its interval."""

    rank: float  # on all images, 1 is the best; ties share their mean rank
    low: float  # lower limit of the interval of the rank
    high: float
    first: float  # share of the replicates in which it is the best, or one of several equally good
    reliable: bool  # False where there are few groups, in all or of a class


def bootstrap_ranks(
    y_true: ArrayLike,
    probs: Sequence[ArrayLike],
    class_names: Sequence[str],
    *,
    metric: str = "accuracy",
    groups: Sequence[str] | NDArray[np.generic] | None = None,
    roles: Roles | None = None,
    **how: Unpack[Sampling],
) -> list[Rank]:
    """Rank predictors again in every bootstrap replicate, on the same resampled groups for all.

    The limits are percentiles of the ranks (Goldstein & Spiegelhalter 1996), rounded outwards
    to ranks that occurred.

    Args:
        probs: M arrays (n, K) of probabilities, for the same images in the same order.
        roles: What the user's own classes stand for, see :func:`~leukoscope.core.labels.role_of`.

    >>> y, right, wrong = [0, 1] * 20, np.eye(2)[[0, 1] * 20], np.eye(2)[[1, 0] * 20]
    >>> [place.rank for place in bootstrap_ranks(y, [wrong, right], ["healthy", "all"])]
    [2.0, 1.0]
    """
    truth = np.asarray(y_true, dtype=np.int64)
    checked = [check_predictions(truth, prob, class_names)[1] for prob in probs]
    resampling = Resampling.of(groups, truth, **how)

    def ranks(weights: FloatArray) -> FloatArray:
        columns = [weighted_metrics(truth, p, class_names, weights, [metric], roles)[metric]
                   for p in checked]  # fmt: skip
        return _ranks(
            np.stack(columns, axis=1), smaller_first=not metric_of(metric).higher_is_better
        )

    whole = ranks(np.ones((1, len(truth))))[0]
    drawn = np.concatenate([ranks(weights) for weights in resampling.weights()])
    tail = (1 - resampling.confidence) / 2
    low = np.quantile(drawn, tail, axis=0, method="lower")
    high = np.quantile(drawn, 1 - tail, axis=0, method="higher")
    first = (drawn == drawn.min(axis=1, keepdims=True)).mean(axis=0)
    rows = zip(whole.tolist(), low.tolist(), high.tolist(), first.tolist(), strict=True)
    return [Rank(*row, resampling.reliable) for row in rows]


def _ranks(values: FloatArray, *, smaller_first: bool) -> FloatArray:
    """(B, M) values to mid-ranks; what is undefined comes last."""
    score = -values if smaller_first else values
    score = np.where(np.isfinite(score), score, -np.inf)
    above = (score[:, None, :] > score[:, :, None]).sum(axis=2)
    equal = (score[:, None, :] == score[:, :, None]).sum(axis=2) - 1
    return np.asarray(1 + above + equal / 2, dtype=np.float64)


def exchange_test(
    y_true: ArrayLike,
    prob_a: ArrayLike,
    prob_b: ArrayLike,
    class_names: Sequence[str],
    *,
    metric: str = "accuracy",
    groups: Sequence[str] | NDArray[np.generic] | None = None,
    roles: Roles | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> float:
    """Two-sided p-value of the hypothesis that two predictors are interchangeable.

    Approximate randomisation (Noreen 1989; Yeh 2000, COLING): in every permutation each group of
    images keeps or swaps the predictions of the two, all its images together, and the difference
    of the metric is computed again. The p-value counts the observed difference as one of them.

    Returns:
        A number in (0, 1]; 1 where the two never differ.

    >>> y, right, wrong = [0, 1] * 20, np.eye(2)[[0, 1] * 20], np.eye(2)[[1, 0] * 20]
    >>> exchange_test(y, right, wrong, ["healthy", "all"], permutations=999)
    0.001
    """
    truth, first = check_predictions(y_true, prob_a, class_names)
    _, second = check_predictions(y_true, prob_b, class_names)
    n = len(truth)
    labels = np.arange(n) if groups is None else np.asarray(groups)
    if labels.shape != (n,):
        raise DataError(f"exchange test: expected {n} group labels, got {labels.shape}")
    member = np.unique(labels, return_inverse=True)[1]
    both, stacked = np.concatenate([truth, truth]), np.concatenate([first, second])
    right = [(prob.argmax(axis=1) == truth).astype(np.float64) for prob in (first, second)]
    gain = np.bincount(member, right[0] - right[1]) / n

    def difference(swapped: FloatArray) -> FloatArray:
        """(rows,) of the metric, where ``swapped`` is (rows, groups) of 0 and 1."""
        if metric == "accuracy":  # a mean over images, so that groups are added up only once
            return np.asarray((1 - 2 * swapped) @ gain, dtype=np.float64)
        of_image = swapped[:, member]
        kept = 1 - of_image
        a, b = (
            weighted_metrics(both, stacked, class_names, np.concatenate(w, axis=1), [metric], roles)
            for w in ((kept, of_image), (of_image, kept))
        )
        return a[metric] - b[metric]

    n_groups = int(member.max()) + 1
    observed = abs(difference(np.zeros((1, n_groups)))[0])
    rng = np.random.default_rng(seed)
    step, extreme = max(1, _BLOCK // n), 1
    for start in range(0, permutations, step):
        rows = min(step, permutations - start)
        swaps = rng.integers(0, 2, (rows, n_groups)).astype(np.float64)
        # Rounding must not make an equal difference look smaller.
        extreme += int((np.abs(difference(swaps)) >= observed - 1e-12).sum())
    return extreme / (permutations + 1)


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """p-values of one family adjusted so that any false claim has at most their level (Holm 1979).

    >>> [round(p, 3) for p in holm_adjusted([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


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
    criterion: LeaderboardCriterion,
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
        criterion: What chooses; ``log_loss`` is better when smaller.
        groups: (n,) what is drawn as a whole; None draws images.

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
    sign = 1.0 if METRICS[criterion].higher_is_better else -1.0

    def measure(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(configurations, B) of the criterion."""
        values = (weighted_metrics(y_true, p, class_names, weights, [criterion]) for p in y_prob)
        return np.stack([of_one[criterion] for of_one in values])

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
