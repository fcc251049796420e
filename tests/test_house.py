"""The house stays one in which a line is found: small folders, short functions, a true map."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src/leukoscope"
MOST_MODULES = 24
MOST_LINES = 60


def test_no_folder_holds_more_modules_than_a_reader_can_survey() -> None:
    modules = Counter(path.parent for path in PACKAGE.rglob("*.py"))
    assert {str(folder) for folder, number in modules.items() if number > MOST_MODULES} == set()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@pytest.mark.parametrize("folder", ["src", "benchmarks", "bundles"])
def test_no_function_is_longer_than_a_screen(folder: str) -> None:
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(parsed(path))
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


def names_in(module: ast.Module) -> set[str]:
    """What a module imports and defines, with the members of its classes."""
    imports = [node for node in ast.walk(module) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.asname or alias.name for node in imports for alias in node.names}
    for node in module.body:
        names |= defined_by(node)
        if isinstance(node, ast.ClassDef):
            names |= set().union(*map(defined_by, node.body))
    return names


def defined_by(node: ast.stmt) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def test_docstrings_refer_to_what_is_there() -> None:
    paths = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in PACKAGE.rglob("*.py")
    }
    texts = {module: path.read_text("utf-8") for module, path in paths.items()}
    names = {module: names_in(parsed(path)) for module, path in paths.items()}
    lost = []
    for module, text in texts.items():
        for target in re.findall(r":(?:mod|func|class|meth|data|attr|exc):`~?([^`]+)`", text):
            if re.match(r"(?!leukoscope\.)[a-z]\w*\.", target) or target in names:
                continue  # of another library, or a module
            homes = [m for m in names if target.startswith(f"{m}.")]
            home = max(homes, key=len, default=module)
            first, *members = target.removeprefix(f"{home}.").split(".")
            known = set().union(*names.values()) if members else set()
            if first not in names[home] or not known.issuperset(members):
                lost.append(f"{module}: {target}")
    assert lost == []
