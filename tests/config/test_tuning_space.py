"""Search spaces: what is read, what is refused, and what a drawn value does to a recipe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from leukoscope.config.loading import list_recipes, load_recipe
from leukoscope.config.tuning_space import (
    SPACES,
    STRENGTH,
    Choice,
    Range,
    baselines,
    check_space,
    default_space,
    load_space,
    parse_search,
    resolve,
    scaled,
)
from leukoscope.core.errors import ConfigError, UnknownNameError

SEARCHED = [name for name in list_recipes() if load_recipe(name).training.method in SPACES]


@pytest.mark.parametrize("name", SEARCHED)
def test_the_default_space_fits_every_recipe_and_holds_the_recipe_itself(name: str) -> None:
    recipe = load_recipe(name)
    space = default_space(recipe)
    check_space(recipe, space)
    found = baselines(recipe, space)
    if recipe.training.method == "linear-head":
        assert [own["training.c_grid"] for own in found] == list(recipe.training.c_grid)
        return
    (own,) = found
    values = {
        key: p.value_of(own[key]) if isinstance(p := space[key], Choice) else own[key]
        for key in space
    }
    assert resolve(recipe, values) == recipe


def test_search_texts_and_files_say_the_same(tmp_path: Path) -> None:
    texts = parse_search(
        [
            "training.learning_rate=log:1e-5..1e-2/5",
            "model.dropout=uniform:0..0.5",
            "training.freeze=int:0..4",
            "training.batch_size=choice:16,32",
            'training.schedule=choice:{kind="none"},{kind="cosine"}',
        ]
    )
    file = tmp_path / "space.toml"
    file.write_text(
        """
        "model.dropout" = "uniform:0..0.5"
        [training]
        learning_rate = "log:1e-5..1e-2/5"
        freeze = "int:0..4"
        batch_size = [16, 32]
        schedule = [{ kind = "none" }, { kind = "cosine" }]
        """
    )
    assert load_space(file) == texts
    check_space(load_recipe("cnn-baseline"), texts)
    assert texts["training.learning_rate"] == Range(kind="log", low=1e-5, high=1e-2, steps=5)
    assert texts["training.schedule"].grid() == ['{"kind":"none"}', '{"kind":"cosine"}']
    assert parse_search(["training.freeze=int:0..4"])["training.freeze"].grid() == [0, 2, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.learning_rate", "expects KEY=KIND"),
        ("training.learning_rate=1e-3", "expected a range or a choice"),
        ("training.learning_rate=log:1e-2..1e-5", "expected low < high"),
        ("training.learning_rate=log:0..1", "above 0"),
        ("training.freeze=int:0.5..2", "whole limits"),
        ("training.learning_rate=log:a..b", "low"),
        ("training.batch_size=choice:", "expected a range or a choice"),
    ],
)
def test_a_wrong_text_is_refused_with_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_search([text])


def test_a_wrong_file_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    with pytest.raises(ConfigError, match=r"space.toml"):
        load_space(file)
    for content, message in (
        ("a = [", "not valid TOML"),
        ("a = 3", "should be a text"),
        ("", "no search"),
    ):
        file.write_text(content)
        with pytest.raises(ConfigError, match=message):
            load_space(file)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("training.learning_rat=log:1e-5..1e-2", UnknownNameError, "Did you mean 'training.learn"),
        ("training.keep_best=choice:val_loss,val_f1", ConfigError, "would not be comparable"),
        ("model.dropout=uniform:0..1.5", ConfigError, r"model.dropout: .* \(got 1.5\)"),
        ("training.batch_size=uniform:1..2.5", ConfigError, "training.batch_size"),
        ("training.optimizer=choice:adam,lion", ConfigError, "lion"),
    ],
)
def test_a_space_that_does_not_fit_is_refused_before_any_trial(
    text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        check_space(load_recipe("cnn-baseline"), parse_search([text]))
    assert re.search(message, str(caught.value))


def test_strength_scales_rates_up_to_their_limits_and_leaves_flips() -> None:
    own = load_recipe("stable-efficientnet-b3").augmentation
    none = scaled(own, 0)
    assert (none.rotation_deg, none.zoom, none.brightness) == (0, 0, 0)
    assert none.horizontal_flip
    assert scaled(own, 100).zoom == 0.9
    assert scaled(own, 1) == own
    recipe = resolve(load_recipe("cnn-baseline"), {STRENGTH: 0.5})
    assert recipe.augmentation.rotation_deg == 10
    cropped = own.model_copy(update={"crop_min_area": 0.8})
    assert scaled(cropped, 0.5).crop_min_area == pytest.approx(0.9)


def test_a_recipe_outside_the_space_has_no_baseline() -> None:
    space = parse_search(["training.batch_size=choice:8,16", "model.dropout=uniform:0..1"])
    assert baselines(load_recipe("cnn-baseline"), space) == []


def test_a_single_penalty_stands_for_the_list() -> None:
    recipe = resolve(load_recipe("quick"), {"training.c_grid": 0.02})
    assert recipe.training.c_grid == (0.02,)


def test_loss_keys_are_left_out_where_the_loss_is_what_is_compared() -> None:
    by_loss = load_recipe("cnn-baseline", ["training.keep_best=val_loss"])
    assert "training.loss.smoothing" not in default_space(by_loss)
    assert "training.loss.smoothing" in default_space(load_recipe("cnn-baseline"))


def test_the_page_on_tuning_names_every_key_that_is_searched() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "tuning.md").read_text()
    for method, space in SPACES.items():
        for key in (method, *space):
            assert f"`{key}`" in page
