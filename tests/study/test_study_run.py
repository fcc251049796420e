"""The whole line on small phantoms: files, numbers, resume, refusals."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from leukoscope.analyses.probe_run import add_probes, missing_probes, renew_bundle
from leukoscope.cli.main import app
from leukoscope.config import DEFAULT_RECIPE
from leukoscope.config.guarantees import StudyVerdict
from leukoscope.config.study import DEFAULT_PROBES, DEGRADED, PERTURBED, SWAPPED, StudyConfig
from leukoscope.core.errors import (
    ConfigError,
    DataError,
    MissingExtraError,
    UsageError,
    WeightsError,
)
from leukoscope.core.files import read_csv, read_json
from leukoscope.core.records import ImageRecord, Manifest, load_folds
from leukoscope.core.run_folder import HISTORY, OOD_COLUMNS, OOD_CSV, RunFolder
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.verdict.shortcuts import SOURCES
from leukoscope.imaging.decode import decode_image
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.pipeline.features.store import InputStore
from leukoscope.pipeline.jobs import Labelled
from leukoscope.pipeline.perturbed import PerturbedModels
from leukoscope.pipeline.progress import Progress
from leukoscope.pipeline.trained_run import FittedRun
from leukoscope.reporting.study.card import render_model_card
from leukoscope.runtime.bundle import read_bundle, save_bundle
from leukoscope.runtime.predictor import load_bundle
from leukoscope.study import bundling, final_model
from leukoscope.study.bundling import export_bundle
from leukoscope.study.final_model import add_similar, all_drawn
from leukoscope.study.options import study_config
from leukoscope.study.run import StudyResult, run_study

OPTIONS = {
    "protocols": ["random", "grouped", "acquisition", "given"],
    "folds": 2,
    "overrides": [
        "preprocess.size_px=64",
        "bootstrap=100",
        "explanations=2",
        "splits.clusters=6",
        "splits.cluster_curve=[8]",
    ],
}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = PhantomSpec(images=72, sessions=9, size_px=96, seed=5)
    return write_phantoms(spec, tmp_path_factory.mktemp("data") / "phantoms")


@pytest.fixture(scope="module")
def result(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    return run_study(phantoms, tmp_path_factory.mktemp("study") / "run", **OPTIONS)


def test_every_file_of_the_design_is_there(result: StudyResult) -> None:
    run = result.run
    for path in (
        run.config,
        run.environment,
        run.manifest,
        run.passport,
        run.splits,
        run.predictions,
        run.metrics,
        run.report_html,
        run.report_md,
        run.model_card,
        run.bundle / "bundle.json",
        run.bundle / "model.onnx",
        run.explanations / "explanations.json",
        run.model(DEFAULT_RECIPE, "random", 1) / "checkpoint.safetensors",
        run.model(DEFAULT_RECIPE, "final", 0) / "checkpoint.json",
    ):
        assert path.is_file(), path
    assert result.unreadable == ()


def test_final_fit_takes_the_penalty_that_the_folds_agree_on(result: StudyResult) -> None:
    def losses(protocol: str, fold: int) -> dict[str, float]:
        rows = read_csv(result.run.model(DEFAULT_RECIPE, protocol, fold) / HISTORY)
        return {row["c"]: float(row["val_loss"]) for row in rows}

    folds = [losses("grouped", fold) for fold in range(2)]
    assert len(folds[0]) > 1
    best = min(folds[0], key=lambda c: sum(fold[c] for fold in folds))
    assert list(losses("final", 0)) == [best]


def test_metrics_say_what_was_measured_and_what_was_not(result: StudyResult) -> None:
    metrics = json.loads(result.run.metrics.read_text())
    assert metrics == result.metrics.to_json()
    by_protocol = {row["protocol"]: row for row in metrics["results"]}
    assert set(by_protocol) == {"random", "grouped", "acquisition"}
    assert by_protocol["random"]["n"] == 72
    assert by_protocol["grouped"]["group_unit"] == "patient"
    assert [row["protocol"] for row in metrics["inapplicable"]] == ["given"]
    left_out = {row["probe"] for row in metrics["shortcuts"]["inapplicable"]}
    assert {row["probe"] for row in metrics["probes"]} == set(DEFAULT_PROBES) - left_out
    assert {row["input"] for row in metrics["survival"]} == set(DEGRADED)
    assert metrics["control"]["protocol"] == metrics["verdict"]["protocol"] == "grouped"
    assert [row["source"] for row in metrics["verdict"]["sources"]] == list(SOURCES)
    assert {(row["input"], row["protocol"]) for row in metrics["model_on"]} == {
        (name, protocol) for name in (*PERTURBED, *SWAPPED) for protocol in by_protocol
    }
    assert [row["protocol"] for row in metrics["shortcuts"]["shares"]] == list(by_protocol)
    assert [row["protocol"] for row in metrics["shortcuts"]["inflation"]] == [
        "grouped",
        "acquisition",
    ]
    assert metrics["shortcuts"]["level"] == metrics["verdict"]["level"]
    assert [point["clusters"] for point in metrics["curve"]] == [6, 8]
    accuracy = by_protocol["random"]["metrics"]["accuracy"]
    assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
    assert metrics["verdict"]["headline"]


def logits_again(fitted: FittedRun, protocol: str, number: int) -> np.ndarray:
    """What the first recipe's model of a fold answers to its whole test images, asked anew."""
    data = Labelled(fitted.manifest.usable, fitted.manifest.class_names)
    store = InputStore(fitted.run, fitted.manifest, data, Progress())
    folds = load_folds(fitted.run.splits)
    fold = next(f for f in folds if (f.protocol, f.fold) == (protocol, number))
    models = PerturbedModels(store, fitted.config.recipes[0], ["image"], fitted.config.seed)
    return models.logits(fold, "image")


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_model_on_edited_images_is_the_model_that_was_tested(
    result: StudyResult, tmp_path: Path, checkpoint: bool
) -> None:
    """Its head, or a second fit where no checkpoint is left, gives the stored logits again."""
    run = RunFolder(shutil.copytree(result.run.path, tmp_path / "run"))
    fitted = FittedRun.open(run.path)
    own = fitted.table(DEFAULT_RECIPE, "grouped", 1).select(part="test")
    if not checkpoint:
        (run.model(DEFAULT_RECIPE, "grouped", 1) / "checkpoint.json").unlink()
    assert logits_again(fitted, "grouped", 1) == pytest.approx(own.logits, abs=1e-4)
    perturbed = PredictionTable.load(run.predictions).select(
        protocol="grouped", fold=1, input="model-on-background-only"
    )
    assert perturbed.image_id.tolist() == own.image_id.tolist()
    assert set(perturbed.part.tolist()) == {"test"}
    assert abs(perturbed.logits - own.logits).max() > 0.01  # a hundred times the tolerance


