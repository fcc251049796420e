"""What the classifiers on features share: samples, standardisation, the probability mapping."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.evaluation.fuzzy import FuzzySystem
from leukoscope.evaluation.softmax import log_softmax
from leukoscope.learning.feature_heads import FeatureHead

Features = NDArray[np.floating[Any]]
Settings = dict[str, float | int | str]

_PRIOR_SD = (1.5, 1.0)  # of the mapping's log slope and of its offsets


@dataclass(frozen=True)
class Sample:
    """Images as features.

    Attributes:
        X: (n, D) features.
        y: (n,) class indices.
    """

    X: Features
    y: NDArray[np.int64]

    def with_more(self, other: Sample) -> Sample:
        """Both together."""
        return Sample(np.concatenate([self.X, other.X]), np.concatenate([self.y, other.y]))


@dataclass(frozen=True)
class Standard:
    """Mean and deviation of training features.

    Attributes:
        mean: (D,) float64.
        scale: (D,) one over the standard deviation, 1 for a constant feature.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def of(cls, X: Features) -> Standard:
        """From training features (n, D)."""
        sd = X.std(axis=0, dtype=np.float64)
        sd[sd < 1e-12] = 1.0
        return cls(X.mean(axis=0, dtype=np.float64), 1 / sd)

    def apply(self, X: Features) -> NDArray[np.float64]:
        """(n, D) standardised."""
        return np.asarray((X - self.mean) * self.scale, dtype=np.float64)


@dataclass(frozen=True)
class Components:
    """Principal components of standardised features, each of variance 1 on the training images.

    Attributes:
        standard: Mean and deviation.
        directions: (D, P), those of most variance first.
    """

    standard: Standard
    directions: NDArray[np.float64]

    @classmethod
    def of(cls, X: Features, number: int) -> Components:
        """The first components of training features (n, D); fewer where there are fewer."""
        from scipy.linalg import eigh

        standard = Standard.of(X)
        z = standard.apply(X)
        kept = min(number, *z.shape)
        width = z.shape[1]
        values, vectors = eigh(z.T @ z / len(z), subset_by_index=(width - kept, width - 1))
        signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(kept)])
        scaled = vectors * signs / np.sqrt(np.maximum(values, 1e-12))
        return cls(standard, scaled[:, ::-1])

    def apply(self, X: Features, number: int | None = None) -> NDArray[np.float64]:
        """(n, P) components, or the first of them."""
        return np.asarray(self.standard.apply(X) @ self.directions[:, :number])


@dataclass(frozen=True)
class Link:
    """The mapping of scores to log-probabilities, log softmax(slope · score + offset).

    Platt's idea (1999) for several classes: one slope for all and one offset a class.

    Attributes:
        slope: > 0.
        offset: (K,).
    """

    slope: float
    offset: NDArray[np.float64]

    @classmethod
    def fit(cls, scores: NDArray[np.float64], y: NDArray[np.int64]) -> Link:
        """Smallest log loss on held-out scores (n, K), with a weak prior on both."""
        from scipy.optimize import minimize

        n, k = scores.shape
        # What all classes of an image share makes no difference to a softmax.
        unit = max(float((scores - scores.mean(axis=1, keepdims=True)).std()), 1e-12)
        rows = np.arange(n)

        def loss(free: NDArray[np.float64]) -> float:
            logits = np.exp(free[0]) * scores / unit + free[1:]
            prior = ((free[0] / _PRIOR_SD[0]) ** 2 + ((free[1:] / _PRIOR_SD[1]) ** 2).sum()) / 2
            return float(prior - log_softmax(logits)[rows, y].sum())

        found = minimize(loss, np.zeros(k + 1), method="L-BFGS-B").x
        return cls(float(np.exp(found[0])) / unit, found[1:])

    def apply(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, K) scores to log-probabilities."""
        return log_softmax(self.slope * scores + self.offset)

    @classmethod
    def cross_fitted(
        cls, logits: NDArray[np.float64], y: NDArray[np.int64], folds: int = 5
    ) -> NDArray[np.float64]:
        """Log-probabilities of held-out images by mappings that were fitted on the others of them.

        A mapping that is judged on the images that it was fitted on looks too good.

        Args:
            logits: (n, K) scores, or log-probabilities by one mapping of them; it makes no
                difference, since a mapping of a mapping is one, too.
            y: (n,) class indices.
            folds: Number of parts, classes balanced; fewer where there are fewer images.
        """
        if len(y) < 2:
            return logits
        part = np.empty(len(y), dtype=np.int64)
        part[np.argsort(y, kind="stable")] = np.arange(len(y)) % folds
        found = np.empty_like(logits)
        for number in np.unique(part):
            own = part == number
            found[own] = cls.fit(logits[~own], y[~own]).apply(logits[own])
        return found


@dataclass(frozen=True)
class FeatureModel:
    """A fitted classifier.

    Attributes:
        logits: (n, D) features to (n, K) float64 log-probabilities.
        head: To stand in a network; a (K, D) weight with its (K,) bias for a linear one; None
            where it is no graph.
        link: Its probability mapping, where it has one.
        rules: Its rule base, where it has one.
    """

    logits: Callable[[Features], NDArray[np.float64]]
    head: FeatureHead | tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    link: Link | None = None
    rules: FuzzySystem | None = None
