"""Tables with a row for each record: columns, and what writes their cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from leukoscope.core.protocols import protocol_title
from leukoscope.reporting.content import Column, Table, marked
from leukoscope.reporting.formats import count, interval, metric_title, number

Entry: TypeAlias = Any
"""A record of any schema, or a JSON object: what a column is told how to read."""

Cell = Callable[[Entry], str]
K = TypeVar("K")
FoundT = TypeVar("FoundT")


@dataclass(frozen=True)
class Under(Generic[FoundT]):
    """What was found under one protocol: a row of a table that has several."""

    protocol: str
    found: FoundT


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


def status(title: str, cell: Cell) -> Field:
    """A column of a matrix: its cells begin with a sign, see ``status`` of :class:`Column`."""
    return Field(Column(title, lines=True, status=True), cell)


def value(title: str, cell: Cell | str, *, lines: bool = False) -> Field:
    """A column of numbers; of a key the number is a count."""
    write = (lambda e: count(member(e, cell))) if isinstance(cell, str) else cell
    return Field(Column(title, numeric=True, lines=lines), write)


def scores(metrics: Iterable[str], of: Callable[[Entry, str], Entry] | None = None) -> list[Field]:
    """A column for each metric: the value with its interval.

    Args:
        metrics: Names of metrics.
        of: Finds the value of a metric in a record; by default below its key ``metrics``.
    """
    find = of or (lambda entry, name: member(entry, "metrics").get(name))
    return each(metrics, metric_title, lambda e, name: interval(find(e, name), name))


def each(
    keys: Iterable[K],
    title: Callable[[K], str],
    cell: Callable[[Entry, K], str],
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
    return value(title, lambda e: number(member(e, key), metric))


def _writer(cell: Cell | str) -> Cell:
    return (lambda e: str(member(e, cell))) if isinstance(cell, str) else cell


def member(record: object, name: str) -> Entry:
    """A value of a record: of a mapping the key (None where it is absent), else the attribute.

    >>> member({"n": 3}, "n"), member(1 + 2j, "imag")
    (3, 2.0)
    """
    return record.get(name) if isinstance(record, Mapping) else getattr(record, name)


PROTOCOL = text("Protocol", lambda e: protocol_title(member(e, "protocol")))
RECIPE = code("Recipe", "recipe")
N_IMAGES = value("n images", "n")


def n_rows(row: str) -> Field:
    """The column of ``n``, which counts images or, in a study of patients, these."""
    return N_IMAGES if row == "image" else value(f"n {row}s", "n")


def table_of(
    caption: str, records: Iterable[object], *fields: Field, note: str = "", grouped: bool = False
) -> Table:
    """One row a record; the dagger of unreliable intervals is explained where one occurs.

    >>> table_of("Sizes", [{"n": 1200}], value("n images", "n")).rows
    (('1,200',),)
    """
    rows = tuple(tuple(field.cell(record) for field in fields) for record in records)
    columns = tuple(field.column for field in fields)
    return marked(Table(caption, columns, rows, note, grouped))


def table_if_any(
    caption: str, records: Iterable[Entry], *fields: Field, note: str = "", grouped: bool = False
) -> Table | None:
    """As :func:`table_of`; None where there is no record."""
    made = table_of(caption, records, *fields, note=note, grouped=grouped)
    return made if made.rows else None
