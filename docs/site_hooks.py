"""What MkDocs adds that no page holds: commands, recipes, settings, the pages of whole folders."""

from __future__ import annotations

import inspect
import re
from html import escape
from pathlib import Path
from typing import Any, get_args

import typer.main
from pydantic import BaseModel

from leukoscope.cli.main import GROUPS, app
from leukoscope.cli.parameters import commands_of
from leukoscope.config.loading import list_recipes, load_recipe
from leukoscope.config.metrics.file import StudyMetrics
from leukoscope.config.preprocess import SegmentStep, Step
from leukoscope.config.recipe import Augmentation, ModelConfig, Recipe
from leukoscope.config.training import (
    FeatureClassifierTraining,
    GradientTraining,
    LinearHeadTraining,
    Refinement,
)
from leukoscope.imaging.corruption import CORRUPTIONS

DOCS = Path(__file__).parent
HEADINGS = ("recipe", "study", "backbone", "px", "head", "training", "also")
SETTINGS: tuple[type[BaseModel], ...] = (
    Augmentation,
    GradientTraining,
    LinearHeadTraining,
    ModelConfig,
    Refinement,
)
"""Tables of a recipe, whose docstrings become tables of the site."""


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
        ("<!-- table of recipes -->", recipe_table),
        ("<!-- notes of recipes -->", recipe_notes),
        ("<!-- keys of metrics.json -->", metrics_keys),
        ("<!-- preprocessing steps -->", step_table),
        ("<!-- corruptions -->", corruption_table),
    ):
        if mark in markdown:
            markdown = markdown.replace(mark, written())
    for model in SETTINGS:
        markdown = markdown.replace(f"<!-- {model.__name__} -->", setting_table(model))
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Show names in docstrings without the roles before them, as ``:func:``."""
    return re.sub(r":(?:attr|class|data|exc|func|meth|mod):<code>(?:~[\w.]*\.)?", "<code>", html)


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


def recipe_table() -> str:
    """Markdown of what distinguishes the recipes, a row each."""
    recipes = map(load_recipe, list_recipes())
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(_row(recipe))} |" for recipe in recipes)])


def recipe_notes() -> str:
    """Markdown of what each recipe says of itself."""
    lines = []
    for recipe in map(load_recipe, list_recipes()):
        lines += [f"### {recipe.name}", "", f"{recipe.title}. *{recipe.reference}.*", ""]
        lines += [recipe.notes.strip(), ""]
    return "\n".join(lines)


def setting_table(model: type[BaseModel]) -> str:
    """Markdown of what may be set in a table of a recipe: name, default, meaning."""
    rows = ["| setting | default | what it does |", "|---|---|---|"]
    for name, meaning in _meanings(model).items():
        rows.append(f"| `{name}` | {_default(model.model_fields[name].default)} | {meaning} |")
    return "\n".join(rows)


def metrics_keys() -> str:
    """Markdown of the keys of ``metrics.json``."""
    rows = ["| key | what it holds |", "|---|---|"]
    for schema in reversed(StudyMetrics.__mro__):
        if issubclass(schema, BaseModel):
            for name, meaning in _meanings(schema).items():
                rows.append(f"| `{schema.model_fields[name].alias or name}` | {meaning} |")
    return "\n".join(rows)


def step_table() -> str:
    """Markdown of the preprocessing steps: name, parameters with their defaults, what it does."""
    rows = ["| kind | parameters (default) | what it does |", "|---|---|---|"]
    shared = set(SegmentStep.model_fields)
    for step in get_args(get_args(Step)[0]):
        own = [name for name in step.model_fields if name not in {"kind", *shared}]
        given = ", ".join(f"`{name}`{_in_brackets(step.model_fields[name])}" for name in own)
        first = inspect.cleandoc(step.__doc__).split("\n\n")[0]
        words = re.sub(r":class:`(\w+)`", r"\1", " ".join(first.split())).replace("``", "`")
        rows.append(f"| `{step.model_fields['kind'].default}` | {given or '–'} | {words} |")
    return "\n".join(rows)


def _in_brackets(field: Any) -> str:
    """The default of a parameter; nothing where it is required or too long for a table."""
    simple = isinstance(field.default, int | float | str | tuple)
    text = _default(field.default) if simple else ""
    return f" ({text})" if text and len(text) < 30 else ""


def corruption_table() -> str:
    """Markdown of the corruptions of ``robustness``, with the level of each severity."""
    rows = [
        "| name | damage | unit | severity 1 … 5 | detected in one image by |",
        "|---" * 5 + "|",
    ]
    for name, found in CORRUPTIONS.items():
        levels = " ".join(f"{level:g}" for level in found.levels)
        by = (
            " ".join(filter(None, (found.statistic.replace("_", " "), f"({found.side})")))
            if found.statistic
            else "none"
        )
        rows.append(f"| `{name}` | {found.title} | {found.unit} | {levels} | {by} |")
    return "\n".join(rows)


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """What the docstring of a schema says of each of its own fields."""
    described = inspect.cleandoc(model.__doc__ or "").replace("``", "`").replace("|", "\\|")
    found = {}
    for name in model.model_fields:
        row = re.search(rf"^    {name}: (.+?)(?=\n    \w|\n\n|\Z)", described, re.M | re.S)
        if row:
            found[name] = " ".join(row[1].split())
    return found


def _default(value: object) -> str:
    """A default as it is written in a recipe."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, int | float) else str(getattr(value, "kind", value))


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


