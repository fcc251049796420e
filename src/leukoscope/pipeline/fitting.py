"""Fitting of a recipe on every fold, and where its checkpoints go.

The settings of the final fit are those that the folds select together. What calibrates the packed
model, and what a report says of it, comes from the folds; a setting that one validation part
selected for the final fit alone could make another model than theirs, for which neither holds.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.recipe import FeatureClassifierTraining, LinearHeadTraining, Recipe
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_csv, write_csv, write_text
from leukoscope.core.protocols import PROTOCOLS, promised_protocol
from leukoscope.core.records import Fold
from leukoscope.core.run_folder import GRID, HISTORY, RunFolder
from leukoscope.evaluation.fuzzy_inference import rules_text
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.learning.backbones import Network
from leukoscope.learning.checkpoint import save_checkpoint
from leukoscope.learning.feature_classifiers import SelectedModel, fit_feature_classifier
from leukoscope.learning.feature_models import FeatureHead, FeatureSet
from leukoscope.pipeline.features.patient_store import PatientStore, Store
from leukoscope.pipeline.features.store import InputStore
from leukoscope.pipeline.folds import FINAL
from leukoscope.pipeline.gradient_training import GradientTrainer
from leukoscope.pipeline.inner_folds import Trainer, fit_inner_folds, member_recipe
from leukoscope.pipeline.jobs import (
    Announce,
    Labelled,
    Logits,
    PartRows,
    SharedTraining,
    calibrate_fits,
    part_rows,
    read_fit,
    write_fit,
)
from leukoscope.pipeline.linear_fits import ALONE, Beside, apply_head, fit_head, read_beside
from leukoscope.pipeline.patient_fitting import PatientTrainer
from leukoscope.pipeline.progress import Progress, Tell
from leukoscope.pipeline.rejection import OUTLIERS, GateKeeper

RULES = "rules.txt"
HEAD_HISTORY = ("c", "train_loss", "val_loss", "val_accuracy")
_FOUND = ("train_loss", "val_loss", "val_accuracy", "rounds")
"""Columns of what was tried that each fit finds by itself."""
_FIELDS: Mapping[str, str] = MappingProxyType({"kernel": "kernels"})
"""Columns that have another name than the field of the classifier's settings."""
_HINT = "fits of two recipes stand beside each other; run the study into a new folder"
Setting = tuple[tuple[str, str], ...]
"""Names and values as in the file; those without a value are left out."""


def job_seed(seed: int, *names: object) -> int:
    """A seed that depends on the study's seed and the fit's name, not on the order of fits."""
    return zlib.crc32(":".join(str(name) for name in (seed, *names)).encode()) % 2**31


def fit_recipe(
    run: RunFolder,
    store: Store,
    recipe: Recipe,
    folds: Sequence[Fold],
    seed: int,
    progress: Progress,
) -> list[PredictionTable]:
    """Fit one recipe on every fold, see :class:`RecipeFits`; what is finished is read.

    Returns:
        One table per fold: logits and calibrated probabilities of the val, cal and test images.
    """
    fits, tables = RecipeFits.of(store, recipe, folds, seed), []
    with progress.step(f"training {recipe.name}") as tell:
        for done, fold in enumerate(fits.folds):
            tables.append(fits.fit(fold, tell, done))
            tell(1000 * (done + 1), 1000 * len(fits.folds))
        return calibrate_fits(fits.folds, tables, fits.folder, PROTOCOLS)


