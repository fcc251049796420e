from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from leukoscope.config.bundle import OutOfDistribution, QualityLimits
from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.core.errors import BundleError, UnknownNameError
from leukoscope.core.files import sha256_file
from leukoscope.runtime import bundle
from leukoscope.runtime.bundle import check_graph, read_bundle, save_bundle
from leukoscope.runtime.engines import open_engine
from leukoscope.runtime.golden import golden_files, verify_bundle

FILES = (
    "model.onnx",
    "ood.safetensors",
    "MODEL_CARD.md",
    "LICENSE",
    "trained_on.txt",
    "golden/expected.json",
    "golden/00.png",
)

OPENVINO = importlib.util.find_spec("openvino") is not None


def test_a_saved_bundle_reads_back(tiny: SimpleNamespace, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "bundle"
    record = save_bundle(folder, tiny.record(), tiny.files())
    bundle = read_bundle(folder)
    assert bundle.record == record
    assert bundle.record.class_names == tiny.classes
    assert set(record.files) == {*FILES, "golden/01.png"}
    assert record.files["model.onnx"] == sha256_file(bundle.model)
    assert bundle.sha256 == sha256_file(folder / "bundle.json")
    assert bundle.load_trained_on() == {"aa", "bb"}
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]  # nothing left over


def test_files_may_come_from_disk(tiny: SimpleNamespace, tmp_path: Path) -> None:
    model = tmp_path / "any.onnx"
    model.write_bytes(tiny.graph())
    save_bundle(tmp_path / "b", tiny.record(), tiny.files() | {"model.onnx": model})
    assert read_bundle(tmp_path / "b").model.read_bytes() == model.read_bytes()


def test_a_bundle_is_replaced_as_a_whole(tiny: SimpleNamespace, tiny_bundle: Path) -> None:
    files = tiny.files()
    del files["trained_on.txt"]
    save_bundle(tiny_bundle, tiny.record(name="second"), files)
    bundle = read_bundle(tiny_bundle)
    assert bundle.record.name == "second"
    assert bundle.load_trained_on() == frozenset()


def test_a_failed_save_leaves_the_old_bundle(
    tiny: SimpleNamespace, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def broken(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(BundleError, match="No space left"):
        save_bundle(tiny_bundle, tiny.record(name="second"), tiny.files())
    assert read_bundle(tiny_bundle).record.name == "tiny"
    assert [path.name for path in tiny_bundle.parent.iterdir()] == ["bundle"]


def test_another_folder_is_never_replaced(tiny: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(BundleError, match="found something else"):
        save_bundle(tmp_path, tiny.record(), tiny.files())
    assert (tmp_path / "thesis.txt").read_text() == "ten years of work"


@pytest.mark.parametrize(
    "name", ["../out.txt", "/tmp/out.txt", "a/../../b.txt", "a\\b.txt", "bundle.json", "./a.txt"]
)
def test_a_name_may_not_leave_the_bundle(name: str, tiny: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no name for a file"):
        save_bundle(tmp_path / "b", tiny.record(), tiny.files() | {name: b"x"})


@pytest.mark.parametrize("name", ["model.pkl", "weights.pt", "run.py", "weights"])
def test_a_bundle_holds_data_only(name: str, tiny: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="may not hold"):
        save_bundle(tmp_path / "b", tiny.record(), tiny.files() | {name: b"x"})


@pytest.mark.parametrize("name", ["model.onnx", "ood.safetensors"])
def test_a_needed_file_may_not_be_left_out(
    name: str, tiny: SimpleNamespace, tmp_path: Path
) -> None:
    files = tiny.files()
    del files[name]
    with pytest.raises(BundleError, match=f"needs {name}"):
        save_bundle(tmp_path / "b", tiny.record(), files)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["change", "truncate", "remove"])
def test_a_damaged_file_is_named(name: str, damage: str, tiny_bundle: Path) -> None:
    path = tiny_bundle / name
    data = path.read_bytes()
    if damage == "change":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()
    with pytest.raises(BundleError, match="missing" if damage == "remove" else "changed") as caught:
        read_bundle(tiny_bundle)
    assert str(path) in caught.value.message


def test_a_file_that_is_not_listed_is_named(tiny_bundle: Path) -> None:
    (tiny_bundle / "golden" / "evil.pkl").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"evil\.pkl: this file does not belong"):
        read_bundle(tiny_bundle)


def test_what_file_managers_leave_is_ignored(tiny_bundle: Path) -> None:
    (tiny_bundle / ".DS_Store").write_bytes(b"x")
    read_bundle(tiny_bundle)


def edit_record(folder: Path, **changes: Any) -> None:
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("version", [2, 0, None, "1"])
def test_another_schema_version_is_refused_before_anything_else(
    version: object, tiny_bundle: Path
) -> None:
    edit_record(tiny_bundle, schema_version=version, files="a later shape of this key")
    with pytest.raises(BundleError, match=f"schema version 1, found {version!r}") as caught:
        read_bundle(tiny_bundle)
    assert "install the version" in caught.value.hint


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\x00"])
def test_a_record_that_is_no_json_object_is_refused(text: str, tiny_bundle: Path) -> None:
    (tiny_bundle / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match=r"bundle\.json: (damaged|this version)"):
        read_bundle(tiny_bundle)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unknown_key": 1}, "unknown_key"),
        ({"calibration": {"temperature": -1, "n_cal": 5}}, "calibration.temperature"),
        ({"calibration": {"temperature": 1e-320, "n_cal": 5}}, "calibration.temperature"),
        ({"class_names": ["benign", "benign", "pre_b"]}, "named twice"),
        ({"files": {}}, "model.onnx is not among the files"),
        ({"files": {"model.onnx": "", "../x.txt": ""}}, "is no name"),
        ({"quality": {"low": {"beauty": 1.0}, "high": {"beauty": 2.0}}}, "expected quality limits"),
        ({"quality": {"low": {"snr": 1.0}, "high": {}}}, "expected quality limits"),
    ],
)
def test_a_wrong_record_is_refused(
    changes: dict[str, Any], message: str, tiny_bundle: Path
) -> None:
    edit_record(tiny_bundle, **changes)
    with pytest.raises(BundleError, match=message):
        read_bundle(tiny_bundle)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"watermark": "x"}, "watermark: there is no such key"),
        ({"servings": [{"engine": "openvino", "precision": "fp8"}]}, r"servings\.0\.precision"),
    ],
)
def test_a_bundle_of_a_newer_version_is_refused_by_its_key(
    changes: dict[str, Any], what: str, tiny_bundle: Path
) -> None:
    edit_record(tiny_bundle, versions={"leukoscope": "9.0.0"}, **changes)
    with pytest.raises(BundleError, match=what) as caught:
        read_bundle(tiny_bundle)
    assert "written by leukoscope 9.0.0, this is" in caught.value.message
    assert "install the version that wrote it" in (caught.value.hint or "")


