"""The names of the files in a study's folder, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from leukoscope.core.errors import UsageError
from leukoscope.core.files import read_csv
from leukoscope.core.folder_lock import LOCK

HISTORY = "history.csv"  # of each fit: its epochs, or the penalties of a linear head
GRID = "grid.csv"  # of a fit of another classifier: the settings tried
EXPLANATIONS = "explanations.json"  # list of the heat maps
PATIENT_CELLS = "patients.json"  # among the explanations: the cells that decided
PREDICTIONS = "predictions.csv"  # of the whole run, and of each fit in the folder of its model
CALIBRATION = "calibration.json"  # of a fold's model, in its folder
OOD_CSV, OOD_JSON = "ood.csv", "ood.json"  # of a fold's gate, in the folder of its model
OOD_COLUMNS = ("image_id", "part", "outlier", "score", "decided_by", "accepted")


@dataclass(frozen=True)
class RunFolder:
    """A study's folder; each step reads the files of the step before and writes its own."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.toml"

    @property
    def environment(self) -> Path:
        """Versions, git commit, hardware, seeds, hashes."""
        return self.path / "environment.json"

    @property
    def manifest(self) -> Path:
        """One row per image file."""
        return self.path / "manifest.csv"

    @property
    def patients(self) -> Path:
        """One row per patient, where patients are the unit of the study."""
        return self.path / "patients.csv"

    @property
    def passport(self) -> Path:
        """What the data set is."""
        return self.path / "passport.json"

    @property
    def splits(self) -> Path:
        """Which image stands in which part."""
        return self.path / "splits.csv"

    @property
    def predictions(self) -> Path:
        """Every logit and probability that the statistics use."""
        return self.path / PREDICTIONS

    @property
    def metrics(self) -> Path:
        """Statistics with intervals, probes, the verdict."""
        return self.path / "metrics.json"

    @property
    def robustness(self) -> Path:
        """What damage to the images costs the models."""
        return self.path / "robustness.json"

    @property
    def robustness_table(self) -> Path:
        """The same, one row per model and condition."""
        return self.path / "robustness.csv"

    @property
    def figures(self) -> Path:
        """Figures of the report."""
        return self.path / "figures"

    @property
    def explanations(self) -> Path:
        """Heat maps, with ``explanations.json`` as their list."""
        return self.path / "explanations"

    @property
    def report_html(self) -> Path:
        """The report as one self-contained page."""
        return self.path / "report.html"

    @property
    def report_md(self) -> Path:
        """The report as text."""
        return self.path / "report.md"

    @property
    def model_card(self) -> Path:
        """The model card."""
        return self.path / "model_card.md"

    @property
    def checklists(self) -> Path:
        """Reporting checklists, filled in."""
        return self.path / "checklists"

    @property
    def ensemble(self) -> Path:
        """Members, weights and tests, where the folder is that of an ensemble."""
        return self.path / "ensemble.json"

    @property
    def bundle(self) -> Path:
        """What ``predict`` uses."""
        return self.path / "bundle"

    @property
    def external(self) -> Path:
        """Results of the bundle on other data, a folder each."""
        return self.path / "external"

    @property
    def cache(self) -> Path:
        """Features and other values that can be computed again; safe to delete."""
        return self.path / "cache"

    def model(self, recipe: str, protocol: str, fold: int) -> Path:
        """The folder of one trained model: checkpoint and history."""
        return self.path / "models" / recipe / protocol / f"fold{fold}"

    def fit_predictions(self, recipe: str, protocol: str, fold: int) -> Path:
        """What one model predicts; its presence says that the fit has ended."""
        return self.model(recipe, protocol, fold) / PREDICTIONS


def resumes(config: Path, what: str, *, resume: bool, hint: str) -> bool:
    """Whether the folder of ``config`` holds something to resume; False for a new folder.

    ``what`` names it in messages (``study``); ``hint`` says how to resume it.

    Raises:
        UsageError: The folder holds something else, or is not to be resumed.
    """
    out = config.parent
    if not out.is_dir() or all(path.name == LOCK for path in out.iterdir()):
        return False
    if not config.is_file():
        raise UsageError(
            f"{out} is not empty and holds no {what}", hint="name a new folder with --out"
        )
    if not resume:
        raise UsageError(
            f"{out} already holds a {what}", hint=f"{hint}, or name a new folder with --out"
        )
    return True


def frozen_folder(model: Path) -> Path:
    """Where the first of two trainings, that of the head alone, keeps its files."""
    return model / "frozen"


def training_history(model: Path) -> tuple[list[dict[str, str]], int]:
    """What was written after each epoch of one model.

    Returns:
        The rows, those of the head's own training first; and how many these are. No rows where
        the model has no history.
    """
    last, first = model / HISTORY, frozen_folder(model) / HISTORY
    rows = read_csv(last) if last.is_file() else []
    head = read_csv(first) if rows and first.is_file() else []
    return [*head, *rows], len(head)