def _row(recipe: Recipe) -> tuple[str, ...]:
    model, training = recipe.model, recipe.training
    study = recipe.reference.partition(":")[0]
    backbone = model.backbone + (f", {model.stages} levels" if model.stages else "")
    if model.levels:
        backbone += f", levels {', '.join(map(str, model.levels))}"
    common = (f"`{recipe.name}`", study, backbone, str(recipe.preprocess.size_px))
    if isinstance(training, LinearHeadTraining):
        pooled = recipe.patient.kind if recipe.name.startswith("patient") else "—"
        also = f"copies: {', '.join(training.degraded)}" if training.degraded else pooled
        return (*common, "linear", "frozen; L2", also)
    if isinstance(training, FeatureClassifierTraining):
        return (*common, training.classifier.kind, "frozen", "—")
    parts = [training.loss.kind + (", class weights" if training.class_weights else "")]
    parts.append(f"{training.optimizer} {training.learning_rate:g}, batch {training.batch_size}")
    first = recipe.first_phase().training
    if recipe.phase1 and isinstance(first, GradientTraining):
        parts.append(f"phase 1: {first.learning_rate:g}, batch {first.batch_size}")
    if training.schedule.kind != "none":
        parts.append(training.schedule.kind)
    stop = f", patience {training.patience}" if training.patience < training.epochs else ""
    parts.append(f"{training.epochs} epochs{stop}")
    if training.freeze != 0:
        parts.append(f"{training.freeze} blocks frozen")
    return (*common, _head(recipe), "; ".join(parts), _also(recipe, training))


def _head(recipe: Recipe) -> str:
    model = recipe.model
    parts = [f"squeeze-excite {model.squeeze_excite}"] if model.squeeze_excite else []
    parts += [f"{model.input_norm} norm"] if model.input_norm != "none" else []
    if model.hidden:
        kind = "residual " if model.residual else ""
        parts.append(f"{kind}{'-'.join(map(str, model.hidden))} {model.activation}")
    rates = [f"{rate:g}" for rate in (model.hidden_dropout, model.dropout) if rate]
    parts += [f"dropout {' / '.join(rates)}"] if rates else []
    return ", ".join([*parts, "linear"])


def _also(recipe: Recipe, training: GradientTraining) -> str:
    """What the recipe switches on beyond the columns before, by the names of its settings."""
    plain_model, plain_training = ModelConfig(), GradientTraining()
    parts = []
    for name in ("init", "test_time", "clamp_input", "clamp_logits"):
        value = getattr(recipe.model, name)
        if value != getattr(plain_model, name):
            parts.append(f"{name} {value}")
    for name in ("sampling", "mixup", "cutmix", "stage_decay", "ema", "clip_norm", "not_finite"):
        value = getattr(training, name)
        if value != getattr(plain_training, name):
            parts.append(f"{name} {value}")
    return ", ".join(parts) or "—"
