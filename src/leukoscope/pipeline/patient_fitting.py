"""Fits of a recipe on patients: the head that answers for all images of one, and its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leukoscope.config.recipe import FeatureClassifierTraining, LinearHeadTraining, Recipe
from leukoscope.config.training import GatedAttention, MeanProbability, MeanSpread
from leukoscope.core.files import write_bytes, write_csv
from leukoscope.core.run_folder import HISTORY
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
from leukoscope.pipeline.inner_folds import member_recipe
from leukoscope.pipeline.jobs import Labelled, Logits, PartRows
from leukoscope.pipeline.patient_store import PatientStore
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
    """

    recipe: Recipe
    bags: Bags
    data: Labelled

    @classmethod
    def of(cls, store: PatientStore, recipe: Recipe, seed: int) -> PatientTrainer:
        """For one model of a recipe, or for one member of its inner folds."""
        own = member_recipe(recipe) if recipe.inner_folds else recipe
        return cls(own, store.bags(recipe, "image", seed), store.data)

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
        y, k = self.data.y, len(self.data.class_names)
        train, val = (self.bags.take(rows[part]) for part in ("train", "val"))
        known = (train, y[rows["train"]], val, y[rows["val"]], k)
        if isinstance(pooling, GatedAttention):
            return fit_attention(*known, pooling=pooling, seed=seed)
        if isinstance(pooling, MeanProbability):
            return fit_mean_probability(*known, training=training)
        return fit_mean_spread(*known, pooling=pooling, training=training)

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
        write_csv(folder / "grid.csv", list(columns), chosen.history)
        logits = {part: chosen.model.logits(pooled[rows[part]]) for part in others}
        return {"val": chosen.val_logits, **logits}


def load_head_of(recipe: Recipe, folder: Path) -> PatientHead | None:
    """The head that a fit left in its folder; None where it left none.

    Raises:
        DataError: The file is damaged.
    """
    path = folder / HEAD
    if not path.is_file():
        return None
    return head_from_bytes(recipe.patient.kind, path.read_bytes(), str(path))
