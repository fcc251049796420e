"""The demo: the whole main job on phantom smears."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from leukoscope.config.loading import load_study_config
from leukoscope.config.metrics.evidence import Verdict
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import ConfigError
from leukoscope.core.files import read_json
from leukoscope.core.run_folder import RunFolder
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.phantom.writing import TRUTH_FILE, TRUTH_FOLDER, write_phantoms
from leukoscope.pipeline.progress import Listener
from leukoscope.runtime.outputs import PredictionWriter
from leukoscope.runtime.predictor import load_bundle
from leukoscope.study.run import run_study, study_config

NEW_SEED = 1  # the images that are predicted come from sessions the model has not seen


@dataclass(frozen=True)
class DemoResult:
    """Where the results of the demo are.

    Attributes:
        verdict: Verdict of the study, as in ``metrics.json``.
        report: The study's report.
        bundle: The bundle's folder.
        predictions: Predictions on new phantoms.
        example: An image to predict.
    """

    verdict: Verdict
    report: Path
    bundle: Path
    predictions: Path
    example: Path


def run_demo(out: Path, *, images: int, listener: Listener) -> DemoResult:
    """Draw phantoms, run a study on them, and predict new ones.

    It may be repeated: finished parts are kept, and those made by another version or for another
    number of images are made again.
    """
    data = out / f"phantoms-{images}"
    _draw(PhantomSpec(images=images), data, listener)
    new = out / "new-phantoms"
    _draw(PhantomSpec(images=12, sessions=4, seed=NEW_SEED), new, listener)
    run = RunFolder(out / "run")
    config = study_config(data)
    if run.config.is_file() and not _same(run, config):
        shutil.rmtree(run.path)
    metrics = run_study(config, run.path, resume=run.config.is_file(), listener=listener).metrics
    predictor = load_bundle(run.bundle)
    table = read_json(new / TRUTH_FOLDER / TRUTH_FILE)["images"]
    paths = [new / row["path"] for row in table]
    with PredictionWriter(out / "predictions.csv", predictor.class_names) as writer:
        for answer in predictor.predict_stream(paths):
            writer.write(answer)
    return DemoResult(
        verdict=metrics.verdict,
        report=run.report_html,
        bundle=run.bundle,
        predictions=out / "predictions.csv",
        example=paths[0],
    )


def _draw(spec: PhantomSpec, folder: Path, listener: Listener) -> None:
    """Draw phantoms in a temporary folder and move them into place when complete."""
    if (folder / TRUTH_FOLDER / TRUTH_FILE).is_file():
        return
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_phantoms(
        spec, partial, progress=lambda done, n: listener(f"drawing {folder.name}", done, n)
    )
    partial.rename(folder)


def _same(run: RunFolder, config: StudyConfig) -> bool:
    try:
        return load_study_config(run.config) == config
    except ConfigError:
        return False  # of another version
