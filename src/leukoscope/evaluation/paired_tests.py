"""Two classifiers on the same images: who is right alone, and exact tests where they hold.

The tests of McNemar and DeLong take images for independent. Images of one patient, slide or
overlapping field are not: there the bootstrap over groups (:mod:`leukoscope.evaluation.comparison`)
is the one to rely on, and no p-value is given here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError
from leukoscope.evaluation.predictions import PredictionTable


@dataclass(frozen=True)
class DeLong:
    """Difference of two areas under the ROC curve on the same images.

    Attributes:
        difference: First area minus second.
        low: Lower limit of its 95 % interval.
        high: Upper limit.
        p: Two-sided.
    """

    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class PairedTests:
    """Where two classifiers disagree about what is right.

    Attributes:
        only_first_right: Images that only the first has right.
        only_second_right: Images that only the second has right.
        effect: Cohen's g, the first's share of these images minus ½ (Cohen 1988, chapter 5; from
            .05 small, .15 medium, .25 large); None where they never disagree.
        independent: Whether every image stands for itself.
        mcnemar_p: Of McNemar's exact test (1947); None where images are not independent.
        delong: Of the area under the ROC curve; None where images are not independent, and with
            more than two classes.
    """

    only_first_right: int
    only_second_right: int
    effect: float | None
    independent: bool
    mcnemar_p: float | None
    delong: DeLong | None

    def to_json(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)


def paired_tests(
    a: PredictionTable, b: PredictionTable, groups: Mapping[str, str] | None = None
) -> PairedTests:
    """Count disagreements, and test them where images are independent.

    Args:
        a: One row per labelled image.
        b: Likewise; only images that both have are counted.
        groups: Image id → group; None means that every image stands for itself.

    Raises:
        DataError: An image stands twice in a table.

    >>> table = lambda p: PredictionTable.build(["benign", "all"], ["x", "y", "z"],
    ...     [[1 - v, v] for v in p], recipe="r", protocol="random", fold=0, part="test",
    ...     y_true=[0, 1, 1])
    >>> found = paired_tests(table([0.1, 0.9, 0.9]), table([0.9, 0.1, 0.9]))
    >>> found.only_first_right, found.effect, found.mcnemar_p
    (2, 0.5, 0.5)
    """
    from scipy.stats import binomtest

    a, b = _labelled(a), _labelled(b)
    ids, rows_a, rows_b = np.intersect1d(a.image_id, b.image_id, return_indices=True)
    a, b = a.take(rows_a), b.take(rows_b)
    first, second = (t.probs.argmax(axis=1) == t.y_true for t in (a, b))
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    units = {groups[image_id] for image_id in ids.tolist()} if groups is not None else ids
    independent = len(units) == len(ids)
    p = None
    if independent:
        p = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    two = independent and len(a.class_names) == 2 and len(np.unique(a.y_true)) == 2
    return PairedTests(
        only_first,
        only_second,
        round(only_first / discordant - 0.5, 4) if discordant else None,
        independent,
        p,
        delong(a.y_true == 1, a.probs[:, 1], b.probs[:, 1]) if two else None,
    )


def delong(positive: ArrayLike, first: ArrayLike, second: ArrayLike) -> DeLong | None:
    """Compare two correlated areas under the ROC curve.

    DeLong, DeLong & Clarke-Pearson (1988), the structural components by mid-ranks (Sun & Xu 2014).

    Args:
        positive: (n,) bool.
        first: (n,) scores of the first classifier, larger for positive images.
        second: (n,) scores of the second.

    Returns:
        None where the difference has no variance, or a class has fewer than two images.

    >>> delong([True, True, False, False], [4, 3, 2, 1], [4, 2, 3, 1]).difference
    0.25
    """
    truth = np.asarray(positive, dtype=bool)
    if min(truth.sum(), (~truth).sum()) < 2:
        return None
    parts = [_components(np.asarray(score, dtype=np.float64), truth) for score in (first, second)]
    (area_a, pos_a, neg_a), (area_b, pos_b, neg_b) = parts
    variance = (pos_a - pos_b).var(ddof=1) / truth.sum() + (neg_a - neg_b).var(ddof=1) / (
        ~truth
    ).sum()
    if variance <= 0:
        return None
    error, value = float(np.sqrt(variance)), area_a - area_b
    half = NormalDist().inv_cdf(0.975) * error
    p = 2 * NormalDist().cdf(-abs(value) / error)
    return DeLong(value, value - half, value + half, p)


def _components(
    score: NDArray[np.float64], positive: NDArray[np.bool_]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Area, and each image's share of the other class that it is ordered right against."""
    from scipy.stats import rankdata

    ranks = rankdata(score)
    m, n = positive.sum(), (~positive).sum()
    of_positive = (ranks[positive] - rankdata(score[positive])) / n
    of_negative = 1 - (ranks[~positive] - rankdata(score[~positive])) / m
    return float(of_positive.mean()), of_positive, of_negative


def _labelled(table: PredictionTable) -> PredictionTable:
    known = table.take(table.y_true >= 0)
    if len(np.unique(known.image_id)) != len(known):
        raise DataError("paired tests: an image has two rows; select one part and fold set")
    return known
