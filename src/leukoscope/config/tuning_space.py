"""A tuning as configured: what each value may be drawn from, and the recipe that results."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from leukoscope.config.base import Strict, validate
from leukoscope.config.loading import apply_overrides
from leukoscope.config.recipe import Augmentation, GradientTraining, LinearHeadTraining, Recipe
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import ConfigError, UnknownNameError
from leukoscope.core.files import write_text

_SYNTAX = (
    "KEY=log:1e-5..1e-2, KEY=uniform:0..0.5, KEY=int:1..4 (each with /STEPS for a grid) "
    "or KEY=choice:16,32,64"
)
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


class Range(Strict):
    """Numbers between two limits, both included.

    Attributes:
        kind: ``log`` (evenly on a logarithmic scale), ``uniform``, or ``int`` (whole numbers).
        low: Lower limit.
        high: Upper limit.
        steps: Points of a grid.
    """

    kind: Literal["log", "uniform", "int"]
    low: float
    high: float
    steps: Annotated[int, Field(ge=2, le=100)] = 3

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"expected low < high, got {self.low:g}..{self.high:g}")
        if self.kind == "log" and self.low <= 0:
            raise ValueError(f"a log range needs a low limit above 0, got {self.low:g}")
        if self.kind == "int" and (self.low % 1 or self.high % 1):
            raise ValueError(f"int needs whole limits, got {self.low:g}..{self.high:g}")
        return self

    def grid(self) -> list[float | int]:
        """``steps`` points from low to high.

        >>> Range(kind="log", low=1, high=100).grid()
        [1.0, 10.0, 100.0]
        """
        shares = [i / (self.steps - 1) for i in range(self.steps)]
        if self.kind == "log":
            a, b = math.log10(self.low), math.log10(self.high)
            return [float(f"{10 ** (a + share * (b - a)):.6g}") for share in shares]
        points = [self.low + share * (self.high - self.low) for share in shares]
        return sorted({round(x) for x in points}) if self.kind == "int" else points

    def probes(self) -> list[float | int]:
        """The limits, to try whether a recipe takes them."""
        return [int(x) for x in (self.low, self.high)] if self.kind == "int" else [
            self.low, self.high
        ]  # fmt: skip

    def holds(self, value: object) -> bool:
        """Whether ``value`` lies inside."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return self.low <= value <= self.high


class Choice(Strict):
    """One of several values; tables and lists too, as TOML has them.

    Attributes:
        kind: ``choice``.
        values: The values.
    """

    kind: Literal["choice"] = "choice"
    values: Annotated[tuple[object, ...], Field(min_length=1)]

    @property
    def labels(self) -> tuple[bool | int | float | str, ...]:
        """The values as plain ones: tables and lists as JSON text."""
        return tuple(
            value if isinstance(value, (bool, int, float, str)) else compact(value)
            for value in self.values
        )

    def value_of(self, label: object) -> object:
        """The value that a label stands for."""
        return self.values[self.labels.index(label)]

    def grid(self) -> list[object]:
        """All labels."""
        return list(self.labels)

    def probes(self) -> list[object]:
        """All values, to try whether a recipe takes them."""
        return list(self.values)

    def holds(self, value: object) -> bool:
        """Whether ``value`` is one of the labels."""
        return value in self.labels


Parameter = Annotated[Range | Choice, Field(discriminator="kind")]
Space = Mapping[str, Range | Choice]


def parse_search(texts: Iterable[str]) -> dict[str, Range | Choice]:
    """Read ``--search`` texts.

    >>> parse_search(["training.learning_rate=log:1e-5..1e-2"])["training.learning_rate"].high
    0.01
    >>> parse_search(["training.optimizer=choice:adam,sgd"])["training.optimizer"].values
    ('adam', 'sgd')

    Raises:
        ConfigError: A text does not follow the syntax; says what was expected.
    """
    space = {}
    for text in texts:
        key, separator, rest = text.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--search expects KEY=KIND:…, got {text!r}", hint=_SYNTAX)
        space[key.strip()] = _parameter(rest.strip(), f"--search {text!r}")
    return space


