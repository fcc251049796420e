"""What classifiers on features share: samples, standardisation, heads as matrix products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from leukoscope.core.threads import one_blas_thread
from leukoscope.evaluation.calibration.scaling import log_softmax
from leukoscope.evaluation.fuzzy_inference import FuzzySystem

Features = NDArray[np.floating]
Hyperparameters = dict[str, float | int | str]
_PARTS = 5  # of a cross-fit
_PRIOR_SD = (1.5, 1.0)  # of the mapping's log slope and of its offsets


class FeatureHead(nn.Module):
    """A head on standardised features.

    Attributes:
        out_features: K, the number of classes.
    """

    def __init__(self, out_features: int, tensors: Mapping[str, ArrayLike]) -> None:
        super().__init__()
        self.out_features = out_features
        for name, value in tensors.items():
            array = np.asarray(value)
            kind = np.int64 if array.dtype.kind in "iu" else np.float32
            self.register_buffer(name, torch.from_numpy(np.array(array, dtype=kind)))

    def part(self, name: str) -> Tensor:
        """One of its tensors."""
        return cast(Tensor, getattr(self, name))

    def standardised(self, x: Tensor) -> Tensor:
        """(N, D) features with mean 0 and deviation 1 on the training images."""
        return (x - self.part("mean")) * self.part("scale")

    def logits(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, D) features to (n, K) float64 log-probabilities."""
        if len(features) == 0:
            return np.empty((0, self.out_features))
        rows = torch.from_numpy(np.asarray(features, dtype=np.float32))
        with torch.inference_mode():
            found = [self(rows[i : i + 512]) for i in range(0, len(rows), 512)]
        return np.asarray(torch.cat(found).numpy(), dtype=np.float64)


