"""Softmax, and temperature and vector scaling (Guo et al. 2017, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.config.bundle import Calibration
from leukoscope.core.errors import DataError
from leukoscope.core.threads import one_blas_thread

FloatArray = NDArray[np.float64]
BOUNDS: Final = (0.02, 50.0)
PRIOR_SD: Final = 0.5  # of log T
WEIGHT_SD: Final = 0.25  # of log(weight · T): how far a class may leave the common temperature
BIAS_SD: Final = 1.0  # of a class's bias, in logits
ICC: Final = 0.2  # how alike images of one patient or cluster are taken to be
FOLDS: Final = 5


def log_softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Logarithms of the softmax along the last axis, without overflow.

    Returns:
        (…, K) float64 ≤ 0.

    >>> log_softmax([0.0, 0.0]).round(4).tolist()
    [-0.6931, -0.6931]
    """
    values = np.asarray(logits, dtype=np.float64)
    shifted = values - values.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Probabilities exp(zᵢ) / Σ exp(zⱼ) along the last axis, without overflow.

    Returns:
        (…, K) float64 in [0, 1], summing to 1 along the last axis.

    >>> softmax([1000.0, 1000.0]).tolist()
    [0.5, 0.5]
    """
    return np.exp(log_softmax(logits))


def log_loss(logits: ArrayLike, y: NDArray[np.int64]) -> float:
    """Mean log loss of (n, K) logits.

    >>> round(log_loss(np.zeros((2, 4)), np.array([0, 3])), 4)
    1.3863
    """
    return float(-log_softmax(logits)[np.arange(len(y)), y].mean())


def evidence_weights(groups: Sequence[str] | NDArray[np.generic], icc: float = ICC) -> FloatArray:
    """What one image counts for when images of its group resemble each other.

    n images of one group tell as much as n / (1 + (n - 1) ρ) independent ones (the design effect
    of Kish 1965, section 5.4), with an intraclass correlation ρ of 0.2: a patient never counts
    for more than five. Without this, the two or three patients of a ``cal`` part would overrule
    the prior by their number of images.

    Args:
        groups: (n,) what resembles each other.
        icc: ρ; 0 counts every image fully.

    Returns:
        (n,) weights in (0, 1].

    >>> evidence_weights(["a", "b", "b"]).round(3).tolist()
    [1.0, 0.833, 0.833]
    """
    member = np.unique(np.asarray(groups), return_inverse=True)[1]
    return 1 / (1 + (np.bincount(member)[member] - 1) * icc)


def fit_temperature(logits: ArrayLike, y: ArrayLike, weights: FloatArray | None = None) -> float:
    """The temperature T that minimises the log loss of softmax(logits / T).

    A weak prior, log T ~ N(0, 0.5²), keeps T near 1 where few images or few errors tell nothing:
    with every image right, plain maximum likelihood would let T run to 0 and p to 1. Where the
    images tell, it counts for little. Smoothed targets (Platt 1999) were tried instead and made
    models that are nearly always right needlessly unsure.

    Args:
        logits: (n, K) logits of images that neither trained nor selected the model.
        weights: (n,) of :func:`evidence_weights`; None counts every image fully.

    Returns:
        T within ``BOUNDS``; above 1 where the model was over-confident.

    Raises:
        DataError: There is no image, shapes do not fit, or a value is not finite.

    >>> fit_temperature([[8.0, 0.0]] * 80 + [[0.0, 8.0]] * 20, [0] * 100) > 4
    True
    """
    from scipy.optimize import minimize_scalar

    values, truth = _checked(logits, y)
    rows, counts = np.arange(len(truth)), _counts(weights, len(truth))

    def loss(log_temperature: float) -> float:
        log_p = log_softmax(values / np.exp(log_temperature))[rows, truth]
        return float(-(counts * log_p).sum() + (log_temperature / PRIOR_SD) ** 2 / 2)

    found = minimize_scalar(
        loss, bounds=np.log(BOUNDS).tolist(), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))


def fit_vector(
    logits: ArrayLike, y: ArrayLike, weights: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Weights w and biases b that minimise the log loss of softmax(w · logits + b).

    The prior shrinks towards temperature scaling: w = exp(d) / T with log T ~ N(0, 0.5²) as in
    :func:`fit_temperature`, d ~ N(0, 0.25²) and b ~ N(0, 1²) for each class. Its widths were set
    beforehand: a class may be off by a quarter of the common scale, and by odds of e.

    Args:
        logits: (n, K), as in :func:`fit_temperature`.
        weights: (n,) as in :func:`fit_temperature`.

    Returns:
        (K,) weights > 0 and (K,) biases.

    >>> w, b = fit_vector([[1.0, 0.0]] * 50 + [[0.0, 1.0]] * 50, [0] * 50 + [0] * 30 + [1] * 20)
    >>> bool(b[0] > 0.3 > -0.3 > b[1])
    True
    """
    from scipy.optimize import minimize

    values, truth = _checked(logits, y)
    n, k = values.shape
    target, counts = np.eye(k)[truth], _counts(weights, n)

    def loss(x: FloatArray) -> tuple[float, FloatArray]:
        scale, d, bias = x[0], x[1 : k + 1], x[k + 1 :]
        scaled = values * np.exp(d - scale)
        log_p = log_softmax(scaled + bias)
        residual = (np.exp(log_p) - target) * counts[:, None]
        of_weight = (residual * scaled).sum(axis=0)
        prior = (scale / PRIOR_SD) ** 2 + ((d / WEIGHT_SD) ** 2).sum() + (bias**2).sum()
        gradient = np.concatenate([
            [scale / PRIOR_SD**2 - of_weight.sum()],
            of_weight + d / WEIGHT_SD**2,
            residual.sum(axis=0) + bias / BIAS_SD**2,
        ])  # fmt: skip
        return float(-(counts * log_p[np.arange(n), truth]).sum() + prior / 2), gradient

    start = np.zeros(2 * k + 1)
    limits = [tuple(np.log(BOUNDS)), *[(-2.0, 2.0)] * k, *[(-20.0, 20.0)] * k]
    with one_blas_thread():
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=limits)
    return np.exp(found.x[1 : k + 1] - found.x[0]), found.x[k + 1 :]


