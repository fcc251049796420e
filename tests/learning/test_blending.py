"""Cutmix, and the choice between it and mixup."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from leukoscope.config.recipe import Recipe
from leukoscope.config.training import GradientTraining
from leukoscope.learning.augment import CutMix, Mixup, build_blend
from leukoscope.learning.backbones import build_network
from leukoscope.learning.batches import ImageSet
from leukoscope.learning.trainer import train_gradient

Sets = tuple[ImageSet, ImageSet]


def test_cutmix_replaces_a_rectangle_and_its_share_of_the_loss() -> None:
    x = torch.arange(6.0).reshape(6, 1, 1, 1).expand(6, 3, 20, 30)
    shares = []
    for seed in range(40):
        mix = CutMix(1.0, np.random.default_rng(seed))
        asked = mix.share
        blended = mix.images(x)
        replaced = blended != x
        for row, partner in enumerate(mix.partners.tolist()):
            if row == partner:
                continue
            assert (blended[row][replaced[row]] == partner).all()
            place = replaced[row, 0].nonzero()
            sides = place.amax(0) - place.amin(0) + 1 if len(place) else torch.zeros(2)
            assert len(place) == int(sides.prod())  # a full rectangle
            assert mix.share == pytest.approx(1 - len(place) / 600)
        assert mix.share > asked - 0.06  # what lies beyond the border is not replaced
        shares.append(mix.share)
    assert min(shares) < 0.5 < max(shares)
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    loss = torch.nn.CrossEntropyLoss()
    expected = mix.share * loss(logits, y) + (1 - mix.share) * loss(logits, y[mix.partners])
    torch.testing.assert_close(mix.loss(loss, logits, y), expected)


def test_a_recipe_chooses() -> None:
    assert build_blend(GradientTraining(), (1,)) is None
    assert isinstance(build_blend(GradientTraining(cutmix=1.0), (1,)), CutMix)
    alone = build_blend(GradientTraining(mixup=0.4), (1, 2))
    assert isinstance(alone, Mixup)
    assert alone.share == np.random.default_rng((1, 2)).beta(0.4, 0.4)
    both = [build_blend(GradientTraining(mixup=0.4, cutmix=1.0), (1, n)) for n in range(40)]
    assert 10 < sum(isinstance(blend, CutMix) for blend in both) < 30


def test_cutmix_changes_the_training_and_not_the_validation(
    recipe: Recipe, coloured: Sets, tmp_path: Path
) -> None:
    losses = []
    for cutmix in (0.0, 1.0):
        training = recipe.training.model_copy(update={"cutmix": cutmix, "learning_rate": 1e-30})
        network = build_network(recipe.model, num_classes=3, size_px=32, seed=1)
        changed = recipe.model_copy(update={"training": training})
        result = train_gradient(network, changed, *coloured, tmp_path / str(cutmix), seed=3)
        losses.append([result.history[0][f"{part}_loss"] for part in ("train", "val")])
    assert losses[0][0] != losses[1][0]
    assert losses[0][1] == pytest.approx(losses[1][1])
