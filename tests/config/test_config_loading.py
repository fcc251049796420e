from pathlib import Path

import pytest

from leukoscope.config.loading import (
    apply_overrides,
    list_recipes,
    load_recipe,
    load_study_config,
    save_study_config,
)
from leukoscope.config.recipe import GradientTraining
from leukoscope.config.study import DataConfig, SplitConfig, StudyConfig
from leukoscope.core.errors import ConfigError, UnknownNameError


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_is_valid_and_named_as_its_file(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.title
    assert recipe.reference


def test_published_values_of_the_small_cnn() -> None:
    recipe = load_recipe("cnn-baseline")
    assert recipe.preprocess.size_px == 128
    assert recipe.model.hidden == (128,)
    assert recipe.model.dropout == 0.5
    training = recipe.training.model_dump()
    published = {
        "method": "gradient",
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "batch_size": 32,
        "epochs": 20,
        "patience": 10,
        "stop_on": "val_loss",
        "keep_best": "val_accuracy",
        "class_weights": False,
        "schedule": {"kind": "none"},
        "loss": {"kind": "cross-entropy", "smoothing": 0.0},
        "clip_norm": 0.0,
        "freeze": 0,
    }
    assert {key: training[key] for key in published} == published


def test_overrides() -> None:
    recipe = load_recipe("cnn-baseline", ["training.epochs=3", "training.optimizer=sgd"])
    assert recipe.training.epochs == 3
    assert recipe.training.optimizer == "sgd"
    assert apply_overrides({"a": {"b": 1}}, ["a.c.d=[1, 2]"]) == {"a": {"b": 1, "c": {"d": [1, 2]}}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs=0", "training.gradient.epochs: expected greater than or equal"),
        ("training.epoch=3", "training.gradient.epoch: there is no such key; did you mean epochs?"),
        ("training.epochs", "expected KEY=VALUE"),
        ("name.x=3", "'name' is a value, not a table"),
    ],
)
def test_a_wrong_override_names_the_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("cnn-baseline", [override])


def test_unknown_recipe_and_missing_or_broken_file(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="quik") as caught:
        load_recipe("quik")
    assert "Did you mean 'quick'?" in str(caught.value)
    with pytest.raises(ConfigError, match="missing"):
        load_recipe(str(tmp_path / "mine.toml"))
    (tmp_path / "mine.toml").write_text("name = ")
    with pytest.raises(ConfigError, match=r"mine\.toml: not valid TOML"):
        load_recipe(str(tmp_path / "mine.toml"))


def test_study_config_round_trip(tmp_path: Path) -> None:
    config = StudyConfig(
        data=DataConfig(path="/data", class_map={"A b": "all"}),
        recipes=(load_recipe("quick"), load_recipe("cnn-baseline")),
        protocols=("random", "given"),
        splits=SplitConfig(folds=3, cluster_curve=()),
    )
    save_study_config(tmp_path / "config.toml", config)
    assert load_study_config(tmp_path / "config.toml") == config


def test_parts_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(ValueError, match="leave too little to train on"):
        SplitConfig(folds=1, val=0.4, cal=0.4)
    with pytest.raises(ValueError, match=r"val 0.45 \+ test 0.50 leave"):
        SplitConfig(folds=2, val=0.45)
    assert SplitConfig(folds=2, val=0.3, cal=0.3).cal == 0.3  # no part is cut for it


def test_the_first_phase_changes_what_it_names_and_nothing_else() -> None:
    recipe = load_recipe("double-transfer-resnet50", ["phase1.model.dropout=0.1"])
    first = recipe.first_phase()
    assert isinstance(first.training, GradientTraining)
    assert isinstance(recipe.training, GradientTraining)
    assert (first.training.learning_rate, recipe.training.learning_rate) == (5e-4, 2e-4)
    assert (first.model.dropout, recipe.model.dropout) == (0.1, 0.5)
    assert first.training.epochs == recipe.training.epochs
    assert first.phase1 == {}
    with pytest.raises(ConfigError, match=r"phase1: training\.gradient\.epoch"):
        load_recipe("double-transfer-resnet50", ["phase1.training.epoch=3"])
    with pytest.raises(ConfigError, match="preprocess"):
        load_recipe("double-transfer-resnet50", ["phase1.preprocess.size_px=96"])


def test_the_curve_is_drawn_where_a_fit_is_quick() -> None:
    curve = {recipe.name for recipe in map(load_recipe, list_recipes()) if recipe.draws_curve}
    assert {"quick", "finetune", "morphology", "cells"} <= curve
    assert not curve & {"cnn-baseline", "resnet50", "features-svm"}
