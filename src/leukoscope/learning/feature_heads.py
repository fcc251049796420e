"""Heads that are no linear layer: nearest neighbours and RBF kernels as plain matrix products.

Each takes the features of a backbone and answers with log-probabilities, and can be written as
ONNX, so that a bundle predicts without scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn


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

    def logits(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
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
        neighbours: How many vote.
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
