"""Confidence limits without a bootstrap: the grouped jackknife, and those of the binned ECE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from leukoscope.evaluation.statistics.metrics import ECE_BINS, calibration_bin

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Scale = Literal["logit", "log"]
PRIOR_ICC: Final = 0.3
"""How alike images of one group are taken to be while the groups themselves cannot tell."""

PRIOR_DF: Final = 3.0
"""How many degrees of freedom that assumption counts for."""

NORMAL_KURTOSIS: Final = 3.0
LEAST_DF: Final = 2.0
_BLOCK: Final = 1 << 21  # numbers drawn at once


def effective_groups(sizes: FloatArray) -> float:
    """As how many equal groups unequal ones count (Kish 1965, section 11.7): (Σ n)² / Σ n².

    >>> effective_groups(np.array([10.0, 10.0])), round(effective_groups(np.array([30.0, 10.0])), 2)
    (2.0, 1.6)
    """
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def jackknife_variance(
    left_out: FloatArray, strata: Sequence[IntArray], sizes: FloatArray
) -> tuple[float, float]:
    """Variance by the stratified jackknife, and the degrees of freedom behind it.

    Degrees of freedom: those of Satterthwaite (1946) from the fourth powers of the influences,
    so that a value which rests on one odd group gets few; never more than the variances of the
    strata have together (Welch 1947), so that one which rests on a class in few groups has few.
    Groups of unequal size count as fewer (:func:`effective_groups`).

    Args:
        left_out: (J,) the value without each group; NaN where it is then undefined.
        strata: Indices of the groups that are drawn among each other.
        sizes: (J,) images of each group.

    Returns:
        The variance (0 where no group changes the value) and degrees of freedom ≥ 1.

    >>> variance, df = jackknife_variance(np.array([0.4, 0.5, 0.6]), [np.arange(3)], np.ones(3))
    >>> round(variance, 4), df
    (0.0133, 2.0)
    """
    squares, below = [np.zeros(0)], 0.0
    for stratum in strata:
        seen = stratum[np.isfinite(left_out[stratum])]
        if len(seen) > 1:
            values = left_out[seen]
            share = (len(values) - 1) / len(values)
            squares.append(share * (values - values.mean()) ** 2)
            free = max(1.0, effective_groups(sizes[seen]) - 1)
            below += float(squares[-1].sum()) ** 2 / free
    square = np.concatenate(squares)
    variance = float(square.sum())
    if variance < 1e-20:  # no group changes the value: what is left is rounding
        return 0.0, 1.0
    found = NORMAL_KURTOSIS * variance**2 / float((square**2).sum())
    return variance, max(1.0, min(found, variance**2 / below))


def add_training_variance(left_out: FloatArray, variance: float, df: float) -> tuple[float, float]:
    """Variance and degrees of freedom with what another training would change.

    Images that one model answered share the luck of its training (weights drawn, order of batches),
    which the spread between groups does not see. The jackknife over models sees groups and
    training together; what it has more than the groups is the training's part, with as many degrees
    of freedom as there are models less one (combined as in Satterthwaite 1946).

    Args:
        left_out: (F,) the value without the images of each model; NaN where it is undefined.
        variance: Between groups, see :func:`jackknife_variance`.

    >>> add_training_variance(np.array([0.5, 0.5, 0.5]), 0.01, 19.0)
    (0.01, 19.0)
    >>> variance, df = add_training_variance(np.array([0.4, 0.5, 0.6]), 0.01, 19.0)
    >>> round(variance, 4), round(df, 1)
    (0.0133, 16.4)
    """
    values = left_out[np.isfinite(left_out)]
    if len(values) < 2:
        return variance, df
    both = (len(values) - 1) / len(values) * float(((values - values.mean()) ** 2).sum())
    more = both - variance
    if more <= 0:
        return variance, df
    return both, both**2 / (variance**2 / df + more**2 / (len(values) - 1))


def shared_training(folds: int) -> float:
    """By how much training sets that overlap make the variance of a cross-validated value larger.

    The models of K folds share most of their training images, and what one fold tests is missing
    in its training, so that folds err together. The spread between groups does not see that
    (Bates, Hastie & Tibshirani 2023). The factor is 1 + K / (K − 1): (1/J + n_test/n_train) of
    Nadeau & Bengio (2003) with J = K and n_test/n_train = 1/(K − 1), over 1/J. One hold-out
    has images that no training has to do with: 1.

    >>> shared_training(1), shared_training(2), round(shared_training(10), 2)
    (1.0, 3.0, 2.11)
    """
    return 1.0 if folds < 2 else 1.0 + folds / (folds - 1)


def transformed_limits(
    value: float, variance: float, df: float, *, confidence: float, scale: Scale
) -> tuple[float, float]:
    """Student's t limits on the logit or log scale, by the delta method, and back.

    Args:
        value: Estimate, inside (0, 1) for ``logit`` and above 0 for ``log``.
        variance: Of :func:`jackknife_variance`.
        scale: Where the metric has no end: ``logit`` for [0, 1], ``log`` for [0, ∞).

    >>> low, high = transformed_limits(0.9, 0.001, 19, confidence=0.95, scale="logit")
    >>> round(low, 3), round(high, 3)
    (0.812, 0.949)
    """
    from scipy.special import expit, logit
    from scipy.stats import t

    half = float(t.ppf((1 + confidence) / 2, max(df, LEAST_DF))) * variance**0.5
    if scale == "logit":
        middle, half = logit(value), half / (value * (1 - value))
        return float(expit(middle - half)), float(expit(middle + half))
    return float(value * np.exp(-half / value)), float(value * np.exp(half / value))


def proportion_limits(
    hits: FloatArray,
    trials: FloatArray,
    strata: Sequence[IntArray],
    *,
    confidence: float,
    times: float = 1.0,
    without_fit: FloatArray | None = None,
    alike: FloatArray | None = None,
) -> tuple[float, float]:
    """Score limits of a proportion of images that stand in groups.

    Wilson's (1927) interval with an effective number of images, p (1 − p) / variance. The variance
    is that of the jackknife over groups, moderated as Smyth (2004) does it: with ``PRIOR_DF``
    degrees of freedom it is drawn towards what the design effect of ``PRIOR_ICC`` would give, so
    that few groups that agree by chance do not promise too much. Where no image is, or every image
    is, a hit, and where every group has one image, the limits are those of Clopper & Pearson
    (1934) with the groups as trials.

    Args:
        hits: (G,) number of hits in each group.
        trials: (G,) number of images in each group; groups without any are left out.
        strata: Indices of the groups that are drawn among each other.
        times: Multiplies the variance between groups, see :func:`shared_training`; not where all
            groups of several images agree, whose limits are far apart already.
        without_fit: (F,) the proportion without the images of each trained model, for
            :func:`add_training_variance`.
        alike: (G,) Σ trials² over the parts of each group whose images are alike; by default all
            of them are.

    Returns:
        Lower and upper limit; NaN where there is no image.

    >>> k, n = np.array([10.0, 9.0, 8.0, 9.0] * 5), np.full(20, 10.0)
    >>> [round(x, 3) for x in proportion_limits(k, n, [np.arange(20)], confidence=0.95)]
    [0.847, 0.936]
    """
    total, found = float(trials.sum()), float(hits.sum())
    groups = int((trials > 0).sum())
    if groups == 0:
        return float("nan"), float("nan")
    if groups == total:
        return exact_limits(found / times, total / times, confidence)
    p = found / total
    if p in (0.0, 1.0):
        return exact_limits(p * groups, groups, confidence)
    left_out, own = _without_each(hits, trials, strata)
    variance, df = jackknife_variance(left_out, own, trials[trials > 0])
    mean_size = float((np.square(trials) if alike is None else alike).sum()) / total
    prior = p * (1 - p) * (1 + (mean_size - 1) * PRIOR_ICC) / total
    between, df = (df * variance + PRIOR_DF * prior) / (df + PRIOR_DF), df + PRIOR_DF
    moderated = between
    if without_fit is not None:
        moderated, df = add_training_variance(without_fit, between, df)
    moderated += (times - 1) * between
    return _wilson(p, min(total / times, p * (1 - p) / moderated), df, confidence)


def _wilson(p: float, n: float, df: float, confidence: float) -> tuple[float, float]:
    """Score limits (Wilson 1927) of a proportion of n trials, with a quantile of Student's t."""
    from scipy.stats import t

    quantile = float(t.ppf((1 + confidence) / 2, df))
    shift = quantile**2 / n
    middle = (p + shift / 2) / (1 + shift)
    half = quantile / (1 + shift) * (p * (1 - p) / n + shift / 4 / n) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def exact_limits(successes: float, n: float, confidence: float) -> tuple[float, float]:
    """Interval of a proportion of independent trials (Clopper & Pearson 1934).

    >>> [round(limit, 4) for limit in exact_limits(10, 10, 0.95)]
    [0.6915, 1.0]
    """
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    low = float(betaincinv(successes, n - successes + 1, tail)) if successes > 0 else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return low, high


