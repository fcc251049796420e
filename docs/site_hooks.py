"""What MkDocs adds that no page holds: commands, notes of recipes, the pages of whole folders."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

import typer.main

from leukoscope.cli.main import GROUPS, app
from leukoscope.cli.parameters import commands_of
from leukoscope.config.loading import list_recipes, load_recipe

DOCS = Path(__file__).parent


def on_config(config: Any) -> Any:
    """Replace each folder of the navigation by its pages, its README first."""
    config.nav = [
        {title: _pages(place) for title, place in entry.items()}
        if isinstance(entry, dict) and str(next(iter(entry.values()))).endswith("/")
        else entry
        for entry in config.nav
    ]
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put what the program knows where a page asks for it."""
    for mark, written in (
        ("<!-- commands -->", command_reference),
        ("<!-- notes of recipes -->", recipe_notes),
    ):
        if mark in markdown:
            markdown = markdown.replace(mark, written())
    return markdown


def _pages(folder: str) -> list[str]:
    pages = sorted((DOCS / folder).glob("*.md"), key=lambda page: (page.stem != "README", page))
    return [f"{folder}{page.name}" for page in pages]


def command_reference() -> str:
    """Markdown of every command: usage, help, arguments and options, as the parser knows them."""
    program: Any = typer.main.get_command(app)
    lines = []
    for group, names in GROUPS.items():
        lines += [f"## {group}", ""]
        for name in names:
            found = program.commands[name]
            inner = commands_of(found, (name,)) if hasattr(found, "commands") else {name: found}
            for path, command in inner.items():
                lines += _command(path, command)
    return "\n".join(lines)


def recipe_notes() -> str:
    """Markdown of what each recipe says of itself."""
    lines = []
    for recipe in map(load_recipe, list_recipes()):
        lines += [f"### {recipe.name}", "", f"{recipe.title}. *{recipe.reference}.*", ""]
        lines += [recipe.notes.strip(), ""]
    return "\n".join(lines)


def _command(path: str, command: Any) -> list[str]:
    context = typer.Context(command, info_name=f"leukoscope {path}")
    usage = command.get_usage(context).removeprefix("Usage: ")
    lines = [f"### {path}", "", command.help or "", "", "```", *usage.split("\n"), "```", ""]
    rows = [record for item in command.params if (record := _record(item, context))]
    if rows:
        lines += ["| | |", "|---|---|", *rows, ""]
    return [*lines, (command.epilog or "").replace("Example: ", "Example: `", 1) + "`", ""]


def _record(item: Any, context: Any) -> str:
    """A row of the table of parameters."""
    if item.param_type_name == "argument":
        name, text = item.name.upper(), item.help or ""
    else:
        shown = item.get_help_record(context)
        if shown is None:
            return ""
        name, text = shown
    name = re.sub(r" <.*>$", "", name)  # the type, which the help says better
    return f"| `{name}` | {escape(' '.join(text.split()), quote=False)} |"
