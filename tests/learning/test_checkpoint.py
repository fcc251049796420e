"""Checkpoints come back as they were, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from leukoscope.config.recipe import LinearHeadTraining, ModelConfig, Recipe
from leukoscope.core.errors import DataError, WeightsError
from leukoscope.learning import checkpoint
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.checkpoint import load_checkpoint, save_checkpoint

CLASSES = ("benign", "early", "pre")


@pytest.fixture
def saved(tmp_path: Path, recipe: Recipe) -> Path:
    network = build_network(recipe.model, num_classes=3, size_px=32, seed=5)
    (tmp_path / "resume").mkdir()
    (tmp_path / "resume" / "last.ckpt").touch()
    save_checkpoint(tmp_path, network, recipe, CLASSES, {"note": 1})
    return tmp_path


def edit(path: Path, **changes: object) -> None:
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, **changes}))


def test_round_trip(saved: Path, recipe: Recipe) -> None:
    assert sorted(file.name for file in saved.iterdir()) == [
        "checkpoint.json",
        "checkpoint.safetensors",
    ]
    network, meta = load_checkpoint(saved)
    original = build_network(recipe.model, num_classes=3, size_px=32, seed=5)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(x), original(x))
    assert meta.recipe == recipe
    assert meta.class_names == CLASSES
    assert meta.extra == {"note": 1}
    assert not meta.frozen_backbone
    assert network.config == recipe.model


def test_a_trained_network_needs_none_of_the_weights_it_started_from(
    tmp_path: Path, recipe: Recipe
) -> None:
    network = build_network(recipe.model, num_classes=3, size_px=32, seed=5)
    gone = recipe.model.model_copy(update={"weights": str(tmp_path / "gone.pth")})
    save_checkpoint(tmp_path, network, recipe.model_copy(update={"model": gone}), CLASSES)
    loaded, meta = load_checkpoint(tmp_path)
    assert torch.equal(loaded.head.weight, network.head.weight)
    assert meta.recipe.model.weights == gone.weights


def test_of_a_frozen_backbone_only_the_head_is_stored(
    tmp_path: Path, lite: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(name="q", title="", training=LinearHeadTraining())
    network = build_network(ModelConfig(), num_classes=3, size_px=224, seed=0)
    weight = np.random.default_rng(0).normal(size=(3, 1280))
    network.set_linear_head(weight, np.arange(3.0))
    save_checkpoint(tmp_path, network, recipe, CLASSES)
    assert (tmp_path / "checkpoint.safetensors").stat().st_size < 20_000
    loaded, meta = load_checkpoint(tmp_path)
    assert meta.frozen_backbone
    np.testing.assert_allclose(loaded.head.weight.detach().numpy(), weight, rtol=1e-6)
    state, expected = loaded.backbone.state_dict(), network.backbone.state_dict()
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    other = loaded  # of the same backbone: what differs is the head, and that is read
    torch.nn.init.zeros_(other.head.weight)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "build_network", None)
        again, _ = load_checkpoint(tmp_path, other)
    np.testing.assert_allclose(again.head.weight.detach().numpy(), weight, rtol=1e-6)
    assert not other.head.weight.any()
    record = json.loads((tmp_path / "checkpoint.json").read_text())
    edit(tmp_path / "checkpoint.json", weights={**record["weights"], "sha256": "0" * 64})
    with pytest.raises(WeightsError, match="the head was fitted on efficientnet-lite0"):
        load_checkpoint(tmp_path)


def test_a_changed_tensor_file_is_noticed(saved: Path) -> None:
    path = saved / "checkpoint.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"checkpoint\.safetensors: expected sha256"):
        load_checkpoint(saved)
    path.unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        load_checkpoint(saved)


def test_a_changed_record_is_noticed(saved: Path) -> None:
    path = saved / "checkpoint.json"
    original = path.read_text()
    edit(path, class_names=["benign", "early"])
    with pytest.raises(WeightsError, match="do not fit the recipe and classes"):
        load_checkpoint(saved)
    path.write_text(original)
    edit(path, shapes={})
    with pytest.raises(WeightsError, match="not those that"):
        load_checkpoint(saved)
    edit(path, schema=99)
    with pytest.raises(WeightsError, match="expected schema 1, found 99"):
        load_checkpoint(saved)
    path.write_text('{"schema": 1}')
    with pytest.raises(WeightsError, match="recipe, class_names"):
        load_checkpoint(saved)
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        load_checkpoint(saved)


def test_class_names_must_be_as_many_as_logits(tmp_path: Path, recipe: Recipe) -> None:
    network = build_network(recipe.model, num_classes=3, size_px=32)
    with pytest.raises(WeightsError, match="2 class names for 3 logits"):
        save_checkpoint(tmp_path, network, recipe, CLASSES[:2])
