"""Fits of a recipe on patients: the head that answers for all images of one, and its files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.recipe import FeatureClassifierTraining, LinearHeadTraining, Recipe
from leukoscope.config.training import GatedAttention, MeanProbability, MeanSpread
from leukoscope.core.errors import ConfigError
from leukoscope.core.files import write_bytes, write_csv
from leukoscope.core.run_folder import GRID, HISTORY
from leukoscope.evaluation.patient_heads import (
    HEAD,
    Bags,
    PatientHead,
    bag_logits,
    head_from_bytes,
    head_to_bytes,
)
from leukoscope.learning.feature_classifiers import fit_feature_classifier
from leukoscope.learning.feature_models import FeatureSet
from leukoscope.learning.patient_fits import (
    PatientFit,
    fit_attention,
    fit_mean_probability,
    fit_mean_spread,
)
from leukoscope.pipeline.features.patient_store import PatientStore
from leukoscope.pipeline.inner_folds import member_recipe
from leukoscope.pipeline.jobs import Labelled, Logits, PartRows
from leukoscope.pipeline.progress import Tell

if TYPE_CHECKING:
    from leukoscope.pipeline.rejection import GateKeeper

ATTENTION_HISTORY = "attention.csv"
"""The passes of each seed; ``history.csv`` holds one training."""


@dataclass(frozen=True)
class PatientTrainer:
    """Fits classifiers of patients on features of a frozen backbone.

    Attributes:
        recipe: What is fitted.
        bags: Features of the images of each patient of ``data``.
        data: Labels and names.
        copies: Likewise of each kind of degraded copies that the recipe also trains on.
    """

    recipe: Recipe
    bags: Bags
    data: Labelled
    copies: tuple[Bags, ...] = ()

    @classmethod
    def of(cls, store: PatientStore, recipe: Recipe, seed: int) -> PatientTrainer:
        """For one model of a recipe, or for one member of its inner folds."""
        check_training(recipe)
        own = member_recipe(recipe) if recipe.inner_folds else recipe
        bags, *copies = (store.bags(recipe, name, seed) for name in ("image", *recipe.degraded))
        return cls(own, bags, store.data, tuple(copies))

    def fit(
        self, rows: PartRows, folder: Path, seed: int, tell: Tell, gate: GateKeeper | None = None
    ) -> dict[str, Logits]:
        """See :class:`~leukoscope.pipeline.inner_folds.Trainer`; patients have no gate."""
        others = [part for part in rows if part not in ("train", "val")]
        if isinstance(self.recipe.training, FeatureClassifierTraining):
            return self._fit_classifier(rows, folder, seed, others)
        fitted = self._fit_head(rows, seed)
        write_bytes(folder / HEAD, head_to_bytes(self.recipe.patient.kind, fitted.head))
        attention = isinstance(self.recipe.patient, GatedAttention)
        columns = list(dict.fromkeys(name for row in fitted.history for name in row))
        name = ATTENTION_HISTORY if attention else HISTORY
        write_csv(folder / name, columns, fitted.history)
        found = {part: self._answers(fitted.head, rows, part) for part in others}
        return {"val": fitted.val_logits, **found}

    def _answers(self, head: PatientHead, rows: PartRows, part: str) -> Logits:
        """(n_part, K) logits of one part."""
        if not len(rows[part]):
            return np.empty((0, len(self.data.class_names)))
        return bag_logits(head, self.bags.take(rows[part]))

    def _fit_head(self, rows: PartRows, seed: int) -> PatientFit:
        """The head of the recipe's pooling, selected on ``val``."""
        pooling, training = self.recipe.patient, self.recipe.training
        assert isinstance(training, LinearHeadTraining)
        y, k, versions = self.data.y, len(self.data.class_names), 1 + len(self.copies)
        train, val = (self._versions(rows[part]) for part in ("train", "val"))
        y_train, y_val = (np.tile(y[rows[part]], versions) for part in ("train", "val"))
        known = (train, y_train, val, y_val, k)
        if isinstance(pooling, GatedAttention):
            fitted = fit_attention(*known, pooling=pooling, seed=seed)
        elif isinstance(pooling, MeanProbability):
            fitted = fit_mean_probability(*known, training=training, versions=versions)
        else:
            fitted = fit_mean_spread(*known, pooling=pooling, training=training, versions=versions)
        # Of the patients as they are.
        return replace(fitted, val_logits=fitted.val_logits[: len(rows["val"])])

    def _versions(self, rows: NDArray[np.int64]) -> Bags:
        """Patients, and after them the same with degraded images, kind after kind."""
        found = self.bags.take(rows)
        for copy in self.copies:
            found = found.followed_by(copy.take(rows))
        return found

    def _fit_classifier(
        self, rows: PartRows, folder: Path, seed: int, others: list[str]
    ) -> dict[str, Logits]:
        """Another classifier on mean, deviation and quantiles; it leaves no head."""
        training, pooling = self.recipe.training, self.recipe.patient
        assert isinstance(training, FeatureClassifierTraining)
        assert isinstance(pooling, MeanSpread)
        pooled = self.bags.pooled(pooling.quantiles)
        train, val = (
            FeatureSet(pooled[rows[part]], self.data.y[rows[part]]) for part in ("train", "val")
        )
        chosen = fit_feature_classifier(
            train, val, len(self.data.class_names), training, seed=seed
        )  # fmt: skip
        columns = dict.fromkeys(name for row in chosen.history for name in row)
        write_csv(folder / GRID, list(columns), chosen.history)
        logits = {part: chosen.model.logits(pooled[rows[part]]) for part in others}
        return {"val": chosen.val_logits, **logits}


def check_training(recipe: Recipe) -> None:
    """Refuse settings that the pooling leaves without effect.

    Raises:
        ConfigError: With the pooling that would do.
    """
    training, kind = recipe.training, recipe.patient.kind
    if not isinstance(training, LinearHeadTraining):
        return
    if training.erase or training.balance == "worst-units":
        raise ConfigError(
            "training.erase and worst-units compare the images of units; here a row is a patient",
            hint="leave them out, or study images",
        )
    if training.balance == "classes" and not isinstance(recipe.patient, GatedAttention):
        raise ConfigError(
            'training.balance = "classes" weighs images; here each patient counts as one',
            hint='leave it out, or set patient.kind = "gated-attention", which weighs '
            "classes alike",
        )
    if training.unit_penalty and kind != "mean-probability":
        raise ConfigError(
            f"training.unit_penalty compares images of a patient; {kind} sees one row a patient",
            hint='set patient.kind = "mean-probability" or training.unit_penalty = 0',
        )
    if training.copy_penalty and isinstance(recipe.patient, GatedAttention):
        raise ConfigError(
            f"training.copy_penalty is of linear heads; {kind} has none",
            hint='set patient.kind = "mean-probability" or training.copy_penalty = 0',
        )


def load_head_of(recipe: Recipe, folder: Path) -> PatientHead | None:
    """The head that a fit left in its folder; None where it left none.

    Raises:
        DataError: The file is damaged.
    """
    path = folder / HEAD
    if not path.is_file():
        return None
    return head_from_bytes(recipe.patient.kind, path.read_bytes(), str(path))
