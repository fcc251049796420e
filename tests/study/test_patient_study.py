"""A study whose unit is the patient, from phantoms to a bundle that answers for patients."""

from __future__ import annotations

import csv
import re
import shutil
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from leukoscope.analyses.compare.runs import compare_runs
from leukoscope.cli.commands.bundle import _print_evaluation
from leukoscope.config.bundle import DistanceLimit
from leukoscope.config.comparison import ComparisonFile
from leukoscope.config.metrics.file import evaluation_metrics
from leukoscope.config.stored import check_record
from leukoscope.core.errors import ConfigError, DataError, UsageError
from leukoscope.core.files import read_csv, read_json
from leukoscope.core.records import load_folds
from leukoscope.evaluation.calibration.scaling import apply_calibration
from leukoscope.evaluation.run_files import RunFiles
from leukoscope.phantom.render import TRUTH_FOLDER, write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.pipeline.progress import Progress
from leukoscope.runtime.by_patient import PatientCollector, features_of, patients_of_table
from leukoscope.runtime.predictor import load_bundle
from leukoscope.study.bundle_evaluation import evaluate_bundle
from leukoscope.study.external import evaluate_external
from leukoscope.study.options import study_config
from leukoscope.study.run import StudyResult, run_study

RECIPES = ("patient-spread", "patient-mean", "patient-attention")
OVERRIDES = ["preprocess.size_px=64", "bootstrap=100", "control_draws=2", "explanations=1",
             "model.backbone=test_resnet", "model.weights=none"]  # fmt: skip
PATIENTS, IMAGES = 8, 3
"""Patients of each of the two classes, and images of each patient."""


