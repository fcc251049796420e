"""Split-conformal prediction sets: three scores, guarantees over images, classes or groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.config.bundle import Calibration, Conformal, SetGuarantee, SetScore
from leukoscope.config.guarantees import fewest_for
from leukoscope.core.errors import DataError
from leukoscope.evaluation.calibration.scaling import (
    apply_calibration,
    evidence_weights,
    fit_calibration,
)

FloatArray = NDArray[np.float64]
PENALTY: Final = 0.1  # λ of RAPS, set beforehand: a tenth for each class after the first
FREE: Final = 1  # k_reg of RAPS
_TIE: Final = 1e-12  # sums of probabilities differ in the last bits from one machine to another


def unseen_quantile(scores: ArrayLike, share: float, weights: ArrayLike | None = None) -> float:
    """The smallest score that a new one does not exceed with probability ``share``.

    The new image counts 1 and stands at infinity, the others count as their weights say. With
    weights of 1 it is the ⌈(n + 1) · share⌉-th smallest score (Angelopoulos & Bates 2023,
    section 1). With 1 / size of its group for each image it is the quantile of hierarchical
    conformal prediction (Lee, Barber & Willett 2023), in which every group weighs the same.

    Args:
        scores: (n,) of images that were used for nothing else.
        share: In (0, 1).
        weights: (n,) > 0; None counts every image fully.

    Returns:
        A score, or infinity where the images are too few for the share.

    >>> unseen_quantile(range(1, 100), 0.95), unseen_quantile([1.0, 2.0], 0.95)
    (95.0, inf)
    >>> unseen_quantile([1, 2, 3, 9], 0.5, [0.5, 0.5, 1, 1])
    3.0
    """
    values = np.asarray(scores, dtype=np.float64)
    if len(values) == 0:
        return math.inf
    counts = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    reached: NDArray[np.float64] = np.cumsum(counts[order])
    enough = reached >= (counts.sum() + 1) * share - 1e-9  # 20 · 0.95 must be 19
    return float(values[order][np.argmax(enough)]) if enough.any() else math.inf


def set_scores(
    probs: ArrayLike, score: SetScore = "lac", *, penalty: float = PENALTY, free: int = FREE
) -> FloatArray:
    """How little each class fits each image; small for probable classes.

    Args:
        score: ``lac``: 1 − p (Sadinle et al. 2019, section 2). ``aps``: sum of the probabilities
            of all classes at least as probable (Romano et al. 2020, equation 5 with u = 1).
            ``raps``: that plus ``penalty`` · max(0, rank − ``free``) (Angelopoulos et al. 2021,
            equation 4).
        penalty: λ of ``raps``.
        free: k_reg of ``raps``.

    Returns:
        (n, K) float64 ≥ 0.

    >>> set_scores([[0.5, 0.3, 0.2]], "lac").round(2).tolist()
    [[0.5, 0.7, 0.8]]
    >>> set_scores([[0.5, 0.3, 0.2]], "aps").round(2).tolist()
    [[0.5, 0.8, 1.0]]
    >>> set_scores([[0.5, 0.3, 0.2]], "raps", penalty=0.1, free=1).round(2).tolist()
    [[0.5, 0.9, 1.2]]
    """
    p = np.asarray(probs, dtype=np.float64)
    if score == "lac":
        return 1 - p
    order = np.argsort(-p, axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    total = np.take_along_axis(np.cumsum(np.take_along_axis(p, order, 1), axis=1), rank, 1)
    return total if score == "aps" else total + penalty * np.maximum(0, rank + 1 - free)


def fit_sets(
    probs: ArrayLike,
    y: ArrayLike,
    coverage: float,
    *,
    score: SetScore = "lac",
    guarantee: SetGuarantee = "marginal",
    groups: Sequence[str] | NDArray[np.generic] | None = None,
    weights: ArrayLike | None = None,
) -> Conformal:
    """Thresholds of prediction sets.

    ``marginal``: the ⌈(n + 1) · coverage⌉-th smallest score of the true classes (Angelopoulos &
    Bates 2023, section 1). ``class``: the same among the images of each class (Mondrian; Vovk
    2012). ``group``: the quantile of the scores in which each group weighs 1 / (K + 1), shared
    evenly by its images, and infinity the rest (Lee, Barber & Willett 2023, "hierarchical
    conformal prediction"); it holds for an image of a new group. Where there are too few images
    or groups for the coverage (:func:`~leukoscope.config.guarantees.fewest_for`) the set holds
    every class.

    Args:
        probs: (n, K) calibrated probabilities of images used for nothing else.
        groups: (n,) patient, cluster … of each image; needed by ``group``.
        weights: (n,) what each image counts for in the other two; None counts all fully.

    Raises:
        DataError: The coverage is out of range, or groups do not fit the guarantee.

    >>> probs = [[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]]
    >>> round(fit_sets(probs, [0, 0, 0], 0.5).threshold, 3)
    0.2
    >>> fit_sets(probs, [0, 0, 0], 0.95).threshold  # every class
    1.0
    >>> fit_sets(probs, [0, 0, 0], 0.5, guarantee="group", groups=["a", "a", "b"]).threshold
    0.4
    """
    values, truth = _checked(probs, y, coverage)
    n, k = values.shape
    labels = None if groups is None else np.asarray(groups)
    counts = _image_counts(n, guarantee, labels, weights)
    raps = score == "raps"
    every = 1.0 + (PENALTY * max(0, k - FREE) if raps else 0.0)  # the score of the last class
    own = set_scores(values, score)[np.arange(n), truth]
    by_class, threshold = None, every
    if guarantee == "class":
        rows = [truth == c for c in range(k)]
        by_class = tuple(min(every, unseen_quantile(own[r], coverage, counts[r])) for r in rows)
    else:
        threshold = float(np.clip(unseen_quantile(own, coverage, counts), 0, every))
    return Conformal(
        coverage=coverage,
        score=score,
        guarantee=guarantee,
        threshold=threshold,
        thresholds=by_class,
        penalty=PENALTY if raps else 0.0,
        free=FREE if raps else 0,
        n_cal=n,
        n_groups=None if labels is None else len(np.unique(labels)),
    )


def _image_counts(
    n: int, guarantee: SetGuarantee, groups: NDArray[np.generic] | None, weights: ArrayLike | None
) -> FloatArray:
    """(n,) what each image counts for under a guarantee."""
    wanted = guarantee == "group"
    if wanted != (groups is not None) or (groups is not None and groups.shape != (n,)):
        raise DataError("prediction sets: expected one group an image for, and only for, `group`")
    if weights is not None and (groups is not None or np.shape(weights) != (n,)):
        raise DataError("prediction sets: expected one weight an image, and none for `group`")
    if weights is not None:
        return np.asarray(weights, dtype=np.float64)
    return np.ones(n) if groups is None else _group_weights(groups)


def _checked(
    probs: ArrayLike, y: ArrayLike, coverage: float
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Probabilities and classes as arrays, if sets can be fitted from them."""
    values, truth = np.asarray(probs, dtype=np.float64), np.asarray(y, dtype=np.int64)
    n = len(truth)
    if values.ndim != 2 or truth.shape != values.shape[:1] or not 0 < coverage < 1 or n == 0:
        raise DataError(
            f"prediction sets: expected probs (n, K), y (n,) of n ≥ 1 and a coverage in (0, 1), "
            f"got {values.shape}, {truth.shape} and {coverage}"
        )
    if truth.min() < 0 or truth.max() >= values.shape[1]:
        raise DataError("prediction sets: a true class is unknown")
    return values, truth


def prediction_sets(probs: ArrayLike, record: Conformal) -> NDArray[np.bool_]:
    """Which classes belong to the set of each image; NumPy alone.

    A set can be empty: no class is probable enough, a sign of an image unlike the calibration
    images. :func:`fill_empty` gives it its most probable class.

    >>> prediction_sets([[0.7, 0.25, 0.05]], Conformal(coverage=0.9, threshold=0.8, n_cal=9))
    array([[ True,  True, False]])
    """
    scores = set_scores(probs, record.score, penalty=record.penalty, free=record.free)
    limit = record.threshold if record.thresholds is None else np.array(record.thresholds)
    return np.asarray(scores <= limit + _TIE)


def fill_empty(sets: NDArray[np.bool_], probs: ArrayLike) -> NDArray[np.bool_]:
    """The same sets, with the most probable class in those that are empty.

    Sets only grow, so that what was promised of their coverage still holds.

    >>> fill_empty(np.array([[False, False], [True, True]]), [[0.6, 0.4], [0.5, 0.5]]).tolist()
    [[True, False], [True, True]]
    """
    p = np.asarray(probs)
    top = np.arange(p.shape[1]) == p.argmax(axis=1)[:, None]
    return np.asarray(sets | (top & ~sets.any(axis=1, keepdims=True)))


def coverage_distribution(cal_and_test: Sequence[tuple[int, int]], coverage: float) -> FloatArray:
    """How many test images are covered if calibration and test images are exchangeable.

    The number among m test images is beta-binomial with a = ⌈(n + 1) · coverage⌉ and
    b = n + 1 − a (Vovk 2012; Angelopoulos & Bates 2023, appendix C); over folds, taken as
    independent, the distributions are convolved. All are covered where n is too small.

    Args:
        cal_and_test: Number of calibration images n and of test images m of each fold.

    Returns:
        (M + 1,) probability of 0 … M covered images, M the test images of all folds.

    >>> coverage_distribution([(1, 2)], 0.5).round(4).tolist()
    [0.3333, 0.3333, 0.3333]
    """
    from scipy.special import betaln, gammaln

    total = np.ones(1)
    for n, m in cal_and_test:
        a = _rank(n, coverage)
        k = np.arange(m + 1)
        if a > n:
            p = (k == m).astype(np.float64)
        else:
            choose = gammaln(m + 1) - gammaln(k + 1) - gammaln(m - k + 1)
            p = np.exp(choose + betaln(k + a, m - k + n + 1 - a) - betaln(a, n + 1 - a))
        total = np.convolve(total, p)
    return np.asarray(total / total.sum())


def expected_coverage(
    cal_and_test: Sequence[tuple[int, int]], coverage: float, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Limits in which the measured coverage should lie under exchangeability.

    >>> [round(limit, 3) for limit in expected_coverage([(300, 600)], 0.95)]
    [0.917, 0.977]
    """
    cumulative = np.cumsum(coverage_distribution(cal_and_test, coverage))
    most, tail = len(cumulative) - 1, (1 - confidence) / 2
    limits = (int(np.searchsorted(cumulative, q - 1e-12)) / max(1, most) for q in (tail, 1 - tail))
    low, high = limits
    return low, min(1.0, high)


def covered(sets: NDArray[np.bool_], y: ArrayLike) -> NDArray[np.bool_]:
    """(n,) whether the set of each image holds its true class.

    >>> covered(np.array([[True, False], [True, False]]), [0, 1]).tolist()
    [True, False]
    """
    truth = np.asarray(y, dtype=np.int64)
    return np.asarray(sets, dtype=bool)[np.arange(len(truth)), truth]


def _rank(n: int, coverage: float) -> int:
    return math.ceil((n + 1) * coverage - 1e-9)  # 20 · 0.95 must be 19, whatever the last bit


def _group_weights(groups: NDArray[np.generic]) -> FloatArray:
    """(n,) one over the number of images of each image's group."""
    member = np.unique(groups, return_inverse=True)[1]
    return np.asarray(1 / np.bincount(member)[member])


def fit_promise(
    logits: ArrayLike,
    y: ArrayLike,
    groups: Sequence[str] | NDArray[np.generic],
    coverage: float,
    *,
    score: SetScore = "lac",
    guarantee: SetGuarantee = "marginal",
    new_groups: bool = True,
) -> tuple[Calibration, Conformal]:
    """Calibration and prediction sets for an image of a new group.

    A ``marginal`` promise becomes that by ``group`` where whole groups were held out and there
    are enough of them. Where there are not, and in the promise by ``class``, images of one group
    count as
    :func:`~leukoscope.evaluation.calibration.scaling.evidence_weights` says.

    Args:
        logits: (n, K) of models that were not trained on the image's group.
        groups: (n,) whose images resemble each other; held out as a whole if ``new_groups``.
        new_groups: False where the models have seen other images of these groups.

    Raises:
        DataError: Shapes do not fit, a value is not finite, or there is no image.

    >>> groups = [f"patient {i // 4}" for i in range(160)]
    >>> calibration, sets = fit_promise([[3.0, 0.0]] * 160, [0] * 120 + [1] * 40, groups, 0.95)
    >>> calibration.temperature > 1.5, sets.guarantee, sets.n_groups
    (True, 'group', 40)
    """
    labels = np.asarray(groups)
    calibration = fit_calibration(logits, y, labels)
    probs = apply_calibration(logits, calibration)
    served = guarantee
    if new_groups:
        served = served_guarantee(guarantee, len(np.unique(labels)), coverage)
    by_group = served == "group"
    sets = fit_sets(
        probs,
        y,
        coverage,
        score=score,
        guarantee=served,
        groups=labels if by_group else None,
        weights=None if by_group else evidence_weights(labels),
    )
    return calibration, sets


def served_guarantee(guarantee: SetGuarantee, n_groups: int, coverage: float) -> SetGuarantee:
    """By group in place of marginal, where so many groups can bear it.

    The new group stands at infinity with the weight of one. With 19 groups that is all that 95 %
    leave to be missed, and nearly every set holds every class; it may take half of it.

    >>> served_guarantee("marginal", 39, 0.95), served_guarantee("marginal", 38, 0.95)
    ('group', 'marginal')
    """
    enough = guarantee == "marginal" and n_groups >= fewest_for((1 + coverage) / 2)
    return "group" if enough else guarantee