@pytest.fixture(scope="module")
def probed(result: StudyResult, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A copy with other data's results and an older card that gets one more probe."""
    run = RunFolder(shutil.copytree(result.run.path, tmp_path_factory.mktemp("probed") / "run"))
    missing = [missing_probes(run.path, names) for names in (None, ["silhouette-only"])]
    old = json.loads(run.metrics.read_text()) | {"external": []}
    run.metrics.write_text(json.dumps(old))
    before = read_bundle(run.bundle)
    mild = StudyVerdict(level="plausible", headline="mild", sources={})
    files = {name: result.run.bundle / name for name in before.record.files}
    older = {**files, "MODEL_CARD.md": b"an older card"}
    mild_record = before.record.model_copy(update={"verdict": mild})
    save_bundle(run.bundle, mild_record, older)
    written: list[RunFolder] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("leukoscope.reporting.study.report.write_report", written.append)
        new = add_probes(run.path, ["silhouette-only"], lambda *_: None).to_json()
    return SimpleNamespace(
        run=run, missing=missing, old=old, new=new, written=written, before=before,
        mild_record=mild_record, older=older,
    )  # fmt: skip


def test_a_finished_study_gets_more_probes_and_keeps_its_results(probed: SimpleNamespace) -> None:
    assert probed.missing == [[], ["silhouette-only"]]
    assert probed.written == [probed.run]
    assert {row["probe"] for row in probed.new["probes"]} == {
        *(row["probe"] for row in probed.old["probes"]),
        "silhouette-only",
    }
    for key in ("results", "model_on", "decisions", "ood", "external"):
        assert probed.new[key] == probed.old[key]
    assert missing_probes(probed.run.path, ["silhouette-only"]) == []


def test_new_probes_reach_the_verdict_and_the_card_of_the_bundle(
    probed: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, before = probed.run, probed.before
    monkeypatch.setattr("leukoscope.reporting.study.report.write_report", lambda _: None)
    bundle = read_bundle(run.bundle)
    verdict = json.loads(run.metrics.read_text())["verdict"]
    assert bundle.record.verdict is not None
    assert bundle.record.verdict.headline == verdict["headline"]
    assert (run.bundle / "MODEL_CARD.md").read_text() == render_model_card(run)
    changed = {n for n, h in bundle.record.files.items() if before.record.files[n] != h}
    assert changed <= {"MODEL_CARD.md"}
    assert not renew_bundle(run.path)
    save_bundle(run.bundle, probed.mild_record, probed.older)
    words = CliRunner().invoke(app, ["probe", str(run.path), "--probe", "silhouette-only"])
    assert words.exit_code == 0, words.output
    assert "has this verdict and card now" in " ".join(words.output.split())
    assert read_bundle(run.bundle).sha256 == bundle.sha256


def test_accuracy_can_be_computed_again_from_the_files(result: StudyResult) -> None:
    table = PredictionTable.load(result.run.predictions).select(
        protocol="grouped", part="test", input="image"
    )
    assert sorted(set(table.image_id.tolist())) == sorted(table.image_id.tolist())
    accuracy = float(np.mean(table.probs.argmax(axis=1) == table.y_true))
    row = next(r for r in result.metrics.to_json()["results"] if r["protocol"] == "grouped")
    assert row["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)


def test_no_patient_stands_on_two_sides(result: StudyResult) -> None:
    for fold in load_folds(result.run.splits):
        if fold.protocol == "grouped":
            test = {fold.groups[i] for i in fold.ids("test")}
            rest = {fold.groups[i] for part in ("train", "val", "cal") for i in fold.ids(part)}
            assert not test & rest


def test_predictions_hold_no_training_image(result: StudyResult) -> None:
    table = PredictionTable.load(result.run.predictions)
    assert set(table.part.tolist()) == {"val", "test"}


def test_the_gate_of_each_fold_is_measured(result: StudyResult) -> None:
    entries = {row["protocol"]: row for row in result.metrics.to_json()["ood"]}
    assert set(entries) == {"random", "grouped", "acquisition"}
    entry = entries["grouped"]
    assert (entry["n"], entry["n_groups"], entry["unit"]) == (72, 36, "patient")
    assert entry["n_outliers"] == 32 * 8 == sum(kind["n"] for kind in entry["kinds"].values())
    assert entry["roc_auc"]["value"] > 0.9
    rows = [
        row
        for fold in (0, 1)
        for row in read_csv(
            result.run.model(DEFAULT_RECIPE, "grouped", fold) / OOD_CSV, OOD_COLUMNS
        )
    ]
    tested = [row for row in rows if row["part"] == "test" and not row["outlier"]]
    assert len({row["image_id"] for row in tested}) == len(tested) == 72
    declined = sum(row["accepted"] == "0" for row in tested) / 72
    assert entry["rejected"]["value"] == pytest.approx(declined)
    val = [row for row in rows if row["part"] == "val" and not row["outlier"]]
    assert sum(row["accepted"] == "1" for row in val) >= 0.95 * len(val)
    assert (result.run.figures / "ood-scores.svg").is_file()
    assert "What the model declines" in result.run.report_md.read_text()


def test_the_bundle_declines_what_is_no_smear(
    result: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    ood = importlib.import_module("ood")
    monkeypatch.setattr(ood, "MADE_IMAGES", 6)
    found = {row.name: row for row in ood.meet_strangers(result.run, [], lambda *_: None)}
    assert found["known images"].roc_auc is None
    assert found["known images"].accepted[0] > 0  # a handful, and a gate from 50 images
    for name in ("inverted", "blurred", "white", "black", "one colour", "1/f noise", "texture"):
        assert found[name].accepted[0] == 0, name
        assert found[name].rejected == 1, name
    image = np.zeros((96, 96, 3), np.uint8)
    (answer,) = load_bundle(result.run.bundle).predict([image])
    assert answer.decision == "reject"
    assert "its colours or its grain are not theirs (appearance)" in answer.reasons[0]


def test_the_bundle_knows_how_classes_are_confused(result: StudyResult, phantoms: Path) -> None:
    bundle = read_bundle(result.run.bundle)
    confusions, record = bundle.load_confusions(), bundle.record.confusions
    assert confusions is not None
    assert record is not None
    usable = Manifest.load(result.run.manifest, phantoms).usable
    assert record.n == confusions.counts.sum() == len(usable)
    labels = [image.label for image in usable]
    expected = [labels.count(name) for name in bundle.record.class_names]
    assert confusions.counts.sum(axis=(0, 2)).tolist() == expected
    assert record.n_units == len(confusions.counts)


def test_the_bundle_keeps_the_scores_of_the_study(result: StudyResult, phantoms: Path) -> None:
    record = read_bundle(result.run.bundle).record
    kept = {(row.protocol, row.metric): row.value for row in record.scores}
    rows = [row for row in result.metrics.results if row.recipe == record.recipe]
    assert rows
    for row in rows:
        assert kept[row.protocol, "accuracy"] == row.metrics["accuracy"].value
    assert record.dataset == phantoms.stem


def test_the_bundle_carries_its_training_cases(
    result: StudyResult, phantoms: Path, tmp_path: Path
) -> None:
    bundle = read_bundle(result.run.bundle)
    assert bundle.record.phantoms
    library = bundle.load_similar()
    assert library is not None
    manifest = Manifest.load(result.run.manifest, phantoms)
    by_id = {record.image_id: record for record in manifest.images}
    trained = bundle.load_trained_on()
    assert 0 < len(library.captions) == bundle.record.similar.n < len(trained)  # type: ignore[union-attr]
    assert all(by_id[name].sha256 in trained for _, name, _ in library.captions)
    assert all(by_id[name].label == label for label, name, _ in library.captions)
    text = (result.run.bundle / "similar.json").read_text()
    for private in ("phantom-", "patient", "session", ".png"):
        assert private not in text
    place, (label, name, _) = 7, library.captions[7]
    image = decode_image(phantoms / by_id[name].path).image
    (answer,) = load_bundle(result.run.bundle, precision="fp32", similar=2).predict([image])
    assert answer.similar is not None
    assert (answer.similar[0].number, answer.similar[0].label) == (place, label)
    assert answer.similar[0].distance < 1e-3
    picture = library.picture(place)
    assert picture is not None
    small = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(picture.astype(int) - small).mean() < 8


def test_cases_are_added_to_an_older_bundle_without_a_new_fit(
    result: StudyResult, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = read_bundle(result.run.bundle)
    names = [name for name in new.record.files if not name.startswith("similar")]
    old = new.record.model_copy(update={"similar": None, "phantoms": False})
    save_bundle(tmp_path / "b", old, {name: new.folder / name for name in names})
    added = add_similar(tmp_path / "b", result.run)
    assert added.similar is not None
    assert new.record.similar is not None
    assert added.similar.n == new.record.similar.n
    assert added.similar.limit == pytest.approx(new.record.similar.limit, rel=1e-3)
    # The study's features and those of the bundle's graph differ in their last digits.
    first, second = (load_file(b / "similar.safetensors") for b in (tmp_path / "b", new.folder))
    for name, values in second.items():
        np.testing.assert_allclose(first[name], values, atol=1e-3)
    others = {n: h for n, h in new.record.files.items() if n != "similar.safetensors"}
    assert {n: added.files[n] for n in others} == others
    monkeypatch.setattr(final_model, "all_drawn", lambda _: False)
    record = add_similar(tmp_path / "b", result.run)
    assert "similar.jpg" not in record.files
    save_bundle(
        tmp_path / "b", old, {name: new.folder / name for name in names if "trained" not in name}
    )
    with pytest.raises(DataError, match="expected the study that it was made by"):
        add_similar(tmp_path / "b", result.run)


def test_only_what_the_truth_file_lists_is_drawn(phantoms: Path, tmp_path: Path) -> None:
    known = ImageRecord("a", "Benign/phantom-0001.png")
    paths = [row["path"] for row in read_json(phantoms / "truth/truth.json")["images"]]
    listed = tuple(ImageRecord(f"{k}", path) for k, path in enumerate(paths))
    assert all_drawn(Manifest(phantoms, listed))
    assert not all_drawn(Manifest(phantoms, (*listed, ImageRecord("b", "Benign/smear.png"))))
    assert not all_drawn(Manifest(tmp_path, (known,)))
    (tmp_path / "truth").mkdir()
    for text in ("[]", "{", '{"images": [1]}', '{"images": 3}'):
        (tmp_path / "truth/truth.json").write_text(text)
        assert not all_drawn(Manifest(tmp_path, (known,)))


def test_the_bundle_is_packed_again_only_if_something_behind_it_changed(
    result: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[str] = []
    monkeypatch.setattr(bundling, "export_bundle", lambda run, recipe, out: packed.append(recipe))
    name = result.metrics.to_json()["results"][0]["recipe"]
    bundling.keep_bundle(result.run, name)
    assert not packed
    monkeypatch.setattr(bundling, "__version__", "another")
    before = (result.run.cache / "packed.json").read_bytes()
    bundling.keep_bundle(result.run, name)
    assert packed == [name]
    (result.run.cache / "packed.json").write_bytes(before)


def test_a_study_that_lost_half_its_files_ends_with_the_same_metrics(
    result: StudyResult, tmp_path: Path
) -> None:
    copy = RunFolder(tmp_path / "run")
    shutil.copytree(result.run.path, copy.path)
    before = copy.metrics.read_bytes()
    copy.metrics.unlink()
    copy.predictions.unlink()
    shutil.rmtree(copy.cache / "features")
    shutil.rmtree(copy.model(DEFAULT_RECIPE, "random", 0))
    (copy.model(DEFAULT_RECIPE, "grouped", 1) / "predictions.csv").write_text("cut off")
    again = run_study(_saved_config(copy), copy.path, resume=True, report=False)
    assert again.run.metrics.read_bytes() == before


def test_the_folder_of_another_study_is_refused(
    result: StudyResult, phantoms: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="already holds a study"):
        run_study(phantoms, result.run.path, **OPTIONS)
    words = r"differs from the options given: splits\.folds is \d there, 3 given\n"
    with pytest.raises(ConfigError, match=words):
        run_study(phantoms, result.run.path, resume=True, **{**OPTIONS, "folds": 3})
    words = r"size_px is 64 there, 336 given; protocols is random, grouped.*; and \d more"
    with pytest.raises(ConfigError, match=words):
        run_study(phantoms, result.run.path, resume=True, folds=3, seed=1)
    (tmp_path / "mine.txt").write_text("thesis")
    with pytest.raises(UsageError, match="not empty and holds no study"):
        run_study(phantoms, tmp_path, **OPTIONS)
    assert (tmp_path / "mine.txt").read_text() == "thesis"


def test_data_without_two_classes_is_refused(phantoms: Path, tmp_path: Path) -> None:
    one = tmp_path / "one"
    shutil.copytree(phantoms / "Pro", one / "Pro")
    with pytest.raises(DataError, match="needs two classes, found pro_b"):
        run_study(one, tmp_path / "run", **OPTIONS)


def test_a_study_that_failed_early_does_not_block_its_folder(
    phantoms: Path, tmp_path: Path
) -> None:
    one, out = tmp_path / "one", tmp_path / "run"
    shutil.copytree(phantoms / "Pro", one / "Pro")
    for _ in range(3):
        with pytest.raises(DataError, match="needs two classes"):
            run_study(one, out, **OPTIONS)
    with pytest.raises(DataError, match="needs two classes"):
        run_study(one, out, resume=True, **OPTIONS)
    assert (out / "manifest.csv").is_file()
    (out / "mine.txt").write_text("thesis")
    with pytest.raises(UsageError, match="already holds a study"):
        run_study(one, out, **OPTIONS)


def test_overrides_reach_study_and_recipe(phantoms: Path) -> None:
    config = study_config(phantoms, recipes=["cnn-baseline"], overrides=["coverage=0.9",
                          "training.epochs=2", "splits.val=0.2"])  # fmt: skip
    assert config.coverage == 0.9
    assert config.splits.val == 0.2
    assert config.recipes[0].training.epochs == 2


def _saved_config(run: RunFolder) -> StudyConfig:
    from leukoscope.config.loading import load_study_config

    return load_study_config(run.config)


def test_without_torch_a_study_says_so_before_the_audit(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leukoscope.study.run.find_spec", lambda name: None)
    with pytest.raises(
        MissingExtraError, match=r"training needs the optional dependencies \[train"
    ):
        run_study(phantoms, tmp_path / "run", **OPTIONS)
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_there_are_said_before_the_audit(
    phantoms: Path, tmp_path: Path
) -> None:
    steps: list[str] = []
    with pytest.raises(WeightsError, match="no such weights file"):
        run_study(
            phantoms, tmp_path / "run", recipes=["quick"], weights="gone.safetensors",
            listener=lambda step, *_: steps.append(step),
        )  # fmt: skip
    assert steps == []


@pytest.mark.usefixtures("bare_charts")
def test_a_study_without_bundle_saves_the_last_fit_and_still_reports(
    phantoms: Path, tmp_path: Path
) -> None:
    overrides = ["preprocess.size_px=64", "bootstrap=100", "explanations=1", "bundle=false",
                 "control_draws=0"]  # fmt: skip
    result = run_study(
        phantoms, tmp_path / "run", protocols=["random"], folds=1, probes=[], overrides=overrides
    )
    assert {fold.protocol for fold in load_folds(result.run.splits)} == {"random"}
    assert result.run.report_html.is_file()
    assert not result.run.bundle.exists()
    with pytest.raises(UsageError, match="--no-bundle"):
        export_bundle(result.run, DEFAULT_RECIPE, tmp_path / "bundle")


def test_a_head_on_cached_features_is_refined_end_to_end(phantoms: Path, tmp_path: Path) -> None:
    overrides = [
        "preprocess.size_px=32",
        "bootstrap=100",
        "control_draws=0",
        "model.hidden=[8]",
        "training.cached_views=2",
        "training.epochs=2",
        "refine.epochs=1",
    ]
    result = run_study(
        phantoms,
        tmp_path / "run",
        recipes=["residual-head-resnet18"],
        backbone="tf_efficientnet_lite0",
        protocols=["random"],
        folds=1,
        probes=[],
        overrides=[*overrides, "bundle=false"],
        report=False,
    )
    name = result.metrics.to_json()["results"][0]["recipe"]
    folder = result.run.model(name, "random", 0)
    assert len((folder / "frozen" / "history.csv").read_text().splitlines()) == 3
    assert len((folder / "history.csv").read_text().splitlines()) == 2
    assert list((result.run.cache / "features").glob("views-*.npy"))
    assert not list(folder.rglob("*.ckpt"))
    assert result.metrics.to_json()["ood"][0]["n"] == result.metrics.to_json()["results"][0]["n"]
    fitted = FittedRun.open(result.run.path)
    own = fitted.table(name, "random", 0).select(part="test")
    assert logits_again(fitted, "random", 0) == pytest.approx(own.logits, abs=1e-4)