def fit_calibration(
    logits: ArrayLike, y: ArrayLike, groups: Sequence[str] | NDArray[np.generic] | None = None
) -> Calibration:
    """Temperature scaling, or vector scaling where it is better within these images.

    Images of one group count for less the more there are (:func:`evidence_weights`).
    Both are compared on the same left-out images of a five-fold cross-validation that keeps
    groups together. Vector scaling serves only where its mean log loss is lower by more than one
    standard error of the paired difference over groups (the one-standard-error rule of Breiman
    et al. 1984, section 3.4.3): with equal evidence the method with one number is taken. As it
    fits two numbers a class, each class must stand in two groups a fold, or it is not tried.

    Args:
        logits: (n, K) logits of the ``cal`` part.
        groups: (n,) what is kept together; None means every image for itself.

    >>> logits = [[2.0, 0.0]] * 60 + [[0.0, 2.0]] * 60
    >>> fit_calibration(logits, [0] * 50 + [1] * 10 + [1] * 50 + [0] * 10).method
    'temperature'
    >>> fit_calibration(logits, [0] * 59 + [1] + [0] * 40 + [1] * 20).method
    'vector'
    """
    values, truth = _checked(logits, y)
    labels = np.arange(len(truth)) if groups is None else np.asarray(groups)
    evidence = evidence_weights(labels)
    temperature, n = fit_temperature(values, truth, evidence), len(truth)
    member = np.unique(labels, return_inverse=True)[1]
    holders = [len(np.unique(member[truth == k])) for k in range(values.shape[1])]
    if min(holders) < 2 * FOLDS:
        return Calibration(temperature=temperature, n_cal=n)
    gain = _cross_validated_gain(values, truth, member, evidence)
    size = np.bincount(member)
    spread = np.bincount(member, weights=gain - gain.mean())  # sum of each group
    error = np.sqrt((spread**2).sum() * len(size) / (len(size) - 1)) / n
    if not gain.mean() > error:
        return Calibration(temperature=temperature, n_cal=n)
    weights, bias = fit_vector(values, truth, evidence)
    return Calibration(
        temperature=temperature,
        weights=tuple(weights.tolist()),
        bias=tuple(bias.tolist()),
        n_cal=n,
    )


def apply_temperature(logits: ArrayLike, temperature: float) -> FloatArray:
    """Calibrated probabilities softmax(logits / T).

    Args:
        temperature: T > 0.

    >>> apply_temperature([[2.0, 0.0]], 2.0).round(3).tolist()
    [[0.731, 0.269]]
    """
    return softmax(np.asarray(logits, dtype=np.float64) / temperature)


def apply_calibration(logits: ArrayLike, record: Calibration) -> FloatArray:
    """Calibrated probabilities by the method of the record; NumPy alone.

    >>> record = Calibration(temperature=1.0, weights=(1.0, 1.0), bias=(0.0, 2.0), n_cal=9)
    >>> apply_calibration([[2.0, 0.0]], record).tolist()
    [[0.5, 0.5]]
    """
    if record.weights is None or record.bias is None:
        return apply_temperature(logits, record.temperature)
    return softmax(np.asarray(logits, dtype=np.float64) * record.weights + record.bias)


def _cross_validated_gain(
    values: FloatArray, truth: NDArray[np.int64], member: NDArray[np.int64], evidence: FloatArray
) -> FloatArray:
    """(n,) log loss of temperature minus that of vector scaling, each image left out once."""
    first = np.unique(member, return_index=True)[1]
    by_class = np.lexsort((np.arange(len(first)), truth[first]))  # deal each class evenly
    fold_of = np.empty(len(first), dtype=np.int64)
    fold_of[by_class] = np.arange(len(first)) % FOLDS
    fold, gain = fold_of[member], np.empty(len(truth))
    for k in range(FOLDS):
        out, kept = fold == k, fold != k
        known = values[kept], truth[kept], evidence[kept]
        weights, bias = fit_vector(*known)
        common = log_softmax(values[out] / fit_temperature(*known))
        own = log_softmax(values[out] * weights + bias)
        gain[out] = (own - common)[np.arange(int(out.sum())), truth[out]]
    return gain


def _counts(weights: FloatArray | None, n: int) -> FloatArray:
    return np.ones(n) if weights is None else weights


def _checked(logits: ArrayLike, y: ArrayLike) -> tuple[FloatArray, NDArray[np.int64]]:
    values, truth = np.asarray(logits, dtype=np.float64), np.asarray(y, dtype=np.int64)
    if values.ndim != 2 or truth.shape != values.shape[:1] or len(truth) == 0:
        raise DataError(
            f"temperature: expected logits (n, K) and y (n,) with n ≥ 1, "
            f"got {values.shape} and {truth.shape}"
        )
    if not np.isfinite(values).all() or truth.min() < 0 or truth.max() >= values.shape[1]:
        raise DataError("temperature: a logit is not finite, or a true class is unknown")
    return values, truth