@dataclass(frozen=True)
class RecipeFits:
    """The fits of one recipe: one on each fold, independent of the others.

    Attributes:
        store: Pixels and features, of images or of patients.
        recipe: What is fitted.
        folds: On which folds.
        seed: The study's.
    """

    store: Store
    recipe: Recipe
    folds: tuple[Fold, ...]
    seed: int

    @classmethod
    def of(cls, store: Store, recipe: Recipe, folds: Iterable[Fold], seed: int) -> RecipeFits:
        """The fits that a study makes.

        The curve over the number of acquisition clusters is drawn for linear heads and for
        training on cached activations: with other training its twenty fits would cost hours.
        """
        chosen = (
            f for f in folds if recipe.draws_curve or f.protocol in PROTOCOLS or f.protocol == FINAL
        )
        return cls(store, recipe, tuple(chosen), seed)

    def folder(self, fold: Fold) -> Path:
        """Where the files of one fit go."""
        return self.store.run.model(self.recipe.name, fold.protocol, fold.fold)

    def prepare(self) -> None:
        """Compute what all fits share and keep it on disk."""
        _ = self.trainer, self.gate

    def fit(self, fold: Fold, tell: Tell, done: int = 0) -> PredictionTable:
        """Fit on one fold, or read what an earlier run wrote; ``done`` folds came before."""
        data, recipe, folder = self.store.data, self.recipe, self.folder(fold)
        earlier = read_fit(data, fold, folder)
        if earlier is not None:
            return earlier
        rows, seed = part_rows(data, fold), self.seed_of(fold)
        members = max(1, recipe.inner_folds)
        within = partial(_tell_within, tell, done * members, len(self.folds) * members)
        trainer = self.final_trainer if self.waits(fold) else self.trainer
        if recipe.inner_folds:
            logits = fit_inner_folds(
                trainer, data, fold, recipe.inner_folds, folder, seed, within, rows
            )
        else:
            gate = self.gate if fold.protocol in PROTOCOLS else None
            logits = trainer.fit(rows, folder, seed, within, gate)
        return write_fit(data, fold, recipe.name, "image", folder, logits)

    def waits(self, fold: Fold) -> bool:
        """Whether a fit takes its settings from what the other folds found."""
        return fold.protocol == FINAL and selects_settings(self.recipe)

    def seed_of(self, fold: Fold) -> int:
        """Of everything random in one fit."""
        return job_seed(self.seed, self.recipe.name, fold.protocol, fold.fold)

    @cached_property
    def gate(self) -> GateKeeper | None:
        """Fits the gate beside each model; None for patients, and where members are many models."""
        if self.recipe.inner_folds or isinstance(self.store, PatientStore):
            return None
        return GateKeeper.of(self.store, self.recipe, self.seed)

    @cached_property
    def trainer(self) -> Trainer:
        """What all fits share, made only where something is left to fit."""
        store, recipe = self.store, self.recipe
        if isinstance(store, PatientStore):
            return PatientTrainer.of(store, recipe, self.seed)
        if not recipe.frozen_features:
            pixels = store.pixels(recipe)
            views = store.views(recipe, pixels, self.seed)
            announce = None
            if store.announce is not None:
                announce = partial(_announce, store.announce, str(store.run.path), recipe.name)
            return GradientTrainer(_of_one_model(recipe), pixels, views, store.data, announce)
        features = store.features(recipe, "image", self.seed)
        if self.gate is not None:
            features = self.gate.extended(features, store, recipe, self.seed)
        return HeadTrainer.of(store, recipe, features, store.data, self.seed)

    @property
    def final_trainer(self) -> Trainer:
        """The trainer of the final fit, with the settings of the folds that calibrate it.

        Raises:
            DataError: A fold of that protocol is not fitted yet.
        """
        protocol = promised_protocol(fold.protocol for fold in self.folds)
        folders = [self.folder(fold) for fold in self.folds if fold.protocol == protocol]
        trainer = self.trainer
        assert isinstance(trainer, (HeadTrainer, PatientTrainer))
        return replace(trainer, recipe=settled_recipe(self.recipe, folders))


def _of_one_model(recipe: Recipe) -> Recipe:
    """The recipe of one member, where it has inner folds."""
    return member_recipe(recipe) if recipe.inner_folds else recipe


def _announce(
    announce: Announce, run: str, recipe: str, folder: str, seed: int, rows: PartRows, cached: bool
) -> None:
    announce(SharedTraining(run, recipe, folder, seed, rows, cached))


@dataclass(frozen=True)
class HeadTrainer:
    """Fits classifiers on features of a frozen backbone.

    Attributes:
        recipe: What is fitted.
        network: The backbone; never changed.
        features: (n, D) of the images of ``data``, and of the outliers of a gate after them.
        data: Labels and names.
        beside: What a linear head is fitted with besides.
    """

    recipe: Recipe
    network: Network
    features: NDArray[np.float32]
    data: Labelled
    beside: Beside = ALONE

    @classmethod
    def of(
        cls,
        store: InputStore,
        recipe: Recipe,
        features: NDArray[np.float32],
        data: Labelled,
        seed: int,
    ) -> HeadTrainer:
        """For one model of a recipe, or for one member of its inner folds."""
        return cls(
            _of_one_model(recipe),
            store.network(recipe, seed),
            features,
            data,
            read_beside(store, recipe, seed),
        )

    def fit(
        self, rows: PartRows, folder: Path, seed: int, tell: Tell, gate: GateKeeper | None = None
    ) -> dict[str, Logits]:
        """See :class:`~leukoscope.pipeline.inner_folds.Trainer`; it takes seconds."""
        if gate is None:
            return self._fit_and_apply(rows, folder, seed)
        parts = gate.parts(rows)
        logits = self._fit_and_apply({**rows, OUTLIERS: parts[OUTLIERS]}, folder, seed)
        unread = np.empty((len(parts["train"]), 0))  # the gate reads no logits of what was trained
        seen = {p: (self.features[of], logits.get(p, unread)) for p, of in parts.items()}
        gate.keep(folder, parts, seen)
        return logits

    def _fit_and_apply(self, rows: PartRows, folder: Path, seed: int) -> dict[str, Logits]:
        """Fit the classifier of the recipe, write it, and apply it to all parts but ``train``."""
        recipe, network, features, data = self.recipe, self.network, self.features, self.data
        if isinstance(recipe.training, LinearHeadTraining):
            return _fit_linear(recipe, network, features, data, folder, rows, self.beside)
        return _fit_classifier(recipe, network, features, data, folder, seed, rows)


