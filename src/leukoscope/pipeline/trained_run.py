"""The fits that a run's folder holds: which there are, what they predicted, the models themselves.

Each fit is read from its own folder, so that a run that is still going on, was stopped, or was
made without a bundle can be looked at as well, as far as it came.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import Calibration, Conformal
from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.core.errors import DataError, MissingExtraError, UnknownNameError, UsageError
from leukoscope.core.program import typed
from leukoscope.core.protocols import PROTOCOLS
from leukoscope.core.records import Fold, ImageRecord
from leukoscope.core.run_folder import PREDICTIONS
from leukoscope.evaluation.calibration.scaling import apply_calibration, fit_calibration
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.evaluation.run_files import RunFiles
from leukoscope.pipeline.folds import FINAL
from leukoscope.pipeline.jobs import calibration_tables, fit_fold_sets, load_calibration, load_sets
from leukoscope.pipeline.results.entries import units_of
from leukoscope.pipeline.results.out_of_fold import UnseenImages

if TYPE_CHECKING:
    from leukoscope.learning.backbones import Network

RECORD = "checkpoint.json"


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
            :mod:`leukoscope.pipeline.results.out_of_fold`.
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
        from leukoscope.learning.features import predict_logits

        logits = predict_logits(self.network, images, self.spec)
        return apply_calibration(logits, self.calibration)


@dataclass(frozen=True)
class FittedRun(RunFiles):
    """A run's files, and its trained models."""

    _models: dict[tuple[str, str, int], FittedModel] = field(default_factory=dict)
    _tables: dict[tuple[str, str, int], PredictionTable] = field(default_factory=dict)

    @property
    def has_models(self) -> bool:
        """Whether any recipe left a model; what combines others' predictions leaves none."""
        return any(any(self._fitted(name)) for name in self.recipes)

    def finished_folds(self, recipe: str, protocol: str) -> list[int]:
        """Numbers of the folds whose models are trained and kept."""
        parent = self.run.model(recipe, protocol, 0).parent
        found = (int(path.name.removeprefix("fold")) for path in parent.glob("fold*")
                 if (path / RECORD).is_file() and (path / PREDICTIONS).is_file())  # fmt: skip
        return sorted(found)

    def choose(self, recipe: str | None, protocol: str | None) -> tuple[str, str]:
        """A recipe and a protocol with finished fits; by default the first ones.

        Raises:
            UnknownNameError: The run has no such recipe or protocol.
            DataError: Nothing of it is finished yet, or its model was not kept.
            UsageError: The unit of the run is the patient.
        """
        self.need_images("what is asked of its models")
        name = recipe or next((n for n in self.recipes if any(self._fitted(n))), self.recipes[0])
        self.check_recipe(name)
        done = [p for p in self._fitted(name) if p in PROTOCOLS]
        planned = {*self.config.protocols, *done}
        if protocol is not None and protocol not in planned:
            raise UnknownNameError(f"protocol of {self.run.path}", protocol, planned)
        if not done or (protocol is not None and protocol not in done):
            where = f" under {protocol}" if protocol else ""
            what = f"finished: {', '.join(done)}" if done else "nothing of this recipe is finished"
            raise DataError(
                f"{self.run.path}: no finished fit of {name}{where}; {what}",
                hint=f"let it finish: {typed('study', '--out', self.run.path, '--resume')}",
            )
        return name, protocol or done[0]

    def _fitted(self, recipe: str) -> Iterator[str]:
        """Protocols with finished fits, those asked for first and in their order."""
        there = sorted(path.name for path in (self.run.path / "models" / recipe).glob("*"))
        order = [*self.config.protocols, *(p for p in there if p not in self.config.protocols)]
        return (protocol for protocol in order if self.finished_folds(recipe, protocol))

    def table(self, recipe: str, protocol: str, fold: int) -> PredictionTable:
        """Logits and probabilities of the held-out images of one fit."""
        key = (recipe, protocol, fold)
        if key not in self._tables:
            self._tables[key] = self.fit_predictions(*key)
        return self._tables[key]

    def test_table(self, recipe: str, protocol: str) -> PredictionTable:
        """Test predictions of all finished folds of a recipe under a protocol."""
        folds = self.finished_folds(recipe, protocol)
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
            folds = self.finished_folds(recipe, protocol)
            if fold not in folds:
                known = ", ".join(map(str, folds)) or "none"
                raise UsageError(
                    f"{self.run.path}: fold {fold} of {recipe} under {protocol} is not finished, "
                    f"finished: {known}"
                )
            before = (m.network for (name, *_), m in self._models.items() if name == recipe)
            network, meta = load_checkpoint(self.run.model(*key), next(before, None))
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
        """What the study stored beside the model; for the fit on all images of all folds.

        While fits of this recipe are missing, of what there is: the ``cal`` part or the other
        folds, and while no other fold is finished, the ``val`` part.
        """
        if protocol == FINAL:
            unseen = UnseenImages.of_run(self, recipe)
            return unseen.decide(unseen.logits)[:2]
        folder = self.run.model(recipe, protocol, fold)
        calibration, sets = load_calibration(folder), load_sets(folder, self.config)
        if calibration is not None and sets is not None:
            return calibration, sets
        numbers = self.finished_folds(recipe, protocol)
        tables = [self.table(recipe, protocol, number) for number in numbers]
        own = numbers.index(fold)
        cal = calibration_tables(tables)[own]
        if not len(cal):  # no other fold is finished yet: what selected the model has to do
            cal = tables[own].select(part="val")
        place = self._fold(protocol, fold)
        if calibration is None:
            calibration = fit_calibration(cal.logits, cal.y_true, units_of(place, cal))
        return calibration, fit_fold_sets(place, cal, calibration, self.config)

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
        folds = self.finished_folds(recipe, protocol)
        if not image_id:
            final = self.finished_folds(recipe, FINAL)
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

    def _fold(self, protocol: str, number: int) -> Fold:
        """A fold, or an empty one where the splits do not name it."""
        found = (fold for fold in self.folds_under(protocol) if fold.fold == number)
        return next(found, Fold(protocol, number, parts={}))

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
