"""A bundle promises what it was calibrated for: units that the answering model had not seen."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from leukoscope.config.loading import load_recipe, load_study_config
from leukoscope.config.study import DataConfig, SplitConfig, StudyConfig
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_csv, read_json, write_csv
from leukoscope.core.records import Fold, ImageRecord, Manifest, load_folds
from leukoscope.core.run_folder import OOD_COLUMNS, OOD_CSV, RunFolder
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.imaging.decode import decode_image
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.pipeline.folds import final_fold
from leukoscope.pipeline.results.entries import FoldResults
from leukoscope.pipeline.results.out_of_fold import Nested, promise_entry
from leukoscope.reporting.study.card import render_model_card
from leukoscope.runtime.bundle import read_bundle
from leukoscope.runtime.heatmap import encode_png
from leukoscope.study.bundling import export_bundle
from leukoscope.study.options import study_config
from leukoscope.study.run import StudyResult, run_study

PATIENTS, IMAGES = 16, 7
SMALL = [
    "preprocess.size_px=64", "model.backbone=test_resnet", "model.weights=none", "bootstrap=100",
    "explanations=0", "control_draws=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def tinted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fields of 16 patients, each with a tint of its own that says nothing of the label."""
    spec = PhantomSpec(images=PATIENTS * IMAGES, sessions=8, size_px=96, seed=8)
    folder = write_phantoms(spec, tmp_path_factory.mktemp("tinted") / "data")
    rng, rows = np.random.default_rng(4), []
    for number, row in enumerate(read_csv(folder / "manifest.csv")):
        patient = number % PATIENTS
        tint = np.random.default_rng(patient).uniform(0.4, 1.0, 3)
        pixels = decode_image(folder / row["path"]).image * tint + rng.normal(0, 2, 3)
        name = f"{number:03d}.png"
        (folder / name).write_bytes(encode_png(np.clip(pixels, 0, 255).astype(np.uint8)))
        label = ("healthy", "all")[patient % 2]
        rows.append({"path": name, "label": label, "patient_id": f"P{patient:02d}"})
    write_csv(folder / "patients.csv", ("path", "label", "patient_id"), rows)
    return folder / "patients.csv"


