"""Experiment trackers where a recipe asks for them: MLflow and Weights & Biases.

Both record where their own settings say (``MLFLOW_TRACKING_URI``, ``WANDB_MODE`` …); MLflow
otherwise in ``mlflow/`` of the run's folder. Neither is imported unless it is asked for.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leukoscope.config.metrics.file import StudyMetrics
from leukoscope.config.recipe import GradientTraining, Recipe
from leukoscope.config.training import Tracker
from leukoscope.core.errors import MissingExtraError, TrainingError
from leukoscope.core.files import read_json, write_json
from leukoscope.core.run_folder import RunFolder
from leukoscope.learning.distributed import is_first

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

IDS = "trackers.json"
"""Identities of a training's runs, so that a resumed training goes on with them."""


@contextmanager
def tracking(
    trackers: Iterable[Tracker], folder: Path, ids: Path, settings: Mapping[str, object]
) -> Iterator[list[Logger]]:
    """Lightning's loggers for one training; their runs are closed when the block ends.

    Args:
        trackers: Which.
        folder: Of the training. Experiment or project is named after the run's folder above it,
            the run after the path from there.
        ids: File that keeps the identities of the runs.
        settings: Logged with the run.

    Raises:
        MissingExtraError: A tracker is not installed.
        TrainingError: It cannot record, for example because nobody is signed in.
    """
    home, name = _place(folder)
    opened: dict[Tracker, Logger] = {}
    if is_first():
        known = read_json(ids) if ids.is_file() else {}
        for tracker in trackers:
            opened[tracker] = _open(tracker, home, name, known.get(tracker))
            with _can_record(tracker):
                opened[tracker].log_hyperparams(dict(settings))
        if opened:
            write_json(ids, {tracker: str(logger.version) for tracker, logger in opened.items()})
    status = "failed"
    try:
        yield list(opened.values())
        status = "success"
    finally:
        for tracker, logger in opened.items():
            with _can_record(tracker):
                logger.finalize(status)
                if tracker == "wandb":  # else the next training would go on with this run
                    logger.experiment.finish(int(status != "success"))  # type: ignore[attr-defined]


def check_trackers(recipes: Iterable[Recipe], run: Path) -> None:
    """Fail now, not after an hour; and make MLflow's database before several processes want to.

    Raises:
        MissingExtraError: A tracker that a recipe asks for is not installed.
        TrainingError: It cannot record.
    """
    for tracker in _asked(recipes):
        _require(tracker)
        if tracker == "mlflow":
            with _can_record(tracker):
                from mlflow.tracking import MlflowClient

                MlflowClient(_mlflow_place(run)[0]).search_experiments(max_results=1)


def track_report(recipes: Iterable[Recipe], run: RunFolder, metrics: StudyMetrics) -> None:
    """Log the scores of a study, and its report and metrics as artefacts, as a run ``report``."""
    files = [path for path in (run.report_html, run.model_card, run.metrics) if path.is_file()]
    scores = {
        f"{row.recipe}/{row.protocol}/{metric}": found.value
        for row in metrics.results
        for metric, found in row.metrics.items()
        if found.value is not None
    }
    for tracker in _asked(recipes):
        ids = run.cache / f"{tracker}-{IDS}"
        with tracking([tracker], run.path / "report", ids, {}) as (logger,), _can_record(tracker):
            logger.log_metrics(scores)
            if tracker == "mlflow":
                for path in files:
                    logger.experiment.log_artifact(logger.version, str(path))  # type: ignore[attr-defined]
            else:
                _log_wandb_files(logger, files)


def _asked(recipes: Iterable[Recipe]) -> list[Tracker]:
    """Every tracker that a recipe asks for, once."""
    trainings = (recipe.training for recipe in recipes)
    asked = (training.logger for training in trainings if isinstance(training, GradientTraining))
    return sorted({name for names in asked for name in names})


def _log_wandb_files(logger: Any, files: Iterable[Path]) -> None:
    import wandb

    artefact = wandb.Artifact("study", type="report")
    for path in files:
        artefact.add_file(str(path))
    logger.experiment.log_artifact(artefact)


def _require(tracker: Tracker) -> None:
    if find_spec(tracker) is None:
        raise MissingExtraError(f'training.logger = ["{tracker}"]', "trackers")


def _place(folder: Path) -> tuple[Path, str]:
    """The run's folder above that of a training, and the path from there."""
    whole = folder.resolve()
    home = next((up for up in whole.parents if (up / "config.toml").is_file()), whole.parent)
    return home, whole.relative_to(home).as_posix()


def _open(tracker: Tracker, home: Path, name: str, known: str | None) -> Logger:
    """A logger of Lightning; ``known`` is the run to go on with."""
    _require(tracker)
    if tracker == "wandb":
        from pytorch_lightning.loggers import WandbLogger

        return WandbLogger(
            name,
            save_dir=home,
            version=known or uuid.uuid4().hex[:8],
            project=os.environ.get("WANDB_PROJECT", home.name),
            settings={"console": "off", "silent": True},
        )
    from pytorch_lightning.loggers import MLFlowLogger

    address, artefacts = _mlflow_place(home)
    with _can_record(tracker):
        return MLFlowLogger(
            os.environ.get("MLFLOW_EXPERIMENT_NAME", home.name),
            run_name=name,
            tracking_uri=address,
            artifact_location=artefacts,
            run_id=known,
        )


def _mlflow_place(home: Path) -> tuple[str, str | None]:
    """Where MLflow records, and where it keeps files unless its server knows."""
    if address := os.environ.get("MLFLOW_TRACKING_URI"):
        return address, None
    place = home.resolve() / "mlflow"  # with a database: MLflow no longer writes plain files
    place.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{place / 'mlflow.db'}", (place / "artifacts").as_uri()


@contextmanager
def _can_record(tracker: Tracker) -> Iterator[None]:
    """Whatever a tracker's client raises becomes one error that says what to do.

    Raises:
        TrainingError: The client failed.
    """
    hints = {
        "mlflow": "is MLFLOW_TRACKING_URI right? Without it MLflow writes to the run's folder",
        "wandb": "sign in with `wandb login`, or set WANDB_MODE=offline and `wandb sync` later",
    }
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split())
        raise TrainingError(
            f"{tracker} cannot record: {type(error).__name__}: {text}", hint=hints[tracker]
        ) from None
