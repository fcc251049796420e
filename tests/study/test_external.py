"""Other data beside a study: the forecast, what came out, and what stays out of the bundle."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from leukoscope.cli.main import app
from leukoscope.config.loading import load_study_config
from leukoscope.config.metrics.other_data import BundleDecisions, DecisionShares, Held, OtherData
from leukoscope.config.metrics.results import Estimate
from leukoscope.core.errors import ConfigError, DataError
from leukoscope.core.files import read_csv, write_csv
from leukoscope.datasets.audit.links import join_equal_files
from leukoscope.datasets.layouts.load import load_dataset
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.run_files import RunFiles
from leukoscope.evaluation.statistics.forecast import INSIDE, OUTSIDE, forecasts
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.reporting.study.other_data import in_words
from leukoscope.runtime.engines import open_engine
from leukoscope.study import bundle_evaluation, bundling, external
from leukoscope.study.comparable import check_external, names_of
from leukoscope.study.final_model import load_final_model, write_graphs
from leukoscope.study.options import study_config
from leukoscope.study.run import run_study

runner = CliRunner()
COLUMNS = ("path", "label", "patient_id", "cohort")
SMALL = (
    "preprocess.size_px=64", "bootstrap=100", "explanations=0", "control_draws=0",
    "splits.cluster_curve=[]", "model.backbone=test_resnet", "model.weights=none",
)  # fmt: skip
HOW = {"replicates": 200, "confidence": 0.95, "seed": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Phantoms with patients in two cohorts, and others with a broken file."""
    paths = []
    for name, seed in (("ward", 5), ("clinic-of-somebody", 6)):
        spec = PhantomSpec(images=72, sessions=9, size_px=96, seed=seed)
        folder = write_phantoms(spec, tmp_path_factory.mktemp("data") / name)
        rows = read_csv(folder / "manifest.csv")
        of_class: dict[str, set[str]] = {}
        for row in rows:
            of_class.setdefault(row["label"], set()).add(row["patient_id"])
        early = {name for patients in of_class.values() for name in sorted(patients)[:4]}
        for row in rows:
            row["cohort"] = "early" if row["patient_id"] in early else "late"
        write_csv(folder / "manifest.csv", COLUMNS, [{k: r[k] for k in COLUMNS} for r in rows])
        paths.append(folder)
    (paths[1] / read_csv(paths[1] / "manifest.csv")[0]["path"]).write_bytes(b"no picture")
    return paths[0], paths[1]


