"""One reader for a run's folder: each file once, and an error that names it and says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from leukoscope.config.loading import load_recipe, save_study_config
from leukoscope.config.study import DataConfig, StudyConfig
from leukoscope.core.errors import ConfigError, DataError, UnknownNameError, UsageError
from leukoscope.core.files import write_json
from leukoscope.core.records import Fold, ImageRecord, Manifest, save_folds
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.run_files import RunFiles


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run of two images."""
    run = RunFolder(tmp_path / "run")
    config = StudyConfig(data=DataConfig(path="data"), recipes=(load_recipe("quick"),))
    save_study_config(run.config, config)
    images = tuple(ImageRecord(i, f"{i}.png", label="benign") for i in ("a", "b"))
    manifest = Manifest(Path("data"), images)
    manifest.save(run.manifest)
    folds = [Fold(name, 0, {"a": "train", "b": "test"}) for name in ("random", "final")]
    save_folds(run.splits, folds, manifest)
    table = PredictionTable.build(
        ("benign", "pro_b"), ["b"], [[0.9, 0.1]], recipe="quick", protocol="random", fold=0,
        part="test", y_true=[0],
    )  # fmt: skip
    table.save(run.predictions)
    table.save(run.fit_predictions("quick", "random", 0))
    verdict = {"headline": "Nothing was judged.", "level": "inconclusive"}
    names = ["benign", "pro_b"]
    values = {"schema": 1, "class_names": names, "confidence": 0.95, "results": []}
    write_json(run.metrics, values | {"verdict": verdict})
    return run


def test_everything_is_read_once_and_kept(run: RunFolder) -> None:
    files = RunFiles.open(run.path)
    assert files.recipes == ("quick",)
    assert [record.image_id for record in files.manifest.usable] == ["a", "b"]
    assert [fold.protocol for fold in files.splits] == ["random", "final"]
    assert [fold.ids("test") for fold in files.folds_under("random")] == [["b"]]
    assert files.folds_under("grouped") == ()
    assert files.predictions.image_id.tolist() == ["b"]
    assert files.fit_predictions("quick", "random", 0).probs.tolist() == [[0.9, 0.1]]
    metrics = files.metrics
    for path in (run.config, run.manifest, run.splits, run.predictions, run.metrics):
        path.unlink()
    assert files.metrics is metrics
    assert files.config.recipes[0].name == "quick"
    assert len(files.predictions) == 1
    with pytest.raises(DataError, match="holds no study or training run"):
        RunFiles.open(run.path)


def test_a_bundle_and_a_missing_folder_are_refused(run: RunFolder) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        RunFiles.open(run.path / "nowhere")
    (run.path / "bundle.json").write_text("{}")
    with pytest.raises(UsageError, match="is a bundle"):
        RunFiles.open(run.path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("manifest", "the run stopped before its images were read"),
        ("splits", "the run has not come as far as its splits"),
        ("predictions", "the run is not finished"),
        ("metrics", "the run is not finished"),
    ],
)
def test_a_file_that_is_not_there_yet_is_named(run: RunFolder, name: str, reason: str) -> None:
    path: Path = getattr(run, name)
    path.unlink()
    with pytest.raises(DataError, match=rf"{path.name}: this file is missing; {reason}") as caught:
        getattr(RunFiles.open(run.path), name)
    assert f"leukoscope study --out {run.path} --resume" in str(caught.value.hint)


def test_damaged_files_are_named(run: RunFolder) -> None:
    files = RunFiles.open(run.path)
    run.metrics.write_text("[1]")
    with pytest.raises(DataError, match=r"metrics\.json: expected a JSON object, found list"):
        _ = files.metrics
    run.metrics.write_text("{")
    with pytest.raises(DataError, match=r"metrics\.json: expected JSON"):
        _ = files.metrics
    run.config.write_text("seed = 'x'")
    with pytest.raises(ConfigError, match=r"config\.toml"):
        _ = files.config


def test_an_unknown_recipe_is_answered_with_those_there_are(run: RunFolder) -> None:
    files = RunFiles.open(run.path)
    files.check_recipe("quick")
    with pytest.raises(UnknownNameError, match="quick"):
        files.check_recipe("quack")