@pytest.mark.parametrize(("made", "what"), [(False, "no such folder"), (True, "no bundle.json")])
def test_a_folder_that_is_no_bundle_is_refused(made: bool, what: str, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    if made:
        folder.mkdir()
    with pytest.raises(BundleError, match=what):
        read_bundle(folder)


def refusal(tiny: SimpleNamespace, folder: Path, record: Any, files: dict[str, bytes]) -> str:
    save_bundle(folder, record, files)
    bundle = read_bundle(folder)
    engine = open_engine(bundle.model, engine="onnxruntime", threads=1)
    with pytest.raises(BundleError) as caught:
        check_graph(bundle, engine)
    return caught.value.message


@pytest.mark.parametrize("dynamic", [False, True])
def test_classes_must_fit_the_logits(dynamic: bool, tiny: SimpleNamespace, tmp_path: Path) -> None:
    graph = tiny.graph(classes=2, dynamic=dynamic)
    files = tiny.files() | {"model.onnx": graph}
    message = refusal(tiny, tmp_path / "b", tiny.record(), files)
    assert "3 classes are named" in message
    assert "'logits' has shape" in message


def test_the_input_size_must_fit_the_preprocessing(tiny: SimpleNamespace, tmp_path: Path) -> None:
    record = tiny.record(preprocess=PreprocessSpec(size_px=64))
    message = refusal(tiny, tmp_path / "b", record, tiny.files())
    assert "makes images of 64 px, the graph takes 32 px" in message


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_ood_statistics_must_fit_the_features(
    dynamic: bool, tiny: SimpleNamespace, tmp_path: Path
) -> None:
    files = tiny.files() | {"ood.safetensors": tiny.ood(5)}
    files["model.onnx"] = tiny.graph(dynamic=dynamic)
    assert "need 5 features" in refusal(tiny, tmp_path / "b", tiny.record(), files)


def test_the_ood_statistics_need_features(tiny: SimpleNamespace, tmp_path: Path) -> None:
    files = tiny.files() | {"model.onnx": tiny.graph(features=False)}
    assert "shape none" in refusal(tiny, tmp_path / "b", tiny.record(), files)


def test_damaged_ood_tensors_are_named(tiny: SimpleNamespace, tmp_path: Path) -> None:
    files = tiny.files() | {"ood.safetensors": b"\x08\0\0\0\0\0\0\0garbage!"}
    assert "ood.safetensors" in refusal(tiny, tmp_path / "b", tiny.record(), files)


@pytest.mark.parametrize("engine", ["auto", "onnxruntime"])
def test_a_good_bundle_verifies(engine: str, tiny_bundle: Path) -> None:
    checks = verify_bundle(tiny_bundle, engine)
    names = [check.name for check in checks]
    for one in ("openvino", "onnxruntime") if engine == "auto" and OPENVINO else ("onnxruntime",):
        steps = ("graph", "golden/00.png", "golden/01.png")
        assert [f"{step} ({one} fp32)" for step in steps] == [n for n in names if one in n]
    assert all(check.ok for check in checks), checks


def test_verification_with_an_unknown_engine_is_wrong_use(tiny_bundle: Path) -> None:
    with pytest.raises(UnknownNameError):
        verify_bundle(tiny_bundle, "tensorflow")


def test_golden_outputs_catch_another_graph(tiny: SimpleNamespace, tmp_path: Path) -> None:
    """Hashes fit, shapes fit, and yet the numbers are others: only golden outputs can tell."""
    files = tiny.files()
    expected = json.loads(files["golden/expected.json"])
    expected["logits"]["01.png"][2] += 0.01
    files["golden/expected.json"] = json.dumps(expected).encode()
    save_bundle(tmp_path / "b", tiny.record(), files)
    checks = {check.name: check for check in verify_bundle(tmp_path / "b")}
    assert checks["golden/00.png (onnxruntime fp32)"].ok
    assert not checks["golden/01.png (onnxruntime fp32)"].ok
    assert "1.0e-02, allowed 1e-03" in checks["golden/01.png (onnxruntime fp32)"].detail


def test_golden_outputs_catch_other_preprocessing(tiny: SimpleNamespace, tmp_path: Path) -> None:
    record = tiny.record(preprocess=PreprocessSpec(size_px=tiny.size, resize="letterbox"))
    wide = np.repeat(tiny.colour(150, 40, 40), 2, axis=1)
    files = tiny.files()
    engine = open_engine(files["model.onnx"], engine="onnxruntime")
    square = wide[:32, :32]
    files |= golden_files([wide], engine.run(square[None])["logits"])
    save_bundle(tmp_path / "b", record, files)
    check = next(c for c in verify_bundle(tmp_path / "b") if c.name.startswith("golden/00.png"))
    assert not check.ok


def test_golden_outputs_of_another_length_are_reported(
    tiny: SimpleNamespace, tmp_path: Path
) -> None:
    files = tiny.files() | golden_files([tiny.colour(1, 2, 3)], np.zeros((1, 2)))
    save_bundle(tmp_path / "b", tiny.record(), files)
    check = next(c for c in verify_bundle(tmp_path / "b") if c.name.startswith("golden/00.png"))
    assert (check.ok, check.detail) == (False, "expected 2 logits, found 3")


def test_a_bundle_without_golden_outputs_does_not_verify(
    tiny: SimpleNamespace, tmp_path: Path
) -> None:
    files = {name: data for name, data in tiny.files().items() if "golden" not in name}
    save_bundle(tmp_path / "b", tiny.record(), files)
    checks = verify_bundle(tmp_path / "b", "onnxruntime")
    assert [check.ok for check in checks] == [True, True, False]


def test_verification_reports_damage_instead_of_raising(tiny_bundle: Path) -> None:
    (tiny_bundle / "LICENSE").write_text("mine")
    (check,) = verify_bundle(tiny_bundle)
    assert (check.name, check.ok) == ("files", False)
    assert "LICENSE" in check.detail


def test_the_optional_parts_may_be_absent(tiny: SimpleNamespace, tmp_path: Path) -> None:
    files = tiny.files()
    del files["ood.safetensors"]
    save_bundle(tmp_path / "b", tiny.record(ood=None, quality=None), files)
    assert read_bundle(tmp_path / "b").load_gate() is None


def test_every_file_of_the_record_is_hashed(tiny_bundle: Path) -> None:
    listed = read_bundle(tiny_bundle).record.files
    found = {
        path.relative_to(tiny_bundle).as_posix()
        for path in tiny_bundle.rglob("*")
        if path.is_file()
    }
    assert found - {"bundle.json"} == set(listed)


def test_the_record_may_name_its_own_tensor_file(tiny: SimpleNamespace, tmp_path: Path) -> None:
    ood = OutOfDistribution(
        tensors="far/away.safetensors", accept=0.95, threshold=4, n_fit=9, n_val=9
    )
    files = tiny.files()
    files["far/away.safetensors"] = files.pop("ood.safetensors")
    limits = QualityLimits(low={"snr": 1.0}, high={"snr": 2.0})
    save_bundle(tmp_path / "b", tiny.record(ood=ood, quality=limits), files)
    assert read_bundle(tmp_path / "b").load_gate() is not None
    assert bundle.check_name("far/away.safetensors", tmp_path, "bundle.json") is None
