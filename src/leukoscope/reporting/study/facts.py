"""A fact about a study: sentences or tables, and the files that show them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from leukoscope.reporting.content import Table


@dataclass(frozen=True)
class Answer:
    """What the files say.

    Attributes:
        text: One or more sentences, with numbers.
        files: Where it can be checked, below the study's folder.
        tables: What the text names, where numbers are many.
    """

    text: str
    files: tuple[str, ...]
    tables: tuple[Table, ...] = ()


def answer(parts: Iterable[str], *files: str) -> Answer | None:
    """The sentences as one answer; None where there is none.

    >>> answer(["One.", "", "Two."], "a.csv").text, answer([""], "a.csv")
    ('One. Two.', None)
    """
    text = " ".join(part for part in parts if part)
    return Answer(text, files) if text else None


def listed(names: Iterable[object], most: int = 8) -> str:
    """Names in a row, the first few of many.

    >>> listed(["a", "b"]), listed(range(9), most=2)
    ('a, b', '0, 1 and 7 more')
    """
    found = [str(name) for name in names]
    rest = len(found) - most
    return ", ".join(found[:most]) + (f" and {rest} more" if rest > 0 else "")


def shown(tables: Iterable[Table | None], *files: str) -> Answer | None:
    """Tables of the report as one answer; None where the study has nothing to show in them.

    >>> shown([None], "metrics.json") is None
    True
    """
    found = tuple(table for table in tables if table is not None and table.rows)
    text = "See the table:" if len(found) == 1 else "See the tables:"
    return Answer(text, files, found) if found else None
