"""Mixup: blending of two images and of their losses."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Mixup:
    """Blend each image of a batch with another one (Zhang et al. 2018).

    The loss is the blend of the two images' losses, which equals the loss of blended targets
    where the loss is linear in them, as cross entropy is, and is defined for every loss.

    Args:
        alpha: Of the symmetric Beta distribution that the share is drawn from.
        entropy: Decides share and partners.
    """

    def __init__(self, alpha: float, entropy: tuple[int, ...]) -> None:
        self._rng = np.random.default_rng(entropy)
        self.share = float(self._rng.beta(alpha, alpha))
        self.partners = torch.empty(0, dtype=torch.long)

    def images(self, x: Tensor) -> Tensor:
        """The blended images, (N, 3, S, S) float32."""
        order = self._rng.permutation(len(x))
        self.partners = torch.from_numpy(order).to(x.device)
        return self.share * x + (1 - self.share) * x[self.partners]

    def loss(self, loss: nn.Module, logits: Tensor, y: Tensor) -> Tensor:
        """The blended loss () of the blended images' logits (N, K) and the classes (N,)."""
        first: Tensor = loss(logits, y)
        second: Tensor = loss(logits, y[self.partners])
        return self.share * first + (1 - self.share) * second
