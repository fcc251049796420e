"""Temperature scaling (Guo et al. 2017, section 4.2): one number that makes p honest."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError
from leukoscope.evaluation.softmax import log_softmax, softmax

BOUNDS: Final = (0.02, 50.0)


def fit_temperature(logits: ArrayLike, y: ArrayLike) -> float:
    """The temperature T that minimises the log loss of softmax(logits / T).

    The targets are Laplace's, (n + 1) / (n + K) for the true class and 1 / (n + K) for each
    other, as Platt (1999, section 2.2) does for two classes. For many images this is plain
    maximum likelihood; where every image is right, it keeps T from running to 0 and p to 1,
    which n images cannot prove.

    Args:
        logits: (n, K) logits of images that neither trained nor selected the model.
        y: (n,) class indices.

    Returns:
        T within ``BOUNDS``; above 1 where the model was over-confident.

    Raises:
        DataError: There is no image, shapes do not fit, or a value is not finite.

    >>> fit_temperature([[8.0, 0.0]] * 80 + [[0.0, 8.0]] * 20, [0] * 100) > 5
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
    targets = np.full((n, k), 1 / (n + k))
    targets[np.arange(n), truth] += n / (n + k)

    def loss(log_temperature: float) -> float:
        return float(-(targets * log_softmax(values / np.exp(log_temperature))).sum() / n)

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