@pytest.fixture(scope="module")
def run(
    few_perturbed: None, data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("study") / "run"
    options = [word for text in SMALL for word in ("--set", text)]
    done = runner.invoke(app, [
        "study", str(data[0]), "--out", str(out), "-r", "quick", "-p", "grouped", "-p", "cohort",
        "--folds", "2", "--no-probes", "--external", str(data[1]), *options,
    ])  # fmt: skip
    assert done.exit_code == 3, done.output  # one image of the other data is broken
    assert "could not be read: clinic-of-somebody/" in done.output
    words = " ".join(done.output.split())
    assert "clinic-of-somebody (71 images of" in words
    assert "side the forecast of" in words
    return out


def test_internal_and_external_stand_side_by_side(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    (entry,) = metrics["external"]
    assert (entry["data"], entry["n"]) == ("clinic-of-somebody", 71)
    assert entry["group_unit"] == entry["forecast"]["unit"] == "patient"
    assert entry["forecast"]["n_units"] == entry["n_groups"]
    assert entry["internal"] == {"recipe": "quick", "protocol": "grouped"}
    for name in ("accuracy", "roc_auc"):
        forecast, value = entry["forecast"][name], entry["metrics"][name]["value"]
        held = forecast["low"] <= value <= forecast["high"]
        assert forecast["verdict"] == (INSIDE if held else OUTSIDE)
    page = (run / "report.md").read_text()
    assert "## On other data" in page
    assert entry["forecast"]["accuracy"]["verdict"] in page
    assert "Forecast for" in page
    assert (run / "external" / "clinic-of-somebody" / "predictions.csv").is_file()
    by_protocol = {row["protocol"]: row for row in metrics["results"]}
    assert by_protocol["cohort"]["folds"] == 2
    assert by_protocol["cohort"]["group_unit"] == "patient"


def test_a_bundle_is_measured_as_its_report_prints_it(
    run: Path, data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`leukoscope evaluate BUNDLE DATA`, without a folder; a second one replaces nothing."""
    monkeypatch.chdir(tmp_path)
    arguments = ["evaluate", str(run / "bundle"), str(data[1])]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 3, done.output
    before = (tmp_path / "external/metrics.json").read_bytes()
    again = runner.invoke(app, arguments)
    assert again.exit_code == 2
    assert "external is there already" in again.output
    assert (tmp_path / "external/metrics.json").read_bytes() == before
    assert runner.invoke(app, [*arguments, "--out", "external"]).exit_code == 3


def test_nothing_of_the_other_data_goes_into_the_bundle(run: Path) -> None:
    from leukoscope.core.run_folder import RunFolder
    from leukoscope.study.bundling import export_bundle

    export_bundle(RunFolder(run), "quick", run.parent / "again")  # now with external results
    for bundle in (run / "bundle", run.parent / "again"):
        for path in bundle.rglob("*"):
            assert path.is_dir() or b"clinic-of-somebody" not in path.read_bytes(), path


@pytest.mark.usefixtures("no_study_report")
def test_resuming_measures_nothing_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was measured again")

    before = (run / "metrics.json").read_bytes()
    bundle = (run / "bundle" / "bundle.json").read_bytes()
    monkeypatch.setattr(external, "evaluate_bundle", refuse)
    result = run_study(load_study_config(run / "config.toml"), run, resume=True)
    assert (run / "metrics.json").read_bytes() == before
    assert (run / "bundle" / "bundle.json").read_bytes() == bundle
    assert [path for path, _ in result.unreadable if path.startswith("clinic-of-somebody/")]


def test_where_images_name_their_patients_no_audit_is_waited_for(
    run: Path, data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("images were compared with each other")

    monkeypatch.setattr(bundle_evaluation, "audit", refuse)
    found = bundle_evaluation.evaluate_bundle(
        run / "bundle", data[1], tmp_path / "out", layout="auto", class_map={},
        listener=lambda *_: None,
    )  # fmt: skip
    (result,), (entry,) = (
        found.metrics.results,
        json.loads((run / "metrics.json").read_text())["external"],
    )
    assert (result.n_groups, result.group_unit) == (entry["n_groups"], "patient")
    assert [path for path, _ in found.unreadable]


def test_equal_files_join_their_patients(data: tuple[Path, Path], tmp_path: Path) -> None:
    manifest = load_dataset(data[0])
    first, other = (next(r for r in manifest.usable if r.patient_id == name)
                    for name in sorted({r.patient_id for r in manifest.usable})[:2])  # fmt: skip
    twin = replace(other, sha256=first.sha256)
    same = [twin if r.image_id == other.image_id else r for r in manifest.images]
    joined = {r.image_id: r for r in join_equal_files(manifest.with_images(same)).images}
    both = f"{first.patient_id}+{other.patient_id}"
    assert joined[first.image_id].patient_id == joined[other.image_id].patient_id == both
    assert joined[first.image_id].group_id == joined[other.image_id].group_id
    assert len({r.patient_id for r in joined.values()}) == len({r.patient_id for r in same}) - 1


def test_the_bundle_takes_the_features_that_its_head_was_fitted_on(run: Path) -> None:
    files = RunFiles.open(run)
    final = load_final_model(files, "quick")
    (graph, _), folder = write_graphs(final, int8=False, compact=False), files.run
    engine = open_engine(graph)
    stored = bundling._outputs(final, folder, engine)
    shutil.move(folder.cache, folder.cache.with_name("away"))
    try:
        computed = bundling._outputs(final, folder, engine)
    finally:
        shutil.move(folder.cache.with_name("away"), folder.cache)
    for part in ("train", "val"):
        for name in ("features", "logits"):
            scale = np.abs(computed[part][name]).max()
            assert np.abs(stored[part][name] - computed[part][name]).max() < 1e-4 * scale


def test_other_data_is_checked_before_any_training(data: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "cats"
    (folder / "cats").mkdir(parents=True)
    (folder / "cats" / "a.png").write_bytes((next(data[0].rglob("*.png"))).read_bytes())
    config = study_config(data[0], external=(folder,))
    with pytest.raises(DataError):
        check_external(config, ("benign", "pre_b"))
    (folder / "cats").rename(folder / "hem")
    malignant_alone = study_config(data[0], external=(folder,))
    with pytest.raises(DataError, match=r"its classes \(healthy\) cannot be compared"):
        check_external(malignant_alone, ("early_pre_b", "pre_b"))
    check_external(malignant_alone, ("benign", "pre_b"))  # malignant or not can be


def test_options_that_cannot_be_are_refused(data: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="there will be none"):
        study_config(data[0], external=(data[1],), overrides=("bundle=false",))
    with pytest.raises(ConfigError, match="2 external data sets and 3 layouts"):
        study_config(data[0], external=data, external_layouts=("auto",) * 3)
    config = study_config(data[0], external=data, external_layouts=("csv-manifest",))
    assert [one.layout for one in config.external] == ["csv-manifest"] * 2
    assert names_of(config.external) == ["ward", "clinic-of-somebody"]


def table(
    right: float, patients: int, seed: int, classes: tuple[str, ...] = ("healthy", "all")
) -> Any:
    """Predictions on 20 images each of patients that differ, and the patient of each image."""
    rng = np.random.default_rng(seed)
    groups = [f"p{seed}-{i}" for i in range(patients) for _ in range(20)]
    y = np.array([i % 2 for i in range(patients) for _ in range(20)])
    chance = np.clip(rng.normal(right, 0.08, patients), 0, 1).repeat(20)
    p = np.where(rng.random(len(y)) < chance, 0.8, 0.2) + rng.normal(0, 0.02, len(y))
    probs = np.stack([np.where(y == 0, p, 1 - p), np.where(y == 1, p, 1 - p)], axis=1)
    ids = [f"i{seed}-{i}" for i in range(len(y))]
    found = PredictionTable.build(
        classes, ids, probs, recipe="quick", protocol="grouped", fold=0, part="test", y_true=y
    )
    hits = float((probs.argmax(axis=1) == y).mean())
    estimate = Estimate(value=hits, low=None, high=None)
    return found, groups, {"accuracy": estimate, "roc_auc": estimate}


@pytest.mark.parametrize(("right", "verdict"), [(0.85, INSIDE), (0.6, OUTSIDE)])
def test_what_is_far_below_the_forecast_is_outside(right: float, verdict: str) -> None:
    inside, groups, _ = table(0.85, 30, seed=1)
    outside, new, found = table(right, 14, seed=2)
    result = forecasts(inside, groups, "patient", outside, new, "patient", found, how=HOW)
    assert (result["unit"], result["n_units"]) == ("patient", 14)
    assert result["accuracy"]["verdict"] == verdict
    entry = OtherData(
        data="clinic", folder="external/clinic", n=len(new), n_groups=14, group_unit="patient",
        metrics=found, confusion=(), class_names=("healthy", "all"), warnings=(),
        decisions=BundleDecisions(
            share=DecisionShares(accept=1.0, review=0.0, reject=0.0), coverage=None
        ),
        internal=Held(recipe="quick", protocol="grouped"), forecast=result,
    )  # fmt: skip
    said = in_words(entry)
    assert f"accuracy is {verdict} of" in said
    assert ("promised more than the model keeps" in said) == (verdict == OUTSIDE)


def test_more_new_patients_are_forecast_more_narrowly() -> None:
    inside, groups, _ = table(0.85, 30, seed=1)
    widths = []
    for patients in (2, 20):
        outside, new, found = table(0.85, patients, seed=3)
        one = forecasts(inside, groups, "patient", outside, new, "patient", found, how=HOW)
        widths.append(one["accuracy"]["high"] - one["accuracy"]["low"])
    assert widths[1] < widths[0] / 2


def test_where_nothing_can_be_forecast_it_says_why() -> None:
    inside, groups, found = table(0.85, 30, seed=1)
    other = replace(inside, class_names=("benign", "all"))
    three = inside, groups, "patient"
    assert "malignant" in forecasts(*three, other, groups, "patient", found, how=HOW)["reason"]
    reason = forecasts(*three, inside, groups, "component", found, how=HOW)["reason"]
    assert "how many new patients it holds is not known" in reason
    few = forecasts(
        inside, ["a"] * len(groups), "patient", inside, groups, "patient", found, how=HOW
    )
    assert "say nothing of the next" in few["reason"]
