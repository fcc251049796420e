"""How one field of an answer is described: columns, types and the API's models follow from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

_Answer = TypeVar("_Answer")
OF_CLASS: Final = "p_<class>"
"""Stands for one field a class."""


@dataclass(frozen=True)
class OutputField(Generic[_Answer]):
    """One field of an answer.

    Attributes:
        name: Key in JSON and name of the column; :data:`OF_CLASS` stands for one a class.
        kind: Type of its JSON value.
        value: The JSON value in an answer; of :data:`OF_CLASS` the number of each class.
        description: As the API's document has it.
        column: Whether CSV, Parquet and JSON lines always have it.
        api: Whether the API's document lists it.
        optional: Whether it is left out where it is None.
    """

    name: str
    kind: object
    value: Callable[[_Answer], object]
    description: str = ""
    column: bool = True
    api: bool = True
    optional: bool = False


def json_values(fields: Iterable[OutputField[_Answer]], answer: _Answer) -> dict[str, object]:
    """The fields of an answer, ready for JSON."""
    row: dict[str, object] = {}
    for field in fields:
        value = field.value(answer)
        if value is None and field.optional:
            continue
        row |= _of_classes(value) if field.name == OF_CLASS else {field.name: value}
    return row


def _of_classes(value: object) -> dict[str, object]:
    assert isinstance(value, Mapping)
    return {f"p_{name}": number for name, number in value.items()}


def column_names(fields: Iterable[OutputField[Any]], class_names: Sequence[str]) -> tuple[str, ...]:
    """The columns that tables of these classes always have, in order."""
    names: list[str] = []
    for field in fields:
        if field.column:
            of_class = field.name == OF_CLASS
            names += [f"p_{name}" for name in class_names] if of_class else [field.name]
    return tuple(names)