def _tell_within(tell: Tell, job: int, jobs: int, done: int, total: int, *, later: int = 0) -> None:
    """Progress of one long job as thousandths of all jobs, ``later`` jobs after the first."""
    tell(1000 * (job + later) + 1000 * done // max(1, total), 1000 * jobs)


def _fit_linear(
    recipe: Recipe,
    network: Network,
    features: NDArray[np.float32],
    data: Labelled,
    folder: Path,
    rows: Mapping[str, NDArray[np.int64]],
    beside: Beside,
) -> dict[str, Logits]:
    """Fit a linear head, write its checkpoint, and apply it to the held-out rows."""
    head = fit_head(recipe, features, data, rows, beside)
    network = copy.deepcopy(network)
    network.set_linear_head(head.weight, head.bias)
    save_checkpoint(folder, network, recipe, data.class_names, extra={"c": head.c})
    write_csv(folder / HISTORY, HEAD_HISTORY, head.history)
    return apply_head(head, features, rows)


def _fit_classifier(
    recipe: Recipe,
    network: Network,
    features: NDArray[np.float32],
    data: Labelled,
    folder: Path,
    seed: int,
    rows: Mapping[str, NDArray[np.int64]],
) -> dict[str, Logits]:
    """Fit another classifier, write what can be written of it, and apply it likewise."""
    assert isinstance(recipe.training, FeatureClassifierTraining)
    train, val = (FeatureSet(features[rows[part]], data.y[rows[part]]) for part in ("train", "val"))
    chosen = fit_feature_classifier(train, val, len(data.class_names), recipe.training, seed=seed)
    _save_classifier(recipe, network, data, folder, chosen)
    others = [part for part in rows if part not in ("train", "val")]
    logits = {part: chosen.model.logits(features[rows[part]]) for part in others}
    return {"val": chosen.val_logits, **logits}


def _save_classifier(
    recipe: Recipe, network: Network, data: Labelled, folder: Path, chosen: SelectedModel
) -> None:
    """Checkpoint where the model is a graph, rules where it has some, the settings tried."""
    head = chosen.model.head
    if head is not None:
        network = copy.deepcopy(network)
        if isinstance(head, FeatureHead):
            network.set_feature_head(head)
        else:
            network.set_linear_head(*head)
        save_checkpoint(folder, network, recipe, data.class_names, extra=chosen.settings)
    if chosen.model.rules is not None:
        write_text(folder / RULES, rules_text(chosen.model.rules, data.class_names))
    columns = dict.fromkeys(name for row in chosen.history for name in row)
    write_csv(folder / GRID, list(columns), chosen.history)


def selects_settings(recipe: Recipe) -> bool:
    """Whether each fit of a recipe selects among settings that the folds can agree on.

    Members of inner folds select on their own in the final fit, as in every fold; gated attention
    has one setting.
    """
    training = recipe.training
    if recipe.inner_folds or recipe.patient.kind == "gated-attention":
        return False
    if isinstance(training, LinearHeadTraining):
        return len(training.c_grid) > 1
    return isinstance(training, FeatureClassifierTraining)


def settled_recipe(recipe: Recipe, folders: Iterable[Path]) -> Recipe:
    """A recipe with one setting left of those it tries: that of the least mean log loss.

    The mean runs over the validation parts of the folds, each of which counts the same, as in
    scikit-learn's ``LogisticRegressionCV``. Of equals the first one tried wins, which is the
    strongest penalty of a linear head.

    Args:
        recipe: One that :func:`selects_settings`.
        folders: Of its finished fits under one protocol.

    Raises:
        DataError: A fit left no table of what it tried, or the table is not that of this recipe.
    """
    training = recipe.training
    if isinstance(training, LinearHeadTraining):
        chosen = dict(_least_loss([folder / HISTORY for folder in folders]))
        settled = training.model_copy(update={"c_grid": _kept(training.c_grid, chosen["c"])})
        return recipe.model_copy(update={"training": settled})
    assert isinstance(training, FeatureClassifierTraining)
    own = training.classifier
    fields = {_FIELDS.get(k, k): v for k, v in _least_loss([f / GRID for f in folders])}
    narrow = own.model_copy(update={k: _kept(getattr(own, k), v) for k, v in fields.items()})
    return recipe.model_copy(
        update={"training": training.model_copy(update={"classifier": narrow})}
    )


def _least_loss(paths: list[Path]) -> Setting:
    """The setting with the least mean log loss over tables of what was tried."""
    first, losses = paths[0], [_losses(path) for path in paths]
    for path, found in zip(paths, losses, strict=True):
        if list(found) != list(losses[0]):
            raise DataError(f"{path}: other settings than in {first}", hint=_HINT)
    return min(losses[0], key=lambda setting: float(np.mean([one[setting] for one in losses])))


def _losses(path: Path) -> dict[Setting, float]:
    """Setting → log loss on the validation part of one fit, in the order tried."""
    return {
        tuple((k, v) for k, v in row.items() if v and k not in _FOUND): float(row["val_loss"])
        for row in read_csv(path, required=("val_loss",))
    }


def _kept(tried: tuple[object, ...], text: str) -> tuple[object, ...]:
    """The one value that the files of the folds name, as in the recipe."""
    kept = tuple(value for value in tried if str(value) == text)
    if not kept:
        raise DataError(f"the folds tried {text}, and the recipe does not", hint=_HINT)
    return kept
