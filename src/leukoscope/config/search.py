"""What a tuning may draw a value from: ranges and choices, and how they are written."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from leukoscope.config.base import Strict
from leukoscope.config.loading import apply_overrides
from leukoscope.config.validation import validate
from leukoscope.core.errors import ConfigError

_SYNTAX = (
    "KEY=log:1e-5..1e-2, KEY=uniform:0..0.5, KEY=int:1..4 (each with /STEPS for a grid) "
    "or KEY=choice:16,32,64"
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

    def holds(self, value: Any) -> bool:
        """Whether ``value`` lies inside."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and self.low <= value <= self.high


class Choice(Strict):
    """One of several values; tables and lists too, as TOML has them.

    Attributes:
        kind: ``choice``.
        values: The values.
    """

    kind: Literal["choice"] = "choice"
    values: Annotated[tuple[Any, ...], Field(min_length=1)]

    @property
    def labels(self) -> tuple[bool | int | float | str, ...]:
        """The values as plain ones: tables and lists as JSON text."""
        return tuple(
            value if isinstance(value, (bool, int, float, str)) else compact(value)
            for value in self.values
        )

    def value_of(self, label: Any) -> Any:
        """The value that a label stands for."""
        return self.values[self.labels.index(label)]

    def grid(self) -> list[Any]:
        """All labels."""
        return list(self.labels)

    def probes(self) -> list[Any]:
        """All values, to try whether a recipe takes them."""
        return list(self.values)

    def holds(self, value: Any) -> bool:
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
    except (OSError, UnicodeDecodeError) as error:
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


def compact(value: Any) -> str:
    """A table or list as one line of JSON."""
    return json.dumps(value, separators=(",", ":"))


def leaves(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested tables as (dotted key, value)."""
    found: list[tuple[str, Any]] = []
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


def _choices(text: str) -> list[Any]:
    try:
        return list(
            tomllib.loads(f"values = {text if text.startswith('[') else f'[{text}]'}")["values"]
        )
    except tomllib.TOMLDecodeError:
        words = (word.strip() for word in text.split(","))
        return [apply_overrides({}, [f"value={word}"])["value"] for word in words]
