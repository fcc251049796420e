"""docs/training.md lists every setting with its default."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from leukoscope.config.recipe import Augmentation, ModelConfig
from leukoscope.config.training import GradientTraining, LinearHeadTraining

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", PAGE, re.MULTILINE))


def shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(f"{number:g}" for number in value) or "none"
    return f"{value:g}" if isinstance(value, int | float) else str(getattr(value, "kind", value))


@pytest.mark.parametrize(
    ("schema", "only"),
    [
        (Augmentation, None),
        (GradientTraining, None),
        (LinearHeadTraining, None),
        (ModelConfig, {"init", "test_time", "clamp_input", "clamp_logits"}),
    ],
)
def test_every_setting_is_listed_with_its_default(
    schema: type[BaseModel], only: set[str] | None
) -> None:
    defaults = {
        name: shown(field.default)
        for name, field in schema.model_fields.items()
        if name != "method" and (only is None or name in only)
    }
    assert {name: ROWS.get(name) for name in defaults} == defaults


def test_no_setting_is_listed_that_is_not_there() -> None:
    fields = {
        name
        for schema in (Augmentation, GradientTraining, LinearHeadTraining, ModelConfig)
        for name in schema.model_fields
    }
    assert set(ROWS) <= fields
