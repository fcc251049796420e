"""Intervals that hold for patients, slides or clusters of images, not for images as such.

Images of one patient, slide or overlapping field are not independent, so whole groups are left out
or drawn. Three ways, by what is measured:

* a proportion (accuracy, recall, specificity, precision, any mean of yes or no; with a weight for
  each class also balanced accuracy and F1): Wilson's score interval with the standard error of the
  jackknife over groups;
* any other metric of predictions: the same standard error and Student's t on the logit scale
  (areas under curves) or the log scale (log loss, Brier score);
* differences, shares and means of numbers: whole groups drawn with replacement (cluster bootstrap;
  Davison & Hinkley 1997, section 3.8), with expanded percentiles (Hesterberg 2015) for few groups.

Where every group has one class (patients do), groups are left out or drawn within their class;
where a group mixes classes (acquisition clusters do), all groups together. Limits of the first two
kinds are wider where the images of several folds are pooled, whose models share training images
(:func:`~leukoscope.evaluation.statistics.limits.shared_training`). How often these limits hold the
truth is measured in ``docs/results/intervals.md``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.config.metrics.results import Estimate
from leukoscope.core.errors import DataError
from leukoscope.core.known_classes import Roles
from leukoscope.evaluation.statistics.limits import (
    Scale,
    add_training_variance,
    ece_gaps,
    effective_groups,
    exact_limits,
    gap_limits,
    jackknife_variance,
    least_mean,
    proportion_limits,
    shared_training,
    transformed_limits,
)
from leukoscope.evaluation.statistics.metrics import (
    check_predictions,
    metric_of,
    weighted_metrics,
)
from leukoscope.evaluation.statistics.proportions import hits_and_trials

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MIN_GROUPS = 20
"""With fewer groups than this, "few groups" stands beside the number."""
MIN_CLASS_GROUPS = 5
"""Likewise where a class is in fewer groups than this."""
MOST_BLOCKS = 200
"""With more groups than this, several are left out together (delete-a-group jackknife)."""
_BLOCK = 1 << 18  # weights held at once


@dataclass(frozen=True)
class Interval:
    """A value with the limits of its confidence interval.

    Attributes:
        value: On all images; NaN where undefined.
        low: Lower limit, NaN where no replicate was defined.
        n_groups: Number of groups that were drawn or left out.
        replicates: Number of resamples, or of groups left out, in which the value was defined.
        reliable: False ("few groups") below ``MIN_GROUPS`` groups, where a class is in fewer than
            ``MIN_CLASS_GROUPS`` of them, or where the value was undefined in more than half of
            the replicates: the limits may then be too narrow or arbitrary.
    """

    value: float
    low: float
    high: float
    n_groups: int
    replicates: int
    reliable: bool

    @property
    def estimate(self) -> Estimate:
        """As a file holds it: None where the value or a limit is NaN."""
        value, low, high = (
            None if math.isnan(number) else number for number in (self.value, self.low, self.high)
        )
        return Estimate(value=value, low=low, high=high, reliable=self.reliable)

    def to_json(self) -> dict[str, float | bool | None]:
        """The same as a mapping."""
        return self.estimate.model_dump()


class Sampling(TypedDict, total=False):
    """How a bootstrap draws; every statistic with an interval takes these and passes them on."""

    replicates: int  # number of replicates, 1000 unless given
    confidence: float  # level of the intervals, 0.95 unless given
    seed: int  # random seed, 0 unless given; equal seeds and groups give equal resamples
    folds: int  # of how many folds the images are pooled, 1 unless given


def bootstrap_metrics(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    class_names: Sequence[str],
    *,
    groups: Sequence[str] | NDArray[np.generic] | None = None,
    names: Collection[str] | None = None,
    fits: ArrayLike | None = None,
    roles: Roles | None = None,
    **how: Unpack[Sampling],
) -> dict[str, Interval]:
    """Every metric with its interval over groups.

    Limits by the kind of metric, see the head of this module; those of ``ece`` are
    :func:`~leukoscope.evaluation.statistics.limits.gap_limits`. A metric within 0–1 that is
    exactly 0 or 1 gets the limits of Clopper & Pearson (1934). Trials are the groups concerned: of
    a proportion those that have any image to count, of another metric those of each class that it
    is a mean of, true or predicted
    (:func:`~leukoscope.evaluation.statistics.limits.least_mean`).

    Args:
        fits: (n,) which trained model answered each image, where another training would give
            another model: limits then allow for that too
            (:func:`~leukoscope.evaluation.statistics.limits.add_training_variance`),
            but for ``ece``.
        roles: What the user's own classes stand for, see :func:`~leukoscope.core.labels.role_of`.
    """
    truth, prob = check_predictions(y_true, y_prob, class_names)
    resampling = Resampling.of(groups, truth, **how)
    whole = weighted_metrics(truth, prob, class_names, np.ones((1, len(truth))), names, roles)
    values = {name: float(value[0]) for name, value in whole.items()}
    shares = {name: hits_and_trials(name, truth, prob, class_names, roles) for name in whole}
    others = [name for name in whole if metric_of(name).interval in ("log", "logit")]
    left_out = _left_out(resampling, truth, prob, class_names, others, roles)
    without: dict[str, FloatArray] = {}
    if fits is not None:
        member = np.unique(np.asarray(fits), return_inverse=True)[1]
        kept = (member != np.arange(member.max() + 1)[:, None]).astype(np.float64)
        if len(kept) > 1:  # a single model cannot tell
            without = weighted_metrics(truth, prob, class_names, kept, names, roles)
    result = {}
    for name, value in values.items():
        share, kind = shares[name], metric_of(name).interval
        parts = None
        if value in (0.0, 1.0) and kind in ("by class", "logit"):
            parts = _parts(name, resampling, truth, prob, class_names)
        if kind == "by class" and parts is not None:
            result[name] = resampling.all_or_none(value, *parts)
        elif share is not None:
            parts_alike = truth if kind == "by class" else None
            result[name] = resampling.proportion(*share, without.get(name), parts_alike)
        elif kind == "binned":
            result[name] = resampling.binned(ece_gaps(truth, prob))
        else:
            scale: Scale = "log" if kind == "log" else "logit"
            result[name] = resampling.limits(
                value, left_out[name], scale, without_fit=without.get(name), parts=parts
            )
    return {name: replace(interval, value=values[name]) for name, interval in result.items()}


def bootstrap_mean(
    values: ArrayLike,
    *,
    groups: Sequence[str] | NDArray[np.generic] | None = None,
    y_true: ArrayLike | None = None,
    **how: Unpack[Sampling],
) -> Interval:
    """The mean of any value per image (coverage, set size, a score) with its interval.

    Args:
        values: (n,) one number per image; booleans are a proportion and get its limits.
        y_true: (n,) class indices by which groups are stratified; None means not at all.

    >>> interval = bootstrap_mean([0.0, 1.0] * 50, seed=1)
    >>> interval.value, 0.35 < interval.low < 0.45 and 0.55 < interval.high < 0.65
    (0.5, True)
    """
    given = np.asarray(values)
    numbers = given.astype(np.float64)
    classes = np.zeros(len(numbers), np.int64) if y_true is None else np.asarray(y_true, np.int64)
    resampling = Resampling.of(groups, classes, **how)
    if given.dtype == np.bool_:
        return resampling.proportion(numbers, np.ones(len(numbers)))
    sums, sizes = resampling.sums(numbers), resampling.sums(np.ones(len(numbers)))
    drawn = np.concatenate([(c @ sums) / (c @ sizes) for c in resampling.counts()])
    return resampling.interval(float(numbers.mean()), drawn)


@dataclass(frozen=True)
class Resampling:
    """How groups are drawn or left out; every call gives the same draws.

    Attributes:
        member: (n,) index of each image's group, 0 … G − 1.
        strata: The groups that are drawn among each other, as arrays of group indices.
        of_class: In how many groups each class is; no class has none.
        seed: Of the random numbers.
        folds: Of how many folds the images are pooled.
    """

    member: IntArray
    strata: tuple[IntArray, ...]
    of_class: tuple[int, ...]
    replicates: int
    confidence: float
    seed: int
    folds: int = 1

    @classmethod
    def of(
        cls,
        groups: Sequence[str] | NDArray[np.generic] | None,
        y_true: IntArray,
        *,
        replicates: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
        folds: int = 1,
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
        of_class = tuple(np.unique(pairs[1], return_counts=True)[1].tolist())
        return cls(member, strata, of_class, replicates, confidence, seed, folds)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return int(self.member.max()) + 1

    @property
    def reliable(self) -> bool:
        """Whether there are enough groups, and enough of each class, for an interval."""
        return self.n_groups >= MIN_GROUPS and min(self.of_class) >= MIN_CLASS_GROUPS

    @property
    def df(self) -> float:
        """Degrees of freedom of a mean over these groups, fewer where their sizes differ."""
        return max(1.0, effective_groups(self.sums(np.ones(len(self.member)))) - len(self.strata))

    def sums(self, values: FloatArray) -> FloatArray:
        """(G, …) sum of each group of values (n, …) per image."""
        out = np.zeros((self.n_groups, *values.shape[1:]))
        np.add.at(out, self.member, values)
        return out

    def counts(self) -> Iterator[FloatArray]:
        """Blocks (b, G): how often each group is drawn, ``replicates`` rows in all."""
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
            yield counts

    def weights(self) -> Iterator[FloatArray]:
        """Blocks (b, n) of multiplicities, ``replicates`` rows in all."""
        for counts in self.counts():
            yield counts[:, self.member]

    def blocks(self) -> tuple[IntArray, tuple[IntArray, ...]]:
        """(G,) the block with which each group is left out, and the blocks of each stratum.

        A block is one group, or several drawn at random where a stratum has more than its part of
        ``MOST_BLOCKS``. A stratum of one group is joined with the others.
        """
        alone = any(len(stratum) == 1 for stratum in self.strata)
        strata = (np.arange(self.n_groups),) if alone else self.strata
        most, rng = max(MOST_BLOCKS // len(strata), 2), np.random.default_rng(self.seed)
        block, places, start = np.empty(self.n_groups, np.int64), [], 0
        for stratum in strata:
            number = min(len(stratum), most)
            order = np.arange(len(stratum))
            block[stratum] = start + (rng.permutation(order) if len(order) > most else order) % most
            places.append(np.arange(start, start + number))
            start += number
        return block, tuple(places)

    def without_each(self) -> Iterator[FloatArray]:
        """Blocks (b, n) of weights: 0 for what is left out, the rest of its stratum weighted up."""
        block, places = self.blocks()
        of_image = block[self.member]
        step = max(1, _BLOCK // len(self.member))
        for place in places:
            up = len(place) / max(len(place) - 1, 1)
            inside = np.where(np.isin(of_image, place), up, 1.0)
            for rows in np.split(place, range(step, len(place), step)):
                yield np.where(of_image == rows[:, None], 0.0, inside)

    def limits(
        self,
        value: float,
        left_out: FloatArray,
        scale: Scale,
        times: float = 1.0,
        without_fit: FloatArray | None = None,
        parts: tuple[FloatArray, FloatArray] | None = None,
    ) -> Interval:
        """Student's t limits of a metric from its values (J,) on :meth:`without_each`.

        ``times`` multiplies the variance between groups: for m new groups of G seen, 1 + G / m;
        ``without_fit``: see
        :func:`~leukoscope.evaluation.statistics.limits.add_training_variance`; ``parts``, for a
        value of 0 or 1: see :meth:`all_or_none`, by default all classes.
        """
        block, places = self.blocks()
        used = np.isfinite(left_out)
        reliable = self.reliable and bool(2 * used.sum() >= len(left_out))
        low = high = value
        if not math.isfinite(value) or not used.any():
            low, high = math.nan, math.nan
        elif scale == "logit" and value in (0.0, 1.0):
            found = np.array(self.of_class, np.float64)
            weights, trials = parts or (np.full(len(found), 1 / len(found)), found)
            exact = self.all_or_none(value, weights, trials / times)
            low, high = exact.low, exact.high
        elif value > 0:
            sizes = np.bincount(block[self.member]).astype(np.float64)
            between, df = jackknife_variance(left_out, places, sizes)
            variance = between
            if without_fit is not None:
                variance, df = add_training_variance(without_fit, between, df)
            variance += (shared_training(self.folds) - 1 + times - 1) * between
            low, high = transformed_limits(
                value, variance, df, confidence=self.confidence, scale=scale
            )
        return Interval(value, low, high, self.n_groups, int(used.sum()), reliable)

    def all_or_none(self, value: float, weights: FloatArray, trials: FloatArray) -> Interval:
        """Limits of a metric of exactly 0 or 1, which is a weighted mean over classes.

        Args:
            value: 0 or 1.
            weights: (K,) of its classes, sum 1.
            trials: (K,) how many groups each class was tried on.
        """
        least = least_mean(weights, trials, self.confidence)
        low, high = (least, 1.0) if value else (0.0, 1 - least)
        return Interval(value, low, high, self.n_groups, self.n_groups, self.reliable)

    def proportion(
        self,
        hits: FloatArray,
        trials: FloatArray,
        without_fit: FloatArray | None = None,
        part: IntArray | None = None,
    ) -> Interval:
        """The share Σ hits / Σ trials with the limits of a proportion of grouped images.

        Args:
            hits: (n,) 1 for each image that counts, else 0; where images have weights, of that.
            trials: (n,) 1 for each image that could count, else 0; likewise.
            without_fit: See :func:`~leukoscope.evaluation.statistics.limits.add_training_variance`.
            part: (n,) which images of a group are taken to be alike, such as those of a class; by
                default all are.
        """
        k, n = self.sums(hits), self.sums(trials)
        alike = None
        if part is not None:
            alike = np.square(self.sums(trials[:, None] * np.eye(part.max() + 1)[part])).sum(axis=1)
        low, high = proportion_limits(
            k, n, self.strata, confidence=self.confidence, times=shared_training(self.folds),
            without_fit=without_fit, alike=alike,
        )  # fmt: skip
        value = float(hits.sum() / trials.sum()) if trials.any() else math.nan
        concerned = int((n > 0).sum())
        reliable = self.reliable and concerned >= MIN_CLASS_GROUPS
        return Interval(value, low, high, self.n_groups, concerned, reliable)

    def binned(self, gaps: FloatArray) -> Interval:
        """A binned calibration error with limits of the error that a model of this kind has.

        Args:
            gaps: (n, bins) outcome minus probability of each image in the column of its bin.
        """
        drawn = np.concatenate(list(self.counts()))
        sums = self.sums(np.column_stack([gaps, np.ones(len(gaps))]))
        value, low, high = gap_limits(
            sums[:, :-1], self.sums((gaps != 0).astype(np.float64)), sums[:, -1], drawn,
            tail=self._tail(),
        )  # fmt: skip
        return Interval(value, low, high, self.n_groups, len(drawn), self.reliable)

    def interval(self, value: float, drawn: FloatArray) -> Interval:
        """Expanded percentiles (Hesterberg 2015) of replicates (B,); NaN ones are left out.

        With G groups a bootstrap has only (G − 1) / G of the variance, and normal instead of
        Student's tails; the percentiles are moved outwards to make up for both.
        """
        used = drawn[np.isfinite(drawn)]
        tail = self._tail()
        low, high = np.quantile(used, [tail, 1 - tail]) if len(used) else (np.nan, np.nan)
        reliable = self.reliable and 2 * len(used) >= len(drawn) > 0
        return Interval(value, float(low), float(high), self.n_groups, len(used), reliable)

    def _tail(self) -> float:
        """Share of replicates beyond each limit."""
        from scipy.stats import norm, t

        left = max(self.n_groups - len(self.strata), 1)
        wider = (self.n_groups / left) ** 0.5
        return float(norm.cdf(wider * t.ppf((1 - self.confidence) / 2, self.df)))


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
    return exact_limits(successes, n, confidence)


def with_exact_limits(interval: Interval, trials: int, confidence: float) -> Interval:
    """Those of Clopper & Pearson (1934) for a share of 0 or 1, of which no resample differs."""
    if interval.value not in (0.0, 1.0) or interval.low != interval.high:
        return interval
    low, high = proportion_interval(int(interval.value) * trials, trials, confidence=confidence)
    return replace(interval, low=low, high=high)


def _parts(
    name: str,
    resampling: Resampling,
    truth: IntArray,
    prob: FloatArray,
    class_names: Sequence[str],
) -> tuple[FloatArray, FloatArray]:
    """Weights and groups of the classes that a metric is a mean of; groups true or predicted.

    Groups of one image, such as patients with one answer each, count less where training is shared.
    """
    alone = resampling.n_groups == len(truth)
    times = shared_training(resampling.folds) if alone else 1.0
    predicted, metric = prob.argmax(axis=1), metric_of(name).name
    own = [k for k, one in enumerate(class_names) if name == f"{metric}_{one}"]
    weights, trials = [], []
    for k in own or np.unique(truth).tolist():
        parts = [truth == k, predicted == k, *([truth != k] if own else [])]
        groups = [len(np.unique(resampling.member[part])) for part in parts]
        trials.append(min(number for number in groups if number))
        weights.append(float(parts[0].mean()) if metric.startswith("weighted") else 1.0)
    return np.array(weights) / sum(weights), np.array(trials, np.float64) / times


def _left_out(
    resampling: Resampling,
    truth: IntArray,
    prob: FloatArray,
    class_names: Sequence[str],
    names: Sequence[str],
    roles: Roles | None,
) -> dict[str, FloatArray]:
    """Each metric without each group, (J,)."""
    if not names:
        return {}
    found = [
        weighted_metrics(truth, prob, class_names, w, names, roles)
        for w in resampling.without_each()
    ]
    return {name: np.concatenate([part[name] for part in found]) for name in names}
