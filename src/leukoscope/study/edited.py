"""The trained model on edited test images: what it answers when part of the image is gone.

A probe says what the *data* holds beside morphology; this says what the *model* makes of it. The
model never saw such images, so a low score proves nothing, but one above chance on images without
a leukocyte shows that the rest of the image is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.recipe import Recipe
from leukoscope.config.study import EDITED, StudyConfig
from leukoscope.core.errors import DataError
from leukoscope.core.records import Fold
from leukoscope.evaluation.calibration import apply_calibration
from leukoscope.evaluation.combining import log_probs, weighted_mean
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.softmax import softmax
from leukoscope.learning.checkpoint import RECORD, load_checkpoint, load_head
from leukoscope.learning.trainer import predict_logits
from leukoscope.study.events import Progress
from leukoscope.study.fitting import job_of_features, job_seed
from leukoscope.study.fold_results import served_calibration
from leukoscope.study.inner_folds import fit_inner_folds
from leukoscope.study.jobs import Labelled, Logits
from leukoscope.study.protocols import ProtocolPlan
from leukoscope.study.shortcut_summary import MODEL_ON
from leukoscope.study.store import InputStore

Rows = NDArray[np.int64]


def edited_inputs(config: StudyConfig) -> list[str]:
    """The inputs that the models of a study are applied to, besides whole images."""
    return [name for name in EDITED if name in config.probes]


def run_edited(
    store: InputStore,
    recipe: Recipe,
    plan: ProtocolPlan,
    config: StudyConfig,
    progress: Progress,
) -> list[PredictionTable]:
    """Apply the models of one recipe to edited versions of their own test images.

    Heads on a frozen backbone are read from their checkpoints and applied to features; what left
    no checkpoint (trees, rules) is fitted once more, with the same seed and images; networks that
    were trained as a whole are loaded fold by fold.

    Returns:
        One table per fold and input: test images only, the model's own calibration, its recipe,
        and ``model-on-background-only`` … as the input.
    """
    folds = [fold for name in plan.names for fold in plan.of(name)]
    folds = [fold for fold in folds if _table_path(store, recipe, fold).is_file()]
    names = edited_inputs(config)
    tables: list[PredictionTable] = []
    if not folds or not names:
        return tables
    with progress.step(f"{recipe.name} on edited images") as tell:
        for name in names:
            models = EditedModels(store, recipe, name, config.seed)
            for fold in folds:
                tables.append(_one_fold(models, fold))
                tell(len(tables), len(names) * len(folds))
    return tables


def _table_path(store: InputStore, recipe: Recipe, fold: Fold) -> Path:
    return store.run.model(recipe.name, fold.protocol, fold.fold) / "predictions.csv"


def _one_fold(models: EditedModels, fold: Fold) -> PredictionTable:
    store, recipe = models.store, models.recipe
    target = (
        store.run.cache / "edited" / recipe.name / fold.protocol / f"{models.input}-{fold.fold}.csv"
    )
    if target.is_file():
        try:
            return PredictionTable.load(target)
        except DataError:
            target.unlink()  # of another version or damaged
    own = PredictionTable.load(_table_path(store, recipe, fold)).select(part="cal")
    rows = store.data.rows(fold, "test")
    logits = models.logits(fold, rows)
    table = PredictionTable.build(
        store.data.class_names,
        [store.data.records[i].image_id for i in rows],
        apply_calibration(logits, served_calibration(fold, own)),
        recipe=recipe.name,
        protocol=fold.protocol,
        fold=fold.fold,
        part="test",
        input=MODEL_ON + models.input,
        y_true=store.data.y[rows],
        logits=logits,
    )
    table.save(target)
    return PredictionTable.load(target)


@dataclass
class EditedModels:
    """The fitted models of one recipe, and one version of the images.

    Attributes:
        store: Features and pixels.
        recipe: Whose models.
        input: Which version.
        seed: The study's.
    """

    store: InputStore
    recipe: Recipe
    input: str
    seed: int
    _pixels: list[NDArray[np.uint8]] = field(default_factory=list)

    def logits(self, fold: Fold, rows: Rows) -> Logits:
        """(n, K) of the given images by the model that was fitted in this fold."""
        folder = self.store.run.model(self.recipe.name, fold.protocol, fold.fold)
        members = list(self._folders(folder))
        if not all((member / RECORD).is_file() for member in members):
            return self._fit_again(fold, rows)
        found = [self._apply(member, rows) for member in members]
        if not self.recipe.inner_folds:
            return found[0]
        return log_probs(weighted_mean(np.stack([softmax(logits) for logits in found])))

    def _folders(self, folder: Path) -> Iterator[Path]:
        if not self.recipe.inner_folds:
            yield folder
        for number in range(self.recipe.inner_folds):
            yield folder / f"inner{number}"

    def _apply(self, folder: Path, rows: Rows) -> Logits:
        if self.recipe.frozen_features:
            return load_head(folder)(self._features(self.input)[rows])
        if not self._pixels:
            self._pixels.append(self.store.pixels(self.recipe, self.input))
        network, meta = load_checkpoint(folder)
        return predict_logits(network, self._pixels[0][rows], meta.recipe.preprocess)

    def _features(self, name: str) -> NDArray[np.float32]:
        return self.store.features(self.recipe, name, self.seed)

    def _fit_again(self, fold: Fold, rows: Rows) -> Logits:
        """Fit as the study did, with the edited images appended as the test part."""
        if not self.recipe.frozen_features:
            raise DataError(
                f"{self.store.run.path}: the checkpoints of {self.recipe.name} are gone",
                hint="run the study again, or leave the probes out",
            )
        data = self.store.data
        twice = Labelled(data.records * 2, data.class_names)
        features = np.concatenate([self._features("image"), self._features(self.input)])
        parts = {part: data.rows(fold, part) for part in ("train", "val", "cal")}
        parts["test"] = rows + len(data.records)
        seed = job_seed(self.seed, self.recipe.name, fold.protocol, fold.fold)
        scratch = self.store.run.cache / "edited" / "again"
        make = job_of_features(self.store, self.recipe, features, twice, self.seed)
        if not self.recipe.inner_folds:
            return make(scratch, seed, _quiet)(parts)["test"]
        members = self.recipe.inner_folds
        return fit_inner_folds(make, twice, fold, members, scratch, seed, _quiet, parts)["test"]


def _quiet(done: int, total: int, *, later: int = 0) -> None:
    """Nobody waits for these fits in particular."""