def least_mean(weights: FloatArray, trials: FloatArray, confidence: float) -> float:
    """Lower limit of a weighted mean of proportions, all of whose trials were hits.

    The smallest Σ w p with which all hits are as likely as Clopper & Pearson (1934) allow,
    Π pⁿ = (1 − confidence) / 2: p is proportional to n / w, or 1. One proportion has their limit.

    Args:
        weights: (K,) above 0, sum 1.
        trials: (K,) number of trials of each, above 0.

    >>> round(least_mean(np.array([1.0]), np.array([5.0]), 0.95), 3)
    0.478
    >>> [round(least_mean(np.full(2, 0.5), np.array(n), 0.95), 3) for n in ([50.0, 50], [95, 5])]
    [0.964, 0.739]
    """
    p, free = np.ones(len(trials)), np.ones(len(trials), bool)
    while free.any():
        ratio, n = np.log(trials[free] / weights[free]), trials[free]
        found = np.exp(ratio + (np.log((1 - confidence) / 2) - n @ ratio) / n.sum())
        p[:] = 1.0
        p[free] = np.minimum(found, 1.0)
        if (found <= 1).all():
            break
        free[np.flatnonzero(free)[found > 1]] = False
    return float(weights @ p)


def _without_each(
    hits: FloatArray, trials: FloatArray, strata: Sequence[IntArray]
) -> tuple[FloatArray, list[IntArray]]:
    """The proportion without each group that has trials, the others of its stratum weighted up."""
    kept = [stratum[trials[stratum] > 0] for stratum in strata]
    kept = [stratum for stratum in kept if len(stratum)]
    if any(len(stratum) == 1 for stratum in kept):  # one group has no spread of its own
        kept = [np.concatenate(kept)]
    found, total = hits.sum(), trials.sum()
    values, places, start = [], [], 0
    for stratum in kept:
        k, n, size = hits[stratum], trials[stratum], len(stratum)
        up = size / (size - 1) if size > 1 else 0.0
        above = found - k.sum() + up * (k.sum() - k)
        below = total - n.sum() + up * (n.sum() - n)
        values.append(np.divide(above, below, out=np.full(size, np.nan), where=below > 0))
        places.append(np.arange(start, start + size))
        start += size
    return np.concatenate(values), places


