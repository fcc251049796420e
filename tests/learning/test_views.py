"""Prediction over flips and turns, in torch and in the exported graph; clamping; small heads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from leukoscope.config.base import validate
from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import GradientTraining, ModelConfig, Recipe
from leukoscope.core.errors import ConfigError
from leukoscope.learning.attribution import grad_cam
from leukoscope.learning.backbones import Network, ToInput, build_network, views
from leukoscope.learning.batches import ImageSet
from leukoscope.learning.features import extract_features, predict_logits
from leukoscope.learning.graphs.export import onnx_bytes, open_session
from leukoscope.learning.trainer import train_gradient


def network_with(kind: str, backbone: str = "test_resnet", **model: object) -> Network:
    values = {"backbone": backbone, "weights": "none", "test_time": kind} | model
    config = validate(ModelConfig, values, "test")
    return build_network(config, num_classes=4, size_px=64, seed=1)


def test_views_are_all_flips_and_turns_and_the_image_comes_first() -> None:
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    for kind, count in (("flips", 4), ("dihedral", 8)):
        shown = views(x, kind)
        assert torch.equal(shown[0], x)
        assert count == len(shown) == ModelConfig(test_time=kind).views  # type: ignore[arg-type]
        assert len({tuple(view.flatten().tolist()) for view in shown}) == count
    turned = {tuple(torch.rot90(x, k, (2, 3)).flatten().tolist()) for k in range(4)}
    assert turned <= {tuple(view.flatten().tolist()) for view in views(x, "dihedral")}


@pytest.mark.parametrize(("kind", "turn"), [("flips", False), ("dihedral", True)])
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_a_prediction_is_the_mean_over_the_views(kind: str, turn: bool, backbone: str) -> None:
    network = network_with(kind, backbone)
    x = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = network.predict(x)
        by_hand = torch.stack([network(view) for view in views(x, kind)]).mean(0)
        torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found, network(x), atol=1e-4)  # one view is not the mean
        for changed in (x.flip(3), x.flip(2)):
            torch.testing.assert_close(network.predict(changed), found, rtol=1e-4, atol=1e-5)
        quarter = network.predict(torch.rot90(x, 1, (2, 3)))
        assert torch.allclose(quarter, found, rtol=1e-4, atol=1e-5) == turn
        assert torch.equal(network_with("none", backbone).predict(x), network(x))


def test_the_graph_holds_the_views(
    spec: PreprocessSpec, images: np.ndarray, parity: Callable[..., float]
) -> None:
    network, plain = network_with("flips"), network_with("none")
    model = onnx_bytes(network, spec)
    assert parity(network, model, images, spec) < 1e-4
    # One network, not four.
    nodes = [len(onnx.load_from_string(onnx_bytes(n, spec)).graph.node) for n in (network, plain)]
    assert nodes[0] < 1.5 * nodes[1]
    session = open_session(model)
    for count in (1, 5):
        logits, features, maps = session.run(None, {"image": images[:count]})
        expected = predict_logits(network, images[:count], spec)
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
        # What bundles rely on: the last layer reads the features.
        weight, bias = (p.detach().numpy() for p in (network.head.weight, network.head.bias))
        np.testing.assert_allclose(features @ weight.T + bias, logits, rtol=1e-3, atol=1e-4)
        assert maps.shape == (count, 4, 2, 2)
    # Maps are those of the image as it is, and so is Grad-CAM.
    (single,) = open_session(onnx_bytes(plain, spec)).run(["maps"], {"image": images})
    (shown,) = session.run(["maps"], {"image": images})
    np.testing.assert_allclose(shown, single, rtol=1e-3, atol=1e-4)
    batch = ToInput(spec)(torch.from_numpy(images))
    np.testing.assert_allclose(
        grad_cam(network, batch, [0] * 6), grad_cam(plain, batch, [0] * 6), atol=1e-5
    )
    pooled = [extract_features(each, images, spec) for each in (network, plain)]
    assert not np.allclose(*pooled)
    # Every image that enters ends in the same place, whatever the way it is mirrored.
    (mirrored,) = session.run(["logits"], {"image": images[:, :, ::-1].copy()})
    (straight,) = session.run(["logits"], {"image": images})
    np.testing.assert_allclose(mirrored, straight, rtol=1e-3, atol=1e-4)


def test_validation_looks_at_the_views(coloured: tuple[ImageSet, ImageSet], tmp_path: Path) -> None:
    losses = {}
    for kind in ("none", "flips"):
        recipe = Recipe(
            name="tiny",
            title="",
            preprocess=PreprocessSpec(size_px=32),
            model=ModelConfig(backbone="test_resnet", weights="none", test_time=kind),  # type: ignore[arg-type]
            training=GradientTraining(epochs=1, batch_size=8, precision="fp32"),
        )
        network = build_network(recipe.model, num_classes=3, size_px=32, seed=1)
        losses[kind] = train_gradient(network, recipe, *coloured, tmp_path / kind, seed=3).history[
            0
        ]
    assert losses["none"]["train_loss"] == losses["flips"]["train_loss"]
    assert losses["none"]["val_loss"] != losses["flips"]["val_loss"]


def test_clamping_bounds_inputs_and_logits(
    spec: PreprocessSpec, images: np.ndarray, parity: Callable[..., float]
) -> None:
    free = network_with("none")
    tight = network_with("none", clamp_input=0.5, clamp_logits=0.01)
    x = ToInput(spec)(torch.from_numpy(images))
    with torch.no_grad():
        expected = free(x.clamp(-0.5, 0.5))
        assert expected.abs().max() > 0.01
        assert torch.equal(tight(x), expected.clamp(-0.01, 0.01))
    assert parity(tight, onnx_bytes(tight, spec), images, spec) < 1e-4
    with pytest.raises(ConfigError, match=r"takes no model\.clamp_logits"):
        validate(Recipe, {"name": "a", "title": "", "model": {"clamp_logits": 1}}, "test")


def test_a_small_head_starts_near_equal_probabilities() -> None:
    options = {"hidden": (64, 32), "norm": "layer"}
    small = network_with("none", init="small", **options)
    usual = network_with("none", **options)
    layers = [m for m in (*small.hidden.modules(), small.head) if isinstance(m, torch.nn.Linear)]
    assert len(layers) == 3
    for layer in layers:
        assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.3)
        assert not layer.bias.any()
    x = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        largest = [float(torch.softmax(n(x), 1).sub(0.25).abs().max()) for n in (small, usual)]
    assert largest[0] < 0.03 < largest[1]
