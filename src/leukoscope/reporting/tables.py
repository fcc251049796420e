"""Tables of records: every column is its heading beside what its cells say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from leukoscope.reporting.content import Column, Table
from leukoscope.reporting.formats import (
    UNRELIABLE,
    UNRELIABLE_NOTE,
    count,
    interval,
    metric_title,
    number,
)
from leukoscope.reporting.wording import protocol_title

Record = Mapping[str, Any]
Cell = Callable[[Any], str]
K = TypeVar("K")


@dataclass(frozen=True)
class Field:
    """A column and the function that writes its cell from a record."""

    column: Column
    cell: Cell


def text(title: str, cell: Cell | str, *, narrow: bool = False) -> Field:
    """A column of words; ``cell`` may be the key of a value that is printed as it is."""
    return Field(Column(title, narrow=narrow), _writer(cell))


def code(title: str, cell: Cell | str, *, narrow: bool = True) -> Field:
    """A column of names as they stand in files."""
    return Field(Column(title, code=True, narrow=narrow), _writer(cell))


def value(title: str, cell: Cell | str, *, lines: bool = False) -> Field:
    """A column of numbers; of a key the number is a count."""
    write = (lambda e: count(e.get(cell))) if isinstance(cell, str) else cell
    return Field(Column(title, numeric=True, lines=lines), write)


def scores(metrics: Iterable[str], of: Callable[[Any, str], Any] | None = None) -> list[Field]:
    """A column for each metric: the value with its interval.

    Args:
        metrics: Names of metrics.
        of: Finds the value of a metric in a record; by default below its key ``metrics``.
    """
    find = of or (lambda entry, name: entry["metrics"].get(name))
    return each(metrics, metric_title, lambda e, name: interval(find(e, name), name))


def each(
    keys: Iterable[K],
    title: Callable[[K], str],
    cell: Callable[[Any, K], str],
    *,
    lines: bool = False,
) -> list[Field]:
    """A column of numbers for each key.

    Args:
        keys: What the columns are of.
        title: Heading of a key's column.
        cell: Writes a cell from a record and the key.
        lines: Whether a page sets the values of a cell on a line each.
    """

    def column(key: K) -> Field:
        return value(title(key), lambda e: cell(e, key), lines=lines)

    return [column(key) for key in keys]


def plain(title: str, key: str, metric: str) -> Field:
    """A column of values without interval."""
    return value(title, lambda e: number(e.get(key), metric))


def _writer(cell: Cell | str) -> Cell:
    return (lambda e: str(e[cell])) if isinstance(cell, str) else cell


PROTOCOL = text("Protocol", lambda e: protocol_title(e["protocol"]))
RECIPE = code("Recipe", "recipe")
N_IMAGES = value("n images", "n")


def table_of(
    caption: str, records: Iterable[Any], *fields: Field, note: str = "", grouped: bool = False
) -> Table:
    """One row a record; the dagger of unreliable intervals is explained where one occurs.

    >>> table_of("Sizes", [{"n": 1200}], value("n images", "n")).rows
    (('1,200',),)
    """
    rows = tuple(tuple(field.cell(record) for field in fields) for record in records)
    columns = tuple(field.column for field in fields)
    return marked(Table(caption, columns, rows, note, grouped))


def table_if_any(
    caption: str, records: Iterable[Any], *fields: Field, note: str = "", grouped: bool = False
) -> Table | None:
    """As :func:`table_of`; None where there is no record."""
    made = table_of(caption, records, *fields, note=note, grouped=grouped)
    return made if made.rows else None


def words(*titles: str) -> tuple[Column, ...]:
    """Columns of words, for a table whose rows are written by hand."""
    return tuple(Column(title) for title in titles)


def numbers(*titles: str) -> tuple[Column, ...]:
    """Columns of numbers, likewise."""
    return tuple(Column(title, numeric=True) for title in titles)


def marked(table: Table) -> Table:
    """The table, with the dagger explained where one occurs."""
    if not any(UNRELIABLE in cell for row in table.rows for cell in row):
        return table
    return replace(table, note=f"{table.note} {UNRELIABLE_NOTE}".strip())
