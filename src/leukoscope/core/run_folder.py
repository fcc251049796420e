"""The names of the files in a study's folder, and its lock: one writer at a time.

A process that dies, however it dies, lets go of the lock.
"""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from leukoscope.core.errors import UsageError
from leukoscope.core.files import read_csv

HISTORY = "history.csv"  # of each fit: its epochs, or the penalties of a linear head
GRID = "grid.csv"  # of a fit of another classifier: the settings tried
EXPLANATIONS = "explanations.json"  # list of the heat maps
PATIENT_CELLS = "patients.json"  # among the explanations: the cells that decided
PREDICTIONS = "predictions.csv"  # of the whole run, and of each fit in the folder of its model
CALIBRATION = "calibration.json"  # of a fold's model, in its folder
OOD_CSV, OOD_JSON = "ood.csv", "ood.json"  # of a fold's gate, in the folder of its model
OOD_COLUMNS = ("image_id", "part", "outlier", "score", "decided_by", "accepted")
LOCK = ".lock"
_BUSY = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_BEHIND = 2**30  # Windows lets nobody read what is locked: a byte behind the text is


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

    def own(self) -> tuple[Path, ...]:
        """Every file and folder that a study writes and reads again."""
        return (
            self.config, self.environment, self.manifest, self.patients, self.passport,
            self.splits, self.predictions, self.metrics, self.robustness, self.robustness_table,
            self.figures, self.explanations, self.report_html, self.report_md, self.model_card,
            self.checklists, self.ensemble, self.bundle, self.external, self.cache,
            self.path / "models",
        )  # fmt: skip

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


def refuse_study(out: Path) -> None:
    """Refuse a place to write to where the files of a study would be replaced or mixed.

    Raises:
        UsageError: It is the folder of a study, finished or not, or one of its own files or
            folders. Other places inside are free.
    """
    if RunFolder(out).config.is_file():
        raise UsageError(
            f"{out} holds a study (config.toml), whose files are not replaced",
            hint="name a new folder with --out",
        )
    place = out.resolve()
    study = RunFolder(place.parent)
    if study.config.is_file() and place in study.own():
        raise UsageError(
            f"{out} belongs to the study in {out.parent}, whose files are not replaced",
            hint="name another place with --out",
        )


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


@contextmanager
def only_writer(folder: Path, doing: str) -> Iterator[None]:
    """Hold the lock of a folder, which is made where there is none.

    The lock belongs to the open file, so the system takes it from a process that ends; a file that
    a killed process left is taken over. On a file system without locks nobody is kept out.

    Args:
        folder: What is written to.
        doing: What its writer does, for the message: ``runs a study in``.

    Raises:
        UsageError: Another process holds the lock; says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    handle = _acquired(path, doing)
    try:
        since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, f"process {os.getpid()} on {platform.node()}, since {since}\n".encode())
        yield
    finally:
        with suppress(OSError):  # Windows deletes no open file; the next writer takes it over
            path.unlink()
        os.close(handle)


def _acquired(path: Path, doing: str) -> int:
    """The locked file, which is still the one at the path."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        if not _try_lock(handle):
            owner = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            raise UsageError(
                f"{path.parent}: another process {doing} this folder ({owner or 'unknown'})",
                hint="wait for it, or name a new folder with --out",
            )
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(handle).st_ino:
                return handle
        os.close(handle)  # its former owner deleted it between our opening and locking it


def _try_lock(handle: int) -> bool:
    """Lock an open file; False where another process has done so."""
    try:
        _lock(handle)
    except OSError as error:
        return error.errno not in _BUSY
    return True


try:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

except ImportError:  # Windows
    import msvcrt

    def _lock(handle: int) -> None:
        os.lseek(handle, _BEHIND, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
