"""Mixup and cutmix: blending of two images and of their losses."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from leukoscope.config.training import GradientTraining


class Blend(ABC):
    """Each image of a batch with a part of another one, and their losses in the same shares.

    The loss is the blend of the two images' losses, which equals the loss of blended targets
    where the loss is linear in them, as cross entropy is, and is defined for every loss.

    Args:
        alpha: Of the symmetric Beta distribution that the share is drawn from.
        rng: Decides share and partners.
    """

    def __init__(self, alpha: float, rng: np.random.Generator) -> None:
        self._rng = rng
        self.share = float(rng.beta(alpha, alpha))
        self.partners = torch.empty(0, dtype=torch.long)

    def images(self, x: Tensor) -> Tensor:
        """The blended images, (N, 3, S, S) float32."""
        order = self._rng.permutation(len(x))
        self.partners = torch.from_numpy(order).to(x.device)
        return self._blend(x, x[self.partners])

    @abstractmethod
    def _blend(self, x: Tensor, other: Tensor) -> Tensor:
        """``share`` of ``x`` and the rest of ``other``."""

    def loss(self, loss: nn.Module, logits: Tensor, y: Tensor) -> Tensor:
        """The blended loss () of the blended images' logits (N, K) and the classes (N,)."""
        first: Tensor = loss(logits, y)
        second: Tensor = loss(logits, y[self.partners])
        return self.share * first + (1 - self.share) * second


class Mixup(Blend):
    """Every pixel is a mixture of both images (Zhang et al. 2018)."""

    def _blend(self, x: Tensor, other: Tensor) -> Tensor:
        return self.share * x + (1 - self.share) * other


class CutMix(Blend):
    """A rectangle of the image is replaced by that of the other (Yun et al. 2019, eq. 1–2).

    The rectangle has the image's shape and lies around a place that is drawn uniformly; what
    reaches beyond the border is cut off, and ``share`` becomes the area that is really left.
    """

    def _blend(self, x: Tensor, other: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        side = np.sqrt(1 - self.share) / 2
        y, x_ = self._rng.uniform(0, (height, width))
        top, bottom = np.clip(np.rint((y - side * height, y + side * height)), 0, height)
        left, right = np.clip(np.rint((x_ - side * width, x_ + side * width)), 0, width)
        place = (..., slice(int(top), int(bottom)), slice(int(left), int(right)))
        mixed = x.clone()
        mixed[place] = other[place]
        self.share = float(1 - (bottom - top) * (right - left) / (height * width))
        return mixed


def build_blend(config: GradientTraining, entropy: tuple[int, ...]) -> Blend | None:
    """What a recipe blends a batch with; where it names both, either one at even chances.

    Args:
        config: The recipe's training.
        entropy: Decides everything random.
    """
    rng = np.random.default_rng(entropy)
    cut = config.cutmix > 0
    if cut and config.mixup:
        cut = bool(rng.random() < 0.5)
    if cut:
        return CutMix(config.cutmix, rng)
    return Mixup(config.mixup, rng) if config.mixup else None
