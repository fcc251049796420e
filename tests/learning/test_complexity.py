"""Cost and layers of networks."""

from __future__ import annotations

import pytest
import torch

from leukoscope.config.loading import load_recipe
from leukoscope.config.recipe import ModelConfig
from leukoscope.learning.backbones import Network, build_network
from leukoscope.learning.complexity import (
    LayerBlock,
    count_macs,
    describe_layers,
    time_session,
    untrained_network,
)
from leukoscope.learning.graphs.export import open_session


def _layers(**config: object) -> list[LayerBlock]:
    model = ModelConfig.model_validate({"weights": "none", **config})
    return describe_layers(build_network(model, num_classes=3, size_px=64))


def test_macs_are_those_of_the_layers(lite: Network) -> None:
    """EfficientNet-Lite0 at 224 px has 0.4 G of them; they grow with the area."""
    larger = build_network(ModelConfig(weights="none"), num_classes=4, size_px=2 * lite.size_px)
    head = 1280 * 4
    assert count_macs(larger) - head == pytest.approx(4 * (count_macs(lite) - head), rel=0.01)


def _mean_of_pixels() -> bytes:
    """A graph from (n, 64, 64, 3) uint8 pixels to (n, 3) logits."""
    from onnx import TensorProto, helper

    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 64, 64, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["logits"], keepdims=0),
    ]
    graph = helper.make_graph(nodes, "mean", [image], [logits], [axes])
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def test_latency_is_measured() -> None:
    session = open_session(_mean_of_pixels())
    one, many = (time_session(session, batch, 64) for batch in (1, 64))
    assert 0 < one.median_ms <= one.p95_ms
    assert one.runs >= 3
    assert many.median_ms > one.median_ms


def test_untrained_network_needs_no_weights() -> None:
    recipe = load_recipe("residual-head-alexnet", ["preprocess.size_px=96"])
    network = untrained_network(recipe, num_classes=4)
    assert network.weights_record.source.startswith("none")


def test_layers_of_a_plain_network_are_named_in_order() -> None:
    labels = [(b.label, b.shape) for b in _layers(backbone="bn-cnn")]
    assert labels[0] == ("conv 3×3 + batch norm + ReLU", (32, 64, 64))
    assert labels[2] == ("max pool 2×2", (32, 32, 32))
    assert labels[-2:] == [("global average", (128,)), ("fully connected", (3,))]


def test_a_flattened_map_and_a_residual_head_are_shown() -> None:
    blocks = _layers(
        backbone="cnn-baseline", hidden=[16, 8], norm="batch", residual=True, hidden_dropout=0.5,
        dropout=0.2, squeeze_excite=16,
    )  # fmt: skip
    labels = [block.label for block in blocks]
    assert labels[-5:] == [
        "squeeze and excite",
        "flatten",
        "fully connected with projected shortcut + batch norm + ReLU + dropout 0.5",
        "fully connected with projected shortcut + batch norm + ReLU + dropout 0.2",
        "fully connected",
    ]


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_vit", "alexnet"])
def test_no_parameter_is_lost(backbone: str) -> None:
    """What the blocks hold is what the network holds, and the diagram stays short."""
    model = ModelConfig(backbone=backbone, weights="none")
    size = 160 if backbone == "test_vit" else 96
    network = build_network(model, num_classes=4, size_px=size)
    before = torch.get_rng_state()
    blocks = describe_layers(network)
    in_blocks = {name for block in blocks for name in [block.name] if name}
    assert sum(b.parameters for b in blocks) == pytest.approx(
        sum(p.numel() for p in network.parameters()), rel=0.05
    )  # position and class tokens stand in no layer
    assert len(in_blocks) < 25
    assert torch.equal(before, torch.get_rng_state())
    assert not any(module._forward_hooks for module in network.modules())
