"""``data inspect|audit`` on open classes, columns and patterns, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from leukoscope.analyses.ablation import plan_ablation
from leukoscope.analyses.transfer import plan_transfer
from leukoscope.cli.main import app
from leukoscope.config import DEFAULT_RECIPE
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import UsageError
from leukoscope.core.files import read_csv, read_json


@pytest.fixture
def smears(tmp_path: Path) -> Path:
    """Three levels: patient, smear, cell type; one site for each diagnosis."""
    rng = np.random.default_rng(0)
    for patient in range(12):
        for smear in ("smear 1", "smear 2"):
            for kind in ("Blast", "Hairy cell"):
                folder = tmp_path / "data" / f"Patient_{patient:02d}" / smear / kind
                folder.mkdir(parents=True)
                image = rng.integers(0, 256, (40, 40, 3), np.uint8)
                cv2.imwrite(str(folder / "1.png"), image)
    rows = [f"patient_{p},{('aml', 'hcl')[p % 2]},{'NS'[p % 2]},{40 + p}" for p in range(12)]
    (tmp_path / "data" / "patients.csv").write_text(
        "patient_id,diagnosis,site,age\n" + "\n".join(rows) + "\n"
    )
    return tmp_path / "data"


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["data", *words], terminal_width=200)
    assert result.exit_code == 0, result.output
    return result.output


def test_inspect_says_what_each_class_is(smears: Path) -> None:
    text = run("inspect", str(smears))
    assert "no known name: a class of its own" in text
    assert "where the role is not known, state it: --role hairy_cell=malignant" in text
    assert "further columns: site, session, diagnosis, age" in text
    found = json.loads(run("inspect", str(smears), "--role", "hairy_cell=malignant", "--json"))
    assert [(row["name"], row["role"], row["patients"]) for row in found["classes"]] == [
        ("blast", "malignant", 12),
        ("hairy_cell", "malignant", 12),
    ]


def test_another_column_as_label_is_audited_by_patient(smears: Path, tmp_path: Path) -> None:
    run("audit", str(smears), "--target", "diagnosis", "--out", str(tmp_path / "audit"))
    rows = read_csv(tmp_path / "audit" / "manifest.csv")
    assert {(row["label"], row["given_label"], row["session"], row["site"]) for row in rows} == {
        (label, kind, smear, site)
        for label, site in (("aml", "N"), ("hcl", "S"))
        for kind in ("Blast", "Hairy cell")
        for smear in ("smear 1", "smear 2")
    }
    columns = {c["column"]: c for c in read_json(tmp_path / "audit" / "passport.json")["columns"]}
    assert (columns["site"]["unit"], columns["site"]["effect"]) == ("patient", 1.0)
    assert columns["site"]["p_holm"] < 0.05 <= columns["session"]["p_holm"]


def test_splits_of_a_study_are_not_replaced(smears: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    splits = tmp_path / "splits.csv"
    words = ["data", "split", str(smears), "-p", "random", "--out", str(splits)]
    done = CliRunner().invoke(app, words, terminal_width=200)
    assert done.exit_code == 2
    assert "belongs to the study" in done.output
    assert not splits.exists()


def test_no_table_is_written_where_no_fold_is_made(smears: Path, tmp_path: Path) -> None:
    for path in sorted(smears.rglob("*.png")):  # classes without patients
        place = tmp_path / "plain" / path.parent.name / f"{'_'.join(path.parts[-4:-2])}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    out = tmp_path / "splits.csv"
    words = ["data", "split", str(tmp_path / "plain"), "--out", str(out), "-p", "grouped"]
    done = CliRunner().invoke(app, words, terminal_width=200)
    assert done.exit_code == 1
    said = " ".join(done.output.split())
    assert "error: no folds were made: grouped does not apply, the images have no patient" in said
    assert not out.exists()
    done = CliRunner().invoke(app, [*words, "-p", "random"], terminal_width=200)
    assert done.exit_code == 0, done.output
    assert "grouped does not apply: the images have no patient ids" in done.output
    assert "5 folds of random" in done.output


def test_a_pattern_chooses_the_class(smears: Path) -> None:
    found = json.loads(run("inspect", str(smears), "--layout", "{patient}/{class}/*", "--json"))
    assert [row["name"] for row in found["classes"]] == ["smear_1", "smear_2"]


def test_a_target_is_the_label_wherever_images_are_shown_or_written(
    smears: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    found = run("samples", str(smears), "--target", "diagnosis", "--per-class", "2", "--out",
                f"{out}/s.png", "--json")  # fmt: skip
    assert {row["label"] for row in json.loads(found[found.index("[") :])} == {"aml", "hcl"}
    run("export", str(smears), "--target", "diagnosis", "--out", str(out / "pixels"))
    assert {row["label"] for row in read_csv(out / "pixels" / "manifest.csv")} == {"aml", "hcl"}
    run("preview", str(smears), "--target", "diagnosis", "--per-class", "1", "--out", str(out))
    assert (out / "inputs.png").is_file()


def test_train_by_patient_takes_a_recipe_and_a_protocol_for_patients(
    smears: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[StudyConfig] = []

    def stop(config: StudyConfig, *_: object, **__: object) -> None:
        asked.append(config)
        raise UsageError("stopped")

    monkeypatch.setattr("leukoscope.study.run.run_study", stop)
    for more in (["--target", "diagnosis", "--unit", "patient"], []):
        call = ["train", str(smears), *more, "--out", str(tmp_path / "run")]
        assert "stopped" in CliRunner().invoke(app, call).output
    patients, images = asked
    assert (patients.unit, patients.data.target) == ("patient", "diagnosis")
    assert [recipe.name for recipe in patients.recipes] == ["patient-mean"]
    assert patients.protocols == ("grouped",)
    assert ([recipe.name for recipe in images.recipes], images.protocols) == (
        [DEFAULT_RECIPE], ("deduplicated",),
    )  # fmt: skip


def test_both_sides_of_a_transfer_and_an_ablation_have_a_label_column(smears: Path) -> None:
    both = plan_transfer(
        smears, smears, recipe="double-transfer-resnet50", label_column="diagnosis",
        source_label_column="cell_type", source_layout="*/*/{cell_type}",
    )  # fmt: skip
    assert (both.source.data.target, both.source.data.layout) == ("cell_type", "*/*/{cell_type}")
    assert both.source.protocols == ("deduplicated",)  # this layout names no patient
    assert (both.target.data.target, both.target.data.layout) == ("diagnosis", "auto")
    plan = plan_ablation(
        smears, recipe="cnn-baseline", without=["augmentation"], target="diagnosis"
    )  # fmt: skip
    assert {arm.config.data.target for arm in plan.variants} == {"diagnosis"}


def test_how_data_is_read_is_no_option_of_a_finished_run(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["robustness", str(tmp_path), "--target", "diagnosis"])
    assert done.exit_code == 2
    assert "a run knows its own images" in " ".join(done.output.split())


def _typed(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], terminal_width=200)


@pytest.mark.parametrize(
    "words",
    [
        ("study", "--plan"),
        ("train", "--out", "run"),
        ("data", "audit", "--out", "audit"),
        ("data", "split", "-p", "random", "--out", "splits.csv"),
        ("data", "samples", "--out", "samples.png"),
    ],
)
def test_a_class_that_the_data_lacks_is_refused_before_the_work(
    smears: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    number = 2 if words[0] == "data" else 1
    done = _typed(*words[:number], smears, *words[number:], "--class", "Blats=all")
    assert done.exit_code == 2, done.output
    assert "unknown folder or label of --class 'Blats'" in done.stderr
    assert "Did you mean 'Blast'?" in done.stderr
    assert not [path.name for path in tmp_path.iterdir() if path.name != "data"]


def test_a_plan_refuses_what_the_study_would(smears: Path, tmp_path: Path) -> None:
    for patient in (smears / "Patient_00", smears / "Patient_01"):
        patient.rename(patient.with_name(f"anon {patient.name[-1]} x"))
    done = _typed("study", smears, "-p", "grouped", "--plan")
    assert done.exit_code == 1, done.output
    assert "no protocol applies to this data (grouped: 8 of 48 images have no" in done.stderr
    assert "training" not in done.stdout
    by_patient = (smears, "--unit", "patient", "--layout", "{patient}/*/{class}")
    by_patient = (*by_patient, "--target", "diagnosis", "-p", "random")
    done = _typed("study", *by_patient, "--plan")
    assert done.exit_code == 1, done.output
    assert "no protocol applies to this data (random: it divides images" in done.stderr
    one = ("--class", "Blast=all", "--class", "Hairy cell=all")
    done = _typed("study", smears, *one, "--plan")
    assert done.exit_code == 1, done.output
    assert "a classifier needs two classes, found all" in done.stderr


def test_a_class_of_one_patient_gets_a_hint(smears: Path) -> None:
    rows = [f"patient_{p},{'hcl' if p else 'aml'}" for p in range(12)]
    (smears / "patients.csv").write_text("patient_id,diagnosis\n" + "\n".join(rows) + "\n")
    target = (smears, "--target", "diagnosis", "--plan")
    done = _typed("study", *target, "-p", "grouped")
    assert done.exit_code == 1, done.output
    assert "images of only one patient: it would be missing" in done.stderr
    assert "merge that class into another: --class FOLDER=CLASS, with the name" in done.stderr
    assert "-p random divides images" in done.stderr
    done = _typed("study", *target, "-p", "grouped", "--unit", "patient")
    assert "--class FOLDER=CLASS" in done.stderr
    assert "-p random" not in done.stderr


def test_one_of_two_classes_that_the_data_lacks_is_named(smears: Path, tmp_path: Path) -> None:
    done = _typed("data", "samples", smears, "--out", tmp_path / "s.png",
                  "--class", "Blats=all", "--class", "Blast=all")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "! --class names 'Blats', which is no folder or value of this data" in done.stderr
