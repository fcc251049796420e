"""docs/coming-from says only what is there: commands, options, recipes, settings, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from leukoscope.cli.main import app
from leukoscope.config.loading import apply_overrides, list_recipes, load_recipe
from leukoscope.config.recipe import Recipe
from leukoscope.config.study import StudyConfig
from leukoscope.core.protocols import PROTOCOLS
from leukoscope.learning.catalogue import BACKBONES

FOLDER = Path(__file__).parents[1] / "docs" / "coming-from"
PAGES = sorted(FOLDER.glob("*.md"))
STUDIES = [page for page in PAGES if page.name != "README.md"]
CHAPTERS = ("Your data folder", "There → here", "What is different, and why", "What to expect",
            "What there is not")  # fmt: skip
SETTING = re.compile(r"`((?:preprocess|model|training|refine|augmentation|splits)\.[a-z0-9_.]+)`")


def command_lines(page: Path) -> list[str]:
    """What a reader can copy: lines of bash blocks, and code in the text, that run the program."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"(?<!`)`(leukoscope [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    return [line.strip() for line in lines if line.strip().startswith("leukoscope ")]


CASES = [(page.name, line) for page in PAGES for line in command_lines(page)]


@cache
def program() -> Any:
    """The whole program, as ``typer`` builds it."""
    return typer.main.get_command(app)


def parse(line: str) -> tuple[str, dict[str, Any]]:
    """The command that a line runs, and its parameters; an error for a name that is not there."""
    _, *words = shlex.split(line)
    command = program()
    path = []
    while hasattr(command, "commands"):
        assert words, f"{line}: which command of the group?"
        path.append(words.pop(0))
        assert path[-1] in command.commands, f"{line}: no command {' '.join(path)!r}"
        command = command.commands[path[-1]]
    if not words:  # the text names the command
        return " ".join(path), {}
    return " ".join(path), command.make_context(" ".join(path), words).params


@pytest.mark.parametrize(("page", "line"), CASES)
def test_every_command_line_is_understood(page: str, line: str) -> None:
    name, values = parse(line)
    recipes = values.get("recipe") or ()
    for recipe in (recipes,) if isinstance(recipes, str) else recipes:
        assert recipe in list_recipes() or recipe.endswith(".toml"), f"{page}: no recipe {recipe!r}"
    if name == "recipes show" and values:
        assert values["name"] in list_recipes()
    protocols = values.get("protocol") or ()
    for protocol in (protocols,) if isinstance(protocols, str) else protocols:
        assert protocol in PROTOCOLS, f"{page}: no protocol {protocol!r}"
    backbone = values.get("backbone")
    assert backbone is None or backbone in BACKBONES, f"{page}: {backbone!r}"
    check_settings(recipes, values.get("overrides") or ())


def check_settings(recipes: str | tuple[str, ...], overrides: tuple[str, ...]) -> None:
    """Values of ``--set`` fit the recipes and the study."""
    for_study = [text for text in overrides if text.startswith("splits.")]
    for_recipe = [text for text in overrides if text not in for_study]
    named = [recipes] if isinstance(recipes, str) else [*recipes]
    chosen = [load_recipe(name, for_recipe) for name in named if name in list_recipes()]
    if chosen:
        values = {"data": {"path": "x"}, "recipes": [recipe.model_dump() for recipe in chosen]}
        StudyConfig.model_validate(apply_overrides(values, for_study))


def test_a_wrong_line_would_be_found() -> None:
    for line in (
        "leukoscope traim x",
        "leukoscope data fletch x",
        "leukoscope study x --recipes y",
    ):
        with pytest.raises(Exception, match=r"no command|[Nn]o such option"):
            parse(line)


@pytest.mark.parametrize("page", STUDIES, ids=lambda page: page.stem)
def test_a_page_is_complete(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for chapter in CHAPTERS:
        assert f"\n## {chapter}" in text, chapter
    assert "results/reference_studies.md" in text
    assert f"({page.name})" in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert len([line for name, line in CASES if name == page.name]) > 5


def test_every_recipe_of_the_studies_has_its_page() -> None:
    pages = {page.name[:2].upper(): page.read_text(encoding="utf-8") for page in STUDIES}
    assert sorted(pages) == ["S0", "S1", "S2", "S3", "S4"]
    for name in list_recipes():
        study = re.search(r"\bS[0-4]\b", load_recipe(name).reference)
        if study and not name.startswith("features-"):
            assert f"`{name}`" in pages[study[0]] or f" {name} " in pages[study[0]], name


def setting_keys(schema: dict[str, Any], node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys of a JSON schema, through references and unions."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    for choice in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from setting_keys(schema, choice, prefix)
    for name, inner in node.get("properties", {}).items():
        yield f"{prefix}{name}"
        yield from setting_keys(schema, inner, f"{prefix}{name}.")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_setting_named_exists(page: Path) -> None:
    known = {
        key
        for model in (Recipe, StudyConfig)
        for schema in (model.model_json_schema(),)
        for key in setting_keys(schema, schema)
    }
    for key in SETTING.findall(page.read_text(encoding="utf-8")):
        assert key in known or key == "splits.csv", f"{page.name}: no setting {key!r}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http|#)([^)#]+)", text):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tables_are_rectangular(page: Path) -> None:
    width = 0
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = line.count("|") if line.startswith("|") else 0
        assert not (cells and width) or cells == width, f"{page.name}: {line}"
        width = cells
