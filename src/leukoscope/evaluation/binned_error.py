"""The expected calibration error: what it is by chance alone, without that part, and its limits.

A binned error adds up absolute gaps, so that chance only ever adds to it: a perfectly calibrated
model scores above 0, and a percentile bootstrap adds the chance once more and may leave out even
the value itself. Here chance is measured: as the band in which a calibrated model of the same size
would lie, and in the limits of the error that the model has beyond the sample.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from leukoscope.evaluation.metrics import ECE_BINS, calibration_bin

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_BLOCK: Final = 1 << 21  # numbers drawn at once


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
        replicates: How many to draw.
        seed: Of the draws.
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


def without_chance(error: float, expected: float) -> float:
    """A binned error without what chance adds: √(error² − expected²), 0 where chance is enough.

    Gaps and chance add up as squares (Bröcker 2012; Kumar, Liang & Ma 2019 correct the squared
    error so); ``expected`` is the mean error of a calibrated model of that size.

    >>> round(without_chance(0.05, 0.03), 3), without_chance(0.02, 0.03)
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
