"""The tables of docs/security.md: every promise names tests, and they are there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs/security.md"
LAST_COLUMN = "test that holds it"


def promises(page: str) -> list[tuple[str, str]]:
    """Promise and last cell of every row below a header that ends with the column of tests."""
    found, inside = [], False
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line[:1] == "|" else []
        if not cells or cells[-1] == LAST_COLUMN:
            inside = bool(cells)
        elif inside and set(cells[0]) != {"-"}:
            found.append((cells[0], cells[-1]))
    return found


def is_there(name: str) -> bool:
    """Whether a file of tests exists, with a test that is called or, before …, begins so."""
    file, _, test = name.partition("::")
    path = TESTS / file
    if not path.is_file():
        return False
    end = r"\w*\(" if test.endswith("…") else r"\("
    wanted = re.escape(test.removesuffix("…")) + end if test else r"test_\w+\("
    return re.search(rf"^ *(?:async )?def {wanted}", path.read_text(), re.MULTILINE) is not None


def test_every_promise_names_tests_that_are_there() -> None:
    rows = promises(PAGE.read_text(encoding="utf-8"))
    assert len(rows) > 35
    named = {promise: re.findall(r"`([^`]+\.py[^`]*)`", cell) for promise, cell in rows}
    unheld = [promise for promise, cell in rows if not named[promise] and cell != "the same"]
    assert not unheld
    assert not [(row, name) for row, names in named.items() for name in names if not is_there(name)]


def test_the_check_sees_what_is_missing() -> None:
    header = f"| promise | {LAST_COLUMN} |\n|---|---|\n"
    page = f"{header}| a | `x.py` |\n\n| other | table |\n|---|---|\n| b | c |\n"
    assert promises(page) == [("a", "`x.py`")]
    here = Path(__file__).name
    assert is_there(here)
    assert is_there(f"{here}::test_every_promise_…")
    assert not is_there(f"{here}::test_every_promise_")
    assert not is_there("gone.py")
