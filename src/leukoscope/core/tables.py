"""Tables as people write them: commas, semicolons or tabs between values, column names first."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from leukoscope.core.errors import LayoutError
from leukoscope.core.files import csv_value

MANIFESTS = (".csv", ".tsv")
"""How the name of a table that lists a data set ends."""

TableRow = tuple[int, dict[str, str]]


def read_rows(path: Path, required: tuple[str, ...]) -> list[TableRow]:
    """Rows with the line each ends on; column names in lower case, values stripped.

    The table may be separated by commas, or by semicolons or tabs, as spreadsheets write it.

    Raises:
        LayoutError: The file cannot be read, lacks a column, or a line has the wrong length.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise LayoutError(f"{path}: this table is missing") from None
    except UnicodeDecodeError:
        raise LayoutError(
            f"{path}: expected UTF-8 text, found other bytes", hint="save it as CSV UTF-8"
        ) from None
    except OSError as error:
        raise LayoutError(f"{path}: cannot be read ({error.strerror or error})") from None
    sign = _separator(text, required)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=sign)
    try:
        columns = [csv_value(name.strip()).lower() for name in next(reader, [])]
        missing = [name for name in required if name not in columns]
        if missing:
            raise LayoutError(
                f"{path}, line 1: expected the columns {', '.join(required)}; "
                f"{', '.join(missing)} missing, found {', '.join(columns) or 'none'}"
            )
        twice = [name for name, n in Counter(columns).items() if name and n > 1]
        if twice:
            raise LayoutError(f"{path}, line 1: the column {twice[0]} is there twice")
        lines = [(reader.line_num, [csv_value(v.strip()) for v in values]) for values in reader]
    except csv.Error as error:
        raise LayoutError(f"{path}, line {reader.line_num}: no valid CSV ({error})") from None
    lines = [(number, values) for number, values in lines if any(values)]
    for number, values in lines:
        if len(values) != len(columns):
            raise LayoutError(
                f"{path}, line {number}: expected {len(columns)} values "
                f"({', '.join(columns)}), found {len(values)}",
                hint=f"put values that hold a {_SEPARATORS[sign]} in double quotes",
            )
    return [(number, dict(zip(columns, values, strict=True))) for number, values in lines]


_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}


def _separator(text: str, required: Sequence[str]) -> str:
    """What separates the values of a table: the sign by which its header names most columns.

    >>> _separator("path;a, b;label", ("path", "label")), _separator("path,label", ("path",))
    (';', ',')
    """
    found = {sign: _names(text, sign) for sign in _SEPARATORS}
    return max(
        found,  # the first of equal ones: the comma
        key=lambda sign: (len({*required} & {*found[sign]}), min(2, len(found[sign]))),
    )


def _names(text: str, sign: str) -> list[str]:
    """The names of the columns in lower case, if ``sign`` separates them."""
    try:
        header = next(csv.reader(io.StringIO(text, newline=""), delimiter=sign), [])
    except csv.Error:
        return []
    return [name.strip().lower() for name in header]


def header_of(path: Path) -> list[str]:
    """The names of a readable table's columns, as they are written."""
    with path.open(encoding="utf-8-sig", newline="") as handle:
        line = handle.readline()
        sign = _separator(line, ("path", "label"))
        return [name.strip() for name in next(csv.reader([line], delimiter=sign), [])]


def has_columns(path: Path, required: tuple[str, ...]) -> bool:
    """Whether a CSV file can be read and its header names the columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            line = handle.readline()
    except (OSError, UnicodeDecodeError):
        return False
    return set(required) <= set(_names(line, _separator(line, required)))
