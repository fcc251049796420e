"""Temperature scaling (Guo et al. 2017, section 4.2): one number that makes p honest."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError
from leukoscope.evaluation.softmax import log_softmax, softmax

BOUNDS: Final = (0.02, 50.0)
PRIOR_SD: Final = 0.5  # of log T


def fit_temperature(logits: ArrayLike, y: ArrayLike) -> float:
    """The temperature T that minimises the log loss of softmax(logits / T).

    A weak prior, log T ~ N(0, 0.5²), keeps T near 1 where few images or few errors tell nothing:
    with every image right, plain maximum likelihood would let T run to 0 and p to 1. Where the
    images tell, it counts for little. Smoothed targets (Platt 1999) were tried instead and made
    models that are nearly always right needlessly unsure.

    Args:
        logits: (n, K) logits of images that neither trained nor selected the model.
        y: (n,) class indices.

    Returns:
        T within ``BOUNDS``; above 1 where the model was over-confident.

    Raises:
        DataError: There is no image, shapes do not fit, or a value is not finite.

    >>> fit_temperature([[8.0, 0.0]] * 80 + [[0.0, 8.0]] * 20, [0] * 100) > 4
    True
    """
    from scipy.optimize import minimize_scalar

    values, truth = np.asarray(logits, dtype=np.float64), np.asarray(y, dtype=np.int64)
    if values.ndim != 2 or truth.shape != values.shape[:1] or len(truth) == 0:
        raise DataError(
            f"temperature: expected logits (n, K) and y (n,) with n ≥ 1, "
            f"got {values.shape} and {truth.shape}"
        )
    n, k = values.shape
    if not np.isfinite(values).all() or truth.min() < 0 or truth.max() >= k:
        raise DataError("temperature: a logit is not finite, or a true class is unknown")
    rows = np.arange(n)

    def loss(log_temperature: float) -> float:
        log_p = log_softmax(values / np.exp(log_temperature))[rows, truth]
        return float(-log_p.sum() + (log_temperature / PRIOR_SD) ** 2 / 2)

    found = minimize_scalar(
        loss, bounds=np.log(BOUNDS).tolist(), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))


def apply_temperature(logits: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """Calibrated probabilities softmax(logits / T).

    Args:
        logits: (…, K) logits.
        temperature: T > 0.

    Returns:
        (…, K) float64, summing to 1 along the last axis.

    >>> apply_temperature([[2.0, 0.0]], 2.0).round(3).tolist()
    [[0.731, 0.269]]
    """
    return softmax(np.asarray(logits, dtype=np.float64) / temperature)
