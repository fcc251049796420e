"""Configurations that are nested without end, or wrong and long."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leukoscope.config.loading import apply_overrides, load_recipe
from leukoscope.config.tuning_space import load_space, load_tune_config
from leukoscope.core.errors import ConfigError, DataError
from leukoscope.core.files import read_json
from leukoscope.study.options import study_config

DEEP = "[" * 100_000


@pytest.mark.parametrize("load", [load_recipe, load_space, load_tune_config])
def test_deep_toml_is_an_error_with_its_file(load: Callable[[Any], Any], tmp_path: Path) -> None:
    path = tmp_path / "deep.toml"
    path.write_text(f"a = {DEEP}")
    with pytest.raises(ConfigError, match=r"deep\.toml"):
        load(path if load is not load_recipe else str(path))


def test_deep_json_is_an_error_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text(DEEP)
    with pytest.raises(DataError, match=r"deep\.json: expected JSON"):
        read_json(tmp_path / "deep.json")


def test_a_deep_override_is_a_text() -> None:
    assert apply_overrides({}, [f"a={DEEP}"]) == {"a": DEEP}


def test_what_came_is_shown_where_it_is_short() -> None:
    with pytest.raises(ConfigError) as caught:
        study_config("images", recipes=["cells"], unit="patient")
    assert "recipe cells trains a network image by image" in str(caught.value)
    assert len(str(caught.value)) < 300
    with pytest.raises(ConfigError, match=r"erase: expected a list \(got 'grain'\)"):
        load_recipe("quick", ["training.erase=grain"])
    with pytest.raises(ConfigError) as caught:
        load_recipe("quick", ["name=" + "x" * 5000 + "!"])
    assert len(str(caught.value)) < 500
