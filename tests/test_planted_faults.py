"""Faults that are planted on purpose; each must be caught, with a message that names it."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from leukoscope.config.loading import load_recipe
from leukoscope.config.study import DataConfig, StudyConfig
from leukoscope.core.errors import SplitError
from leukoscope.core.files import read_csv, write_csv
from leukoscope.core.records import Fold
from leukoscope.datasets.audit.run import Audit, audit
from leukoscope.datasets.layouts.load import load_dataset
from leukoscope.datasets.split_checks import check_folds
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.stain import blue_range, nuclear_blue
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.pipeline.folds import plan_protocols
from leukoscope.runtime.bundle import save_bundle
from leukoscope.runtime.golden import verify_bundle
from leukoscope.runtime.predictor import load_bundle


@dataclass(frozen=True)
class Planted:
    """An audited data set with three faults, and where they are."""

    found: Audit
    swapped: tuple[str, str]
    leaked: str

    def finding(self, code: str) -> str:
        """The sentence of the one finding of a kind."""
        return next(f["text"] for f in self.found.passport["findings"] if f["code"] == code)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    spec = PhantomSpec(images=32, sessions=8, size_px=128, confound="scale-bar", seed=5)
    root = write_phantoms(spec, tmp_path_factory.mktemp("faults") / "data")
    rows = read_csv(root / "manifest.csv")
    for number, row in enumerate(rows):
        row["patient_id"] = f"P{number}"
        row["split"] = "train" if number % 5 else "test"
    benign = [row for row in rows if row["label"].lower() == "benign"]
    tested = next(row for row in benign if row["split"] == "test")
    trained, source, *_ = (row for row in benign if row["split"] == "train")
    trained["patient_id"] = tested["patient_id"]  # a leak
    copy = {**source, "path": f"Pro/{Path(source['path']).name}", "label": "pro_b"}
    shutil.copyfile(root / source["path"], root / copy["path"])  # a label swap
    columns = ("path", "label", "patient_id", "split")
    write_csv(root / "manifest.csv", columns, [{c: r[c] for c in columns} for r in [*rows, copy]])
    found = audit(load_dataset(root / "manifest.csv"))
    return Planted(found, (source["path"], copy["path"]), tested["patient_id"])


def test_a_patient_on_both_sides_of_a_given_split_is_named(planted: Planted) -> None:
    leaks = planted.found.passport["given_parts"]["leaking_patients"]
    assert set(leaks) == {planted.leaked}
    assert planted.leaked in planted.finding("given-parts-share-patients")
    config = StudyConfig(
        data=DataConfig(path="faults"), recipes=(load_recipe("quick"),), protocols=("given",)
    )
    plan = plan_protocols(planted.found.manifest, planted.found, config)
    shared = "given: 1 of 7 test images (of 1 of 7 patients) share a patient with images"
    assert shared in " ".join(plan.notes)


def test_a_split_that_leaks_a_patient_is_refused(planted: Planted) -> None:
    records = planted.found.manifest.usable
    patients = {record.image_id: record.patient_id for record in records}
    parts = {record.image_id: record.given_part for record in records}
    with pytest.raises(SplitError, match=f"group {planted.leaked} has .* in test and .* in train"):
        check_folds([Fold("grouped", 0, parts)], patients)


def test_a_swapped_label_is_found_by_its_copy(planted: Planted) -> None:
    text = planted.finding("label-conflict")
    assert text.startswith("The same picture carries two classes (Benign (hematogones) and Pro-B")
    assert all(path in text for path in planted.swapped)


def test_a_scale_bar_that_follows_the_class_is_named(planted: Planted) -> None:
    text = planted.finding("scale-bar")
    assert "burned-in scale bar" in text
    assert "follows the class" in text
    assert "a model can read the class off it" in text


@pytest.fixture(scope="module")
def tiny() -> ModuleType:
    """The hand-made graph of the runtime's tests: its logits are the image's colours."""
    path = Path(__file__).parent / "runtime" / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_bundles", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_graph_with_exchanged_channels_fails_its_golden_outputs(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tiny.bundle_files()
    good, bad = tmp_path / "good", tmp_path / "bad"
    save_bundle(good, tiny.build_record(), files)
    assert all(check.ok for check in verify_bundle(good, "onnxruntime"))
    # The graph takes BGR, as if it was trained so; hashes fit, for the bundle was saved anew.
    monkeypatch.setattr(tiny, "WEIGHTS", np.ascontiguousarray(tiny.WEIGHTS[::-1]))
    save_bundle(bad, tiny.build_record(), {**files, "model.onnx": tiny.build_graph()})
    failed = [check for check in verify_bundle(bad, "onnxruntime") if not check.ok]
    assert [check.name for check in failed] == [
        f"golden/0{number}.png (onnxruntime fp32)" for number in (0, 1)
    ]
    for check in failed:
        assert "red and blue are exchanged between training and prediction" in check.detail


def test_other_weights_are_not_taken_for_exchanged_channels(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tiny.bundle_files()
    monkeypatch.setattr(tiny, "WEIGHTS", tiny.WEIGHTS * 1.1)
    save_bundle(tmp_path / "b", tiny.build_record(), {**files, "model.onnx": tiny.build_graph()})
    failed = [check for check in verify_bundle(tmp_path / "b", "onnxruntime") if not check.ok]
    assert failed
    assert all("weights or preprocessing are not those" in check.detail for check in failed)


def test_images_with_exchanged_channels_are_rejected_by_name(
    planted: Planted, tiny: ModuleType, tmp_path: Path
) -> None:
    manifest = planted.found.manifest
    images = [decode_image(manifest.path_of(record)).image for record in manifest.usable]
    limits = blue_range(np.array([nuclear_blue(image) for image in images]))
    assert limits is not None
    record = tiny.build_record(nuclear_blue=limits, ood=None, quality=None)
    save_bundle(tmp_path / "b", record, tiny.bundle_files())
    predictor = load_bundle(tmp_path / "b", engine="onnxruntime", threads=1)
    for answer in predictor.predict(images):
        assert not any("exchanged" in reason for reason in answer.reasons)
    exchanged = [np.ascontiguousarray(image[..., ::-1]) for image in images]
    caught = [
        answer
        for answer in predictor.predict(exchanged)
        if answer.decision == "reject" and "Red and blue look exchanged" in answer.reasons[0]
    ]
    assert len(caught) >= 0.9 * len(images)


def test_a_range_that_holds_zero_tells_no_exchange() -> None:
    assert blue_range(np.linspace(-5, 60, 50)) is None
