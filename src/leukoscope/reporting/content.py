"""The blocks a report is made of; one tree, written as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

from leukoscope.reporting.formats import UNRELIABLE, UNRELIABLE_NOTE


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
        status: Cells begin with a sign of :data:`STATUS_SIGNS`, which a page also shows as a
            colour.
    """

    title: str
    numeric: bool = False
    code: bool = False
    narrow: bool = False
    lines: bool = False
    link: bool = False
    status: bool = False


STATUS_SIGNS: Mapping[str, str] = {"✗": "bad", "✓": "good", "?": "open", "–": "none"}
"""First sign of a cell → how it is coloured. The sign and its words say the same without colour."""


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
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        file: Path below the study's folder, with forward slashes.
        caption: What it shows, with its sample size.
        alt: What a reader who cannot see it should know.
        width: Width in CSS px at which its type has its nominal size.
        height: Height in CSS px, likewise.
        uri: ``data:`` URI of a photograph.
        svg: Source of a chart.
    """

    kind: ClassVar[str] = "picture"
    file: str
    caption: str
    alt: str
    width: int
    height: int
    uri: str = ""
    svg: str = ""


@dataclass(frozen=True)
class Panels:
    """Small pictures side by side."""

    kind: ClassVar[str] = "panels"
    title: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Span:
    """A line of a chart of ranges.

    Attributes:
        label: What it is of.
        text: Value and limits as they are printed.
        value: Where the dot stands, 0 to 1; None draws nothing.
        low: Lower limit, or None.
        high: Upper limit, or None.
        tone: ``mean``, ``next`` (a prediction) or a value of :data:`STATUS_SIGNS`.
    """

    label: str
    text: str
    value: float | None
    low: float | None = None
    high: float | None = None
    tone: str = "mean"

    @property
    def beyond(self) -> str:
        """``under`` or ``over`` where the value lies outside the line, else empty."""
        if self.value is None or 0 <= self.value <= 1:
            return ""
        return "under" if self.value < 0 else "over"

    @property
    def place(self) -> str:
        """Left end, width and dot as custom properties of CSS, in per cent of the line."""
        if self.value is None:
            return ""
        value, low, high = (
            100 * min(1.0, max(0.0, self.value if x is None else x))
            for x in (self.value, self.low, self.high)
        )
        return f"--at:{value:.1f}%;--from:{low:.1f}%;--to:{high - low:.1f}%"


@dataclass(frozen=True)
class Ranges:
    """Values with their limits on one line each, from 0 to 100 %.

    Attributes:
        title: What all are of.
        spans: In order.
        mark: Where a dashed line stands, 0 to 1; None draws none.
        mark_text: What the line means.
    """

    kind: ClassVar[str] = "ranges"
    title: str
    spans: tuple[Span, ...]
    mark: float | None = None
    mark_text: str = ""


@dataclass(frozen=True)
class Case:
    """An image of a gallery that can be searched.

    Attributes:
        uri: ``data:`` URI of a thumbnail.
        name: Of the file.
        true: Title of the true class.
        predicted: Title of the predicted class.
        p: Probability of the predicted class.
        second: The class that came second, with its probability.
        group: Patient, else group; may be empty.
        kind: Such as ``mistake``.
    """

    uri: str
    name: str
    true: str
    predicted: str
    p: float
    second: str
    group: str
    kind: str


@dataclass(frozen=True)
class Cases:
    """Images that a page lets its reader filter.

    Attributes:
        caption: What they are, with the sample size.
        cases: In order.
        group: What a group is: ``patient``, ``acquisition cluster`` …
    """

    kind: ClassVar[str] = "cases"
    caption: str
    cases: tuple[Case, ...]
    group: str


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


@dataclass(frozen=True)
class Steps:
    """What to do next, in order: each a few words that are set in bold, and how."""

    kind: ClassVar[str] = "steps"
    title: str
    items: tuple[tuple[str, str], ...]


Block: TypeAlias = (
    "Table | Folded | Picture | Panels | Ranges | Cases | Paragraph | Heading | Bullets | Terms "
    "| Code | References | Steps"
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
    blocks: Sequence[Block] = ()


@dataclass(frozen=True)
class Tab:
    """Chapters that a page shows together; one without any content is left out."""

    anchor: str
    title: str
    sections: Sequence[Section]


@dataclass(frozen=True)
class Headline:
    """What a page says first.

    Attributes:
        level: Decides on the colour: ``unsafe``, ``caution``, ``inconclusive`` or ``plausible``.
        word: The level in words.
        sign: The same as one sign.
        text: One sentence, or its end.
        scores: Its beginning, which small screens leave to the picture below.
    """

    level: str
    word: str
    sign: str
    text: str
    scores: str = ""


@dataclass(frozen=True)
class Head:
    """What stands above the tabs of a page.

    Attributes:
        kind: Of page, such as ``study report``.
        title: Of the window.
        name: What the page is about, its heading.
        facts: Numbers with their labels.
        headline: What it says first, if it says anything.
        lead: What belongs on the first screen below the headline.
    """

    kind: str
    title: str
    name: str
    facts: Sequence[tuple[str, str]]
    headline: Headline | None = None
    lead: Sequence[Block] = ()


def present(*found: Block | None) -> list[Block]:
    """The blocks that there are."""
    return [block for block in found if block is not None]


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


def as_table(block: Ranges | Cases) -> Table:
    """What a page draws, as a table for text."""
    if isinstance(block, Ranges):
        rows = tuple((span.label, span.text) for span in block.spans)
        note = "" if block.mark is None else f"Dashed in the page: {block.mark_text}."
        return marked(
            Table(block.title, (Column("What"), Column("Value", numeric=True)), rows, note)
        )
    columns = (
        Column("Image", code=True), *words("True", "Predicted"), *numbers("Probability"),
        *words("Or", block.group.capitalize(), "Kind"),
    )  # fmt: skip
    cells = tuple(
        (one.name, one.true, one.predicted, f"{one.p:.2f}", one.second, one.group, one.kind)
        for one in block.cases
    )
    return Table(block.caption, columns, cells)
