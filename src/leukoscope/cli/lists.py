"""``recipes`` and ``models``: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer

from leukoscope.cli.console import command, console, print_json
from leukoscope.cli.options import JsonOption, SetOption

recipes_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Recipes: ways to make a model."
)
models_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Backbones and where their weights are."
)


def register(app: typer.Typer) -> None:
    """Add both groups to the program."""
    app.add_typer(recipes_app, name="recipes")
    app.add_typer(models_app, name="models")


@recipes_app.command("list", epilog="Example: leukoscope recipes list")
@command
def list_recipes(as_json: JsonOption = False) -> None:
    """List the recipes in the box."""
    from leukoscope.config import loading

    recipes = [loading.load_recipe(name) for name in loading.list_recipes()]
    if as_json:
        print_json([{"name": r.name, "title": r.title, "reference": r.reference} for r in recipes])
        return
    from rich.table import Table

    table = Table("recipe", "what it is", "from", box=None, pad_edge=False)
    for recipe in recipes:
        table.add_row(recipe.name, recipe.title, recipe.reference.partition(":")[0])
    console().print(table)


@recipes_app.command("show", epilog="Example: leukoscope recipes show cnn-baseline")
@command
def show_recipe(
    name: Annotated[str, typer.Argument(help="Recipe name or TOML file.")],
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a recipe in full, with every default spelled out."""
    import tomli_w

    from leukoscope.config.loading import load_recipe

    values = load_recipe(name, overrides or ()).model_dump(mode="json")
    if as_json:
        print_json(values)
    else:
        typer.echo(tomli_w.dumps(values, multiline_strings=True))


@models_app.command("list", epilog="Example: leukoscope models list")
@command
def list_backbones(as_json: JsonOption = False) -> None:
    """List the backbones, and whether their pretrained weights are on this machine."""
    from dataclasses import asdict

    from leukoscope.learning.catalogue import list_models

    models = list_models()
    if as_json:
        print_json([asdict(model) for model in models])
        return
    from rich.table import Table

    table = Table("backbone", "parameters", "input", "weights", "here", box=None, pad_edge=False)
    for m in models:
        size = f"{m.parameters / 1e6:.1f} M" if m.parameters else "—"
        here = "yes" if m.weights_at_hand else "no"
        if m.from_scratch:
            here = "none needed"
        table.add_row(m.name, size, f"{m.input_size} px", m.weights_source, here)
    console().print(table)
