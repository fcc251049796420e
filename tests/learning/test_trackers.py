"""MLflow and Weights & Biases, without a network: each epoch, the report, and only when asked."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from leukoscope.config.metrics.results import Estimate
from leukoscope.config.recipe import Recipe
from leukoscope.core.errors import MissingExtraError, TrainingError
from leukoscope.core.run_folder import RunFolder
from leukoscope.learning import trackers
from leukoscope.learning.backbones import build_network
from leukoscope.learning.batches import ImageSet
from leukoscope.learning.trackers import check_trackers, track_report
from leukoscope.learning.trainer import TrainingResult, train_gradient

pytestmark = pytest.mark.filterwarnings("default")  # what the clients do is their own affair


def tracked(recipe: Recipe, *names: str) -> Recipe:
    training = recipe.training.model_copy(update={"epochs": 2, "logger": names})
    return recipe.model_copy(update={"training": training})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A study's folder with a report."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = RunFolder(tmp_path / "study")
    folder.cache.mkdir(parents=True)
    folder.config.touch()
    folder.report_html.write_text("<h1>Report</h1>")
    return folder


def train(recipe: Recipe, sets: tuple[ImageSet, ImageSet], out: Path) -> TrainingResult:
    network = build_network(recipe.model, num_classes=3, size_px=32, seed=1)
    return train_gradient(network, recipe, *sets, out, seed=3)


def results() -> Any:
    accuracy = Estimate(value=0.75, low=None, high=None)
    row = SimpleNamespace(recipe="tiny", protocol="grouped", metrics={"accuracy": accuracy})
    return SimpleNamespace(results=[row])


def test_mlflow_has_the_epochs_and_the_report(
    recipe: Recipe, coloured: tuple[ImageSet, ImageSet], run: RunFolder
) -> None:
    recipe = tracked(recipe, "mlflow")
    check_trackers([recipe], run.path)
    result = train(recipe, coloured, run.model("tiny", "grouped", 0))
    track_report([recipe], run, results())
    track_report([recipe], run, results())  # a resumed study

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run.path}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("study")
    assert experiment is not None
    found = {row.info.run_name: row for row in client.search_runs([experiment.experiment_id])}
    assert set(found) == {"report", "models/tiny/grouped/fold0"}, "one run each"
    fit = found["models/tiny/grouped/fold0"]
    assert fit.info.status == "FINISHED"
    assert fit.data.params["batch_size"] == str(recipe.training.batch_size)  # type: ignore[union-attr]
    history = client.get_metric_history(fit.info.run_id, "val_loss")
    expected = [row["val_loss"] for row in result.history]
    assert [row.value for row in history] == pytest.approx(expected)
    report = found["report"]
    assert report.data.metrics == {"tiny/grouped/accuracy": 0.75}
    names = [file.path for file in client.list_artifacts(report.info.run_id)]
    assert names == ["report.html"]


def test_wandb_records_offline(
    recipe: Recipe, coloured: tuple[ImageSet, ImageSet], run: RunFolder
) -> None:
    recipe = tracked(recipe, "wandb")
    check_trackers([recipe], run.path)
    train(recipe, coloured, run.model("tiny", "grouped", 0))
    track_report([recipe], run, results())

    def files() -> list[bytes]:
        return [path.read_bytes() for path in run.path.glob("wandb/offline-run-*/run-*.wandb")]

    assert len(files()) == 2, "a run for the training, one for the report"
    deadline = time.monotonic() + 30  # W&B's own process may write the end after `finish`
    while not any(b"report.html" in file for file in files()) and time.monotonic() < deadline:
        time.sleep(0.1)
    written = files()
    assert sum(b"models/tiny/grouped/fold0" in content for content in written) == 1
    assert sum(b"val_accuracy" in content for content in written) == 1
    assert sum(b"report.html" in content for content in written) == 1
    import wandb

    assert wandb.run is None, "the next training does not go on with it"


def test_a_tracker_changes_no_result(
    recipe: Recipe, coloured: tuple[ImageSet, ImageSet], run: RunFolder
) -> None:
    plain = train(tracked(recipe), coloured, run.path / "a")
    with_tracker = train(tracked(recipe, "mlflow"), coloured, run.path / "b")
    for one, other in zip(plain.history, with_tracker.history, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_what_is_not_installed_or_not_allowed_is_said_before_anything_is_trained(
    recipe: Recipe, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://host")
    with pytest.raises(TrainingError, match=r"mlflow cannot record(.|\n)*MLFLOW_TRACKING_URI"):
        check_trackers([tracked(recipe, "mlflow")], run.path)
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"leukoscope\[trackers\]"):
        check_trackers([tracked(recipe, "wandb")], run.path)
    check_trackers([tracked(recipe)], run.path)


def test_nothing_is_imported_unless_asked() -> None:
    code = (
        "import sys, leukoscope.pipeline.evidence, leukoscope.pipeline.fitting\n"
        "print({'pytorch_lightning'} & set(sys.modules))\n"
        "import leukoscope.learning.trainer\n"
        "print({'mlflow', 'wandb'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", "set()"]
