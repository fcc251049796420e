"""From blocks to HTML and Markdown: templates, escaping, and nothing that could run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from leukoscope.core.files import write_text
from leukoscope.reporting.content import STATUS_SIGNS, Head, Tab, as_table
from leukoscope.reporting.wording import REPORT_DISCLAIMER

if TYPE_CHECKING:
    from jinja2 import Environment

_CODE = re.compile(r"`([^`\n]+)`")
_VALUE_AND_INTERVAL = re.compile(r"^(.+?) (\([^()]*\)†?)$")
_PERCENT = re.compile(r"(?<=\d) %")
_MARKDOWN = re.compile(r"([\\*_\[\]|#])")


def inline(text: str) -> Markup:
    """Text as safe HTML; words between backticks become code, a number keeps its per cent sign.

    >>> str(inline("a `b<c>` & d"))
    'a <code>b&lt;c&gt;</code> &amp; d'
    """
    pieces = _CODE.split(str(escape(text)))  # words and code in turn
    pieces[::2] = [_PERCENT.sub("\u00a0%", piece) for piece in pieces[::2]]
    pieces[1::2] = [f"<code>{piece}</code>" for piece in pieces[1::2]]
    return Markup("".join(pieces))


def cell(text: str) -> Markup:
    """A number and its interval as two spans, so that a narrow column breaks between them.

    >>> str(cell("98.3 % (97.9–98.7)"))
    '<span class="value">98.3 %</span> <span class="ci">(97.9–98.7)</span>'
    """
    found = _VALUE_AND_INTERVAL.match(text)
    if found is None:
        return Markup(escape(text))
    return Markup('<span class="value">{}</span> <span class="ci">{}</span>').format(
        found[1], found[2]
    )


def lines(text: str) -> Markup:
    """Several values of one cell, each on its own line, limits in lines of their own.

    >>> str(lines("98.3 % / 91.8 %"))
    '98.3 % /<br>91.8 %'
    """
    mark = ", " if ", " in text else " / "
    return Markup(f"{mark.rstrip()}<br>").join(cell(part) for part in text.split(mark))


def tone(text: str) -> str:
    """How the cell of a matrix is coloured, by its first sign.

    >>> tone("✗ shown 74 %"), tone("12")
    ('bad', 'none')
    """
    return STATUS_SIGNS.get(text[:1], "none")


def markdown(text: str) -> str:
    r"""Text as Markdown that shows as it is; code between backticks stays code.

    >>> markdown("a*b <i> `c_d`")
    'a\\*b &lt;i> `c_d`'
    """
    pieces = re.split(r"(`[^`]+`)", " ".join(text.split("\n")))
    return "".join(
        piece.replace("|", "\\|")
        if piece.startswith("`") and piece.endswith("`") and len(piece) > 2
        else _MARKDOWN.sub(r"\\\1", piece.replace("&", "&amp;").replace("<", "&lt;"))
        for piece in pieces
    )


def markdown_code(text: str) -> str:
    r"""A table cell as code, whatever it contains.

    >>> markdown_code("a|b"), markdown_code("x`y")
    ('`a\\|b`', '`` x`y ``')
    """
    clean = " ".join(text.split("\n")).replace("|", "\\|")
    if not clean.strip():
        return ""
    return f"`` {clean} ``" if "`" in clean else f"`{clean}`"


@cache
def templates() -> Environment:
    """The templates of the package; HTML ones escape everything by default."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("leukoscope.reporting", "templates"),
        autoescape=lambda name: bool(name) and ".html" in str(name),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        inline=inline,
        cell=cell,
        lines=lines,
        tone=tone,
        table_of=as_table,
        markdown=markdown,
        markdown_code=markdown_code,
    )
    return environment


def render(template: str, **values: object) -> str:
    """Fill one template.

    Args:
        template: File name in the package's ``templates``.
        **values: What it uses; a missing one is an error.
    """
    return templates().get_template(template).render(**values)


def write_page(
    html: Path, head: Head, tabs: Iterable[Tab], *, markdown: Path | None = None
) -> None:
    """Write a page that opens offline, and the same as Markdown.

    Args:
        html: The page's file.
        head: What stands above the tabs.
        tabs: In order; what is empty is left out.
        markdown: The text's file, if one is wanted.
    """
    filled = [
        replace(tab, sections=[section for section in tab.sections if section.blocks])
        for tab in tabs
    ]
    page = {"head": head, "tabs": [tab for tab in filled if tab.sections]}
    write_text(html, render_page("page.html.j2", ("page.js",), **page))
    if markdown is not None:
        write_text(markdown, render("page.md.j2", disclaimer=REPORT_DISCLAIMER, **page))


def render_page(template: str, scripts: Sequence[str], **values: object) -> str:
    """Fill the template of a page with its style, scripts and disclaimer inside.

    Args:
        template: One that extends ``shell.html.j2``.
        scripts: Files of the package's ``templates``, run in this order.
        **values: What the template uses besides.
    """
    script = "".join(map(source_of, scripts))
    return render(
        template,
        css=Markup(source_of("style.css")),  # ours, not the user's
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        disclaimer=REPORT_DISCLAIMER,
        **values,
    )


def source_of(name: str) -> str:
    """A file of the package's ``templates`` as it is.

    Args:
        name: Such as ``relabel.js``.
    """
    environment = templates()
    source, _, _ = environment.loader.get_source(environment, name)  # type: ignore[union-attr]
    return source


def embedded_json(value: object) -> Markup:
    r"""JSON that cannot end the script element it stands in.

    >>> str(embedded_json("</script>"))
    '"\\u003c/script\\u003e"'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)
