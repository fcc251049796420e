"""The fits that a run's folder holds: which there are, what they predicted, the models themselves.

Each fit is read from its own folder, so that a run that is still going on, was stopped, or was
made without a bundle can be looked at as well, as far as it came.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import Calibration, Conformal
from leukoscope.config.loading import load_study_config
from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError, MissingExtraError, UnknownNameError, UsageError
from leukoscope.core.protocols import PROTOCOLS
from leukoscope.core.records import Fold, ImageRecord, Manifest, load_folds
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.calibration import apply_calibration, fit_calibration
from leukoscope.evaluation.conformal import fit_sets
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.pipeline.entries import units_of
from leukoscope.pipeline.folds import FINAL
from leukoscope.pipeline.jobs import calibration_tables
from leukoscope.pipeline.out_of_fold import UnseenImages

if TYPE_CHECKING:
    from leukoscope.learning.backbones import Network

RECORD = "checkpoint.json"
TABLE = "predictions.csv"


@dataclass(frozen=True)
class FittedModel:
    """One trained model.

    Attributes:
        recipe: Its recipe.
        protocol: Under which protocol it was fitted.
        fold: In which fold.
        network: In evaluation mode.
        spec: Its preprocessing.
        class_names: Order of the logits.
        calibration: See :mod:`leukoscope.pipeline.jobs`; for the fit on all images
            :mod:`leukoscope.pipeline.out_of_fold`.
        conformal: Prediction sets, fitted on the same images.
    """

    recipe: str
    protocol: str
    fold: int
    network: Network
    spec: PreprocessSpec
    class_names: tuple[str, ...]
    calibration: Calibration
    conformal: Conformal

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Calibrated probabilities of preprocessed images.

        Args:
            images: (n, S, S, 3) uint8 RGB.

        Returns:
            (n, K) float64.
        """
        from leukoscope.learning.trainer import predict_logits

        logits = predict_logits(self.network, images, self.spec)
        return apply_calibration(logits, self.calibration)