def phantom_patients(folder: Path) -> Path:
    """Draw two classes of phantoms, and deal them to patients.

    Returns:
        The manifest, with columns ``path``, ``label``, ``patient_id``, ``cell_type``, ``site`` and
        ``age``.
    """
    spec = PhantomSpec(
        images=2 * PATIENTS * IMAGES,
        sessions=9,
        size_px=96,
        seed=5,
        class_names=("benign", "pro_b"),
    )
    root = write_phantoms(spec, folder)
    paths = sorted(p for p in root.rglob("*.png") if TRUTH_FOLDER not in p.parts)
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(path.parent.name, []).append(str(path.relative_to(root)))
    first, last = sorted(found)
    manifest = root / "cells.csv"
    with manifest.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(("path", "label", "patient_id", "cell_type", "site", "age"))
        for label, name in (("aml", first), ("apl", last)):
            for place, path in enumerate(found[name]):
                kind = "blast" if (place + (label == "apl")) % 3 else "lymphocyte"
                patient = place // IMAGES
                site, age = "ab"[patient % 2], 30 + 3 * patient + (label == "apl")
                writer.writerow((path, label, f"{label}-{patient:02d}", kind, site, age))
    return manifest


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantom_patients(tmp_path_factory.mktemp("data") / "phantoms")


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The recipes, the last as a file: two networks of few passes in place of five of 150."""
    kind = 'kind = "gated-attention"'
    packaged = files("leukoscope.config") / "recipes" / f"{RECIPES[-1]}.toml"
    text = packaged.read_text("utf-8")
    assert text.count(kind) == 1
    shorter = tmp_path_factory.mktemp("recipes") / "shorter.toml"
    shorter.write_text(text.replace(kind, f"{kind}\nseeds = 2\nepochs = 40"), "utf-8")
    return (*RECIPES[:-1], str(shorter))


@pytest.fixture(scope="module")
def study(
    data: Path, recipes: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> StudyResult:
    config = study_config(
        data, unit="patient", recipes=recipes, probes=["colour-only", "file-only"], folds=3,
        overrides=OVERRIDES,
    )  # fmt: skip
    return run_study(config, tmp_path_factory.mktemp("runs") / "run")


def test_every_result_counts_patients(study: StudyResult) -> None:
    entries = [e for e in study.metrics.results if e.protocol == "grouped"]
    assert {e.recipe for e in entries} == set(RECIPES)
    for entry in (*entries, *study.metrics.probes, *study.metrics.model_on):
        assert (entry.n, entry.row) == (2 * PATIENTS, "patient")
    assert entries[0].next_unit is not None
    assert entries[0].next_unit.unit == "20 patients"
    reasons = {row.protocol: row.reason for row in study.metrics.inapplicable}
    assert "a row of this study is a patient" in reasons["random"]
    assert "every row of this study is a patient" in study.metrics.subjects.inapplicable


def test_a_comparison_counts_patients(study: StudyResult, tmp_path: Path) -> None:
    out, patients = tmp_path / "compared", 2 * PATIENTS
    found = compare_runs([study.run.path], out, models=False).content
    assert (found.row, found.protocols[0].n) == ("patient", patients)
    text = (out / "comparison.md").read_text()
    for said in (
        f"phantoms: {patients * IMAGES} images of {patients} patients",
        f"Patients held out; {patients} patients\n",
        "All recipes on the same test patients",
        "Paired tests of Accuracy on the same patients",
        "Patients per part",
        "| n patients |",
        "share of patients whose most probable class",
    ):
        assert said in text
    assert f"{patients} images" not in text
    old = {key: value for key, value in found.to_json().items() if key != "row"}
    assert check_record(ComparisonFile, old, "comparison.json", "").row == "image"


def test_runs_of_patients_and_of_images_are_not_compared(
    study: StudyResult, tmp_path: Path
) -> None:
    other = tmp_path / "of-images"
    shutil.copytree(study.run.path, other, ignore=shutil.ignore_patterns("cache", "models"))
    config = other / "config.toml"
    text = config.read_text()
    assert 'unit = "patient"' in text
    config.write_text(text.replace('unit = "patient"', 'unit = "image"'))
    with pytest.raises(DataError, match="run classifies patients, of-images images"):
        compare_runs([study.run.path, other], tmp_path / "out", models=False)


def test_subgroups_count_patients(study: StudyResult) -> None:
    found = study.metrics.subgroups
    assert found is not None
    assert (found.recipe, found.protocol, found.row) == (RECIPES[0], "grouped", "patient")
    site, age = found.columns  # cell types differ within patients
    assert [(group.value, group.n, group.n_groups) for group in site.groups] == [
        ("a", PATIENTS, PATIENTS), ("b", PATIENTS, PATIENTS),
    ]  # fmt: skip
    assert site.groups[0].by_class == {"aml": PATIENTS // 2, "apl": PATIENTS // 2}
    assert not site.groups[0].metrics["accuracy"].reliable
    assert site.p is not None
    assert (age.kind, len(age.groups), sum(group.n for group in age.groups)) == ("bands", 3, 16)
    text = study.run.report_md.read_text()
    assert "By subgroup" in text
    assert "By age, recipe patient-spread" in text


def test_folds_hold_whole_patients_out(study: StudyResult) -> None:
    folds = [f for f in load_folds(study.run.splits) if f.protocol == "grouped"]
    tested = [name for fold in folds for name in fold.ids("test")]
    assert sorted(tested) == [row["patient_id"] for row in read_csv(study.run.patients)]


def test_the_report_speaks_of_patients(study: StudyResult) -> None:
    text = study.run.report_md.read_text()
    assert f"{2 * PATIENTS} patients: " in text
    assert "Results on test patients" in text
    assert "Cells that decided" in text
    sheets = read_json(study.run.explanations / "patients.json")
    assert len(sheets) == 2 * PATIENTS
    assert all((study.run.path / entry["sheet"]).is_file() for entry in sheets)
    assert all(len(entry["cells"]) == IMAGES for entry in sheets)


def test_what_counts_patients_does_not_speak_of_images(study: StudyResult) -> None:
    files = (study.run.report_md, study.run.model_card, *study.run.checklists.glob("*.md"))
    texts = [path.read_text() for path in files]
    for text in texts:
        # Pictures are degraded and shown, and a checklist asks; what is counted are patients.
        found = re.findall(r"(?:test|calibration|validation|training|same) images", text)
        asked = ("mildly degraded test images", "perturbed versions of its test images",
                 "mild degradation of the test images", "unseen test images",
                 "range of the training images", "whether test images were treated",
                 "How the test images were annotated")  # fmt: skip
        assert len(found) == sum(text.count(words) for words in asked)
    report, card, *lists = texts
    assert "| True | → AML | → APL | n patients |" in report
    assert "| Protocol | Class | n patients |" in report
    assert "**Patients per part, mean of the folds**" in report
    assert "of the patients that get 80 %, eight in ten should be right" in report
    assert "Accuracy when uncertain patients are deferred" in report
    assert "- **Coverage**: Share of patients whose prediction set" in report
    assert "calibration and test patients are different ones, none of them" in report
    assert "so it has no test patients of its own" in card
    assert f"of {2 * PATIENTS} test patients 0 have images that overlap" in card
    assert f"{2 * PATIENTS} of {2 * PATIENTS} usable patients take part" in "".join(lists)
    assert "train 50.0 / 50.0 %" in "".join(lists)  # it had been 0.0 / 0.0 %


def test_a_finished_study_resumes_to_the_same(study: StudyResult, data: Path) -> None:
    before = study.run.metrics.read_bytes()
    config = RunFiles.open(study.run.path).config
    run_study(config, study.run.path, resume=True, report=False)
    assert study.run.metrics.read_bytes() == before


def test_the_bundle_answers_as_the_head_of_the_study(study: StudyResult, data: Path) -> None:
    predictor = load_bundle(study.run.bundle)
    assert predictor.record.patient is not None
    assert predictor.record.patient.n_patients == 2 * PATIENTS
    rows = [row for row in read_csv(data) if row["patient_id"] == "aml-00"]
    answers = predictor.predict([data.parent / row["path"] for row in rows])
    assert all("a contribution, no diagnosis" in " ".join(a.reasons) for a in answers)
    collector = PatientCollector.of(predictor, patients_of_table(data))
    for answer in answers:
        collector.add(answer)
    (found,) = collector.rows()
    used = [a for a in answers if a.decision != "reject"]
    assert found["n_images"] == len(used)
    logits = predictor.patient_head.logits(features_of(used))
    p = apply_calibration(logits[None], predictor.record.calibration)[0]
    assert [found["p_aml"], found["p_apl"]] == pytest.approx(p.tolist(), abs=1e-5)
    one = predictor.patient_head.logits(features_of(answers[:1]))
    np.testing.assert_allclose(one - one.mean(), np.array(answers[0].logits) - np.mean(
        answers[0].logits), atol=1e-3)  # fmt: skip


def test_a_patient_unlike_those_of_the_study_is_rejected_with_the_reason(
    study: StudyResult, data: Path
) -> None:
    predictor = load_bundle(study.run.bundle)
    model = predictor.record.patient
    assert model is not None
    limits = model.limits
    assert limits is not None
    assert (limits.n_patients, limits.accept) == (2 * PATIENTS, 0.95)
    rows = [row for row in read_csv(data) if row["patient_id"] == "apl-02"]
    answers = predictor.predict([data.parent / row["path"] for row in rows])

    def row(**changed: object) -> dict[str, object]:
        own = model.model_copy(update={"limits": limits.model_copy(update=changed)})
        collector = PatientCollector.of(predictor, patients_of_table(data))
        collector.record = predictor.record.model_copy(update={"patient": own})
        for answer in answers:
            collector.add(answer)
        return collector.rows()[0]

    assert [one.images for one in limits.distances] == [1, 2]
    assert limits.distance(1) > limits.distance(2) == limits.distance(50)
    assert 0 < row()["distance"] <= limits.distance(3)
    far = row(distances=(DistanceLimit(images=1, distance=0.0),))
    assert far["decision"] == "reject"
    assert "The images together are unlike those of the study's patients" in far["reasons"]
    assert far["predicted"] == row()["predicted"]
    answers[0] = replace(answers[0], decision="reject")
    lost = row(rejected=0.0)
    assert lost["decision"] == "review"
    assert "1 of 3 images is unlike the training images; of the study's" in lost["reasons"]


def test_sheets_of_new_patients(study: StudyResult, data: Path, tmp_path: Path) -> None:
    predictor = load_bundle(study.run.bundle)
    rows = [row for row in read_csv(data) if row["patient_id"] == "apl-01"]
    collector = PatientCollector.of(predictor, patients_of_table(data))
    for answer in predictor.predict([data.parent / row["path"] for row in rows]):
        collector.add(answer)
    sheets = collector.save_sheets(tmp_path)
    assert len(sheets) == bool(collector.rows()[0]["n_images"])
    assert all(sheet.is_file() for sheet in sheets)


def test_what_looks_at_images_refuses_the_run(study: StudyResult) -> None:
    with pytest.raises(UsageError, match="the unit of this study is the patient"):
        RunFiles.open(study.run.path).need_images("explain")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"recipes": ["finetune"]}, "trains a network image by image"),
        ({"unit": "image", "recipes": ["quick"], "probes": ["cell-share"]}, "needs unit"),
        ({"unit": "smear", "recipes": ["quick"]}, "unit"),
        ({"recipes": ["patient-mean"], "overrides": ["inner_folds=3", "x=1"]}, "x"),
    ],
)
def test_what_does_not_fit_is_refused(data: Path, options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        study_config(data, **{"unit": "patient", **options})


def test_a_patient_with_two_labels_stops_the_study(data: Path, tmp_path: Path) -> None:
    torn = shutil.copytree(data.parent, tmp_path / "torn") / data.name
    torn.write_text(torn.read_text().replace(",aml,aml-00", ",apl,aml-00", 1))
    with pytest.raises(DataError, match=r"aml-00 \(aml, apl\)"):
        run_study(
            study_config(torn, unit="patient", folds=3, overrides=OVERRIDES), tmp_path / "run"
        )  # fmt: skip


def _other_patients(data: Path, folder: Path) -> Path:
    """A manifest of the same images whose patients have other names."""
    rows = read_csv(data)
    manifest = folder / "later.csv"
    with manifest.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(("path", "label", "patient_id"))
        for row in rows:
            path = (data.parent / row["path"]).resolve()
            writer.writerow((path, row["label"], f"later-{row['patient_id']}"))
    return manifest


def test_other_data_is_measured_by_patient(
    study: StudyResult,
    data: Path,
    recipes: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    later = _other_patients(data, tmp_path)
    found = evaluate_bundle(
        study.run.bundle, later, tmp_path / "out", layout="auto", class_map={},
        listener=lambda *_: None,
    )  # fmt: skip
    (result,) = found.metrics.results
    lost = [text for text in found.metrics.warnings if "none of whose images" in text]
    assert (result.row, result.group_unit) == ("patient", "patient")
    assert result.n == 2 * PATIENTS - sum(text.count("later-") for text in lost)
    assert any("used to train" in text for text in found.metrics.warnings)  # the very same files
    rows = read_csv(RunFiles(found.run).run.predictions)
    assert all(row["image_id"].startswith("later-") for row in rows)
    assert {"accuracy", "roc_auc"} <= {score.metric for score in found.promised}
    assert {score.protocol for score in found.promised} == {"grouped"}
    assert not found.broken
    worse = found.metrics.to_json()
    worse["results"][0]["metrics"]["accuracy"] = {"value": 0, "low": 0, "high": 0}
    worse_found = replace(found, metrics=evaluation_metrics(worse))
    assert [score.metric for score in worse_found.broken] == ["accuracy"]
    capsys.readouterr()
    _print_evaluation(worse_found)
    shown = capsys.readouterr().out
    assert "in its study, patients held out" in shown
    assert "intervals that do not meet: accuracy\n" in shown
    assert "hold the class, 0.95 aimed at" in shown

    config = study_config(
        data, unit="patient", recipes=recipes, probes=[], folds=3, overrides=OVERRIDES,
        external=[later],
    )  # fmt: skip
    run = RunFiles(study.run)
    metrics, unreadable = evaluate_external(study.run, config, run.metrics, run.splits, Progress())
    assert not unreadable
    (entry,) = metrics.external
    assert entry.n == result.n
    assert entry.forecast


def test_other_data_without_patients_is_refused(
    study: StudyResult, data: Path, tmp_path: Path
) -> None:
    rows = read_csv(data)
    manifest = tmp_path / "nobody.csv"
    lines = [f"{(data.parent / row['path']).resolve()},{row['label']}" for row in rows]
    manifest.write_text("\n".join(["path,label", *lines]))
    with pytest.raises(DataError, match="every image must name its patient"):
        evaluate_bundle(
            study.run.bundle, manifest, tmp_path / "out", layout="auto", class_map={},
            listener=lambda *_: None,
        )  # fmt: skip