class KnnHead(FeatureHead):
    """Votes of the nearest training images by cosine, weighted exp(cosine / τ) (Wu et al. 2018).

    Each class has one more vote of weight exp(0 / τ), as of an image at right angles, so that an
    image unlike all others is called nothing with confidence.

    Args:
        mean: (D,) of the training features.
        scale: (D,) one over their standard deviations.
        memory: (n, D) standardised training features of length 1.
        votes: (n, K) their classes, one-hot.
        temperature: τ.
    """

    def __init__(self, mean: ArrayLike, scale: ArrayLike, memory: ArrayLike, votes: ArrayLike,
                 neighbours: int, temperature: float) -> None:  # fmt: skip
        tensors = {"mean": mean, "scale": scale, "memory": memory, "votes": votes,
                   "neighbours": neighbours, "temperature": temperature}  # fmt: skip
        super().__init__(np.shape(votes)[1], tensors)
        self.k = min(int(neighbours), len(np.asarray(memory)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) to log-probabilities (N, K)."""
        unit = nn.functional.normalize(self.standardised(x), dim=1)
        cosine, index = torch.topk(unit @ self.part("memory").T, self.k, dim=1)
        temperature = self.part("temperature")
        weight = torch.exp((cosine - 1) / temperature)  # at most 1: nothing overflows
        score = (weight[:, :, None] * self.part("votes")[index]).sum(1) + torch.exp(
            -1 / temperature
        )
        return torch.log(score / score.sum(1, keepdim=True))


class RbfHead(FeatureHead):
    """Kernel machines exp(−γ‖z − s‖²), one a class, and a softmax over their decisions.

    Args:
        mean: (D,) of the training features.
        scale: (D,) one over their standard deviations.
        support: (s, D) standardised support vectors.
        weight: (K, s) their coefficients, the probability mapping's slope included.
        bias: (K,) likewise.
        gamma: γ.
    """

    def __init__(self, mean: ArrayLike, scale: ArrayLike, support: ArrayLike, weight: ArrayLike,
                 bias: ArrayLike, gamma: float) -> None:  # fmt: skip
        tensors = {"mean": mean, "scale": scale, "support": support, "weight": weight,
                   "bias": bias, "gamma": gamma}  # fmt: skip
        super().__init__(np.shape(weight)[0], tensors)

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) to log-probabilities (N, K)."""
        z, support = self.standardised(x), self.part("support")
        squared = (z**2).sum(1, keepdim=True) + (support**2).sum(1) - 2 * z @ support.T
        kernel = torch.exp(-self.part("gamma") * squared.clamp_min(0))
        return nn.functional.log_softmax(kernel @ self.part("weight").T + self.part("bias"), dim=1)


def head_from(tensors: Mapping[str, Tensor]) -> FeatureHead | None:
    """The head whose tensors a checkpoint holds; None for a linear one.

    Args:
        tensors: Names without the ``head.`` in front.
    """
    values: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    if "memory" in values:
        return KnnHead(**values)
    return RbfHead(**values) if "support" in values else None


@dataclass(frozen=True)
class FeatureSet:
    """Images as features."""

    X: Features  # (n, D) features
    y: NDArray[np.int64]

    def with_more(self, other: FeatureSet) -> FeatureSet:
        """Both together."""
        return FeatureSet(np.concatenate([self.X, other.X]), np.concatenate([self.y, other.y]))


@dataclass(frozen=True)
class Standardiser:
    """Mean and deviation of training features."""

    mean: NDArray[np.float64]  # (D,) float64
    scale: NDArray[np.float64]  # (D,) one over the standard deviation, 1 for a constant feature

    @classmethod
    def of(cls, X: Features) -> Standardiser:
        """From training features (n, D)."""
        sd = X.std(axis=0, dtype=np.float64)
        sd[sd < 1e-12] = 1.0
        return cls(X.mean(axis=0, dtype=np.float64), 1 / sd)

    def apply(self, X: Features) -> NDArray[np.float64]:
        """(n, D) standardised."""
        return np.asarray((X - self.mean) * self.scale, dtype=np.float64)


@dataclass(frozen=True)
class PrincipalComponents:
    """Principal components of standardised features, each of variance 1 on the training images."""

    standard: Standardiser
    directions: NDArray[np.float64]  # (D, P), those of most variance first

    @classmethod
    def of(cls, X: Features, number: int) -> PrincipalComponents:
        """The first components of training features (n, D); fewer where there are fewer."""
        from scipy.linalg import eigh

        standard = Standardiser.of(X)
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
class ProbabilityMapping:
    """The mapping of scores to log-probabilities, log softmax(slope · score + offset).

    Platt's idea (1999) for several classes: one slope for all and one offset a class.
    """

    slope: float  # above 0
    offset: NDArray[np.float64]  # (K,)

    @classmethod
    def fit(cls, scores: NDArray[np.float64], y: NDArray[np.int64]) -> ProbabilityMapping:
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

        with one_blas_thread():
            found = minimize(loss, np.zeros(k + 1), method="L-BFGS-B").x
        return cls(float(np.exp(found[0])) / unit, found[1:])

    def apply(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, K) scores to log-probabilities."""
        return log_softmax(self.slope * scores + self.offset)

    @classmethod
    def cross_fitted(cls, logits: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.float64]:
        """Log-probabilities of held-out images by mappings that were fitted on the others of them.

        A mapping that is judged on the images that it was fitted on looks too good.

        Args:
            logits: (n, K) scores, or log-probabilities by one mapping of them; it makes no
                difference, since a mapping of a mapping is one, too.
        """
        if len(y) < 2:
            return logits
        part = np.empty(len(y), dtype=np.int64)
        part[np.argsort(y, kind="stable")] = np.arange(len(y)) % _PARTS  # classes balanced
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
        head: The same as a module of a network, or (K, D) weight and (K,) bias of a linear one;
            None where it cannot be written as a graph.
        link: Its probability mapping, where it has one.
        rules: Its rule base, where it has one.
    """

    logits: Callable[[Features], NDArray[np.float64]]
    head: FeatureHead | tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    link: ProbabilityMapping | None = None
    rules: FuzzySystem | None = None