def ece_gaps(y_true: IntArray, y_prob: FloatArray) -> FloatArray:
    """(n, bins) right minus confidence of each image, in the equal-width bin of its confidence.

    >>> gaps = ece_gaps(np.array([0, 1]), np.array([[0.9, 0.1], [0.6, 0.4]]))
    >>> gaps[gaps != 0].round(1).tolist()
    [0.1, -0.6]
    """
    confidence = y_prob.max(axis=1)
    gaps = np.zeros((len(y_true), ECE_BINS))
    place = calibration_bin(confidence)
    gaps[np.arange(len(y_true)), place] = (y_prob.argmax(axis=1) == y_true) - confidence
    return gaps


def gap_limits(
    gaps: FloatArray, inside: FloatArray, sizes: FloatArray, counts: FloatArray, *, tail: float
) -> tuple[float, float, float]:
    """A binned error with limits for the error beyond the sample.

    With measured gaps g = γ + ε per bin, the error Σ|γ| lies between Σ|g| − Σ|ε| (triangle
    inequality) and Σ|g| − Σ sign(γ) ε (convexity). The errors ε are those of the gaps, about their
    mean in each bin, when whole groups are drawn; the signs are those measured.

    Args:
        gaps: (G, bins) summed gaps of each group.
        inside: (G, bins) number of its images in each bin.
        sizes: (G,) number of its images.
        counts: (B, G) how often each group is drawn.
        tail: Share of the replicates beyond each limit.

    Returns:
        The error on all images, the lower, and the upper limit; 0 ≤ low ≤ error ≤ high ≤ 1.
    """
    total = sizes.sum()
    mean = gaps.sum(axis=0) / total
    per_image = np.divide(gaps.sum(axis=0), inside.sum(axis=0), out=np.zeros(gaps.shape[1]),
                          where=inside.sum(axis=0) > 0)  # fmt: skip
    chance = counts @ (gaps - inside * per_image) / (counts @ sizes)[:, None]
    value = float(np.abs(mean).sum())
    below = float(np.quantile(np.abs(chance).sum(axis=1), 1 - tail))
    above = float(np.quantile(-(chance @ np.sign(mean)), 1 - tail))
    return value, max(0.0, value - below), min(1.0, value + max(0.0, above))