@dataclass(frozen=True)
class FittedRun:
    """A study's or training run's folder, for reading.

    Attributes:
        run: The folder.
        config: Its resolved configuration.
        manifest: Where the images lie.
    """

    run: RunFolder
    config: StudyConfig
    manifest: Manifest
    _models: dict[tuple[str, str, int], FittedModel] = field(default_factory=dict)
    _tables: dict[tuple[str, str, int], PredictionTable] = field(default_factory=dict)
    _folds: dict[tuple[str, int], Fold] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> FittedRun:
        """Read the configuration and the manifest.

        Raises:
            UsageError: The folder is a bundle, not a run.
            DataError: It is missing, no run, or stopped before its images were read.
        """
        run = RunFolder(path)
        if (path / "bundle.json").is_file():
            raise UsageError(
                f"{path} is a bundle: it holds a graph to predict with, not the trained model",
                hint="name the folder of the study or training run; heat maps of a bundle's "
                "predictions: leukoscope predict IMAGE --bundle BUNDLE --explain FOLDER",
            )
        if not run.config.is_file():
            there = "holds no study or training run" if path.is_dir() else "there is no such folder"
            raise DataError(
                f"{path}: {there} (config.toml is missing)",
                hint="name the folder that --out of `leukoscope study` or `train` named",
            )
        config = load_study_config(run.config)
        if not run.manifest.is_file():
            raise DataError(
                f"{path}: the run stopped before its images were read",
                hint=f"go on with it: leukoscope study --out {path} --resume",
            )
        return cls(run, config, Manifest.load(run.manifest, config.data.root))

    @property
    def recipes(self) -> tuple[str, ...]:
        """Names of the recipes, the first one first."""
        return tuple(recipe.name for recipe in self.config.recipes)

    @property
    def has_models(self) -> bool:
        """Whether any recipe left a model; what combines others' predictions leaves none."""
        return any(any(self._fitted(name)) for name in self.recipes)

    def folds(self, recipe: str, protocol: str) -> list[int]:
        """Numbers of the finished fits."""
        parent = self.run.model(recipe, protocol, 0).parent
        found = (int(path.name.removeprefix("fold")) for path in parent.glob("fold*")
                 if (path / RECORD).is_file() and (path / TABLE).is_file())  # fmt: skip
        return sorted(found)

    def choose(self, recipe: str | None, protocol: str | None) -> tuple[str, str]:
        """A recipe and a protocol with finished fits; by default the first ones.

        Raises:
            UnknownNameError: The run has no such recipe or protocol.
            DataError: Nothing of it is finished yet, or its model was not kept.
        """
        name = recipe or next((n for n in self.recipes if any(self._fitted(n))), self.recipes[0])
        if name not in self.recipes:
            raise UnknownNameError(f"recipe of {self.run.path}", name, self.recipes)
        done = [p for p in self._fitted(name) if p in PROTOCOLS]
        planned = {*self.config.protocols, *done}
        if protocol is not None and protocol not in planned:
            raise UnknownNameError(f"protocol of {self.run.path}", protocol, planned)
        if not done or (protocol is not None and protocol not in done):
            where = f" under {protocol}" if protocol else ""
            what = f"finished: {', '.join(done)}" if done else "nothing of this recipe is finished"
            raise DataError(
                f"{self.run.path}: no finished fit of {name}{where}; {what}",
                hint=f"let it finish: leukoscope study --out {self.run.path} --resume",
            )
        return name, protocol or done[0]

    def _fitted(self, recipe: str) -> Iterator[str]:
        """Protocols with finished fits, those asked for first and in their order."""
        there = sorted(path.name for path in (self.run.path / "models" / recipe).glob("*"))
        order = [*self.config.protocols, *(p for p in there if p not in self.config.protocols)]
        return (protocol for protocol in order if self.folds(recipe, protocol))

    def table(self, recipe: str, protocol: str, fold: int) -> PredictionTable:
        """Logits and probabilities of the held-out images of one fit."""
        key = (recipe, protocol, fold)
        if key not in self._tables:
            self._tables[key] = PredictionTable.load(self.run.model(*key) / TABLE)
        return self._tables[key]

    def test_table(self, recipe: str, protocol: str) -> PredictionTable:
        """Test predictions of all finished folds of a recipe under a protocol."""
        folds = self.folds(recipe, protocol)
        return concatenate([self.table(recipe, protocol, fold) for fold in folds]).select(
            part="test", input="image"
        )

    def model(self, recipe: str, protocol: str, fold: int) -> FittedModel:
        """Load a model, once.

        Raises:
            MissingExtraError: torch is not installed.
            UsageError: There is no such finished fold.
            WeightsError: Its files are damaged, or its frozen backbone is not at hand.
        """
        if find_spec("torch") is None:
            raise MissingExtraError("looking into a trained model", "train")
        from leukoscope.learning.checkpoint import load_checkpoint

        key = (recipe, protocol, fold)
        if key not in self._models:
            folds = self.folds(recipe, protocol)
            if fold not in folds:
                known = ", ".join(map(str, folds)) or "none"
                raise UsageError(
                    f"{self.run.path}: fold {fold} of {recipe} under {protocol} is not finished, "
                    f"finished: {known}"
                )
            network, meta = load_checkpoint(self.run.model(*key))
            calibration, conformal = self._decisions(*key)
            self._models[key] = FittedModel(
                *key,
                network=network,
                spec=meta.recipe.preprocess,
                class_names=meta.class_names,
                calibration=calibration,
                conformal=conformal,
            )
        return self._models[key]

    def _decisions(self, recipe: str, protocol: str, fold: int) -> tuple[Calibration, Conformal]:
        """From the ``cal`` part or the other folds; for the fit on all images from all folds.

        While no other fold is finished, from the ``val`` part.
        """
        if protocol == FINAL:
            unseen = UnseenImages.of_run(self.run, recipe)
            return unseen.decide(unseen.logits)[:2]
        numbers = self.folds(recipe, protocol)
        own, folds = numbers.index(fold), [self._fold(protocol, k) for k in numbers]
        tables = [self.table(recipe, protocol, k) for k in numbers]
        cal, guarantee = calibration_tables(tables)[own], self.config.set_guarantee
        if not len(cal):  # no other fold is finished yet: what selected the model has to do
            cal = tables[own].select(part="val")
        calibration = fit_calibration(cal.logits, cal.y_true, units_of(folds[own], cal))
        sets = fit_sets(
            apply_calibration(cal.logits, calibration),
            cal.y_true,
            self.config.coverage,
            score=self.config.set_score,
            guarantee=guarantee,
            groups=units_of(folds[own], cal) if guarantee == "group" else None,
        )
        return calibration, sets

    def model_for(self, recipe: str, protocol: str, image_id: str) -> tuple[FittedModel, str]:
        """The model that may speak about an image, and what the image was to it.

        Args:
            recipe: Which recipe.
            protocol: Under which protocol.
            image_id: Empty for an image that is not of the data set.

        Returns:
            For an image of the data set the model of the fold that tested on it, with ``test``,
            or, where none did, that of the first fold with the image's part there (``train``,
            ``val``, ``cal``, ``purged``). For another image the fit on all images, if there is
            one, else the first fold's, with an empty part.
        """
        folds = self.folds(recipe, protocol)
        if not image_id:
            final = self.folds(recipe, FINAL)
            where = (FINAL, final[0]) if final else (protocol, folds[0])
            return self.model(recipe, *where), ""
        parts = {fold: self._part(recipe, protocol, fold, image_id) for fold in folds}
        chosen = next((fold for fold, part in parts.items() if part == "test"), folds[0])
        return self.model(recipe, protocol, chosen), parts[chosen]

    def _part(self, recipe: str, protocol: str, fold: int, image_id: str) -> str:
        table = self.table(recipe, protocol, fold)
        rows = np.flatnonzero(table.image_id == image_id)
        if len(rows):
            return str(table.part[rows[0]])
        return self._fold(protocol, fold).parts.get(image_id, "")

    def _fold(self, protocol: str, fold: int) -> Fold:
        key = (protocol, fold)
        if key not in self._folds:
            self._folds[key] = Fold(protocol, fold, parts={})
            self._folds.update({(f.protocol, f.fold): f for f in load_folds(self.run.splits)})
        return self._folds[key]

    def record(self, image_id: str) -> ImageRecord:
        """One image of the data set.

        Raises:
            DataError: It is not in the manifest.
        """
        found = next((r for r in self.manifest.images if r.image_id == image_id), None)
        if found is None:
            raise DataError(
                f"{self.run.manifest}: image {image_id} is missing, but was predicted",
                hint="the files of this folder do not belong together; run the study again",
            )
        return found

    def find(self, sha256: str, image_id: str = "") -> ImageRecord | None:
        """The image of the data set with these bytes, or None.

        Args:
            sha256: Of the file.
            image_id: Which one, where copies of the file are known.
        """
        same = [r for r in self.manifest.usable if r.sha256 == sha256]
        return next((r for r in same if r.image_id == image_id), same[0] if same else None)
