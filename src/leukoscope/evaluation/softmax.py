"""The softmax, in one place and with NumPy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def log_softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Logarithms of the softmax along the last axis, without overflow.

    Args:
        logits: (…, K) real numbers.

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

    Args:
        logits: (…, K) real numbers.

    Returns:
        (…, K) float64 in [0, 1], summing to 1 along the last axis.

    >>> softmax([1000.0, 1000.0]).tolist()
    [0.5, 0.5]
    """
    return np.exp(log_softmax(logits))