@pytest.fixture(scope="module")
def result(tinted: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    config = study_config(
        tinted, recipes=["quick"], protocols=["grouped", "deduplicated"], folds=4,
        probes=["colour-only"],
        overrides=[*SMALL, "operating_point=miss at most 20 % of malignant patients, "
                   "with 80 % confidence"],
    )  # fmt: skip
    return run_study(config, tmp_path_factory.mktemp("promise") / "run")


def patients_of(result: StudyResult) -> dict[str, str]:
    manifest = Manifest.load(result.run.manifest, Path("x"))
    return {record.image_id: record.patient_id for record in manifest.usable}


def test_no_patient_behind_the_calibration_trained_the_model_that_answered(
    result: StudyResult,
) -> None:
    patient, folds = patients_of(result), load_folds(result.run.splits)
    final = next(fold for fold in folds if fold.protocol == "final")
    trained = {patient[i] for i in final.ids("train")}
    assert not {patient[i] for i in final.ids("cal")} & trained
    assert not {patient[i] for i in final.ids("val")} & trained
    record = read_bundle(result.run.bundle).record
    answered = 0
    for fold in (fold for fold in folds if fold.protocol == "grouped"):
        trained = {patient[i] for part in ("train", "val", "cal") for i in fold.ids(part)}
        assert not {patient[i] for i in fold.ids("test")} & trained
        answered += len(fold.ids("test"))
    assert record.calibration.n_cal == record.conformal.n_cal == answered == PATIENTS * IMAGES
    assert record.ood is not None
    assert record.ood.n_unseen == answered


def test_a_model_that_knows_its_patients_is_not_taken_for_sure_of_new_ones(
    result: StudyResult,
) -> None:
    """Tints name the patients: every image of them is right, of new ones half are."""
    record = read_bundle(result.run.bundle).record
    accuracy = result.metrics.to_json()["results"][0]["metrics"]["accuracy"]["value"]
    assert accuracy < 0.8
    assert record.calibration.temperature > 1.2
    sure = [row for row in result.metrics.to_json()["calibration"] if row["protocol"] == "grouped"]
    assert max(sure[0]["temperature"]) > 1


def test_everything_that_decides_comes_from_the_held_out_answers(result: StudyResult) -> None:
    from leukoscope.evaluation.calibration.conformal import fit_promise

    run, record = result.run, read_bundle(result.run.bundle).record
    folds = [f for f in load_folds(run.splits) if f.protocol == "grouped"]
    tests = [
        PredictionTable.load(run.model("quick", "grouped", f.fold) / "predictions.csv").select(
            part="test"
        )
        for f in folds
    ]
    table, patient = concatenate(tests), patients_of(result)
    units = [patient[i] for i in table.image_id.tolist()]
    calibration, sets = fit_promise(table.logits, table.y_true, units, 0.95)
    assert record.calibration.temperature == pytest.approx(calibration.temperature)
    assert record.conformal.threshold == pytest.approx(sets.threshold)
    scores = [
        float(row["score"])
        for f in folds
        for row in _rows(run.model("quick", "grouped", f.fold) / OOD_CSV)
        if row["part"] == "test" and not row["outlier"]
    ]
    assert record.ood is not None
    assert np.mean(np.array(scores) <= record.ood.threshold) == pytest.approx(0.95, abs=0.03)
    assert record.operating_point is not None
    known = np.array(table.class_names)[table.y_true] == "all"
    ill = {patient[i] for i in table.image_id[known].tolist()}
    assert record.operating_point.n_cal == len(ill)
    entry = result.metrics.to_json()["subjects"]["results"][0]
    assert record.subject_method == entry["bundle_method"]


def _rows(path: Path) -> list[dict[str, str]]:
    return read_csv(path, OOD_COLUMNS)


def test_the_bundle_the_card_and_the_report_say_for_whom(result: StudyResult) -> None:
    record = read_bundle(result.run.bundle).record
    assert record.promise is not None
    assert (record.promise.unit, record.promise.protocol) == ("patient", "grouped")
    units = {unit for f in load_folds(result.run.splits) if f.protocol == "grouped"
             for unit in f.groups.values()}  # fmt: skip
    assert (record.promise.n_groups, record.promise.n) == (len(units), PATIENTS * IMAGES)
    measured = result.metrics.to_json()["promise"]["coverage"]
    assert record.promise.measured is not None
    assert record.promise.measured.model_dump() == measured
    words = (
        "95 % sets: fitted on 16 patients held out, too few to promise 95 % for new patients (19)"
    )
    assert len(units) == 16
    assert record.promise_words == words
    for text in (render_model_card(result.run), result.run.report_md.read_text()):
        assert words in text
        assert "What the bundle promises of a new patient" in text
    assert "of whole patients" not in record.trained_on
    assert record.trained_on.startswith("all usable images of patients.csv (")


def test_a_bundle_knows_all_images_that_it_was_made_of(result: StudyResult) -> None:
    """Those that chose the penalty too: the head was fitted on them in the end."""
    bundle = read_bundle(result.run.bundle)
    found = re.search(r"\((\d+) train, (\d+) val;", bundle.record.trained_on)
    assert found is not None
    train, val = map(int, found.groups())
    assert val > 0
    assert len(bundle.load_trained_on()) == train + val


def test_without_larger_units_the_promise_says_so(tinted: Path, tmp_path: Path) -> None:
    run = run_study(
        tinted, tmp_path / "run", recipes=["quick"], protocols=["random"], probes=[], folds=2,
        overrides=SMALL, report=False,
    ).run  # fmt: skip
    record = export_bundle(run, "quick", run.bundle)
    assert record.promise is not None
    assert record.promise.unit == "image"
    assert "promises nothing for new patients" in record.promise_words
    assert record.conformal.guarantee == "marginal"
    assert read_json(run.metrics)["promise"]["n_groups"] == PATIENTS * IMAGES
    old = json.loads(record.model_dump_json()) | {"promise": None}
    assert "training patients; promises nothing" in type(record)(**old).promise_words
    del old["promise"], old["ood"]["n_unseen"]
    assert type(record)(**old).ood.n_unseen == 0


def test_a_missing_fold_is_named(result: StudyResult, tmp_path: Path) -> None:
    run = RunFolder(shutil.copytree(result.run.path, tmp_path / "run"))
    (run.model("quick", "grouped", 2) / "predictions.csv").unlink()
    with pytest.raises(DataError, match=r"grouped/fold2/predictions.csv is missing: the test"):
        export_bundle(run, "quick", tmp_path / "bundle")


def test_a_gate_is_not_needed(result: StudyResult, tmp_path: Path) -> None:
    run = RunFolder(shutil.copytree(result.run.path, tmp_path / "run"))
    (run.model("quick", "grouped", 2) / OOD_CSV).unlink()
    ood = export_bundle(run, "quick", tmp_path / "bundle").ood
    assert ood is not None
    assert ood.n_unseen == 0


@pytest.mark.parametrize("protocols", [["grouped", "random"], ["deduplicated"], ["given"]])
def test_the_last_fit_selects_as_the_folds_of_the_strictest_protocol(protocols: list[str]) -> None:
    records = tuple(
        ImageRecord(
            f"i{k}", f"{k}.png", sha256=f"{k:04d}", label=("healthy", "all")[k // 6 % 2],
            patient_id=f"P{k // 6}", group_id=f"c{k // 2}",
        )
        for k in range(120)
    )  # fmt: skip
    config = StudyConfig(
        data=DataConfig(path="x"), recipes=(load_recipe("quick"),), splits=SplitConfig(folds=2)
    )
    folds = [Fold(name, 0, {}, {"i0": "P0"}) for name in protocols]
    fold = final_fold(Manifest(Path("x"), records), config, folds)
    assert set(fold.parts.values()) == {"train", "val"}
    assert len(fold.parts) == 120
    assert 6 <= len(fold.ids("val")) <= 18
    assert fold.groups == {"i0": "P0"}
    key = "patient_id" if "grouped" in protocols else "group_id"
    of = {record.image_id: getattr(record, key) for record in records}
    assert not {of[i] for i in fold.ids("val")} & {of[i] for i in fold.ids("train")}


def random_effects(patients: int, seed: int, flip: int = -1) -> FoldResults:
    """Two folds a class apart, logits with an effect of the patient; fold ``flip`` mislabelled."""
    rng = np.random.default_rng(seed)
    ids = [f"P{p}-{k}" for p in range(patients) for k in range(20)]
    who = np.repeat(np.arange(patients), 20)
    truth, fold = who % 2, who // 2 % 5
    z = 6 * ((2 * truth - 1) + rng.normal(0, 0.8, patients)[who] + rng.normal(0, 0.5, len(ids)))
    truth = np.where(fold == flip, 1 - truth, truth)
    logits = np.stack([-z / 2, z / 2], axis=1)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    table = PredictionTable.build(
        ("healthy", "all"), ids, p, recipe="quick", protocol="grouped", fold=fold, part="test",
        y_true=truth, logits=logits,
    )  # fmt: skip
    groups = {i: i.partition("-")[0] for i in ids}
    folds = [Fold("grouped", k, {}, groups, "patient") for k in range(5)]
    config = StudyConfig(data=DataConfig(path="x"), recipes=(load_recipe("quick"),), bootstrap=200)
    return FoldResults.of(table, folds, "quick", "grouped", config, {})


def test_sets_of_new_patients_keep_their_coverage() -> None:
    entries = [promise_entry([random_effects(n, seed)], "quick")
               for seed in range(6) for n in (30, 60)]  # fmt: skip
    covered = [entry["coverage"]["value"] for entry in entries]
    assert np.mean(covered) >= 0.93
    assert all(min(entry["temperature"]) > 1 for entry in entries)
    few, many = entries[:2]
    assert set(few["guarantees"]) == {"marginal"}
    assert set(many["guarantees"]) == {"group"}
    assert (few["n"], few["n_groups"], few["unit"]) == (600, 30, "patient")
    for entry in entries:
        assert entry["after"]["log_loss"]["value"] < entry["before"]["log_loss"]["value"]


def test_a_fold_has_no_part_in_the_sets_that_judge_it() -> None:
    plain, flipped = (Nested.of(random_effects(30, 3, flip)) for flip in (-1, 2))
    own: NDArray[np.bool_] = np.repeat(np.arange(5), 120) == 2
    np.testing.assert_array_equal(plain.sets[own], flipped.sets[own])
    assert plain.fitted[2] == flipped.fitted[2]
    assert plain.fitted[1] != flipped.fitted[1]


def test_one_hold_out_says_why_nothing_was_measured() -> None:
    whole = random_effects(30, 1)
    one = FoldResults("grouped", whole.folds[:1], (), (), whole.test[:1], (), whole.config)
    entry = promise_entry([one], "quick")
    assert "single hold-out" in entry["reason"]
    assert "coverage" not in entry
    assert "no protocol" in promise_entry([], "quick")["reason"]


def test_the_model_that_a_foreign_image_is_shown_to_is_calibrated_like_the_bundle(
    result: StudyResult,
) -> None:
    from leukoscope.pipeline.trained_run import FittedRun

    fitted = FittedRun.open(result.run.path)
    model, part = fitted.model_for("quick", "grouped", "")
    record = read_bundle(result.run.bundle).record
    assert (model.protocol, part) == ("final", "")
    assert (model.calibration, model.conformal) == (record.calibration, record.conformal)
    assert load_study_config(result.run.config).coverage == model.conformal.coverage
