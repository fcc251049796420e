"""The page of recipes lists them all; a recipe that would do nothing is refused."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from leukoscope.config.base import validate
from leukoscope.config.loading import list_recipes
from leukoscope.config.recipe import Recipe
from leukoscope.core.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_every_recipe_has_a_row_and_its_notes(site_hooks: ModuleType) -> None:
    page = site_hooks.on_page_markdown((ROOT / "docs/recipes.md").read_text("utf-8"), None)
    rows = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert rows == list(list_recipes())
    assert [f"### {name}" for name in rows] == [
        line for line in page.splitlines() if line.startswith("### ")
    ]
    assert (
        "| `quick` | Leukoscope | tf_efficientnet_lite0 | 224 | linear | frozen; L2 | — |" in page
    )


@pytest.mark.parametrize(
    ("model", "training", "message"),
    [
        ({"norm": "batch"}, "gradient", "need model.hidden layers"),
        ({"conv": [8], "pooling": "flatten"}, "gradient", "is averaged globally"),
        ({"squeeze_excite": 4}, "linear-head", "their random weights would be kept"),
        ({"hidden": [4]}, "linear-head", "takes no model.hidden"),
        ({"input_norm": "batch"}, "one", "needs training.batch_size of 2"),
    ],
)
def test_settings_that_would_do_nothing_or_harm_are_refused(
    model: dict[str, object], training: str, message: str
) -> None:
    values: dict[str, object] = {"name": "a", "title": "", "model": model}
    values["training"] = (
        {"method": "gradient", "batch_size": 1} if training == "one" else {"method": training}
    )
    with pytest.raises(ConfigError, match=message):
        validate(Recipe, values, "test")
