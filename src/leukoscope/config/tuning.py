"""A tuning as configured: the default search spaces, and a recipe with drawn values."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from leukoscope.config.base import Strict
from leukoscope.config.recipe import Augmentation, GradientTraining, LinearHeadTraining, Recipe
from leukoscope.config.search import Choice, Parameter, Range, Space, compact, leaves
from leukoscope.config.study import StudyConfig
from leukoscope.config.validation import validate
from leukoscope.core.errors import ConfigError, UnknownNameError
from leukoscope.core.files import write_text

STRENGTH = "augmentation.strength"
WRAPPED = ("training.c_grid",)  # a single value stands for the list that holds it
FIXED = ("name", "title", "reference", "notes", "training.method", "training.keep_best")
LOSS_KEYS = ("training.loss", "training.class_weights")  # they change what val_loss means
# Largest value of each rate of Augmentation that a strength multiplies.
RATES: Mapping[str, float] = MappingProxyType(
    {
        "rotation_deg": 180.0,
        "shift": 1.0,
        "shear_deg": 80.0,
        "zoom": 0.9,
        "brightness": 1.0,
        "contrast": 1.0,
        "saturation": 1.0,
        "hue": 0.5,
    }
)


# The literal spaces; a range grows and a choice gains what the recipe itself says.
SPACES: Mapping[str, Space] = MappingProxyType(
    {
        "linear-head": {
            "training.c_grid": Range(kind="log", low=1e-5, high=1.0, steps=6),
            "preprocess.size_px": Choice(values=(160, 224, 288)),
        },
        "gradient": {
            "training.optimizer": Choice(values=("adam", "adamw", "sgd")),
            "training.learning_rate": Range(kind="log", low=1e-5, high=1e-2),
            "training.weight_decay": Choice(values=(0.0, 1e-5, 1e-4, 1e-3, 1e-2)),
            "training.schedule": Choice(
                values=({"kind": "none"}, {"kind": "cosine"}, {"kind": "one-cycle"})
            ),
            "training.batch_size": Choice(values=(8, 16, 32, 64)),
            "training.loss.smoothing": Range(kind="uniform", low=0.0, high=0.2),
            "model.dropout": Range(kind="uniform", low=0.0, high=0.7),
            STRENGTH: Range(kind="uniform", low=0.0, high=2.0),
        },
    }
)


class TuneConfig(Strict):
    """A tuning, resolved: enough to go on with it.

    Attributes:
        study: Data, the one recipe, the one protocol, and the hold-out that tuning never tests on.
        folds: 1 takes the train and val parts of the hold-out as they are; more divide the two
            anew, so many times.
        space: Recipe key → what it may be.
        sampler: How trials are drawn.
        pruner: How hopeless trials are ended.
        storage: Where the trials are kept, without a password; empty is the tuning's folder.
    """

    study: StudyConfig
    folds: Annotated[int, Field(ge=1, le=20)] = 1
    space: Annotated[dict[str, Parameter], Field(min_length=1)]
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    pruner: Literal["median", "hyperband", "none"] = "median"
    storage: str = ""

    @model_validator(mode="after")
    def _fits(self) -> TuneConfig:
        study = self.study
        if len(study.recipes) != 1 or len(study.protocols) != 1 or study.splits.folds != 1:
            raise ValueError("a tuning has one recipe, one protocol and one hold-out")
        changed = [key for key in self.space if key.startswith(LOSS_KEYS)]
        if changed and self.pruner != "none" and _by_loss(self.recipe):
            raise ValueError(
                f"{changed[0]} changes what val_loss means, and the pruner compares it "
                "between trials: use --pruner none or --set training.keep_best=val_accuracy"
            )
        return self

    @property
    def recipe(self) -> Recipe:
        """The recipe that is tuned."""
        return self.study.recipes[0]


def load_tune_config(path: Path) -> TuneConfig:
    """Read a tuning's ``tune.toml``.

    Raises:
        ConfigError: It is missing or invalid.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected the configuration of a tuning, but {error}") from None
    return validate(TuneConfig, values, str(path))


def save_tune_config(path: Path, config: TuneConfig) -> None:
    """Write a tuning's ``tune.toml``, every default spelled out."""
    import tomli_w

    write_text(path, tomli_w.dumps(config.model_dump(mode="json")))


def default_space(recipe: Recipe) -> dict[str, Range | Choice]:
    """The space of the recipe's training method, with the recipe's own values inside."""
    space: dict[str, Range | Choice] = {}
    for key, parameter in SPACES[recipe.training.method].items():
        if key == STRENGTH and scaled(recipe.augmentation, 0) == recipe.augmentation:
            continue  # it augments nothing
        if key.startswith(LOSS_KEYS) and _by_loss(recipe):
            continue
        own = own_value(recipe, key)
        if isinstance(parameter, Choice):
            values = [_in_full(recipe, key, value) for value in parameter.values]
            if own is not None and own not in values:
                values.append(own)
            space[key] = Choice(values=tuple(values))
        elif own is None or parameter.holds(own):
            space[key] = parameter
        else:
            low, high = min(parameter.low, own), max(parameter.high, own)
            space[key] = parameter.model_copy(update={"low": low, "high": high})
    return space


