"""The blocks a report is made of; one tree, written as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Column:
    """A table's column.

    Attributes:
        title: Heading.
        numeric: Right-aligned, not wrapped.
        code: Cells are file names or code, printed verbatim.
        narrow: No wider than its longest word group.
        lines: Numeric cells of several values, which a page sets on a line each.
        link: Cells of a code column are files beside the page, and lead there.
    """

    title: str
    numeric: bool = False
    code: bool = False
    narrow: bool = False
    lines: bool = False
    link: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: What it shows, with its sample size.
        columns: Headings.
        rows: Cells as text, one tuple per row.
        note: Small print below.
        grouped: Whether rows follow one another by their first cell, shown once per group.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    grouped: bool = False


@dataclass(frozen=True)
class Folded:
    """The numbers behind a figure, or what few readers look up; the page opens it on request."""

    kind: ClassVar[str] = "folded"
    title: str
    tables: tuple[Table, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        file: Path below the study's folder, with forward slashes.
        caption: What it shows, with its sample size.
        alt: What a reader who cannot see it should know.
        uri: ``data:`` URI for the page.
        width: Width in CSS px at which its type has its nominal size.
        height: Height in CSS px, likewise.
        narrow_uri: A version for small screens, or empty.
    """

    kind: ClassVar[str] = "picture"
    file: str
    caption: str
    alt: str
    uri: str
    width: int
    height: int
    narrow_uri: str = ""


@dataclass(frozen=True)
class Panels:
    """Small pictures side by side."""

    kind: ClassVar[str] = "panels"
    title: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Paragraph:
    """Text; words between backticks are set as code."""

    kind: ClassVar[str] = "paragraph"
    text: str
    note: bool = False


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Bullets:
    """A list."""

    kind: ClassVar[str] = "bullets"
    items: tuple[str, ...]


@dataclass(frozen=True)
class Terms:
    """Terms with one line each."""

    kind: ClassVar[str] = "terms"
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Code:
    """Commands to copy."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class References:
    """Sources as ``(text, address)``; the only links that leave the page."""

    kind: ClassVar[str] = "references"
    items: tuple[tuple[str, str], ...]


Block = (
    Table | Folded | Picture | Panels | Paragraph | Heading | Bullets | Terms | Code | References
)


@dataclass(frozen=True)
class Section:
    """A chapter.

    Attributes:
        anchor: Identifier in the page.
        title: Heading.
        blocks: Content in order; a section without any is left out.
    """

    anchor: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def present(*found: Block | None) -> list[Block]:
    """The blocks that there are."""
    return [block for block in found if block is not None]
