"""Losses against torch and against their formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leukoscope.config.training import CrossEntropy, Focal, GradientTraining, Hierarchical
from leukoscope.core.errors import TrainingError
from leukoscope.learning.augment import Mixup
from leukoscope.learning.optimisers import FocalLoss, HierarchicalLoss, build_loss

CLASSES = ("benign", "early_pre_b", "pre_b", "pro_b")


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 4, generator=generator) * 3
    return logits, torch.arange(9) % 4, torch.tensor([0.5, 1.0, 2.0, 3.0])


def test_cross_entropy_is_torchs_with_weights_and_smoothing(
    batch: tuple[Tensor, Tensor, Tensor],
) -> None:
    logits, y, weight = batch
    loss = build_loss(GradientTraining(loss=CrossEntropy(smoothing=0.1)), weight, ())
    expected = nn.functional.cross_entropy(logits, y, weight=weight, label_smoothing=0.1)
    torch.testing.assert_close(loss(logits, y), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_focal_without_gamma_is_cross_entropy(
    batch: tuple[Tensor, Tensor, Tensor], smoothing: float
) -> None:
    logits, y, _ = batch
    expected = nn.functional.cross_entropy(logits, y, label_smoothing=smoothing)
    torch.testing.assert_close(FocalLoss(0.0, None, smoothing)(logits, y), expected)


def test_focal_is_its_formula(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, y, weight = batch
    loss = build_loss(GradientTraining(loss=Focal(gamma=1.5, smoothing=0.05)), weight, ())
    p = torch.softmax(logits.double(), 1).numpy()
    target = np.full_like(p, 0.05 / 4)
    target[np.arange(9), y.numpy()] += 0.95
    each = -(target * (1 - p) ** 1.5 * np.log(p)).sum(1) * weight.numpy()[y.numpy()]
    assert float(loss(logits, y)) == pytest.approx(each.mean(), rel=1e-5)


def test_focal_has_a_finite_gradient_where_the_network_is_certain() -> None:
    logits = torch.tensor([[80.0, 0.0], [0.0, 200.0]], requires_grad=True)
    FocalLoss(0.5)(logits, torch.tensor([0, 0])).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_the_hierarchical_loss_adds_the_binary_one(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, y, weight = batch
    config = GradientTraining(loss=Hierarchical(binary_weight=0.7))
    malignant = 1 - torch.softmax(logits, 1)[:, 0]
    binary = nn.functional.binary_cross_entropy(malignant, (y > 0).float())
    fine = nn.functional.cross_entropy(logits, y, weight=weight)
    loss = build_loss(config, weight, CLASSES)
    assert isinstance(loss, HierarchicalLoss)
    torch.testing.assert_close(loss(logits, y), fine + 0.7 * binary, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("names", [(), ("early_pre_b", "pre_b"), ("benign",)])
def test_the_hierarchical_loss_needs_both_branches(names: tuple[str, ...]) -> None:
    with pytest.raises(TrainingError, match="needs benign and malignant classes"):
        build_loss(GradientTraining(loss=Hierarchical()), None, names)


def test_the_hierarchical_loss_takes_the_users_roles() -> None:
    config, names = GradientTraining(loss=Hierarchical()), ("aml", "hairy_cell")
    with pytest.raises(TrainingError, match="what hairy cell stands for"):
        build_loss(config, None, names)
    loss = build_loss(config, None, names, {"hairy_cell": "other"})
    assert isinstance(loss, HierarchicalLoss)
    assert torch.equal(loss.malignant, torch.tensor([True, False]))


def test_mixup_blends_images_and_losses(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, y, _ = batch
    mix = Mixup(0.4, np.random.default_rng((1, 2, 3)))
    x = torch.arange(9.0).reshape(9, 1, 1, 1)
    blended = mix.images(x)
    assert 0 < mix.share < 1
    assert sorted(mix.partners.tolist()) == list(range(9))
    torch.testing.assert_close(blended, mix.share * x + (1 - mix.share) * x[mix.partners])
    # Cross entropy is linear in its targets: the blend equals torch's with blended targets.
    hot = nn.functional.one_hot(y, 4).float()
    targets = mix.share * hot + (1 - mix.share) * hot[mix.partners]
    expected = nn.functional.cross_entropy(logits, targets)
    torch.testing.assert_close(mix.loss(nn.CrossEntropyLoss(), logits, y), expected)
    again = Mixup(0.4, np.random.default_rng((1, 2, 3)))
    assert math.isclose(again.share, mix.share)
    torch.testing.assert_close(again.images(x), blended)
