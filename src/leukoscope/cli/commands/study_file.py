"""``new`` and ``study --config``: the options of a study as a file to edit, commit and rerun.

Each key is the option of ``study`` with the same name, so that there is one list of them. An option
on the command line wins over the file.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from leukoscope.cli import options as opt
from leukoscope.cli.console import command, given_options, say
from leukoscope.cli.data_notes import tell_unused_classes
from leukoscope.cli.parameters import CommandParameter, parameters_of
from leukoscope.core.errors import ConfigError, UnknownNameError, UsageError
from leukoscope.core.program import typed
from leukoscope.core.views import plural

if TYPE_CHECKING:
    from leukoscope.config.study import StudyConfig

NOT_IN_FILE = frozenset({"study_file", "resume", "plan", "open_report"})
"""Parameters of ``study`` that belong to one call, not to the study."""
FREE_OPTIONS = frozenset(
    {
        "study_file",
        "out",
        "resume",
        "plan",
        "jobs",
        "executor",
        "devices",
        "nodes",
        "as_json",
        "open_report",
    }
)
"""Parameters of ``study`` that do not change what is studied."""
EXAMPLES: Mapping[str, object] = MappingProxyType(
    {
        "recipe": ["quick", "my-recipe.toml"],
        "protocol": ["random", "grouped", "acquisition"],
        "probe": ["all"],
        "folds": 5,
        "backbone": "resnet50",
        "weights": "imagenet",
        "set": ["training.epochs=3", "coverage=0.9"],
        "class": ["Blasts A=all"],
        "role": ["apl=malignant"],
        "target": "diagnosis",
        "external": ["../other-laboratory"],
        "external-layout": ["auto"],
    }
)
"""What an option without a default could be set to."""


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        "new",
        epilog="Example: leukoscope new path/to/images --out study.toml, then "
        "leukoscope study --config study.toml",
    )(new)


@command
def new(
    context: typer.Context,
    data: opt.DataArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path(
        "study.toml"
    ),
    recipe: opt.RecipeOption = None,
    unit: opt.UnitOption = "image",
    protocol: opt.ProtocolOption = None,
    layout: opt.LayoutOption = "auto",
    classes: opt.ClassOption = None,
    roles: opt.RoleOption = None,
    target: opt.TargetOption = "",
) -> None:
    """Write a commented study file to edit, commit and run.

    `leukoscope study --config FILE` runs it. Options that are given stand in it.
    """
    from leukoscope.config.loading import load_recipe
    from leukoscope.core.files import write_text
    from leukoscope.datasets.layouts.inspection import inspect_dataset

    if out.exists():
        raise UsageError(f"{out} is there already", hint="name another file with --out")
    for name in recipe or ():
        load_recipe(name)
    mapping = opt.class_map(classes)
    tell_unused_classes(data, layout, mapping, target)
    found = inspect_dataset(
        data, layout=layout, class_map=mapping, target=target, roles=opt.roles(roles)
    )
    chosen = {
        "recipe": recipe, "protocol": protocol, "class": classes, "role": roles, "target": target,
        "layout": layout if layout != "auto" else "", "unit": unit if unit != "image" else "",
    }  # fmt: skip
    given: dict[str, object] = {key: value for key, value in chosen.items() if value}
    given["data"] = os.path.relpath(data.expanduser().resolve(), out.resolve().parent)
    shown = ", ".join(f"{row.name} ({plural(row.images, 'image')})" for row in found.classes)
    program = context.find_root().command
    assert isinstance(program, TyperGroup)
    study = program.commands["study"]
    assert isinstance(study, TyperCommand)
    write_text(out, study_text(study, given, f"Layout {found.layout}. Classes: {shown}.", out))
    say(f"study file  {out}")
    say(f"next        {typed('study', '--config', out, '--plan')}")


def study_text(study: TyperCommand, given: Mapping[str, object], found: str, name: Path) -> str:
    """The text of a study file: every option with its help, unset ones commented out.

    Args:
        study: The command ``study``.
        given: Key → value of what is set.
        found: What is known of the data.
        name: The file's name, for the command in its first line.
    """
    lines = [
        f"# A study of Leukoscope. Run it: {typed('study', '--config', name.name)}",
        "# A key is the option of `leukoscope study` with the same name; one on the command line",
        "# wins. Paths are relative to this file. A line that begins with #key shows a default or",
        "# an example: take the # away to set it.",
        f"# {found}",
    ]
    for key, parameter in keys_of(study).items():
        mark, value = ("", given[key]) if key in given else ("#", _unset(key, parameter))
        meaning = parameter.help.replace("; may be repeated", "; a list")
        # Texts, whole numbers, truth values and lists of texts are written alike in JSON and TOML.
        shown = json.dumps(value, ensure_ascii=False)
        lines += ["", f"# {meaning}.", f"{mark}{key} = {shown}"]
    return "\n".join(lines) + "\n"


def use_study_file(context: typer.Context, path: Path | None) -> Path | None:
    """Take the values of a study file as defaults of the other options.

    Raises:
        BadParameter: The file is missing or not TOML, a key is no option of ``study``, or its value
            is of another type.
    """
    if path is not None and not context.resilient_parsing:
        try:
            assert isinstance(context.command, TyperCommand)
            values = _read(path)
            if not _is_whole(values):
                context.default_map = _defaults(context.command, values, path)
        except UsageError as error:
            raise typer.BadParameter(str(error)) from None
    return path


def whole_configuration(context: typer.Context, path: Path | None) -> StudyConfig | None:
    """The configuration in a run's ``config.toml``; None for a file of ``new``.

    Raises:
        UsageError: Further options, which could not change it.
    """
    from leukoscope.config.loading import load_study_config

    if path is None or not _is_whole(_read(path)):
        return None
    if given_options(context) - FREE_OPTIONS:
        raise UsageError(
            f"{path} is the complete configuration of a study, which options cannot change",
            hint="edit a copy of it",
        )
    return load_study_config(path)


def _is_whole(values: Mapping[str, object]) -> bool:
    """Whether values are those of a run's ``config.toml``, which holds whole recipes."""
    return "recipes" in values


