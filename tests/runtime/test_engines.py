from __future__ import annotations

import base64
import importlib.util
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper

from leukoscope.core.errors import BundleError, MissingExtraError, UnknownNameError, UsageError
from leukoscope.runtime import engines
from leukoscope.runtime.engines import ENGINES, engine_self_test, open_engine

SIZE = 32

BOTH = [
    "onnxruntime",
    pytest.param(
        "openvino",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed"
        ),
    ),
]


def random_batch(n: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, SIZE, SIZE, 3)).astype(np.uint8)


@pytest.mark.parametrize("engine", BOTH)
def test_outputs_are_what_the_graph_says(engine: str, tiny: SimpleNamespace) -> None:
    batch = random_batch()
    opened = open_engine(tiny.graph(), engine=engine, threads=1)
    outputs = opened.run(batch)
    features = batch.mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(outputs["features"], features, atol=1e-5)
    np.testing.assert_allclose(outputs["logits"], features @ tiny.weights, atol=1e-4)
    assert outputs["maps"].shape == (5, 3, 4, 4)
    np.testing.assert_allclose(outputs["maps"].mean(axis=(2, 3)), outputs["logits"], atol=1e-4)
    assert all(value.dtype == np.float32 for value in outputs.values())
    assert opened.outputs["logits"] == (None, 3)
    assert (opened.name, opened.size_px) == (engine, tiny.size)


@pytest.mark.parametrize("engine", BOTH)
def test_results_are_kept_when_the_engine_runs_again(engine: str, tiny: SimpleNamespace) -> None:
    opened = open_engine(tiny.graph(), engine=engine, threads=1)
    first = opened.run(random_batch(2))["logits"]
    copy = first.copy()
    opened.run(255 - random_batch(2))
    np.testing.assert_array_equal(first, copy)


@pytest.mark.parametrize("engine", BOTH)
def test_an_engine_may_be_used_from_several_threads(engine: str, tiny: SimpleNamespace) -> None:
    opened = open_engine(tiny.graph(), engine=engine, threads=1)
    batches = [random_batch(n) for n in (1, 2, 3, 4)] * 5
    expected = [opened.run(batch)["logits"] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda batch: opened.run(batch)["logits"], batches))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize("cut", [0, 20, 200])
def test_a_damaged_graph_is_refused(
    engine: str, cut: int, tmp_path: Path, tiny: SimpleNamespace
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny.graph()[:cut])
    with pytest.raises(BundleError, match=r"model\.onnx: expected an ONNX graph"):
        open_engine(path, engine=engine)


@pytest.mark.parametrize("engine", BOTH)
def test_the_self_test_passes(engine: str) -> None:
    assert engine_self_test(engine).startswith(f"{engine}: ")


def test_the_self_test_graph_is_what_its_comment_says() -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["logits"], axes=[1, 2], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "self_test",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 2, 2, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
    )
    opset = [helper.make_opsetid("", 13)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    assert base64.b64decode(engines._SELF_TEST_GRAPH) == made


def test_the_self_test_notices_wrong_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(data: bytes, *how: object) -> engines._Opened:
        shapes = {"image": (None, 2, 2, 3)}, {"logits": (None, 3)}
        return *shapes, lambda batch: {"logits": np.zeros((len(batch), 3), np.float32)}

    monkeypatch.setattr(engines, "ENGINES", {"onnxruntime": wrong})
    with pytest.raises(BundleError, match="wrong numbers"):
        engine_self_test("onnxruntime")


def test_an_unknown_engine_is_named_with_the_choices(tiny: SimpleNamespace) -> None:
    with pytest.raises(UnknownNameError, match="openvino") as caught:
        open_engine(tiny.graph(), engine="openvin")
    assert caught.value.choices == ("auto", "onnxruntime", "openvino")


def test_auto_takes_what_every_installation_has(
    monkeypatch: pytest.MonkeyPatch, tiny: SimpleNamespace
) -> None:
    opened = open_engine(tiny.graph(), threads=1)
    assert (opened.name, opened.reason) == ("onnxruntime", "every installation has it")
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="openvino"):
        open_engine(tiny.graph(), engine="openvino")
    with pytest.raises(UsageError, match="ONNX Runtime has no bf16"):
        open_engine(tiny.graph(), precision="bf16")