def calibrated_errors(
    confidence: FloatArray,
    right: NDArray[np.bool_],
    place: IntArray,
    member: IntArray,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> FloatArray:
    """(replicates,) binned errors of a perfectly calibrated model of the same size.

    Labels are drawn anew, each image right with its confidence as probability. Images of a group
    share one random number with the probability √ρ, so that two of them are right or wrong
    together with the intraclass correlation ρ that the data show.

    Args:
        confidence: (n,) probability of the predicted class.
        right: (n,) whether it is the true one; used for ρ alone.
        place: (n,) bin of each image.
        member: (n,) index of each image's group.
    """
    rng, n, bins = np.random.default_rng(seed), len(confidence), int(place.max()) + 1
    groups = int(member.max()) + 1
    together = intraclass(right - confidence, confidence, place, member) ** 0.5
    column = np.zeros((n, bins))
    column[np.arange(n), place] = 1.0
    found, step = [], max(1, _BLOCK // n)
    for start in range(0, replicates, step):
        rows = min(step, replicates - start)
        number = rng.random((rows, n))
        if together:
            shared = rng.random((rows, groups))[:, member]
            number = np.where(rng.random((rows, n)) < together, shared, number)
        found.append(np.abs(((number < confidence) - confidence) @ column).sum(axis=1) / n)
    return np.concatenate(found)


def debiased_error(error: float, expected: float) -> float:
    """A binned error without what chance adds: √(error² − expected²), 0 where chance is enough.

    Gaps and chance add up as squares (Bröcker 2012; Kumar, Liang & Ma 2019 correct the squared
    error so); ``expected`` is the mean error of a calibrated model of that size.

    >>> round(debiased_error(0.05, 0.03), 3), debiased_error(0.02, 0.03)
    (0.04, 0.0)
    """
    return float(max(0.0, error**2 - expected**2) ** 0.5)


def intraclass(
    residual: FloatArray, confidence: FloatArray, place: IntArray, member: IntArray
) -> float:
    """How alike the residuals within groups are, 0–1, beside what is common to their bin.

    Covariance of pairs of images of one group over that of identical ones.
    """
    bins = np.bincount(place)
    mean = np.divide(np.bincount(place, weights=residual), bins, out=np.zeros(len(bins)),
                     where=bins > 0)  # fmt: skip
    own = residual - mean[place]
    scale = np.sqrt(confidence * (1 - confidence))
    pairs = (np.bincount(member, weights=own) ** 2).sum() - (own**2).sum()
    most = (np.bincount(member, weights=scale) ** 2).sum() - (scale**2).sum()
    groups = int(member.max()) + 1
    if most <= 0 or groups < 2:
        return 0.0
    return float(np.clip(pairs / most * groups / (groups - 1), 0.0, 1.0))
