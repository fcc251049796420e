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
    """

    title: str
    numeric: bool = False
    code: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: What it shows, with its sample size.
        columns: Headings.
        rows: Cells as text, one tuple per row.
        note: Small print below.
        folded: Whether the page shows it only on request, as the numbers behind a figure.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    folded: bool = False


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
    """

    kind: ClassVar[str] = "picture"
    file: str
    caption: str
    alt: str
    uri: str
    width: int
    height: int


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


Block = Table | Picture | Panels | Paragraph | Heading | Bullets | Terms | Code | References


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