def check_space(recipe: Recipe, space: Space) -> None:
    """Try every limit and every choice on the recipe, each alone.

    Raises:
        UnknownNameError: A key that the recipe does not have; names the nearest.
        ConfigError: A value that the recipe does not take, or a key that must not change.
    """
    known = [STRENGTH, *dict(leaves(recipe.model_dump())), *_tables(recipe)]
    for key, parameter in space.items():
        if key in FIXED:
            raise ConfigError(f"{key} cannot be searched: the trials would not be comparable")
        if key not in known:
            raise UnknownNameError("recipe key", key, (k for k in known if k not in FIXED))
        for value in parameter.probes():
            resolve(recipe, {key: value})


def own_value(recipe: Recipe, key: str) -> Any:
    """What the recipe itself says; None where it is no single value (a list of penalties)."""
    if key == STRENGTH:
        return 1.0
    value: Any = recipe.model_dump(mode="json")
    for name in key.split("."):
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    if key in WRAPPED:
        return value[0] if len(value) == 1 else None
    return value


def own_label(recipe: Recipe, key: str) -> Any:
    """What the recipe itself says, tables and lists as JSON text."""
    value = own_value(recipe, key)
    return compact(value) if isinstance(value, (dict, list)) else value


def baselines(recipe: Recipe, space: Space) -> list[dict[str, Any]]:
    """The recipe as it is, as labels of the space; one for each penalty of its list.

    Empty where the recipe lies outside the space.
    """
    lists = {key: recipe.training.c_grid for key in WRAPPED if key in space
             and isinstance(recipe.training, LinearHeadTraining)}  # fmt: skip
    found: list[dict[str, Any]] = [{}]
    for key, parameter in space.items():
        own = own_value(recipe, key)
        if isinstance(parameter, Choice) and isinstance(own, (dict, list)):
            same = [v for v in parameter.values if _in_full(recipe, key, v) == own]
            own = compact(same[0]) if same else None
        values = [value for value in lists.get(key, (own,)) if parameter.holds(value)]
        found = [{**labels, key: value} for labels in found for value in values]
    return found


def resolve(recipe: Recipe, values: Mapping[str, Any], **texts: str) -> Recipe:
    """The recipe with some keys changed.

    Args:
        recipe: The recipe.
        values: Recipe key → value (not label).
        **texts: New name, title, notes.

    Raises:
        ConfigError: The values do not fit the recipe or one another; names the key.
    """
    full = recipe.model_dump(mode="json") | texts
    if STRENGTH in values:
        strength = values[STRENGTH]
        full["augmentation"] = scaled(recipe.augmentation, strength).model_dump(mode="json")
    for key, value in values.items():
        if key == STRENGTH:
            continue
        *tables, last = key.split(".")
        place = full
        for table in tables:
            place = place.setdefault(table, {})
        place[last] = [value] if key in WRAPPED and not isinstance(value, (list, tuple)) else value
    shown = ", ".join(f"{key} = {value}" for key, value in values.items())
    return validate(Recipe, full, f"recipe {recipe.name} with {shown}")


def scaled(augmentation: Augmentation, strength: float) -> Augmentation:
    """Every rate times ``strength``, up to its limit; flips and quarter turns stay.

    >>> scaled(Augmentation(rotation_deg=20, zoom=0.2), 1.5).rotation_deg
    30.0
    """
    values = augmentation.model_dump()
    for name, most in RATES.items():
        values[name] = float(f"{min(most, values[name] * strength):.6g}")
    lost = min(0.95, (1 - values["crop_min_area"]) * strength)
    values["crop_min_area"] = float(f"{1 - lost:.6g}")
    return Augmentation.model_validate(values)


def _by_loss(recipe: Recipe) -> bool:
    training = recipe.training
    return isinstance(training, GradientTraining) and training.keep_best == "val_loss"


def _in_full(recipe: Recipe, key: str, value: Any) -> Any:
    """A value as the recipe would write it, with the defaults of a table spelled out."""
    return own_value(resolve(recipe, {key: value}), key) if isinstance(value, dict) else value


def _tables(recipe: Recipe) -> list[str]:
    """Keys whose values are whole tables with a kind of their own."""
    values = recipe.model_dump()["training"]
    return [f"training.{name}" for name, value in values.items() if isinstance(value, Mapping)]
