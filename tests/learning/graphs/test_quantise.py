"""Static int8: near the graph it came from, for both engines, and never without measuring."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import onnx
import pytest

from leukoscope.config.bundle import Calibration, Conformal
from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.core.errors import BundleError
from leukoscope.evaluation.gate import GateInputs, fit_gate
from leukoscope.imaging.background import describe_appearance
from leukoscope.learning.backbones import Network
from leukoscope.learning.graphs.export import network_logits, onnx_bytes
from leukoscope.learning.graphs.variants import quantise
from leukoscope.runtime.engines import ENGINES, open_engine, unsupported_reason
from leukoscope.study import engine_variants
from leukoscope.study.engine_variants import Material, carried_over, measure_variants, run_graph


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    """(24, 64, 64, 3) of noise and gradients."""
    rng = np.random.default_rng(3)
    base = rng.integers(0, 200, (24, 1, 1, 3)) + rng.integers(0, 55, (24, 64, 64, 3))
    return base.astype(np.uint8)


@pytest.fixture(scope="module")
def graphs(tiny: Network, spec: PreprocessSpec, many: np.ndarray) -> tuple[bytes, bytes]:
    plain = onnx_bytes(tiny, spec)
    return plain, quantise(plain, many[:8])


def material(tiny: Network, spec: PreprocessSpec, many: np.ndarray, plain: bytes) -> Material:
    found = run_graph(open_engine(plain, engine="onnxruntime", threads=1), many)
    described = np.stack([describe_appearance(image) for image in many])
    seen = GateInputs(described, found["features"], found["logits"])
    gate, ood = fit_gate(seen.take(np.arange(12)), seen.take(np.arange(12, 24)), seen, [])
    reference = network_logits(tiny, many[:6], spec)

    def decide(logits: np.ndarray) -> tuple[Calibration, Conformal, None]:
        temperature = float(np.abs(logits).mean())
        return (
            Calibration(temperature=temperature, n_cal=len(logits)),
            Conformal(coverage=0.9, threshold=0.5, n_cal=len(logits)),
            None,
        )

    y = found["logits"].argmax(axis=1)
    groups = [str(number) for number in range(24)]
    unseen = found["logits"] + 0.01
    return Material(
        many, found["logits"], unseen, y, groups, reference, decide, gate, ood, many[:2]
    )


def test_only_dense_convolutions_are_quantised(graphs: tuple[bytes, bytes]) -> None:
    before, after = (onnx.load_from_string(graph).graph for graph in graphs)
    convolutions = [node for node in before.node if node.op_type == "Conv"]
    pairs = [node for node in after.node if node.op_type == "DequantizeLinear"]
    assert len(pairs) > len(convolutions) - 1  # at least the weights of all but the first
    assert [value.name for value in after.output] == ["logits", "features", "maps"]
    assert after.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_what_is_offered_was_measured_and_fitted_by_itself(
    tiny: Network, spec: PreprocessSpec, many: np.ndarray, graphs: tuple[bytes, bytes]
) -> None:
    given = material(tiny, spec, many, graphs[0])
    found, golden = measure_variants(*graphs, given)
    by_name = {f"{s.engine} {s.precision}": s for s in found}
    installed = [name for name in ENGINES if find_spec(name)]
    assert {f"{name} fp32" for name in installed} <= by_name.keys()
    assert {f"{name} int8" for name in installed} <= by_name.keys()
    assert ("openvino bf16" in by_name) == (not unsupported_reason("openvino", "bf16"))
    for name, variant in by_name.items():
        if variant.precision == "fp32":
            assert variant.parity.max_abs < 1e-4
            assert variant.calibration is None
            continue
        assert variant.parity.n == 24
        assert variant.parity.max_abs > 0
        assert (name in golden) == (variant.calibration is not None) == (not variant.refused)
    lower = [s for s in found if s.calibration]
    assert lower
    own = given.decide(given.unseen)[0].temperature
    assert all(s.calibration.temperature != own for s in lower if s.calibration)
    assert all(s.ood and s.ood.n_val == 12 for s in lower)


def test_a_change_is_carried_over_from_the_nearest_image() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=(30, 3))
    change = 0.1 * before
    logits = before[::-1] + 1e-6
    np.testing.assert_allclose(carried_over(before, change, logits), 1.1 * logits, atol=1e-5)


def test_fp32_beyond_its_bound_stops_the_export_by_name(
    tiny: Network, spec: PreprocessSpec, many: np.ndarray, graphs: tuple[bytes, bytes],
) -> None:  # fmt: skip
    given = material(tiny, spec, many, graphs[0])
    wrong = replace(given, reference=given.reference + 0.5)
    with pytest.raises(BundleError, match=r"fp32 does not .*logits differ by up to 0\.5, allowed"):
        measure_variants(graphs[0], None, wrong)


def test_a_precision_beyond_its_bound_is_refused_and_recorded(
    tiny: Network, spec: PreprocessSpec, many: np.ndarray, graphs: tuple[bytes, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(
        engine_variants, "unsupported_reason", lambda engine, precision: "for this test"
    )
    monkeypatch.setattr(engine_variants, "ENGINES", {"onnxruntime": None})
    given = material(tiny, spec, many, graphs[0])
    flat = onnx.load_from_string(graphs[1])
    head = next(i for i in flat.graph.initializer if i.name.endswith("head.weight"))
    head.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(head), head.name))
    found, golden = measure_variants(graphs[0], flat.SerializeToString(), given)
    assert [s.precision for s in found] == ["fp32", "int8"]
    assert "allowed" in found[1].refused
    assert found[1].calibration is None
    assert golden == {}


def test_a_graph_that_cannot_be_quantised_is_named(many: np.ndarray) -> None:
    with pytest.raises(BundleError, match="cannot be quantised to int8"):
        quantise(b"no graph", many)
