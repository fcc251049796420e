"""Graphs without an end: whoever runs them gets an answer."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from leukoscope.analyses.foreign_inputs import open_foreign_model
from leukoscope.core.errors import BundleError, DataError
from leukoscope.runtime import bounded_run
from leukoscope.runtime.bounded_run import run_bounded
from leukoscope.runtime.engines import open_engine

BATCH = np.zeros((1, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def endless() -> bytes:
    """Means of the colours, copied 2⁶² times."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Identity", ["before"], ["after"]),
        ],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []),
         value("before", TensorProto.FLOAT, None)],
        [value("on", TensorProto.BOOL, []), value("after", TensorProto.FLOAT, None)],
    )  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2], keepdims=0),
            helper.make_node("Loop", ["many", "true", "mean"], ["logits"], body=body),
        ],
        "endless",
        [value("image", TensorProto.UINT8, ["N", 8, 8, 3])],
        [value("logits", TensorProto.FLOAT, ["N", 3])],
        [
            helper.make_tensor("many", TensorProto.INT64, [], [2**62]),
            helper.make_tensor("true", TensorProto.BOOL, [], [True]),
        ],
    )
    opset = [helper.make_opsetid("", 13)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=8)
    return model.SerializeToString()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_run, "RUN_S", 0.3)


def test_a_bundle_whose_graph_has_no_end_is_given_up(endless: bytes, soon: None) -> None:
    engine = open_engine(endless, engine="auto", threads=1)
    assert engine.name == "onnxruntime"  # OpenVINO does not stop a loop
    started = time.monotonic()
    with pytest.raises(BundleError, match=r"does not answer: it came to no end within 0.3 s"):
        engine.run(BATCH)
    assert time.monotonic() - started < 20


def test_so_is_a_foreign_model(endless: bytes, soon: None, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(endless)
    model = open_foreign_model(tmp_path / "model.onnx", ["a", "b", "c"])
    with pytest.raises(DataError, match=r"model.onnx: this graph does not answer"):
        model.probabilities(BATCH)


def test_openvino_refuses_a_loop(endless: bytes) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(BundleError, match="holds a loop"):
        open_engine(endless, engine="openvino", threads=1)


def test_one_run_that_is_given_up_does_not_end_another(endless: bytes) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(endless, options, providers=["CPUExecutionProvider"])
    ended: dict[str, float] = {}
    started = time.monotonic()

    def run(name: str, seconds: float) -> None:
        with pytest.raises(TimeoutError):
            run_bounded(session, ["logits"], {"image": BATCH}, seconds)
        ended[name] = time.monotonic() - started

    later = threading.Thread(target=run, args=("later", 4.0))
    later.start()
    run("sooner", 0.2)
    later.join(30)
    assert ended["sooner"] < 4.0 <= ended["later"]
