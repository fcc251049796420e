"""From the options of a study to its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leukoscope.config import DEFAULT_RECIPE
from leukoscope.core.errors import UnknownNameError
from leukoscope.study.options import study_config


def test_an_option_that_there_is_not_is_named(tmp_path: Path) -> None:
    options: dict[str, Any] = {"folds": 3, "fold": 3}
    with pytest.raises(TypeError, match=r"a study has no option fold$"):
        study_config(tmp_path, **options)


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
