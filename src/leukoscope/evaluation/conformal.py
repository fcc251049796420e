"""Split-conformal prediction sets with the LAC score 1 − p(class) (Sadinle et al. 2019).

The sets hold the true class with at least the nominal probability for images exchangeable with
the calibration images. Images of an unseen slide are not: measure the coverage there.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError
from leukoscope.evaluation.intervals import Interval, bootstrap_mean, proportion_interval


def fit_lac(probs: ArrayLike, y: ArrayLike, coverage: float) -> float:
    """The largest score 1 − p(class) with which a class still belongs to the set.

    It is the ⌈(n + 1) · coverage⌉-th smallest score of the true classes (Angelopoulos & Bates
    2023, section 1), and 1, i.e. every class, where n is too small for the coverage.

    Args:
        probs: (n, K) calibrated probabilities of images used for nothing else.
        y: (n,) class indices.
        coverage: Wanted probability that the true class is in the set, in (0, 1).

    Returns:
        Threshold in [0, 1].

    Raises:
        DataError: Shapes do not fit, a class is unknown, or the coverage is out of range.

    >>> round(fit_lac([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]], [0, 0, 0], 0.5), 3)
    0.2
    >>> fit_lac([[0.9, 0.1]], [0], 0.95)
    1.0
    """
    values, truth = np.asarray(probs, dtype=np.float64), np.asarray(y, dtype=np.int64)
    if values.ndim != 2 or truth.shape != values.shape[:1] or not 0 < coverage < 1:
        raise DataError(
            f"prediction sets: expected probs (n, K), y (n,) and a coverage in (0, 1), "
            f"got {values.shape}, {truth.shape} and {coverage}"
        )
    n = len(truth)
    if n and (truth.min() < 0 or truth.max() >= values.shape[1]):
        raise DataError("prediction sets: a true class is unknown")
    rank = math.ceil((n + 1) * coverage - 1e-9)  # 20 · 0.95 must be 19, whatever the last bit
    if rank > n:
        return 1.0
    scores = np.sort(1 - values[np.arange(n), truth])
    return float(np.clip(scores[rank - 1], 0.0, 1.0))


def prediction_sets(probs: ArrayLike, threshold: float) -> NDArray[np.bool_]:
    """Which classes belong to the set of each image.

    A set can be empty: no class is probable enough. It is left so, as a sign of an image unlike
    the calibration images.

    Args:
        probs: (n, K) calibrated probabilities.
        threshold: Of :func:`fit_lac`.

    Returns:
        (n, K) bool.

    >>> prediction_sets([[0.7, 0.25, 0.05]], 0.8).tolist()
    [[True, True, False]]
    """
    return np.asarray(1 - np.asarray(probs, dtype=np.float64) <= threshold)


def empirical_coverage(
    sets: NDArray[np.bool_], y: ArrayLike, *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Share of images whose set holds the true class, with its Clopper–Pearson interval.

    The interval takes images as independent; see :func:`grouped_coverage` where they are not.

    Args:
        sets: (n, K) bool.
        y: (n,) class indices.
        confidence: Level of the interval.

    Returns:
        Value, lower and upper limit.

    Raises:
        DataError: There is no image.

    >>> sets = np.array([[True, False]] * 9 + [[False, True]])
    >>> [round(x, 3) for x in empirical_coverage(sets, [0] * 10)]
    [0.9, 0.555, 0.997]
    """
    hits = _hits(sets, y)
    low, high = proportion_interval(int(hits.sum()), len(hits), confidence=confidence)
    return float(hits.mean()), low, high


def grouped_coverage(
    sets: NDArray[np.bool_],
    y: ArrayLike,
    groups: NDArray[np.str_] | list[str],
    *,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Coverage with a bootstrap interval over whole groups; arguments as in ``intervals``."""
    return bootstrap_mean(
        _hits(sets, y),
        groups=groups,
        y_true=y,
        replicates=replicates,
        confidence=confidence,
        seed=seed,
    )


def _hits(sets: NDArray[np.bool_], y: ArrayLike) -> NDArray[np.bool_]:
    truth = np.asarray(y, dtype=np.int64)
    return np.asarray(sets, dtype=bool)[np.arange(len(truth)), truth]
