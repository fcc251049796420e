"""Heat maps and feature maps of trained runs, and what happens where they cannot be made."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from leukoscope.cli.commands.explain import _print_map
from leukoscope.cli.main import app
from leukoscope.config.explanations import FeatureMap
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.pipeline.trained_run import FittedRun
from leukoscope.study.explanations import explain_study
from leukoscope.study.feature_maps import map_study
from leukoscope.study.run import run_study

OVERRIDES = [
    "preprocess.size_px=32", "training.epochs=1", "training.batch_size=16", "bootstrap=100",
    "splits.clusters=6", "splits.cluster_curve=[]", "control_draws=0", "bundle=false",
]  # fmt: skip

runner = CliRunner()


def leukoscope(*arguments: object, code: int = 0) -> str:
    done = runner.invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = PhantomSpec(images=48, sessions=8, patients=12, size_px=96, seed=5)
    return write_phantoms(spec, tmp_path_factory.mktemp("data") / "phantoms")


@pytest.fixture(scope="module")
def run(few_perturbed: None, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recipes, two folds, no bundle, no report."""
    out = tmp_path_factory.mktemp("explain") / "run"
    run_study(phantoms, out, report=False, recipes=["cnn-baseline", "bn-cnn"], folds=2, probes=(),
              protocols=["random"], overrides=OVERRIDES)  # fmt: skip
    return out


@pytest.fixture(scope="module")
def other(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another run of the same data, one hold-out."""
    out = tmp_path_factory.mktemp("explain") / "other"
    run_study(phantoms, out, report=False, recipes=["leaky-cnn"], folds=1, probes=(),
              protocols=["random"], overrides=OVERRIDES)  # fmt: skip
    return out


@pytest.fixture
def no_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sheets of many images: drawing them takes longer than all else of the command."""
    monkeypatch.setattr("leukoscope.study.explanations.draw_grids", lambda *_: [])


def entries_of(folder: Path) -> list[dict[str, object]]:
    entries = json.loads((folder / "explanations.json").read_text(encoding="utf-8"))
    assert all((folder / entry["panel"]).is_file() for entry in entries)
    return list(entries)


def test_right_and_wrong_test_images_by_the_model_that_held_them_out(run: Path) -> None:
    output = leukoscope("explain", run, "--count", 2)
    folder = run / "explanations" / "cnn-baseline-random-grad-cam"
    assert str(folder) in output
    assert "Research software, not a medical device." in output
    entries = entries_of(folder)
    fitted = FittedRun.open(run)
    for entry in entries:
        assert entry["part"] == "test"
        table = fitted.table("cnn-baseline", "random", int(str(entry["fold"])))
        row = int(np.flatnonzero(table.image_id == entry["image_id"])[0])
        assert table.part[row] == "test"
        assert entry["p"] == pytest.approx(table.probs[row].max(), abs=1e-3)
        assert entry["y_pred"] == table.class_names[table.probs[row].argmax()]
        assert entry["kind"] == ("right" if entry["y_pred"] == entry["y_true"] else "wrong")
        assert entry["explained"] == entry["y_pred"]
    assert {str(entry["kind"]) for entry in entries} <= {"right", "wrong"}
    assert (folder / "grid-least-certain.png").is_file()


@pytest.mark.usefixtures("no_grids")
def test_two_recipes_two_methods_and_a_named_class_side_by_side(run: Path, tmp_path: Path) -> None:
    leukoscope("explain", run, "-r", "cnn-baseline", "-r", "bn-cnn", "-m", "grad-cam++", "-m",
               "occlusion", "--target", "pro_b", "--count", 1, "--out", tmp_path)  # fmt: skip
    entries = entries_of(tmp_path)
    first = [e for e in entries if e["panel"] == entries[0]["panel"]]
    assert [(e["recipe"], e["method"]) for e in first] == [
        ("cnn-baseline", "grad-cam++"),
        ("cnn-baseline", "occlusion"),
        ("bn-cnn", "grad-cam++"),
        ("bn-cnn", "occlusion"),
    ]
    assert {e["explained"] for e in entries} == {"pro_b"}
    height, width = cv2.imread(str(tmp_path / str(entries[0]["panel"]))).shape[:2]
    assert width > 4 * height  # seven pictures


@pytest.mark.usefixtures("no_grids")
def test_another_run_beside_it(run: Path, other: Path) -> None:
    leukoscope("explain", run, "--beside", other, "--count", 1)
    folder = run / "explanations" / "cnn-baseline-and-leaky-cnn-random-grad-cam"
    entries = entries_of(folder)
    assert {e["recipe"] for e in entries} == {"cnn-baseline", "leaky-cnn"}
    known = {"test", "train", "val", "cal"}
    assert {e["part"] for e in entries if e["recipe"] == "leaky-cnn"} <= known


@pytest.mark.usefixtures("no_grids")
def test_images_by_path_are_known_by_their_bytes(
    run: Path, other: Path, phantoms: Path, tmp_path: Path
) -> None:
    image = sorted((phantoms / "Pre").glob("*.png"))[0]
    copy = tmp_path / "кровь copy.png"
    shutil.copy(image, copy)
    foreign = tmp_path / "foreign.png"
    cv2.imwrite(str(foreign), np.full((40, 60, 3), 200, np.uint8))
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not an image")
    out = tmp_path / "out"
    output = leukoscope("explain", run, copy, foreign, broken, tmp_path / "no.png", "--out", out,
                        code=3)  # fmt: skip
    assert "broken.jpg" in output
    assert "no.png: no such file" in output
    known, stranger = entries_of(out)
    assert (known["y_true"], known["part"], known["kind"]) == ("pre_b", "test", "image")
    assert (stranger["y_true"], stranger["part"], stranger["fold"]) == ("", "", 0)
    output = leukoscope("explain", run, foreign, "--target", "true", "--out", out, code=2)
    assert "its true class is not known" in output
    # With one hold-out most images were trained on, and the user is told.
    output = leukoscope("explain", other, phantoms / "Pre", "--out", out)
    assert "! some of these images were used to fit" in output
    assert {e["part"] for e in entries_of(out)} >= {"train", "test"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "gradcam"], "Did you mean 'grad-cam'?"),
        (["--recipe", "cnn-baselin"], "Did you mean 'cnn-baseline'?"),
        (["--protocol", "randm"], "Did you mean 'random'?"),
        (["--layer", "layer.8"], "Did you mean 'layers.8'"),
        (["--target", "pro-c"], "unknown class of cnn-baseline 'pro-c'"),
        (["--method", "occlusion", "--layer", "layers.8"], "looks at no layer"),
    ],
)
def test_wrong_names_are_wrong_use(run: Path, options: list[str], message: str) -> None:
    before = sorted(run.rglob("*"))
    assert message in leukoscope("explain", run, *options, code=2)
    assert sorted(run.rglob("*")) == before


