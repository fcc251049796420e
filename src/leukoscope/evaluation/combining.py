"""How the probabilities of several models become one: averages, weights, votes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError

FloatArray = NDArray[np.float64]

_ROUNDS = 2000
_SMALLEST = 1e-12


def weighted_mean(probs: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """Average of probabilities (soft voting).

    Args:
        probs: (M, n, K) probabilities of M members.
        weights: (M,) ≥ 0 that sum to 1; None weighs all alike.

    Returns:
        (n, K), rows sum to 1.

    >>> weighted_mean([[[1.0, 0.0]], [[0.5, 0.5]]], [0.5, 0.5]).tolist()
    [[0.75, 0.25]]
    """
    values = _checked(probs)
    share = np.full(len(values), 1 / len(values)) if weights is None else np.asarray(weights)
    return np.asarray(np.tensordot(share, values, axes=1), dtype=np.float64)


def vote(probs: ArrayLike) -> FloatArray:
    """Majority vote: each member names one class; the mean probability decides a tie.

    The probability is (votes + mean probability) / (M + 1), so that none is zero.

    Args:
        probs: (M, n, K).

    Returns:
        (n, K), rows sum to 1.

    >>> vote([[[0.9, 0.1]], [[0.4, 0.6]], [[0.45, 0.55]]]).round(3).tolist()
    [[0.396, 0.604]]
    """
    values = _checked(probs)
    members, _, k = values.shape
    votes = np.eye(k)[values.argmax(axis=2)].sum(axis=0)
    return np.asarray((votes + values.mean(axis=0)) / (members + 1), dtype=np.float64)


def accuracy_weights(probs: ArrayLike, y: ArrayLike) -> FloatArray:
    """Weights in proportion to each member's accuracy (as in published ensembles of this field).

    Args:
        probs: (M, n, K) on validation images.
        y: (n,) class indices.

    Returns:
        (M,) that sum to 1; equal where no member is ever right.

    >>> accuracy_weights([[[1, 0], [0, 1]], [[0, 1], [0, 1]]], [0, 1]).round(3).tolist()
    [0.667, 0.333]
    """
    values, truth = _checked(probs), np.asarray(y, dtype=np.int64)
    right = (values.argmax(axis=2) == truth).mean(axis=1)
    return right / right.sum() if right.sum() > 0 else np.full(len(values), 1 / len(values))


def fit_weights(probs: ArrayLike, y: ArrayLike) -> FloatArray:
    """Weights on the simplex with the smallest log loss of the weighted mean.

    The loss is convex in the weights, and expectation maximisation of a mixture with fixed parts
    (Dempster et al. 1977, section 4.3) goes downhill in each round without leaving the simplex.

    Args:
        probs: (M, n, K) on validation images.
        y: (n,) class indices.

    Returns:
        (M,) ≥ 0 that sum to 1.

    Raises:
        DataError: There is no image.

    >>> fit_weights([[[0.9, 0.1]] * 5, [[0.1, 0.9]] * 5], [0] * 5).round(2).tolist()
    [1.0, 0.0]
    """
    values, truth = _checked(probs), np.asarray(y, dtype=np.int64)
    if len(truth) == 0:
        raise DataError("ensemble weights: there are no validation images to fit them on")
    likelihood = np.maximum(values[:, np.arange(len(truth)), truth], _SMALLEST)  # (M, n)
    weights = np.full(len(values), 1 / len(values))
    for _ in range(_ROUNDS):
        share = weights[:, None] * likelihood
        moved = (share / share.sum(axis=0)).mean(axis=1)
        done = np.abs(moved - weights).max() < 1e-8
        weights = moved
        if done:
            break
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def log_probs(probs: ArrayLike) -> FloatArray:
    """Logarithms of probabilities, never infinite; they stand in for logits.

    >>> log_probs([[1.0, 0.0]]).round(1).tolist()
    [[0.0, -27.6]]
    """
    return np.log(np.maximum(np.asarray(probs, dtype=np.float64), _SMALLEST))


def _checked(probs: ArrayLike) -> FloatArray:
    values = np.asarray(probs, dtype=np.float64)
    if values.ndim != 3 or len(values) == 0:
        raise DataError(f"ensemble: expected probabilities (M, n, K), got {values.shape}")
    return values