def load_space(path: Path) -> dict[str, Range | Choice]:
    """Read a search space from TOML: recipe keys with range texts, or lists of choices.

    Raises:
        ConfigError: The file is missing or wrong; names the key.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: expected a search space in TOML, but {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML, {error}") from None
    space: dict[str, Range | Choice] = {}
    for key, value in leaves(values):
        if isinstance(value, list):
            space[key] = validate(Choice, {"values": value}, f"{path}: {key}")
        elif isinstance(value, str):
            space[key] = _parameter(value, f"{path}: {key}")
        else:
            raise ConfigError(
                f'{path}: {key} should be a text such as "log:1e-5..1e-2" or a list of choices, '
                f"got {value!r}"
            )
    if not space:
        raise ConfigError(f"{path}: holds no search space", hint='"training.batch_size" = [16, 32]')
    return space


def compact(value: object) -> str:
    """A table or list as one line of JSON."""
    return json.dumps(value, separators=(",", ":"))


def leaves(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Nested tables as (dotted key, value)."""
    found: list[tuple[str, object]] = []
    for name, value in values.items():
        key = f"{prefix}{name}"
        found += leaves(value, f"{key}.") if isinstance(value, Mapping) else [(key, value)]
    return found


def _parameter(text: str, source: str) -> Range | Choice:
    kind, separator, rest = text.partition(":")
    if kind == "choice" and separator and rest.strip():
        return validate(Choice, {"values": _choices(rest.strip())}, source)
    low, dots, high = rest.partition("..")
    high, slash, steps = high.partition("/")
    if kind not in ("log", "uniform", "int") or not dots:
        raise ConfigError(f"{source}: expected a range or a choice", hint=_SYNTAX)
    values = {"kind": kind, "low": low.strip(), "high": high.strip()}
    return validate(Range, values | ({"steps": steps.strip()} if slash else {}), source)


def _choices(text: str) -> list[object]:
    try:
        return list(
            tomllib.loads(f"values = {text if text.startswith('[') else f'[{text}]'}")["values"]
        )
    except (tomllib.TOMLDecodeError, RecursionError):
        words = (word.strip() for word in text.split(","))
        return [apply_overrides({}, [f"value={word}"])["value"] for word in words]


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
    except FileNotFoundError:
        raise ConfigError(
            f"{path.parent}: expected the folder of a tuning, found no {path.name} in it",
            hint="name the folder that was given to --out, or start a new tuning without --resume",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
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
    known = [STRENGTH, *dict(leaves(recipe.model_dump(exclude={"patient"}))), *_tables(recipe)]
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


def own_label(recipe: Recipe, key: str) -> object:
    """What the recipe itself says, tables and lists as JSON text."""
    value = own_value(recipe, key)
    return compact(value) if isinstance(value, (dict, list)) else value


def baselines(recipe: Recipe, space: Space) -> list[dict[str, object]]:
    """The recipe as it is, as labels of the space; one for each penalty of its list.

    Empty where the recipe lies outside the space.
    """
    lists = {key: recipe.training.c_grid for key in WRAPPED if key in space
             and isinstance(recipe.training, LinearHeadTraining)}  # fmt: skip
    found: list[dict[str, object]] = [{}]
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
        values: Recipe key → value (not label).

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


def _in_full(recipe: Recipe, key: str, value: object) -> object:
    """A value as the recipe would write it, with the defaults of a table spelled out."""
    return own_value(resolve(recipe, {key: value}), key) if isinstance(value, dict) else value


def _tables(recipe: Recipe) -> list[str]:
    """Keys whose values are whole tables with a kind of their own."""
    values = recipe.model_dump()["training"]
    return [f"training.{name}" for name, value in values.items() if isinstance(value, Mapping)]