def test_auto_falls_back_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tiny: SimpleNamespace
) -> None:
    def broken(data: bytes, *how: object) -> engines._Opened:
        raise RuntimeError("unsupported operation")

    monkeypatch.setattr(engines, "find_spec", lambda name: True)
    there = {**ENGINES, "onnxruntime": broken, "openvino": ENGINES["onnxruntime"]}
    monkeypatch.setattr(engines, "ENGINES", there)
    opened = open_engine(tiny.graph(), threads=1)
    assert opened.name == "openvino"
    assert "unsupported operation" in opened.reason


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, SIZE, SIZE, 3), np.float32),
        np.zeros((1, 3, SIZE, SIZE), np.uint8),
        np.zeros((SIZE, SIZE, 3), np.uint8),
        np.zeros((0, SIZE, SIZE, 3), np.uint8),
    ],
)
def test_a_wrong_batch_is_refused(batch: np.ndarray, tiny: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="expected a batch"):
        open_engine(tiny.graph(), engine="onnxruntime", threads=1).run(batch)


def test_a_graph_without_logits_is_refused() -> None:
    value = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 8, 8, 3])
    result = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 8, 8, 3])
    graph = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["scores"])], "g", [value], [result]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    with pytest.raises(BundleError, match="an output 'logits', found scores"):
        open_engine(model.SerializeToString(), engine="onnxruntime")


def test_threads_must_be_positive(tiny: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="at least one thread"):
        open_engine(tiny.graph(), threads=0)


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="no OpenVINO")
def test_bf16_is_near_where_the_processor_has_it(tiny: SimpleNamespace) -> None:
    if engines.unsupported_reason("openvino", "bf16"):
        with pytest.raises(UsageError, match="bf16 cannot be had from openvino"):
            open_engine(tiny.graph(), engine="openvino", precision="bf16")
        return
    batch = random_batch()
    opened = open_engine(tiny.graph(), engine="openvino", precision="bf16", threads=1)
    expected = open_engine(tiny.graph(), engine="openvino", threads=1).run(batch)["logits"]
    assert opened.precision == "bf16"
    np.testing.assert_allclose(opened.run(batch)["logits"], expected, rtol=0.03)


def test_bf16_of_onnx_runtime_is_refused(tiny: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="ONNX Runtime has no bf16"):
        open_engine(tiny.graph(), engine="onnxruntime", precision="bf16")


def test_onnx_runtime_takes_cuda_where_it_is_offered(
    monkeypatch: pytest.MonkeyPatch, tiny: SimpleNamespace
) -> None:
    import onnxruntime

    asked: list[object] = []
    plain = onnxruntime.InferenceSession

    def session(data: bytes, options: object, providers: list[object]) -> object:
        asked.append(providers)
        return plain(data, options, providers=["CPUExecutionProvider"])

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    for precision in ("fp32", "int8"):
        open_engine(tiny.graph(), engine="onnxruntime", precision=precision, threads=1)
    cuda = ("CUDAExecutionProvider", {"use_tf32": "0"})
    assert asked == [[cuda, "CPUExecutionProvider"], ["CPUExecutionProvider"]]


@pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed"
)
def test_arrays_of_openvino_are_set_up_before_threads_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two threads that were the first to see an array of OpenVINO waited for each other."""
    real, seen = engines._openvino(), []

    class Tensor(real.Tensor):  # type: ignore[misc, name-defined]
        @property
        def data(self) -> np.ndarray:
            seen.append(threading.current_thread())
            return super().data

    spied = SimpleNamespace(Core=real.Core, Tensor=Tensor)
    monkeypatch.setattr(engines, "_openvino", lambda: spied)
    open_engine(base64.b64decode(engines._SELF_TEST_GRAPH), engine="openvino", bulk=True)
    assert seen == [threading.current_thread()]
