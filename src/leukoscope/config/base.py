"""The strict base of every schema, and validation errors that name the file and the key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from leukoscope.core.errors import ConfigError, nearest_names

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

ModelT = TypeVar("ModelT", bound=BaseModel)
_MOST_SHOWN = 120
RecordT = TypeVar("RecordT")


class Strict(BaseModel):
    """Frozen; unknown keys are errors; no infinities or NaN."""

    # A validator is built when it is first used: a program that predicts uses few of them.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


def validate(model: type[ModelT], values: Mapping[str, object], source: str) -> ModelT:
    """Build ``model`` from ``values``.

    Raises:
        ConfigError: Names each key that is wrong, what was expected and what came.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        # A list whose items are wrong is also said to be empty.
        wrong = {item["loc"][:-1] for item in found}
        problems = [
            _problem(model, item)
            for item in found
            if not (item["type"] == "too_short" and item["loc"] in wrong)
        ]
        raise ConfigError(f"{source}: {'; '.join(problems)}") from None


def validate_record(adapter: TypeAdapter[RecordT], values: object) -> RecordT:
    """Build a plain dataclass from what a file says.

    Raises:
        ValueError: Names the first field that is wrong, in one line.
    """
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "value"
        raise ValueError(f"{place}: {first['msg']}") from None


def _problem(model: type[BaseModel], item: ErrorDetails) -> str:
    """One fault of a configuration: the key, what was expected, what came."""
    place, came = ".".join(str(part) for part in item["loc"]) or "value", item["input"]
    if item["type"] == "extra_forbidden":
        *above, key = item["loc"]
        known = sorted(_keys_at(model, above))
        near = nearest_names(str(key), known)
        choices = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        return f"{place}: there is no such key; {choices}"
    if item["type"] == "missing":
        return f"{place}: this key is missing"
    if item["type"] == "literal_error":
        expected = item["ctx"]["expected"]
        near = nearest_names(str(came), re.findall(r"'([^']+)'", expected))
        guess = f"; did you mean {near[0]!r}?" if near else ""
        return f"{place}: expected {expected}, got {came!r}{guess}"
    what = item["msg"].removeprefix("Value error, ").replace("Input should be", "expected", 1)
    what = what.replace("a valid tuple", "a list")
    if isinstance(came, Mapping):  # a whole section, of which the message names what is wrong
        return f"{place}: {what}" if item["loc"] else what
    shown = repr(came)
    shown = shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}…"
    return f"{place}: {what} (got {shown})"


def _keys_at(model: type[BaseModel], place: Sequence[int | str]) -> set[str]:
    """The keys that a schema knows at a place; names of variants in the place are no keys."""
    models = {model}
    for part in place:
        below = {
            inner
            for outer in models
            for name, field in outer.model_fields.items()
            if name == part
            for inner in _models_in(field.annotation)
        }
        # The name of a variant stands in its field ``kind``, ``method`` or the like.
        chosen = {one for one in models if any(
            part in get_args(field.annotation) for field in one.model_fields.values()
        )}  # fmt: skip
        models = below or chosen or models
    return {name for one in models for name in one.model_fields}


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The schemas that a type names, in unions and containers too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
