"""The house stays one in which a line is found: small folders, short functions, a true map."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src/leukoscope"
MOST_MODULES = 24
MOST_LINES = 60


def test_no_folder_holds_more_modules_than_a_reader_can_survey() -> None:
    modules = Counter(path.parent for path in PACKAGE.rglob("*.py"))
    assert {str(folder) for folder, number in modules.items() if number > MOST_MODULES} == set()


@pytest.mark.parametrize("folder", ["src", "benchmarks", "bundles"])
def test_no_function_is_longer_than_a_screen(folder: str) -> None:
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or 0) - node.lineno >= MOST_LINES
    ]
    assert long == []


def test_the_map_of_the_house_names_files_and_folders_that_are_there() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    named = set(re.findall(r"`((?:\w+/)+(?:[\w.]+)?)(?::\w+)?`", page))
    assert len(named) > 50
    written = ("bundle/", "cache/", "checklists/", "models/")  # what a study writes
    lost = [
        name
        for name in named
        if not name.startswith(written)
        and not any((place / name).exists() for place in (ROOT, PACKAGE.parent, PACKAGE))
        and not any(PACKAGE.glob(f"*/{name}"))  # said of one package
    ]
    assert lost == []
