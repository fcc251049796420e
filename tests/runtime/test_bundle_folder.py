"""Finding bundles, and the commands that show and verify them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from typer.testing import CliRunner

from leukoscope.cli.commands.bundle import _envelope
from leukoscope.cli.main import app
from leukoscope.config.bundle import (
    BundleRecord,
    ConfusionsFile,
    DistanceLimit,
    PatientLimits,
    PatientModel,
)
from leukoscope.core.errors import BundleError
from leukoscope.reporting.bundle_card import patient_facts, render_bundle_card
from leukoscope.runtime.found_bundles import find_bundles

runner = CliRunner()


@pytest.fixture
def shelf(tmp_path: Path, tiny_bundle: Path) -> Path:
    """A good bundle, a damaged one, and one in a hidden folder."""
    for name in ("runs/good", "runs/bad", "runs/.old/bundle"):
        shutil.copytree(tiny_bundle, tmp_path / name)
    (tmp_path / "runs/bad/LICENSE").write_text("changed")
    return tmp_path / "runs"


def test_a_damaged_bundle_is_listed_with_its_damage(shelf: Path) -> None:
    bad, good = find_bundles(shelf)
    assert (bad.folder.name, good.folder.name) == ("bad", "good")
    assert "LICENSE: changed" in bad.problem
    assert good.problem == ""
    assert good.name.startswith("tiny@")
    assert good.class_names == ("benign", "pre_b", "pro_b")
    with pytest.raises(BundleError, match="expected a folder"):
        find_bundles(shelf / "nowhere")


def test_list(shelf: Path) -> None:
    done = runner.invoke(app, ["bundle", "list", str(shelf), "--json"])
    assert [Path(row["folder"]).name for row in json.loads(done.output)] == ["bad", "good"]
    done = runner.invoke(app, ["bundle", "list", str(shelf)])
    assert done.exit_code == 0
    assert "readable" in done.output
    (shelf / "empty").mkdir()
    assert "no bundle below" in runner.invoke(app, ["bundle", "list", str(shelf / "empty")]).output


def test_verify_answers_with_its_exit_code(shelf: Path) -> None:
    done = runner.invoke(app, ["bundle", "verify", str(shelf / "good"), "--engine", "onnxruntime"])
    assert done.exit_code == 0, done.output
    assert done.output.count("PASS") == 4
    done = runner.invoke(app, ["bundle", "verify", str(shelf / "bad"), "--json"])
    assert done.exit_code == 1
    assert [check["ok"] for check in json.loads(done.output)] == [False]


def test_show_says_what_the_classes_are(shelf: Path) -> None:
    done = runner.invoke(app, ["bundle", "show", str(shelf / "good")])
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    assert "Hematogones: benign B-cell precursors" in words
    assert "aim at 90%" in words
    done = runner.invoke(app, ["bundle", "show", str(shelf / "good"), "--json"])
    assert json.loads(done.output)["class_names"] == ["benign", "pre_b", "pro_b"]
    done = runner.invoke(app, ["bundle", "show", str(shelf / "bad")])
    assert done.exit_code == 1
    assert "LICENSE" in done.output


LIMITS = PatientLimits(
    accept=0.95,
    distances=(DistanceLimit(images=1, distance=0.6), DistanceLimit(images=4, distance=0.25)),
    rejected=0.2,
    n_patients=30,
)


@pytest.mark.parametrize(
    ("limits", "gate", "review"),
    [
        (
            LIMITS,
            "than 0.6 by 1, 0.25 by 4 images or more (accepts 95% of patients like them)",
            "fewer than 12 usable images, or more than 20.0% of the images rejected",
        ),
        (None, "none: too few patients to set one", "12 usable images, or most of the images"),
    ],
)
def test_a_model_of_patients_says_what_a_patient_may_be_like(
    tiny: SimpleNamespace, limits: PatientLimits | None, gate: str, review: str
) -> None:
    model = PatientModel(
        pooling="mean-probability", n_patients=30, images=(12, 20, 60), limits=limits
    )
    record = tiny.record(patient=model)
    found = dict(patient_facts(record))
    assert "30 patients with 12 to 60 images each (median 20)" in found["a patient is"]
    assert gate in found["patient gate"]
    assert review in found["patient for review"]
    assert "Patient gate" in render_bundle_card(record, "a" * 64)


def test_a_model_of_images_says_how_a_patient_is_answered_and_counted(
    shelf: Path, tiny: SimpleNamespace
) -> None:
    shown = runner.invoke(app, ["bundle", "show", str(shelf / "good")])
    words = " ".join(shown.output.split())
    assert "images of a patient joined by" in words
    assert "not adjusted: confusions are not known" in words
    known = ConfusionsFile(protocol="grouped", unit="patient", n_units=25, n=1400)
    found = dict(patient_facts(tiny.record(confusions=known)))
    assert "1,400 images of 25 patients held out (grouped)" in found["counts of cells"]


def test_a_model_of_patients_has_no_envelope_to_measure() -> None:
    """`robustness` refuses patients, so that its name would be of no use."""
    of_patients = SimpleNamespace(envelope=None, patient=object())
    assert _envelope(cast(BundleRecord, of_patients)) == [
        ("envelope", "does not apply to a model of patients")
    ]
    of_images = SimpleNamespace(envelope=None, patient=None)
    assert "robustness RUN" in _envelope(cast(BundleRecord, of_images))[0][1]
