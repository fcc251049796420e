"""The quantile of scores behind every threshold that promises something of a new image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
