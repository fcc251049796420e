"""The exported graph computes what the network computes, from bytes."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import ModelConfig
from leukoscope.learning.attribution import grad_cam
from leukoscope.learning.backbones import Network, ToInput, build_network
from leukoscope.learning.graphs import export
from leukoscope.learning.graphs.export import onnx_bytes, open_session

CLASSES = ["benign", "early", "pre", "pro"]


def test_the_graph_of_the_packaged_network(
    lite: Network,
    spec: PreprocessSpec,
    images: np.ndarray,
    capfd: pytest.CaptureFixture[str],
    parity: Callable[..., float],
) -> None:
    model = onnx_bytes(lite, spec, CLASSES)
    assert capfd.readouterr() == ("", "")
    proto = onnx.load_from_string(model)
    assert json.loads({p.key: p.value for p in proto.metadata_props}["class_names"]) == CLASSES
    assert b".py" not in model  # the exporter would tell where its sources lie
    session = open_session(model)
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ("image", "tensor(uint8)", [64, 64, 3])
    assert [output.name for output in session.get_outputs()] == ["logits", "features", "maps"]
    assert parity(lite, model, images, spec) < 1e-4
    with torch.no_grad():
        features = lite.features(ToInput(spec)(torch.from_numpy(images))).numpy()
    for count in (1, 3, 6):  # any number of images
        logits, found, maps = session.run(None, {"image": images[:count]})
        np.testing.assert_allclose(found, features[:count], atol=1e-4)
        assert logits.shape == (count, 4)
        assert maps.shape == (count, 4, 2, 2)
    # The mean of a class map is its logit without the bias (Zhou et al. 2016).
    bias = lite.head.bias.detach().numpy()
    np.testing.assert_allclose(maps.mean((2, 3)) + bias, logits, atol=1e-4)


def test_the_relu_of_a_class_map_is_grad_cam(
    lite: Network, spec: PreprocessSpec, images: np.ndarray
) -> None:
    (maps,) = open_session(onnx_bytes(lite, spec, CLASSES)).run(["maps"], {"image": images})
    targets = np.arange(len(images)) % 4
    chosen = np.maximum(maps[np.arange(len(images)), targets], 0)
    chosen /= np.maximum(chosen.max((1, 2), keepdims=True), 1e-12)
    heat = grad_cam(lite, ToInput(spec)(torch.from_numpy(images)), torch.from_numpy(targets))
    assert heat.max() == 1
    np.testing.assert_allclose(heat, chosen, atol=1e-3)


def test_batch_norm_before_the_head_is_folded_into_the_class_maps(
    spec: PreprocessSpec, images: np.ndarray
) -> None:
    config = ModelConfig(backbone="test_resnet", weights="none", input_norm="batch", dropout=0.5)
    network = build_network(config, num_classes=4, size_px=64, seed=1)
    norm = network.hidden[0]
    with torch.no_grad():  # as after a training: neither of them 0 or 1
        for values in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            values.copy_(torch.rand(len(values), generator=torch.Generator().manual_seed(2)) + 0.2)
        network.head.weight += 0.05  # so that something speaks for each class
    session = open_session(onnx_bytes(network, spec, CLASSES))
    assert [output.name for output in session.get_outputs()] == ["logits", "features", "maps"]
    logits, maps = session.run(["logits", "maps"], {"image": images})
    constant = logits - maps.mean((2, 3))  # bias, mean and shift: the same for every image
    np.testing.assert_allclose(constant, np.broadcast_to(constant[0], constant.shape), atol=1e-4)
    targets = np.arange(len(images)) % 4
    chosen = np.maximum(maps[np.arange(len(images)), targets], 0)
    chosen /= np.maximum(chosen.max((1, 2), keepdims=True), 1e-12)
    heat = grad_cam(network, ToInput(spec)(torch.from_numpy(images)), torch.from_numpy(targets))
    assert heat.max() == 1
    np.testing.assert_allclose(heat, chosen, atol=1e-3)


def test_layer_norm_before_the_head_leaves_no_class_maps() -> None:
    config = ModelConfig(backbone="test_resnet", weights="none", input_norm="layer")
    assert not build_network(config, num_classes=4, size_px=64).has_class_maps


@pytest.mark.parametrize(
    "head",
    [
        {"hidden": (16,)},
        {"hidden": (16, 8), "norm": "batch", "activation": "gelu"},
        {"hidden": (16, 8), "norm": "layer", "activation": "leaky_relu", "residual": True},
        {"hidden": (16,), "input_norm": "layer", "norm": "batch", "residual": True},
        {"hidden": (16,), "pooling": "flatten", "norm": "batch", "residual": True},
        {"pooling": "flatten"},
    ],
    ids=lambda head: "-".join(map(str, head)),
)
def test_the_relu_of_a_gradient_map_is_grad_cam(
    head: dict[str, Any], spec: PreprocessSpec, images: np.ndarray, parity: Callable[..., float]
) -> None:
    config = ModelConfig(backbone="test_resnet", weights="none", **head)
    network = build_network(config, num_classes=4, size_px=64, seed=3)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # as after a training: no norm is the identity
        for name, value in [*network.hidden.named_parameters(), *network.hidden.named_buffers()]:
            if value.is_floating_point() and "linear" not in name:
                value.copy_(torch.rand(value.shape, generator=generator) + 0.2)
        network.head.weight += 0.05  # so that something speaks for each class
    model = onnx_bytes(network, spec, CLASSES)
    assert parity(network, model, images, spec) < 1e-4
    (maps,) = open_session(model).run(["maps"], {"image": images})
    targets = np.arange(len(images)) % 4
    chosen = np.maximum(maps[np.arange(len(images)), targets], 0)
    chosen /= np.maximum(chosen.max((1, 2), keepdims=True), 1e-12)
    heat = grad_cam(network, ToInput(spec)(torch.from_numpy(images)), torch.from_numpy(targets))
    assert heat.max() == 1
    np.testing.assert_allclose(heat, chosen, atol=1e-3)


@pytest.mark.parametrize("name", ["test_vit"])
def test_a_network_without_class_maps_has_two_outputs(
    name: str, spec: PreprocessSpec, images: np.ndarray, parity: Callable[..., float]
) -> None:
    config = ModelConfig(backbone=name, weights="none", hidden=(8,), dropout=0.5)
    network = build_network(config, num_classes=3, size_px=64, seed=0).train()
    model = onnx_bytes(network, spec)
    assert network.training  # left as it was
    assert [output.name for output in open_session(model).get_outputs()] == ["logits", "features"]
    assert parity(network, model, images, spec) < 1e-4


def test_a_changed_head_makes_another_graph_and_parity_notices_the_old_one(
    tiny: Network, spec: PreprocessSpec, images: np.ndarray, parity: Callable[..., float]
) -> None:
    old = onnx_bytes(tiny, spec, CLASSES)
    assert onnx_bytes(tiny, spec, CLASSES) is old  # not made twice
    network = copy.deepcopy(tiny)
    network.set_linear_head(tiny.head.weight.detach().numpy(), np.array([0, 0, 0.5, 0]))
    assert parity(network, old, images, spec) == np.inf
    assert parity(network, onnx_bytes(network, spec, CLASSES), images, spec) < 1e-4


@pytest.mark.parametrize("head", [{}, {"hidden": (16,), "norm": "batch"}])
def test_a_network_that_was_traced_before_gives_the_graph_of_one_that_was_not(
    head: dict[str, Any], spec: PreprocessSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ModelConfig(backbone="test_resnet", weights="none", **head)
    first, second = (build_network(config, num_classes=4, size_px=64, seed=k) for k in (1, 2))
    with torch.no_grad():  # also where a norm goes into the layer before it
        for name, value in second.named_buffers():
            if value.is_floating_point():
                value += 0.1 * len(name) / 30
    onnx_bytes(first, spec, CLASSES)
    with monkeypatch.context() as patch:
        patch.setattr(export, "_traced", lambda *_: pytest.fail("traced again"))
        found = onnx_bytes(second, spec, CLASSES[::-1])
    monkeypatch.setenv("LEUKOSCOPE_CACHE", "off")
    monkeypatch.setattr(export, "_recent", OrderedDict())
    second.exported = ("", b"")
    assert found == onnx_bytes(second, spec, CLASSES[::-1])
