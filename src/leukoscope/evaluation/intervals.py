"""Intervals: a bootstrap over groups for any metric, and exact ones for plain proportions.

Images of one patient, slide or overlapping field are not independent, so whole groups are
drawn with replacement (cluster bootstrap; Davison & Hinkley 1997, section 3.8) and percentile
limits are taken. Where every group has one class (patients do), groups are drawn within their
class, so that each replicate has the classes' own numbers of groups; where a group mixes
classes (acquisition clusters do), all groups are drawn together.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError
from leukoscope.core.labels import malignant_mask
from leukoscope.evaluation.metrics import check_predictions, weighted_metrics

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MIN_GROUPS = 10
_BLOCK = 1 << 18  # weights held at once
_SHARES = frozenset({"accuracy", "recall", "specificity", "precision"})


@dataclass(frozen=True)
class Interval:
    """A value with the limits of its confidence interval.

    Attributes:
        value: On all images; NaN where undefined.
        low: Lower limit, NaN where no replicate was defined.
        high: Upper limit, likewise.
        n_groups: Number of groups that were resampled.
        replicates: Number of replicates in which the value was defined.
        reliable: False below ten groups, where a class rests on a single group, or where the
            value was undefined in more than half of the replicates: the limits are then too
            narrow or arbitrary.
    """

    value: float
    low: float
    high: float
    n_groups: int
    replicates: int
    reliable: bool

    def to_json(self) -> dict[str, Any]:
        """For ``metrics.json``: value, low and high (None where NaN), and ``reliable``."""
        return {
            **{
                name: None if math.isnan(number) else number
                for name, number in (("value", self.value), ("low", self.low), ("high", self.high))
            },
            "reliable": self.reliable,
        }


class Sampling(TypedDict, total=False):
    """How a bootstrap draws; every statistic with an interval takes these and passes them on.

    Attributes:
        replicates: Number of replicates, 1000 unless given.
        confidence: Level of the intervals, 0.95 unless given.
        seed: Of the draws, 0 unless given; the same seed and groups give the same resamples.
    """

    replicates: int
    confidence: float
    seed: int


def bootstrap_metrics(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    class_names: Sequence[str],
    *,
    groups: Sequence[str] | NDArray[Any] | None = None,
    names: Collection[str] | None = None,
    **how: Unpack[Sampling],
) -> dict[str, Interval]:
    """Every metric with its percentile interval over resampled groups.

    A bootstrap of predictions without one error has no spread; the limits of accuracy, recall,
    specificity and precision at exactly 0 or 1 are then those of Clopper & Pearson (1934) with
    the number of groups (of the class in question) as the number of trials.

    Args:
        y_true: (n,) class indices.
        y_prob: (n, K) probabilities.
        class_names: K names.
        groups: (n,) label of the group of each image; None means every image for itself.
        names: The metrics that are wanted; None means all.
        **how: See :class:`Sampling`.

    Raises:
        DataError: Shapes do not fit, a true class is unknown, or there is no image.
        UnknownNameError: A wanted metric does not exist for these classes.
    """
    truth, prob = check_predictions(y_true, y_prob, class_names)
    resampling = Resampling.of(groups, truth, **how)
    whole = weighted_metrics(truth, prob, class_names, np.ones((1, len(truth))), names)
    blocks = [weighted_metrics(truth, prob, class_names, w, names) for w in resampling.weights()]
    result = {}
    for name, value in whole.items():
        drawn = np.concatenate([block[name] for block in blocks])
        interval = resampling.interval(float(value[0]), drawn)
        result[name] = _without_spread(interval, name, class_names, resampling, truth)
    return result


def bootstrap_mean(
    values: ArrayLike,
    *,
    groups: Sequence[str] | NDArray[Any] | None = None,
    y_true: ArrayLike | None = None,
    **how: Unpack[Sampling],
) -> Interval:
    """The mean of any value per image (coverage, set size, a score) with its interval.

    Args:
        values: (n,) one number per image.
        groups: (n,) label of the group of each image; None means every image for itself.
        y_true: (n,) class indices by which groups are stratified; None means not at all.
        **how: See :class:`Sampling`.

    Raises:
        DataError: There is no image, or shapes do not fit.

    >>> interval = bootstrap_mean([0.0, 1.0] * 50, seed=1)
    >>> interval.value, 0.35 < interval.low < 0.45 and 0.55 < interval.high < 0.65
    (0.5, True)
    """
    numbers = np.asarray(values, dtype=np.float64)
    classes = np.zeros(len(numbers), np.int64) if y_true is None else np.asarray(y_true, np.int64)
    resampling = Resampling.of(groups, classes, **how)
    drawn = np.concatenate([w @ numbers / w.sum(axis=1) for w in resampling.weights()])
    return resampling.interval(float(numbers.mean()), drawn)


@dataclass(frozen=True)
class Resampling:
    """How groups are drawn, the same way each time it is asked.

    Attributes:
        member: (n,) index of each image's group, 0 … G − 1.
        strata: The groups that are drawn among each other, as arrays of group indices.
        thin: Whether a class rests on a single group.
        replicates: Number of replicates.
        confidence: Level of intervals.
        seed: Of the random numbers.
    """

    member: IntArray
    strata: tuple[IntArray, ...]
    thin: bool
    replicates: int
    confidence: float
    seed: int

    @classmethod
    def of(
        cls,
        groups: Sequence[str] | NDArray[Any] | None,
        y_true: IntArray,
        *,
        replicates: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> Resampling:
        """Prepare the draws for images in ``groups`` (n,) of the classes ``y_true`` (n,).

        Raises:
            DataError: There is no image, or not one group label per image.
        """
        n = len(y_true)
        labels = np.arange(n) if groups is None else np.asarray(groups)
        if n == 0 or labels.shape != (n,):
            raise DataError(
                f"intervals: expected one group label for each of {n} ≥ 1 images, "
                f"got {labels.shape}"
            )
        member = np.unique(labels, return_inverse=True)[1].astype(np.int64)
        pairs = np.unique(np.stack([member, y_true]), axis=1)  # the classes of each group
        count = int(member.max()) + 1
        if pairs.shape[1] == count:
            strata = tuple(pairs[0][pairs[1] == name] for name in np.unique(pairs[1]))
        else:
            strata = (np.arange(count),)
        thin = bool(np.bincount(pairs[1])[np.unique(pairs[1])].min() < 2)
        return cls(member, strata, thin, replicates, confidence, seed)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return int(self.member.max()) + 1

    def weights(self) -> Iterator[FloatArray]:
        """Blocks (b, n) of multiplicities, ``replicates`` rows in all."""
        rng = np.random.default_rng(self.seed)
        step = max(1, _BLOCK // len(self.member))
        for start in range(0, self.replicates, step):
            rows = min(step, self.replicates - start)
            counts = np.empty((rows, self.n_groups))
            for stratum in self.strata:
                size = len(stratum)
                drawn = rng.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
                counts[:, stratum] = np.bincount(drawn.ravel(), minlength=rows * size).reshape(
                    rows, size
                )
            yield counts[:, self.member]

    def interval(self, value: float, drawn: FloatArray) -> Interval:
        """Percentile limits of the replicates ``drawn`` (B,); NaN replicates are left out."""
        used = drawn[np.isfinite(drawn)]
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(used, [tail, 1 - tail]) if len(used) else (np.nan, np.nan)
        enough = self.n_groups >= MIN_GROUPS and not self.thin
        reliable = enough and 2 * len(used) >= len(drawn) > 0
        return Interval(value, float(low), float(high), self.n_groups, len(used), reliable)


def proportion_interval(successes: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a proportion of independent trials (Clopper & Pearson 1934).

    It never covers less than ``confidence``.

    Raises:
        DataError: ``successes`` is not in 0 … n, or n is 0.

    >>> [round(limit, 4) for limit in proportion_interval(10, 10)]
    [0.6915, 1.0]
    """
    if not 0 <= successes <= n or n == 0:
        raise DataError(f"proportion: expected 0 … n successes of n ≥ 1, got {successes} of {n}")
    tail = (1 - confidence) / 2
    from scipy.special import betaincinv

    low = float(betaincinv(successes, n - successes + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return low, high


def _without_spread(
    interval: Interval,
    name: str,
    class_names: Sequence[str],
    resampling: Resampling,
    y_true: IntArray,
) -> Interval:
    """The exact limits where all images agree, so that the bootstrap cannot see the spread."""
    metric, _, class_name = name.partition("_")
    if metric not in _SHARES or interval.value not in (0.0, 1.0):
        return interval
    concerned = np.ones(len(y_true), dtype=bool)
    if class_name:
        of_class = [class_name == other for other in class_names]
        concerned = np.array(of_class if any(of_class) else malignant_mask(class_names))[y_true]
    if metric == "specificity":
        concerned = ~concerned
    trials = max(1, len(np.unique(resampling.member[concerned])))
    return with_exact_limits(interval, trials, resampling.confidence)


def with_exact_limits(interval: Interval, trials: int, confidence: float) -> Interval:
    """Those of Clopper & Pearson (1934) for a share of 0 or 1, of which no resample differs."""
    if interval.value not in (0.0, 1.0) or interval.low != interval.high:
        return interval
    low, high = proportion_interval(int(interval.value) * trials, trials, confidence=confidence)
    return replace(interval, low=low, high=high)
