"""The demo: the whole main job on phantom smears."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from leukoscope.config.loading import load_study_config
from leukoscope.config.metrics.evidence import Verdict
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import ConfigError
from leukoscope.core.files import read_json, write_bytes
from leukoscope.core.run_folder import RunFolder
from leukoscope.imaging.decode import decode_image
from leukoscope.learning.graphs.ahead import traced_meanwhile
from leukoscope.phantom import CLASS_FOLDERS
from leukoscope.phantom.render import TRUTH_FILE, TRUTH_FOLDER, write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.pipeline.progress import Listener
from leukoscope.runtime.outputs import PredictionWriter
from leukoscope.runtime.predictor import load_bundle
from leukoscope.runtime.similar import COLUMNS, contact_sheet
from leukoscope.study.options import study_config
from leukoscope.study.run import run_study

IMAGES, SESSIONS = 96, 12
NEW_SEED = 1  # the images that are predicted come from sessions the model has not seen
PICTURE_PX = 96
SHEET = "phantoms.jpg"
WHOLE = "the whole demo"
SECONDS: Mapping[str, float] = MappingProxyType(
    {
        "drawing phantoms": 10, "drawing new-phantoms": 1, "audit": 5, "features and probes": 14,
        "training": 2, "probe": 1, "negative control": 2, "statistics": 4, "explanations": 5,
        "bundle": 3, "report": 8, "predicting": 1,
    }
)  # fmt: skip
"""What the steps take on two cores, by the beginnings of their names; probes each."""


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


@dataclass
class _Whole:
    """Passes steps on, and tells beside them how much of the whole demo is done."""

    listener: Listener
    probes: int
    done: dict[str, float] = field(default_factory=dict)

    def __call__(self, step: str, done: int, total: int) -> None:
        """Take news of a step."""
        kind = next((name for name in SECONDS if step.startswith(name)), "")
        if kind:
            share = SECONDS[kind] * done / max(total, 1)
            self.done[step] = max(share, self.done.get(step, 0))
            self.listener(WHOLE, round(sum(self.done.values())), self.everything)
        self.listener(step, done, total)

    @property
    def everything(self) -> int:
        """Seconds that the demo usually takes."""
        return round(sum(SECONDS.values()) + (self.probes - 1) * SECONDS["probe"])

    def finish(self) -> None:
        """Nothing is left to do, whatever was left out."""
        self.listener(WHOLE, self.everything, self.everything)


def demo_config(data: Path) -> StudyConfig:
    """The study of the demo: all evidence of a default one, under two protocols in five folds."""
    return study_config(
        data, protocols=("random", "grouped"), folds=5, overrides=("explanations=2",)
    )


def run_demo(
    out: Path, *, images: int = IMAGES, listener: Listener, say: Callable[[str], None] = print
) -> DemoResult:
    """Draw phantoms, run a study on them, and predict new ones.

    It may be repeated: finished parts are kept, and those made by another version or for another
    number of images are made again.

    Args:
        out: Folder for everything.
        images: Number of phantoms to study.
        listener: Called with (step, done, total), and with :data:`WHOLE` as the step.
        say: Called with a sentence once there is something to look at.
    """
    data = out / f"phantoms-{images}"
    config = demo_config(data)
    whole = _Whole(listener, probes=len(config.probes))
    new = out / "new-phantoms"
    first = not data.is_dir()
    with traced_meanwhile(config.recipes[0], len(CLASS_FOLDERS)) if first else nullcontext():
        _draw(
            PhantomSpec(images=images, sessions=SESSIONS),
            data,
            whole,
            lambda drawn: _show(drawn, out / SHEET, say),
        )
        _draw(PhantomSpec(images=12, sessions=4, seed=NEW_SEED), new, whole)
    run = RunFolder(out / "run")
    if run.config.is_file() and not _same(run, config):
        shutil.rmtree(run.path)
    metrics = run_study(config, run.path, resume=run.config.is_file(), listener=whole).metrics
    predictor = load_bundle(run.bundle)
    table = read_json(new / TRUTH_FOLDER / TRUTH_FILE)["images"]
    paths = [new / row["path"] for row in table]
    with PredictionWriter(out / "predictions.csv", predictor.class_names) as writer:
        for done, answer in enumerate(predictor.predict_stream(paths), start=1):
            writer.write(answer)
            whole("predicting new-phantoms", done, len(paths))
    whole.finish()
    return DemoResult(
        verdict=metrics.verdict,
        report=run.report_html,
        bundle=run.bundle,
        predictions=out / "predictions.csv",
        example=paths[0],
    )


def _show(drawn: Path, sheet: Path, say: Callable[[str], None]) -> None:
    """Put the first phantoms on one sheet, to look at while the rest goes on."""
    paths = sorted(drawn.glob("*/phantom-*.png"), key=lambda path: path.name)
    pictures = [decode_image(p).image for p in paths if p.parent.name != TRUTH_FOLDER][:COLUMNS]
    write_bytes(sheet, contact_sheet(pictures, PICTURE_PX))
    say(f"the first of the drawn smears: {sheet}")


def _draw(
    spec: PhantomSpec,
    folder: Path,
    listener: Listener,
    first_drawn: Callable[[Path], None] = lambda _: None,
) -> None:
    """Draw phantoms in a temporary folder and move them into place when complete."""
    if (folder / TRUTH_FOLDER / TRUTH_FILE).is_file():
        return
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)

    def tell(done: int, total: int) -> None:
        listener(f"drawing {folder.name}", done, total)
        if done == min(COLUMNS, total):
            first_drawn(partial)

    write_phantoms(spec, partial, progress=tell)
    partial.rename(folder)


def _same(run: RunFolder, config: StudyConfig) -> bool:
    try:
        return load_study_config(run.config) == config
    except ConfigError:
        return False  # of another version
