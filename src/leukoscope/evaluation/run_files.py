"""One reader of a run's folder: each file is read when it is first asked for, and once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from leukoscope.config.environment import Environment
from leukoscope.config.loading import load_study_config
from leukoscope.config.metrics.file import StudyMetrics, load_metrics
from leukoscope.config.passport import Passport, load_passport
from leukoscope.config.robustness import RobustnessFile
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError, UnknownNameError, UsageError
from leukoscope.core.patients import rows_of
from leukoscope.core.program import typed
from leukoscope.core.records import Fold, Manifest, load_folds
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.predictions import PredictionTable


@dataclass(frozen=True)
class RunFiles:
    """The files of a study or training run, for reading.

    Each property reads one file, on first use, and raises a :class:`DataError` that names the
    file where it is missing or damaged. Values stay as they were read, whatever happens to the
    files later.

    Attributes:
        run: The folder.
    """

    run: RunFolder

    @classmethod
    def open(cls, path: Path) -> Self:
        """The folder of a run, even one that is still going on.

        Raises:
            UsageError: The folder is a bundle.
            DataError: There is no such folder, or it holds no run.
        """
        run = RunFolder(path)
        if (path / "bundle.json").is_file():
            raise UsageError(
                f"{path} is a bundle: it holds a graph to predict with, not the trained model",
                hint="name the folder of the study or training run. A bundle answers to: "
                "leukoscope predict IMAGE --bundle BUNDLE (heat maps: --explain FOLDER), and "
                "leukoscope evaluate BUNDLE DATA",
            )
        if not run.config.is_file():
            there = "holds no study or training run" if path.is_dir() else "there is no such folder"
            raise DataError(
                f"{path}: {there} (config.toml is missing)",
                hint="name the folder that --out of `leukoscope study` or `train` named",
            )
        return cls(run)

    @cached_property
    def config(self) -> StudyConfig:
        """The resolved configuration.

        Raises:
            ConfigError: It is missing or invalid; names the key.
        """
        return load_study_config(self.run.config)

    @cached_property
    def manifest(self) -> Manifest:
        """Every image file of the data."""
        path = self._written(self.run.manifest, "the run stopped before its images were read")
        return Manifest.load(path, self.config.data.root)

    @cached_property
    def rows(self) -> Manifest:
        """What the rows of splits and predictions stand for: the images, or the patients."""
        return rows_of(self.manifest, self.config.unit)

    def need_images(self, what: str) -> None:
        """Refuse a run whose unit is the patient.

        Args:
            what: That cannot be done with it, as the begin of a sentence.

        Raises:
            UsageError: It is such a run.
        """
        if self.config.unit == "patient":
            raise UsageError(
                f"{self.run.path}: {what} looks at single images, and the unit of this study is "
                "the patient",
                hint="study the same data without --unit patient",
            )

    @cached_property
    def splits(self) -> tuple[Fold, ...]:
        """The folds of all protocols, those of the curve and of the final fit included."""
        path = self._written(self.run.splits, "the run has not come as far as its splits")
        return tuple(load_folds(path))

    @cached_property
    def passport(self) -> Passport:
        """What the data set is."""
        return load_passport(self._written(self.run.passport))

    @cached_property
    def environment(self) -> Environment:
        """Versions, hardware, hashes."""
        return Environment.load(self._written(self.run.environment))

    @cached_property
    def metrics(self) -> StudyMetrics:
        """Statistics and verdict."""
        return load_metrics(self._written(self.run.metrics))

    @cached_property
    def robustness(self) -> RobustnessFile:
        """What ``robustness`` measured."""
        return RobustnessFile.load(self._written(self.run.robustness))

    @cached_property
    def predictions(self) -> PredictionTable:
        """Every prediction that the statistics rest on, of probes as well."""
        return PredictionTable.load(self._written(self.run.predictions))

    @property
    def recipes(self) -> tuple[str, ...]:
        """Names of the recipes, the one that becomes the bundle first."""
        return tuple(recipe.name for recipe in self.config.recipes)

    def check_recipe(self, name: str) -> None:
        """Refuse a name that no recipe of this run has.

        Raises:
            UnknownNameError: Names those that there are.
        """
        if name not in self.recipes:
            raise UnknownNameError(f"recipe of {self.run.path}", name, self.recipes)

    def folds_under(self, protocol: str) -> tuple[Fold, ...]:
        """The folds of one protocol, in their order; none where it was not run."""
        return tuple(fold for fold in self.splits if fold.protocol == protocol)

    def fit_predictions(self, recipe: str, protocol: str, fold: int) -> PredictionTable:
        """What one fit predicts, from its own folder; there as soon as this fit has ended."""
        return PredictionTable.load(self._written(self.run.fit_predictions(recipe, protocol, fold)))

    def _written(self, path: Path, reason: str = "the run is not finished") -> Path:
        """The path of a file that must be there; ``reason`` is why a run may not have it yet."""
        if not path.is_file():
            raise DataError(
                f"{path}: this file is missing; {reason}",
                hint=f"go on with it: {typed('study', '--out', self.run.path, '--resume')}",
            )
        return path
