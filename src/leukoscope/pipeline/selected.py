"""The settings of the final fit: those that the folds of a study select together.

What calibrates the packed model, and what a report says of it, comes from the folds. A setting
that one validation part selected for the final fit alone could make another model than theirs, for
which neither holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from leukoscope.config.recipe import FeatureClassifierTraining, LinearHeadTraining, Recipe
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_csv
from leukoscope.core.run_folder import GRID, HISTORY

_FOUND = ("train_loss", "val_loss", "val_accuracy", "rounds")
"""Columns of what was tried that each fit finds by itself."""
_FIELDS: Mapping[str, str] = MappingProxyType({"kernel": "kernels"})
"""Columns that have another name than the field of the classifier's settings."""

_HINT = "fits of two recipes stand beside each other; run the study into a new folder"

Setting = tuple[tuple[str, str], ...]
"""Names and values as in the file; those without a value are left out."""


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
