"""Traced graphs are kept without their weights, from process to process."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from leukoscope.config.recipe import ModelConfig
from leukoscope.learning.backbones import build_network
from leukoscope.learning.graphs import export
from leukoscope.learning.graphs.export import filled_trace


class Scaled(nn.Module):
    """A layer with a setting, a buffer that no checkpoint holds, and a weight."""

    def __init__(self, times: int, shift: float, weight: float, seed: int = 0) -> None:
        super().__init__()
        self.times, self.seed = times, seed
        self.register_buffer("shift", torch.tensor([float(shift)]), persistent=False)
        self.weight = nn.Parameter(torch.tensor([float(weight)]))


def traced(module: Scaled) -> onnx.ModelProto:
    """weight · x + shift, as an exporter would write it."""
    values = {"weight": module.weight.detach().numpy(), "shift": module.shift.numpy()}
    tensors = [numpy_helper.from_array(value, name) for name, value in values.items()]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in ("image", "logits")]
    nodes = [helper.make_node("Mul", ["image", "weight"], ["product"])]
    nodes.append(helper.make_node("Add", ["product", "shift"], ["logits"]))
    return helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors))


def numbers(proto: onnx.ModelProto) -> dict[str, float]:
    return {t.name: float(numpy_helper.to_array(t)[0]) for t in proto.graph.initializer}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEUKOSCOPE_CACHE", str(tmp_path))
    monkeypatch.setattr(export, "_recent", OrderedDict())
    return tmp_path / "graphs"


@pytest.fixture
def ask(folder: Path) -> Callable[..., tuple[onnx.ModelProto, bool]]:
    """Asks for a graph, and says whether it had to be traced."""

    def asked(
        module: Scaled, named: Mapping[str, Any] | None = None
    ) -> tuple[onnx.ModelProto, bool]:
        calls = []

        def trace() -> onnx.ModelProto:
            calls.append(module)
            return traced(module)

        return filled_trace(module, named or {"opset": 18}, trace), bool(calls)

    return asked


Ask = Callable[..., tuple[onnx.ModelProto, bool]]


@pytest.mark.parametrize("new_process", [False, True])
def test_a_kept_graph_gets_the_numbers_of_the_network_at_hand(
    ask: Ask, folder: Path, new_process: bool
) -> None:
    first, was_traced = ask(Scaled(2, 0.5, weight=3))
    assert was_traced
    assert numbers(first) == {"weight": 3, "shift": 0.5}
    if new_process:
        export._recent.clear()
    second, was_traced = ask(Scaled(2, 0.5, weight=7, seed=1))
    assert not was_traced
    assert numbers(second) == {"weight": 7, "shift": 0.5}
    (kept,) = folder.iterdir()
    empty = onnx.load_from_string(kept.read_bytes()[64:])
    assert [len(t.raw_data) for t in empty.graph.initializer] == [0, 4]  # no weight is written


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (Scaled(3, 0.5, weight=3), {"opset": 18}),
        (Scaled(2, 0.6, weight=3), {"opset": 18}),
        (Scaled(2, 0.5, weight=3), {"opset": 17}),
        (nn.Sequential(Scaled(2, 0.5, weight=3)), {"opset": 18}),
        (Scaled(2, 0.5, weight=3).double(), {"opset": 18}),
    ],
    ids=["a setting", "a constant", "what was asked", "another module", "another type"],
)
def test_what_a_graph_depends_on_makes_another_one(
    ask: Ask, module: nn.Module, named: dict[str, Any]
) -> None:
    ask(Scaled(2, 0.5, weight=3))
    inner = module[0] if isinstance(module, nn.Sequential) else module
    calls = []
    filled_trace(module, named, lambda: calls.append(module) or traced(inner))
    assert calls == [module]


@pytest.mark.parametrize(
    ("one", "other", "is_kept"),
    [
        (nn.functional.relu, nn.functional.gelu, True),
        (partial(nn.functional.gelu, approximate="none"), partial(nn.functional.gelu), True),
        ({"side": 7}, {"side": 9}, True),
        (lambda x: x, lambda x: x, False),
        (object(), object(), False),
    ],
    ids=["a function", "a function with arguments", "a table", "no name", "unknown"],
)
def test_what_a_layer_calls_is_part_of_its_key_or_nothing_is_kept(
    ask: Ask, folder: Path, one: object, other: object, is_kept: bool
) -> None:
    def layer(value: object) -> Scaled:
        made = Scaled(2, 0.5, weight=3)
        made.called = value
        return made

    assert ask(layer(one))[1]
    assert ask(layer(one))[1] is not is_kept
    assert ask(layer(other))[1]
    assert folder.exists() is is_kept


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "vit_tiny_patch16_224"])
def test_backbones_can_be_kept(name: str) -> None:
    config = ModelConfig(backbone=name, weights="none")
    first, second = (build_network(config, num_classes=2, size_px=224, seed=k) for k in (1, 2))
    assert export._structure(first)["layers"] == export._structure(second)["layers"]


def test_another_version_traces_again(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(Scaled(2, 0.5, weight=3))
    monkeypatch.setattr(export, "_makers", lambda: ["torch 99"])
    assert ask(Scaled(2, 0.5, weight=3))[1]


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b[:70] + b"x" + b[71:], lambda b: b""]
)
def test_a_damaged_file_is_made_again(
    ask: Ask, folder: Path, damage: Callable[[bytes], bytes]
) -> None:
    ask(Scaled(2, 0.5, weight=3))
    (kept,) = folder.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    export._recent.clear()
    found, was_traced = ask(Scaled(2, 0.5, weight=4))
    assert was_traced
    assert numbers(found) == {"weight": 4, "shift": 0.5}
    assert kept.read_bytes() == whole


def test_the_graphs_that_were_not_used_for_longest_are_deleted(
    ask: Ask, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(Scaled(0, 0, weight=1))
    (first,) = folder.iterdir()
    monkeypatch.setattr(export, "LIMIT_BYTES", int(3.5 * first.stat().st_size))
    for times in (1, 2):
        ask(Scaled(times, 0, weight=1))
    for path in folder.iterdir():
        os.utime(path, (1000, 1000) if path != first else (900, 900))
    export._recent.clear()
    assert not ask(Scaled(0, 0, weight=1))[1]  # used: now the newest
    ask(Scaled(3, 0, weight=1))
    assert len(list(folder.iterdir())) == 3
    assert first.is_file()


def test_nothing_is_kept_where_nothing_may_or_can_be(
    ask: Ask, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file where the folder should be")
    assert numbers(ask(Scaled(2, 0.5, weight=3))[0]) == {"weight": 3, "shift": 0.5}
    folder.unlink()
    monkeypatch.setenv("LEUKOSCOPE_CACHE", "off")
    export._recent.clear()
    ask(Scaled(2, 0.5, weight=3))
    assert not folder.exists()
