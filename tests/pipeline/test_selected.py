"""The final fit takes the settings that the folds select together."""

from __future__ import annotations

from pathlib import Path

import pytest

from leukoscope.config.loading import load_recipe
from leukoscope.config.recipe import FeatureClassifierTraining, LinearHeadTraining, Recipe
from leukoscope.config.training import SvmClassifier
from leukoscope.core.errors import DataError
from leukoscope.core.files import write_csv
from leukoscope.core.run_folder import GRID, HISTORY
from leukoscope.pipeline.fitting import selects_settings, settled_recipe


def tried(folder: Path, name: str, rows: list[dict[str, object]]) -> Path:
    columns = dict.fromkeys(column for row in rows for column in row)
    write_csv(folder / name, list(columns), rows)
    return folder


def linear(tmp_path: Path, *losses: tuple[float, ...]) -> tuple[Recipe, list[Path]]:
    """The quick recipe, and folders with these losses at each of its penalties."""
    recipe = load_recipe("quick")
    assert isinstance(recipe.training, LinearHeadTraining)
    strengths = sorted(recipe.training.c_grid)
    folders = [
        tried(
            tmp_path / f"fold{number}",
            HISTORY,
            [{"c": c, "val_loss": v} for c, v in zip(strengths, row, strict=True)],
        )
        for number, row in enumerate(losses)
    ]
    return recipe, folders


def test_least_mean_loss_over_folds_wins(tmp_path: Path) -> None:
    recipe, folders = linear(tmp_path, (0.9, 0.5, 0.4, 0.1), (0.9, 0.5, 0.4, 2.0))
    assert selects_settings(recipe)
    settled = settled_recipe(recipe, folders)
    assert isinstance(settled.training, LinearHeadTraining)
    assert settled.training.c_grid == (0.03,)
    assert not selects_settings(settled)


def test_of_equal_penalties_the_strongest_wins(tmp_path: Path) -> None:
    settled = settled_recipe(*linear(tmp_path, (0.9, 0.5, 0.5, 0.5)))
    assert isinstance(settled.training, LinearHeadTraining)
    assert settled.training.c_grid == (0.003,)


def test_settings_of_another_classifier(tmp_path: Path) -> None:
    recipe = load_recipe("features-svm")
    rows: list[list[dict[str, object]]] = [
        [
            {"kernel": "linear", "c": 10.0, "val_loss": 0.5, "val_accuracy": 0.7},
            {"kernel": "rbf", "c": 10.0, "gamma": 0.3, "val_loss": loss, "val_accuracy": 0.9},
        ]
        for loss in (0.1, 0.3)
    ]
    folders = [tried(tmp_path / f"fold{n}", GRID, each) for n, each in enumerate(rows)]
    settled = settled_recipe(recipe, folders)
    assert isinstance(settled.training, FeatureClassifierTraining)
    own = settled.training.classifier
    assert isinstance(own, SvmClassifier)
    assert (own.kernels, own.c, own.gamma) == (("rbf",), (10.0,), (0.3,))


def test_folds_that_tried_different_settings_are_refused(tmp_path: Path) -> None:
    recipe, folders = linear(tmp_path, (0.9, 0.5, 0.4, 0.1))
    other = tried(tmp_path / "other", HISTORY, [{"c": 0.5, "val_loss": 0.1}])
    with pytest.raises(DataError, match="other settings"):
        settled_recipe(recipe, [*folders, other])
    with pytest.raises(DataError, match=r"the folds tried 0\.5, and the recipe does not"):
        settled_recipe(recipe, [other])


def test_members_select_on_their_own() -> None:
    recipe = load_recipe("quick")
    assert not selects_settings(recipe.model_copy(update={"inner_folds": 3}))
