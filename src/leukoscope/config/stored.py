"""Files that one step writes and later steps read: one schema, one writer, one reader each.

A key that does not apply is left out of the file, and then has the default of its field.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Self, TypeVar

from pydantic import ConfigDict, JsonValue, ValidationError

from leukoscope.config.base import Strict
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_json, write_json

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

RECORD_KINDS: Final = ("measured values", "only a reason")
"""What a key may hold: the values, or why there are none."""


class Record(Strict):
    """Base of every record in such a file: strict types, so that ``"0.9"`` is no number."""

    model_config = ConfigDict(strict=True, populate_by_name=True, protected_namespaces=())


RecordT = TypeVar("RecordT", bound=Record)


class StoredFile(Record):
    """Base of every such file.

    Attributes:
        hint: What to do where the file is damaged or of another version.
        in_full: Whether the file also holds the keys that were not set, with their defaults.
    """

    hint: ClassVar[str] = "this is an error of the program: please report it"
    in_full: ClassVar[bool] = False

    def to_json(self) -> dict[str, JsonValue]:
        """As it stands in the file."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=not self.in_full)

    def save(self, path: Path) -> None:
        """Write the file."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file.

        Raises:
            DataError: It is missing, damaged, or of another version of the schema; the message
                names the file, the key, what was expected and what was found.
        """
        return check_record(cls, read_json(path), str(path), cls.hint)


def check_record(model: type[RecordT], values: object, source: str, hint: str) -> RecordT:
    """Validate in strict JSON mode, where lists stand for tuples but text is no number.

    Args:
        model: The schema.
        values: What must fit it.
        source: Begin of the message, such as the path of the file.
        hint: Of the error.

    Raises:
        DataError: Names each key that is wrong, what was expected and what came.
    """
    if not isinstance(values, Mapping):
        found = type(values).__name__
        raise DataError(f"{source}: expected a JSON object, found {found}", hint=hint)
    try:
        return model.model_validate_json(json.dumps(values, allow_nan=False), by_alias=True)
    except ValidationError as error:
        shown = [_problem(item) for item in error.errors(include_url=False)[:3]]
        more = error.error_count() - len(shown)
        rest = f"; and {more} more" if more else ""
        raise DataError(f"{source}: {'; '.join(shown)}{rest}", hint=hint) from None
    except ValueError as error:  # a number that JSON does not have
        raise DataError(f"{source}: expected finite numbers or null ({error})", hint=hint) from None


def _problem(item: ErrorDetails) -> str:
    """One wrong key: where it is, what was expected, what was found."""
    where = ".".join(str(part) for part in item["loc"] if part not in RECORD_KINDS) or "file"
    if item["type"] == "missing":
        return f"{where}: expected this key, found none"
    if item["type"] == "extra_forbidden":
        return f"{where}: found a key that the schema does not know"
    found = json.dumps(item["input"], default=str)
    found = found if len(found) <= 60 else f"{found[:57]}…"
    expected = item["msg"].removeprefix("Input should be ")
    return f"{where}: expected {expected}, found {found}"


def save_records(path: Path, records: Iterable[Record]) -> None:
    """Write a file that is a list of records."""
    write_json(path, [record.model_dump(mode="json", by_alias=True) for record in records])


def load_records(model: type[RecordT], path: Path, hint: str) -> tuple[RecordT, ...]:
    """Read a file that is a list of records; there are none where there is no file.

    Raises:
        DataError: As :func:`check_record`.
    """
    values = read_json(path) if path.is_file() else []
    if not isinstance(values, list):
        raise DataError(f"{path}: expected a JSON list, got {type(values).__name__}", hint=hint)
    return tuple(
        check_record(model, value, f"{path}: entry {number}", hint)
        for number, value in enumerate(values)
    )
