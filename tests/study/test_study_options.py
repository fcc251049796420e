"""From the options of a study to its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leukoscope.config import DEFAULT_RECIPE
from leukoscope.core.errors import UnknownNameError, UsageError
from leukoscope.study.options import study_config


def test_an_option_that_there_is_not_is_named(tmp_path: Path) -> None:
    options: dict[str, Any] = {"folds": 3, "fold": 3}
    with pytest.raises(TypeError, match=r"a study has no option fold$"):
        study_config(tmp_path, **options)


@pytest.mark.parametrize(
    ("option", "one"),
    [
        ("recipes", "quick"),
        ("protocols", "random"),
        ("probes", "all"),
        ("overrides", "bootstrap=100"),
        ("external", Path("other")),
        ("external_layouts", "auto"),
    ],
)
def test_one_name_is_not_taken_letter_by_letter(option: str, one: str | Path) -> None:
    options: dict[str, Any] = {option: one}
    with pytest.raises(UsageError, match=rf"expected a list of names as {option}, got '") as told:
        study_config("d", **options)
    assert told.value.hint == f"write {option}=['{one}']"


def test_a_number_is_no_list_of_names() -> None:
    options: dict[str, Any] = {"recipes": 5}
    with pytest.raises(UsageError, match="got 5\n  → write recipes=\\[…"):
        study_config("d", **options)


def test_another_backbone_brings_its_normalisation_and_marks_the_recipe() -> None:
    own = study_config("d", recipes=("resnet50",)).recipes[0]
    recipe = study_config("d", recipes=("resnet50",), backbone="tf_efficientnet_lite0").recipes[0]
    assert recipe.name == "resnet50-on-tf_efficientnet_lite0"
    assert "instead of resnet50" in recipe.title
    assert recipe.model.backbone == "tf_efficientnet_lite0"
    assert recipe.preprocess.mean == (0.5, 0.5, 0.5) != own.preprocess.mean
    assert recipe.preprocess.steps == own.preprocess.steps
    assert recipe.training == own.training
    scratch = study_config("d", recipes=("resnet50",), backbone="bn-cnn").recipes[0]
    assert scratch.model.weights == "none"
    with pytest.raises(UnknownNameError, match="resnet5000"):
        study_config("d", backbone="resnet5000")


def test_weights_are_named_in_full(tmp_path: Path) -> None:
    recipe = study_config("d", weights=str(tmp_path / "a.safetensors")).recipes[0]
    assert recipe.name == DEFAULT_RECIPE
    assert recipe.model.weights == str((tmp_path / "a.safetensors").resolve())
    assert study_config("d", weights="none").recipes[0].model.weights == "none"
