"""How results show themselves: a table in a notebook, a pandas frame, one line, a count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Protocol

from leukoscope.core.errors import MissingExtraError

if TYPE_CHECKING:
    import pandas as pd

_MOST_ROWS = 50  # of a table in a notebook


def plural(value: int, singular: str, many: str = "") -> str:
    """A count with its noun.

    >>> plural(1, "image"), plural(2000, "image"), plural(2, "class", "classes")
    ('1 image', '2,000 images', '2 classes')
    """
    return f"{value:,} {singular if value == 1 else many or singular + 's'}"


def is_or_are(value: int) -> str:
    """The verb after :func:`plural`."""
    return "is" if value == 1 else "are"


def html_table(titles: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """An HTML table for a notebook; of long ones the beginning.

    >>> html_table(["class"], [["<b>"]])
    '<table><thead><tr><th>class</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr></tbody></table>'
    """
    every = list(rows)
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>"
        for row in every[:_MOST_ROWS]
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    more = f"<p>… and {len(every) - _MOST_ROWS} more</p>" if len(every) > _MOST_ROWS else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def html_note(text: str, strong: str = "") -> str:
    """A paragraph for a notebook, beginning with words that stand out."""
    return f"<p>{f'<b>{escape(strong)}</b>: ' if strong else ''}{escape(text)}</p>"


def data_frame(rows: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """A pandas frame of rows.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtraError("to_frame()", "pandas") from None
    return pd.DataFrame(list(rows))


class Limited(Protocol):
    """A value with its interval."""

    @property
    def value(self) -> float | None:
        """The estimate."""

    @property
    def low(self) -> float | None:
        """The lower limit."""

    @property
    def high(self) -> float | None:
        """The upper limit."""


def with_limits(metrics: Mapping[str, Limited]) -> dict[str, float | None]:
    """Name → value, ``NAME_low`` and ``NAME_high`` of estimates."""
    row: dict[str, float | None] = {}
    for name, found in metrics.items():
        row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return row
