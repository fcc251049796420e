"""From a sentence such as "miss at most 1 % of malignant fields …" to a threshold, or a refusal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.config.operating import OperatingTarget


@dataclass(frozen=True)
class ChosenPoint:
    """A threshold, or why there is none.

    Attributes:
        threshold: Flagged where P(malignant) ≥ threshold; None where the data cannot support it.
        n: Malignant calibration images (or patients); images of one group count as their weights
            say, rounded down.
        misses: How many of them the threshold may miss.
        bound: Clopper–Pearson upper bound of the share missed; with the fewest possible misses
            where there is no threshold.
        needed: Fewest malignant images (or patients) with which the promise could be made.
    """

    threshold: float | None
    n: int
    misses: int
    bound: float
    needed: int


def miss_bound(misses: float, n: float, confidence: float) -> float:
    """One-sided Clopper–Pearson (1934) upper bound of a share.

    >>> round(miss_bound(0, 299, 0.95), 5), miss_bound(0, 0, 0.95)
    (0.00997, 1.0)
    """
    from scipy.special import betaincinv

    return 1.0 if misses >= n else float(betaincinv(misses + 1, n - misses, confidence))


def images_needed(miss: float, confidence: float) -> int:
    """Fewest images, none of them missed, that support the promise: ln(1 − c) / ln(1 − miss).

    >>> images_needed(0.01, 0.95), images_needed(0.05, 0.95)
    (299, 59)
    """
    return math.ceil(math.log1p(-confidence) / math.log1p(-miss) - 1e-9)


def choose_threshold(
    p_malignant: ArrayLike,
    target: OperatingTarget,
    patients: Sequence[str] | NDArray[Any] | None = None,
    weights: ArrayLike | None = None,
) -> ChosenPoint:
    """The largest threshold whose promise the malignant calibration images support.

    With k misses allowed, the threshold is the (k + 1)-th smallest P(malignant), and k the
    largest number whose Clopper–Pearson bound keeps to the target. The share that an order
    statistic of n independent draws leaves below itself is Beta(k + 1, n − k), so the bound
    holds although the threshold was chosen on the same images (a one-sided tolerance limit,
    Wilks 1941).

    Args:
        p_malignant: (n,) of the truly malignant calibration images.
        target: What must be kept.
        patients: (n,) of each image, where the target is about patients: a patient counts with
            the largest P(malignant) of the images, and is missed where none is flagged.
        weights: (n,) what each image counts for where the target is about images, so that the
            bound rests on as many independent images as theirs are worth; None counts all fully.

    >>> from leukoscope.config.operating import parse_operating_point as parse
    >>> target = parse("miss at most 5 % of malignant fields, with 95 % confidence")
    >>> choose_threshold(np.linspace(0.2, 1, 93), target)  # doctest: +ELLIPSIS
    ChosenPoint(threshold=0.208..., n=93, misses=1, bound=0.0499..., needed=59)
    """
    values = np.asarray(p_malignant, dtype=np.float64)
    counts = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    if patients is not None:
        names, member = np.unique(np.asarray(patients), return_inverse=True)
        highest = np.full(len(names), -np.inf)
        np.maximum.at(highest, member, values)
        values, counts = highest, np.ones(len(names))
    order = np.argsort(values, kind="stable")
    missed = np.concatenate([[0.0], np.cumsum(counts[order])])  # by a threshold at each value
    total = float(missed[-1])
    n, misses = int(total + 1e-9), -1
    while (
        misses + 1 < len(values)
        and miss_bound(missed[misses + 1], total, target.confidence) <= target.miss
    ):
        misses += 1
    needed = images_needed(target.miss, target.confidence)
    if misses < 0:
        return ChosenPoint(None, n, 0, miss_bound(0, total, target.confidence), needed)
    bound = miss_bound(missed[misses], total, target.confidence)
    return ChosenPoint(float(values[order][misses]), n, misses, bound, needed)