@pytest.mark.usefixtures("no_grids")
def test_out_is_no_folder_of_a_study(run: Path, other: Path) -> None:
    """The panels of another choice had replaced the study's own list of them."""
    before = sorted(run.rglob("*"))
    assert "holds a study" in leukoscope("explain", run, "--out", run, code=2)
    assert "holds a study" in leukoscope("explain", run, "--audit", "--out", other, code=2)
    for command in (("explain", other), ("features", run)):
        output = leukoscope(*command, "--out", run / "explanations", code=2)
        assert "belongs to the study" in output
    assert sorted(run.rglob("*")) == before
    leukoscope("explain", run, "--count", 1, "--out", run / "explanations" / "mine")
    assert entries_of(run / "explanations" / "mine")


@pytest.mark.usefixtures("no_grids")
def test_runs_that_are_none_or_not_finished(run: Path, tmp_path: Path) -> None:
    assert "there is no such folder" in leukoscope("explain", tmp_path / "nowhere", code=1)
    assert "holds no study or training run" in leukoscope("explain", tmp_path, code=1)
    (tmp_path / "bundle.json").write_text("{}")
    assert "is a bundle" in leukoscope("explain", tmp_path, code=2)
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "models" / "bn-cnn")
    output = leukoscope("explain", copy, "-r", "bn-cnn", code=1)
    assert "no finished fit of bn-cnn; nothing of this recipe is finished" in output
    assert "--resume" in output
    shutil.rmtree(copy / "models" / "cnn-baseline" / "random" / "fold1")
    (copy / "predictions.csv").unlink()  # stopped before the statistics
    leukoscope("explain", copy, "--count", 1)
    assert "finished: 0" in leukoscope("features", copy, "--fold", 1, code=2)
    (copy / "manifest.csv").unlink()
    assert "stopped before its images were read" in leukoscope("explain", copy, code=1)


def test_a_study_whose_recipes_leave_no_model_has_no_maps(run: Path, tmp_path: Path) -> None:
    copy = RunFolder(tmp_path / "run")
    shutil.copytree(run, copy.path)
    for record in copy.path.rglob("checkpoint.json"):
        record.unlink()
    assert explain_study(copy, 2, lambda done, total: None) == []
    map_study(copy, lambda done, total: None)
    assert not (copy.explanations / "features.csv").exists()


def test_without_torch_it_says_what_to_install(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leukoscope.pipeline.trained_run.find_spec", lambda name: None)
    assert "needs the optional dependencies [train]" in leukoscope("features", run, code=1)


def test_images_that_are_gone_are_named(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = copy / "config.toml"
    data = json.loads(json.dumps(FittedRun.open(run).config.data.path))
    config.write_text(config.read_text().replace(data, str(tmp_path / "moved")))
    for command in ("explain", "features"):
        output = leukoscope(command, copy, code=1)
        assert str(tmp_path / "moved") in output
        assert "Traceback" not in output


def test_features_of_one_fold(run: Path) -> None:
    output = " ".join(leukoscope("features", run, "-r", "bn-cnn", "--fold", 1).split())
    assert "24 test images, 128 features: bn-cnn, random, fold 1" in output
    folder = run / "explanations" / "features-bn-cnn-random-fold1"
    with (folder / "features.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table = PredictionTable.load(RunFolder(run).model("bn-cnn", "random", 1) / "predictions.csv")
    assert {row["image_id"] for row in rows} == set(table.select(part="test").image_id.tolist())
    assert all(np.isfinite(float(row[name])) for row in rows for name in ("pca_1", "tsne_2"))
    assert all(row["patient"] and row["acquisition"] for row in rows)
    found = json.loads((folder / "features.json").read_text())
    labelled = {(s["labelling"], s["crossed"]) for s in found["structures"]}
    assert {("class", ""), ("patient", ""), ("acquisition", ""), ("class", "other patients")} <= (
        labelled
    )
    assert found["verdict"] in " ".join(output.split())
    for name in ("pca.png", "tsne.png"):
        assert cv2.imread(str(folder / name)).shape[1] > 1000


def test_features_of_few_images_have_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    few = FeatureMap(
        schema=1, recipe="bn-cnn", protocol="random", fold=0, n=6, dimensions=128,
        explained_variance=(0.5, 0.2), neighbours=10, structures=(), verdict="",
    )  # fmt: skip
    _print_map(few)
    said = " ".join(capsys.readouterr().out.split())
    assert "6 test images, 128 features" in said
    assert "No neighbours are compared: it takes images with more than 10 others" in said
    assert "silhouette" not in said
