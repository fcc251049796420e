"""The demo: the whole main job on phantom smears."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from leukoscope.core.files import read_json
from leukoscope.core.run_folder import RunFolder
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.phantom.writing import TRUTH_FILE, TRUTH_FOLDER, write_phantoms
from leukoscope.runtime.outputs import PredictionWriter
from leukoscope.runtime.predictor import load_bundle
from leukoscope.study.events import Listener
from leukoscope.study.run import run_study

NEW_SEED = 1  # the images that are predicted come from sessions the model has not seen


@dataclass(frozen=True)
class DemoResult:
    """Where the demo's results are.

    Attributes:
        headline: The verdict in words.
        level: Its level.
        report: The report.
        bundle: The model.
        predictions: Its predictions on new phantoms.
        example: An image to try it on.
    """

    headline: str
    level: str
    report: Path
    bundle: Path
    predictions: Path
    example: Path


def run_demo(out: Path, *, images: int, listener: Listener) -> DemoResult:
    """Draw phantoms, run a study on them, and predict new ones; a finished part is kept."""
    data, new = out / "phantoms", out / "new-phantoms"
    for folder, spec in (
        (data, PhantomSpec(images=images)),
        (new, PhantomSpec(images=12, sessions=4, seed=NEW_SEED)),
    ):
        if not (folder / TRUTH_FOLDER / TRUTH_FILE).is_file():
            write_phantoms(spec, folder, progress=lambda d, t: listener("drawing phantoms", d, t))
    run = RunFolder(out / "run")
    metrics = run_study(data, run.path, resume=run.config.is_file(), listener=listener).metrics
    predictor = load_bundle(run.bundle)
    table = read_json(new / TRUTH_FOLDER / TRUTH_FILE)["images"]
    paths = [new / row["path"] for row in table]
    with PredictionWriter(out / "predictions.csv", predictor.class_names) as writer:
        for answer in predictor.predict_stream(paths):
            writer.write(answer)
    verdict = metrics["verdict"]
    return DemoResult(
        headline=verdict["headline"],
        level=verdict["level"],
        report=run.report_html,
        bundle=run.bundle,
        predictions=out / "predictions.csv",
        example=paths[0],
    )