def keys_of(study: TyperCommand) -> dict[str, CommandParameter]:
    """Key of a study file → parameter of the command ``study``."""
    return {
        parameter.option.removeprefix("--") or name: parameter
        for name, parameter in parameters_of(study).items()
        if name not in NOT_IN_FILE
    }


def _read(path: Path) -> dict[str, object]:
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such study file", hint="leukoscope new writes one")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML, {error}") from None


def _defaults(study: TyperCommand, values: Mapping[str, Any], path: Path) -> dict[str, object]:
    """Python name of a parameter → value, with paths made absolute."""
    known = keys_of(study)
    defaults = {}
    for key, value in values.items():
        if key not in known:
            raise UnknownNameError("key", key, known, where=path)
        parameter = known[key]
        kinds = {"flag": bool, "number": int}.get(parameter.kind, str)
        parts = value if parameter.many and isinstance(value, list) else [value]
        if (parameter.many != isinstance(value, list)) or any(type(p) is not kinds for p in parts):
            wanted = {bool: "true or false", int: "a whole number", str: "a text"}[kinds]
            wanted = "a list of texts" if parameter.many else wanted
            raise ConfigError(f"{path}: {key}: expected {wanted}, got {value!r}")
        if parameter.kind == "path" or key == "recipe":
            parts = [_beside(path, part, parameter) for part in parts]
        defaults[parameter.name] = parts if parameter.many else parts[0]
    return defaults


def _beside(path: Path, text: str, parameter: CommandParameter) -> str:
    """A path as seen from the study file; the name of a recipe in the box as it is."""
    if parameter.kind != "path" and not text.endswith(".toml"):
        return text
    return str(path.resolve().parent / Path(text).expanduser())


def _unset(key: str, parameter: CommandParameter) -> object:
    """What stands in the line of an option that is not set: its default, else an example."""
    if parameter.kind == "flag":
        return False
    if key in EXAMPLES:
        return EXAMPLES[key]
    return int(parameter.default) if parameter.kind == "number" else parameter.default
