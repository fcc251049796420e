"""The losses of the recipes, on logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from leukoscope.config.training import CrossEntropy, Focal, GradientTraining
from leukoscope.core.errors import TrainingError
from leukoscope.core.labels import malignant_mask


class FocalLoss(nn.Module):
    """Mean of ``α_y Σ_k q_k (1 − p_k)^γ (−log p_k)`` (Lin et al. 2017, eq. 5).

    q is the target: 1 at the class y, or smoothed. γ = 0 without weights is cross entropy.

    Args:
        gamma: γ.
        weight: (K,) α; None is 1 everywhere.
        smoothing: ε; q = (1 − ε) one-hot + ε / K.
    """

    def __init__(self, gamma: float, weight: Tensor | None = None, smoothing: float = 0.0) -> None:
        super().__init__()
        self.gamma, self.smoothing = gamma, smoothing
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """Loss () of logits (N, K) and classes (N,)."""
        log_p = functional.log_softmax(logits, dim=1)
        classes = logits.shape[1]
        target = functional.one_hot(y, classes) * (1 - self.smoothing) + self.smoothing / classes
        # A certain image has 1 − p = 0, where the power's gradient is not finite for γ < 1.
        missing = (-torch.expm1(log_p)).clamp_min(1e-12)
        loss = -(target * missing**self.gamma * log_p).sum(dim=1)
        weight = cast("Tensor | None", self.weight)
        return (loss if weight is None else loss * weight[y]).mean()


class HierarchicalLoss(nn.Module):
    """Cross entropy plus λ times the binary cross entropy of benign against malignant.

    The probability of malignant is the sum over the malignant classes (study S3).

    Args:
        malignant: (K,) bool.
        binary_weight: λ.
        weight: (K,) class weights of the first term.
        smoothing: Of the first term.
    """

    def __init__(
        self,
        malignant: Tensor,
        binary_weight: float,
        weight: Tensor | None = None,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.fine = nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing)
        self.binary_weight = binary_weight
        self.register_buffer("malignant", malignant, persistent=False)

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """Loss () of logits (N, K) and classes (N,)."""
        malignant = cast(Tensor, self.malignant)
        log_p = functional.log_softmax(logits, dim=1)
        branches = torch.stack(
            (log_p[:, ~malignant].logsumexp(dim=1), log_p[:, malignant].logsumexp(dim=1)), dim=1
        )
        binary = functional.nll_loss(branches, malignant[y].long())
        return cast(Tensor, self.fine(logits, y) + self.binary_weight * binary)


def build_loss(
    config: GradientTraining, weight: Tensor | None, class_names: Sequence[str]
) -> nn.Module:
    """The loss that a recipe names.

    Args:
        config: The recipe's training.
        weight: (K,) class weights, or None.
        class_names: In the order of the logits; only the hierarchical loss reads them.

    Raises:
        TrainingError: The hierarchical loss without a benign or without a malignant class.
    """
    loss = config.loss
    if isinstance(loss, CrossEntropy):
        return nn.CrossEntropyLoss(weight=weight, label_smoothing=loss.smoothing)
    if isinstance(loss, Focal):
        return FocalLoss(loss.gamma, weight, loss.smoothing)
    malignant = torch.tensor(malignant_mask(class_names), dtype=torch.bool)
    if not malignant.any() or malignant.all():
        names = ", ".join(class_names) or "no class names"
        raise TrainingError(
            f"the hierarchical loss needs benign and malignant classes, got {names}",
            hint='set training.loss.kind = "cross-entropy"',
        )
    return HierarchicalLoss(malignant, loss.binary_weight, weight, loss.smoothing)
