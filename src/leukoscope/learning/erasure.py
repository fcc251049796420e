"""Linear concept erasure: features from which nothing linear can read a nuisance any more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LEAST_CORRELATION = 1e-6  # singular values below it are rounding


@dataclass(frozen=True)
class Erasure:
    """The map ``x - (x - mean) @ removed``, which takes a nuisance out of features.

    Attributes:
        mean: (D,) float64, left where it is.
        removed: (D, D) float64.
    """

    mean: NDArray[np.float64]
    removed: NDArray[np.float64]

    def erased(self, X: NDArray[np.floating]) -> NDArray[np.float32]:
        """(n, D) features without the nuisance."""
        return np.asarray(X - (X - self.mean) @ self.removed, np.float32)

    def folded(
        self, weight: NDArray[np.float64], bias: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weight (K, D) and bias (K,) on raw features, of a head that was fitted on erased ones."""
        lost = weight @ self.removed.T
        return weight - lost, bias + lost @ self.mean


def fit_erasure(
    X: NDArray[np.floating], nuisance: NDArray[np.floating], y: NDArray[np.integer]
) -> Erasure:
    """The least change of features after which no linear function of them follows a nuisance.

    LEACE (Belrose et al. 2023): ``removed`` is W⁺PW with W the inverse root of the covariance of
    the features and P the projection on what W makes of their covariance with the nuisance. All
    covariances are taken within classes, so that the difference of classes is no nuisance; that of
    the features is shrunk (Ledoit & Wolf 2004), because images may be fewer than features.

    Args:
        X: (n, D) features of the training images.
        nuisance: (n, q) numbers that the features shall say nothing of; NaN counts as the mean.
        y: (n,) classes.
    """
    from sklearn.covariance import ledoit_wolf

    spread = X.std(axis=0, dtype=np.float64)
    scale = np.where(spread > 1e-12, spread, 1.0)
    shown = _within_classes(np.asarray(X, np.float64) / scale, y)
    numbers = _within_classes(_filled(nuisance), y)
    deviation = numbers.std(axis=0)
    numbers = numbers[:, deviation > 1e-12] / deviation[deviation > 1e-12]
    covariance, _ = ledoit_wolf(shown, assume_centered=True)
    variance, axes = np.linalg.eigh(covariance)
    root = (axes * np.sqrt(variance)) @ axes.T
    inverse = (axes / np.sqrt(variance)) @ axes.T
    seen, strength, _ = np.linalg.svd(inverse @ (shown.T @ numbers / len(y)), full_matrices=False)
    seen = seen[:, strength > _LEAST_CORRELATION]
    # As rows: x @ removed is the part of x that follows the nuisance.
    removed = (inverse @ seen @ seen.T @ root) * scale / scale[:, None]
    return Erasure(X.mean(axis=0, dtype=np.float64), removed)


def _filled(numbers: NDArray[np.floating]) -> NDArray[np.float64]:
    """Numbers (n, q) with the mean of a column for what is unknown, 0 where all of it is."""
    known = np.isfinite(numbers)
    sums = np.where(known, numbers, 0.0).sum(axis=0)
    return np.where(known, numbers, sums / np.maximum(known.sum(axis=0), 1))


def _within_classes(values: NDArray[np.float64], y: NDArray[np.integer]) -> NDArray[np.float64]:
    """(n, d) values about the mean of their class."""
    found = np.empty_like(values)
    for k in np.unique(y):
        found[y == k] = values[y == k] - values[y == k].mean(axis=0)
    return found
