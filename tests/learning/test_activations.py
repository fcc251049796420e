"""The activation cache: the lower blocks once, the upper ones trained on what they gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from leukoscope.config.recipe import Augmentation, GradientTraining, ModelConfig, Recipe
from leukoscope.core.errors import TrainingError
from leukoscope.learning.activations import (
    LowerPart,
    activation_shape,
    backbone_blocks,
    save_activations,
    upper_part,
)
from leukoscope.learning.backbones import ToInput, build_network
from leukoscope.learning.batches import CachedRows, ImageSet
from leukoscope.learning.trainer import train_gradient

BLOCKS = 3


@pytest.fixture
def cached(recipe: Recipe) -> Recipe:
    """A small network whose first blocks are frozen; its random weights come from one seed."""
    return recipe.model_copy(
        update={
            "model": ModelConfig(backbone="test_efficientnet", weights="none"),
            "training": GradientTraining(
                epochs=6, batch_size=8, precision="fp32", freeze=BLOCKS, freeze_norm=True,
                freeze_depthwise=True, learning_rate=0.01, cached_views=2,
            ),
            "augmentation": Augmentation(quarter_turns=True, brightness=0.3),
        }
    )  # fmt: skip


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_convnext", "bn-cnn"])
def test_the_two_parts_make_the_network(name: str) -> None:
    config = ModelConfig(backbone=name, weights="none")
    network = build_network(config, num_classes=3, size_px=32, seed=0)
    x = torch.rand(2, 3, 32, 32)
    for blocks in (1, len(backbone_blocks(network.backbone))):
        upper = upper_part(network, blocks)
        assert upper is not None
        with torch.no_grad():
            lower = LowerPart(upper)(x)
            assert tuple(lower.shape[1:]) == activation_shape(upper)
            assert torch.allclose(upper(lower), network(x), atol=1e-5)


def test_a_backbone_that_is_no_chain_is_not_cut() -> None:
    config = ModelConfig(backbone="test_vit", weights="none")
    assert upper_part(build_network(config, num_classes=2, size_px=160, seed=0), 1) is None


def test_more_blocks_than_there_are(cached: Recipe) -> None:
    network = build_network(cached.model, num_classes=3, size_px=32, seed=0)
    with pytest.raises(TrainingError, match=r"training.freeze = 99, but test_efficientnet has"):
        upper_part(network, 99)


def test_the_first_copy_is_the_image_and_the_others_are_not(
    cached: Recipe, coloured: tuple[ImageSet, ImageSet], tmp_path: Path
) -> None:
    images = coloured[1].images[:5]
    network = build_network(cached.model, num_classes=3, size_px=32, seed=0)
    upper = upper_part(network, BLOCKS)
    assert upper is not None
    calls: list[tuple[int, int]] = []
    for name in ("a.npy", "b.npy"):
        save_activations(
            tmp_path / name, upper, cached, images, seed=7, progress=lambda *c: calls.append(c)
        )
    assert calls[-1] == (10, 10)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    cache = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert cache.shape == (5, 2, *activation_shape(upper))
    with torch.no_grad():
        expected = network(ToInput(cached.preprocess)(torch.from_numpy(images)))
        found = upper(torch.from_numpy(cache[:, 0].astype(np.float32)))
    assert torch.allclose(found, expected, atol=0.01)
    assert not np.allclose(cache[:, 0], cache[:, 1], atol=0.01)


def test_what_is_above_the_cut_learns_and_the_rest_stays(
    cached: Recipe, coloured: tuple[ImageSet, ImageSet], tmp_path: Path
) -> None:
    network = build_network(cached.model, num_classes=3, size_px=32, seed=0)
    upper = upper_part(network, BLOCKS)
    assert upper is not None
    before = {k: v.clone() for k, v in network.state_dict().items()}
    sets = []
    for number, part in enumerate(coloured):
        path = tmp_path / f"{number}.npy"
        save_activations(path, upper, cached, part.images, seed=1)
        rows = CachedRows(np.load(path, mmap_mode="r"), np.arange(len(part.y)), str(number))
        sets.append(ImageSet(rows, part.y))
    plain = cached.model_copy(update={"augmentation": Augmentation()})
    result = train_gradient(upper, plain, *sets, tmp_path, seed=3)
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    moved = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    frozen = backbone_blocks(network.backbone)[:BLOCKS]
    below = {id(p) for block in frozen for p in block.parameters()}
    assert "head.weight" in moved
    assert any(k.startswith("backbone.") for k in moved)
    assert not any("running_" in k or "conv_dw" in k for k in moved)
    assert not {k for k, p in network.named_parameters() if id(p) in below} & moved


def test_rows_of_a_cache_are_told_apart() -> None:
    cache = np.zeros((4, 1, 2, 2, 3), np.float16)
    rows = [CachedRows(cache, np.array(r), key) for r, key in (([0, 1], "a"), ([0, 2], "a"))]
    assert rows[0].sha256 != rows[1].sha256
    assert CachedRows(cache, np.array([0, 1]), "b").sha256 != rows[0].sha256
    assert rows[0][np.array([1, 0])].shape == (2, 1, 2, 2, 3)
