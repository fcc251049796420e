"""Which engine and precision serve, and what a bundle says of them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from leukoscope.config.bundle import Calibration, Conformal, EngineVariant
from leukoscope.config.guarantees import BOUNDS, Parity
from leukoscope.core.errors import BundleError, UnknownNameError, UsageError
from leukoscope.evaluation.statistics.comparison import measure_parity
from leukoscope.evaluation.statistics.intervals import proportion_interval
from leukoscope.runtime import engine_choice, engines
from leukoscope.runtime.bundle import MODEL_INT8, read_bundle, save_bundle
from leukoscope.runtime.engine_choice import open_for
from leukoscope.runtime.golden import GOLDEN, verify_bundle
from leukoscope.runtime.predictor import load_bundle

ORT = "onnxruntime"
GOOD = Parity(n=50, max_abs=0.01, scale=10, changed=0)
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed"
)


def variant(engine: str, precision: Any, refused: str = "") -> EngineVariant:
    own = {"calibration": Calibration(temperature=9.0, n_cal=50)} if not refused else {}
    sets = {"conformal": Conformal(coverage=0.9, threshold=0.7, n_cal=50)} if own else {}
    return EngineVariant(
        engine=engine, precision=precision, parity=GOOD, refused=refused, **own, **sets
    )


def saved(tiny: SimpleNamespace, folder: Path, *servings: EngineVariant) -> Path:
    """The tiny bundle; its "int8" graph is the same, its golden answers too."""
    files = tiny.files()
    expected = json.loads(files[GOLDEN])
    alike = {key: expected[key] for key in ("atol", "logits")}
    expected["servings"] = {f"{s.engine} {s.precision}": alike for s in servings if not s.refused}
    files |= {GOLDEN: json.dumps(expected).encode(), MODEL_INT8: tiny.graph()}
    save_bundle(folder, tiny.record(servings=servings), files)
    return folder


def test_an_older_bundle_serves_in_fp32_and_says_why(tiny_bundle: Path) -> None:
    opened = open_for(read_bundle(tiny_bundle), ORT)
    assert (opened.name, opened.precision) == (ORT, "fp32")
    assert opened.reason == "asked for by name; fp32 is its fastest"
    with pytest.raises(UsageError, match=r"int8 is not offered .*no record of int8"):
        open_for(read_bundle(tiny_bundle), ORT, "int8")


@needs_openvino
def test_auto_takes_the_fastest_that_is_offered(
    tiny: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_choice, "unsupported_reason", lambda engine, precision: "")
    servings = [variant("openvino", "bf16", "logits differ"), variant("openvino", "int8")]
    opened = open_for(read_bundle(saved(tiny, tmp_path / "b", *servings)))
    assert (opened.name, opened.precision) == ("openvino", "int8")
    assert "within its bounds on 50 validation images" in opened.reason
    assert "not bf16: logits differ" in opened.reason
    # What the processor cannot do is not taken, whatever the record says.
    monkeypatch.setattr(engine_choice, "unsupported_reason", engines.unsupported_reason)
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert engine_choice.refusal_reason(
        tiny.record(servings=[variant("openvino", "bf16")]), "openvino", "bf16"
    )


@needs_openvino
def test_in_fp32_onnx_runtime_answers_and_below_it_openvino(
    tiny: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_choice, "unsupported_reason", lambda engine, precision: "")
    plain = read_bundle(saved(tiny, tmp_path / "a"))
    opened = open_for(plain)
    assert (opened.name, opened.precision) == (ORT, "fp32")
    assert opened.reason.startswith("in fp32 as fast as OpenVINO, and it starts sooner; fp32")
    assert open_for(plain, "openvino").name == "openvino"
    lower = read_bundle(saved(tiny, tmp_path / "b", variant("openvino", "int8")))
    for precision, chosen in {"auto": "openvino int8", "int8": "openvino int8"}.items():
        found = open_for(lower, precision=precision)
        assert f"{found.name} {found.precision}" == chosen
    assert open_for(lower, precision="fp32").name == ORT


@needs_openvino
def test_an_engine_that_cannot_open_the_model_is_named_and_the_other_answers(
    tiny: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(data: bytes, *how: object) -> engines._Opened:
        raise RuntimeError("unsupported operation")

    bundle = read_bundle(saved(tiny, tmp_path / "b"))
    monkeypatch.setattr(engines, "ENGINES", {**engines.ENGINES, ORT: broken})
    opened = open_for(bundle)
    assert opened.name == "openvino"
    assert opened.reason.startswith(f"{ORT} could not open the model")
    assert "unsupported operation" in opened.reason


def test_the_precision_that_serves_brings_its_own_decisions(
    tiny: SimpleNamespace, tmp_path: Path
) -> None:
    folder = saved(tiny, tmp_path / "b", variant(ORT, "int8"))
    image = tiny.colour(120, 100, 60)
    (plain,) = load_bundle(folder, engine=ORT, threads=1).predict([image])
    predictor = load_bundle(folder, engine=ORT, precision="int8", threads=1)
    (other,) = predictor.predict([image])
    assert plain.logits == pytest.approx(other.logits)
    assert predictor.record.calibration.temperature == 9
    assert max(other.probabilities.values()) < max(plain.probabilities.values())


def test_every_offered_precision_is_verified(tiny: SimpleNamespace, tmp_path: Path) -> None:
    folder = saved(tiny, tmp_path / "b", variant(ORT, "int8"))
    checks = verify_bundle(folder, ORT)
    assert all(check.ok for check in checks), checks
    for precision in ("fp32", "int8"):
        assert sum(f"({ORT} {precision})" in check.name for check in checks) == 3
    assert not any("fp32" in check.name for check in verify_bundle(folder, ORT, "int8"))
    with pytest.raises(UnknownNameError, match="fp16"):
        verify_bundle(folder, ORT, "fp16")
    with pytest.raises(UsageError, match="bf16 is not offered"):
        verify_bundle(folder, ORT, "bf16")


def test_another_int8_graph_fails_its_golden_outputs(tiny: SimpleNamespace, tmp_path: Path) -> None:
    folder = saved(tiny, tmp_path / "a", variant(ORT, "int8"))
    bundle = read_bundle(folder)
    files: dict[str, bytes | Path] = {name: folder / name for name in bundle.record.files}
    save_bundle(tmp_path / "b", bundle.record, files | {MODEL_INT8: tiny.graph(classes=2)})
    failed = [check for check in verify_bundle(tmp_path / "b", ORT) if not check.ok]
    assert [check.name for check in failed] == [f"graph ({ORT} int8)"]
    assert "3 classes are named" in failed[0].detail
    del files[MODEL_INT8]
    with pytest.raises(BundleError, match=r"model\.int8\.onnx is not among the files"):
        save_bundle(tmp_path / "c", bundle.record, files)


@pytest.mark.parametrize("content", ['{"atol": 1}', '{"atol": "x", "logits": {"00.png": [1]}}'])
def test_golden_files_of_another_shape_fail_by_name(
    content: str, tiny: SimpleNamespace, tmp_path: Path
) -> None:
    save_bundle(tmp_path / "b", tiny.record(), tiny.files() | {GOLDEN: content.encode()})
    failed = [check for check in verify_bundle(tmp_path / "b", ORT) if not check.ok]
    assert failed
    assert all("golden" in check.name for check in failed)


def test_bounds_name_figure_and_limit() -> None:
    old = np.array([[5.0, 0.0], [0.0, 5.0], [4.0, 1.0], [1.0, 4.0]])
    truth = [0, 1, 0, 1]
    assert measure_parity(old, old + 0.004).refusal("fp32") == ""
    assert "up to 0.02, allowed 0.005" in measure_parity(old, old + 0.02).refusal("fp32")
    assert measure_parity(old, old + 0.02).refusal("compact") == ""
    assert "nan" not in measure_parity(old, old * np.nan).refusal("int8")
    assert measure_parity(old, old * np.nan).refusal("int8")
    flipped = np.array([[5.0, 0.0], [0.0, 5.0], [4.0, 1.0], [2.4, 2.3]])
    parity = measure_parity(old, flipped, truth)
    assert parity.changed == 0.25
    assert parity.accuracy_change == -0.25
    assert "logits differ" in parity.refusal("int8")
    tolerant = parity.model_copy(update={"max_abs": 0.1})
    assert "the class changes on 25.00% of the images" in tolerant.refusal("int8")
    worse = tolerant.model_copy(update={"changed": 0.0, "accuracy_change": -0.004})
    assert "accuracy falls by 0.40 points, allowed 0.3" in worse.refusal("int8")
    same = measure_parity(old, old, truth)
    assert same.low == pytest.approx(-proportion_interval(0, 4)[1])
    assert same.high == pytest.approx(0.6024, abs=1e-4)  # 1 − .025^(1/4)
    wider = measure_parity(old, old, truth, confidence=0.99)
    assert wider.high == pytest.approx(1 - 0.005**0.25)
    assert [BOUNDS[name].changed for name in ("fp32", "bf16", "int8")] == [0, 0.01, 0.02]
