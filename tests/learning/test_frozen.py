"""Cached features of a frozen backbone, and the head that is fitted on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from leukoscope.config.base import validate
from leukoscope.config.recipe import Augmentation, GradientTraining, ModelConfig, Recipe, Refinement
from leukoscope.core.errors import ConfigError
from leukoscope.learning.activations import HeadOnly, OneView, pooled_views
from leukoscope.learning.backbones import ToInput, build_network
from leukoscope.learning.batches import ImageSet
from leukoscope.learning.trainer import train_gradient


@pytest.fixture
def frozen(recipe: Recipe) -> Recipe:
    """A residual head on a frozen network; its random weights come from one seed everywhere."""
    return recipe.model_copy(
        update={
            "model": ModelConfig(
                backbone="test_resnet", weights="none", hidden=(8,), norm="batch", residual=True
            ),
            "training": GradientTraining(
                epochs=3, batch_size=8, precision="fp32", freeze="all", learning_rate=0.05
            ),
            "augmentation": Augmentation(quarter_turns=True, brightness=0.3),
        }
    )


def test_the_first_copy_is_the_image_and_the_others_are_not(
    frozen: Recipe, coloured: tuple[ImageSet, ImageSet]
) -> None:
    images = coloured[1].images[:5]
    calls: list[tuple[int, int]] = []
    views = pooled_views(
        frozen, images, 3, seed=7, progress=lambda done, total: calls.append((done, total))
    )
    network = build_network(frozen.model, num_classes=3, size_px=32, seed=0)
    assert views.shape == (5, 3, network.hidden[0].linear.in_features)
    assert calls[-1] == (15, 15)
    with torch.inference_mode():
        x = ToInput(frozen.preprocess)(torch.from_numpy(images))
        logits = network(x)
        on_cached = HeadOnly(network).eval()(OneView().eval()(torch.from_numpy(views)))
    assert torch.allclose(logits, on_cached, atol=0.01)
    assert not np.allclose(views[:, 0], views[:, 1])
    again = pooled_views(frozen, images, 3, seed=7)
    assert np.array_equal(views, again)


def test_training_meets_every_copy_and_validation_the_first() -> None:
    views = torch.arange(4.0).reshape(1, 4, 1)
    choose = OneView()
    torch.manual_seed(0)
    assert {float(choose(views)) for _ in range(50)} == {0.0, 1.0, 2.0, 3.0}
    assert {float(choose.eval()(views)) for _ in range(20)} == {0.0}


def test_the_head_learns_and_the_backbone_stays(
    frozen: Recipe, coloured: tuple[ImageSet, ImageSet], tmp_path: Path
) -> None:
    network = build_network(frozen.model, num_classes=3, size_px=32, seed=0)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    sets = tuple(
        ImageSet(pooled_views(frozen, part.images, 2, seed=1), part.y) for part in coloured
    )
    plain = frozen.model_copy(
        update={
            "augmentation": Augmentation(),
            "training": frozen.training.model_copy(update={"freeze": 0, "epochs": 8}),
        }
    )
    result = train_gradient(HeadOnly(network), plain, *sets, tmp_path, seed=3)
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    moved = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert "head.weight" in moved
    assert not {k for k in moved if k.startswith("backbone.")}


def test_the_refinement_trains_everything_at_its_own_rate(frozen: Recipe) -> None:
    assert frozen.refined() is None
    recipe = frozen.model_copy(update={"refine": Refinement(epochs=2, learning_rate=1e-5)})
    refined = recipe.refined()
    assert refined is not None
    assert isinstance(refined.training, GradientTraining)
    assert (refined.training.epochs, refined.training.freeze) == (2, 0)
    assert refined.training.learning_rate == 1e-5
    assert refined.training.batch_size == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"training": {"method": "gradient", "cached_views": 2}},
            "needs training.freeze, a number",
        ),
        ({"model": {"conv": [8]}}, "takes no model.conv"),
        ({"model": {"weights": "none"}}, "needs pretrained weights"),
        (
            {"training": {"method": "linear-head"}, "model": {}, "refine": {"epochs": 1}},
            "refine follows",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    values = {
        "name": "a",
        "title": "b",
        "training": {"method": "gradient", "freeze": "all", "cached_views": 2},
        **changes,
    }
    with pytest.raises(ConfigError, match=message):
        validate(Recipe, values, "recipe")
