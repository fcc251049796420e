"""Settings that a pooling leaves without effect are refused before anything is read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from leukoscope.config.loading import apply_overrides, load_recipe
from leukoscope.config.recipe import Recipe
from leukoscope.core.errors import ConfigError
from leukoscope.pipeline.patient_fitting import PatientTrainer


@pytest.mark.parametrize(
    ("recipe", "settings", "says"),
    [
        ("patient-spread", ["training.unit_penalty=1"], "mean-spread sees one row a patient"),
        ("patient-mean", ["training.balance=classes"], "here each patient counts as one"),
        (
            "patient-attention",
            ['training.degraded=["blur-1"]', "training.copy_penalty=1"],
            "is of linear heads; gated-attention has none",
        ),
    ],
)
def test_a_setting_without_effect_is_refused(recipe: str, settings: list[str], says: str) -> None:
    own = load_recipe(recipe)
    own = Recipe.model_validate(apply_overrides(own.model_dump(), settings))
    with pytest.raises(ConfigError, match=says):
        PatientTrainer.of(SimpleNamespace(), own, 0)
