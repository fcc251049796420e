"""What the parameters of a command are: for the guide, the study file and the reference."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

READ_OPTIONS = frozenset({"bundle", "reuse", "root", "beside", "patients", "corrections"})
"""Options that name files or folders which have to be there; by position all have to."""


@dataclass(frozen=True)
class CommandParameter:
    """One parameter of a command.

    Attributes:
        name: Its name in Python.
        option: Its long option; empty for a positional argument.
        help: One line of help.
        default: The default as it would be typed; may be empty.
        required: Whether the command requires it.
        many: Whether it may be repeated.
        kind: ``flag``, ``path``, ``number`` or ``text``.
        values: The allowed values; empty if any is allowed.
    """

    name: str
    option: str
    help: str
    default: str
    required: bool
    many: bool
    kind: str
    values: tuple[str, ...]

    @property
    def has_to_exist(self) -> bool:
        """Whether it names a file or folder that is read."""
        return self.kind == "path" and (not self.option or self.name in READ_OPTIONS)


def parameters_of(found: TyperCommand) -> dict[str, CommandParameter]:
    """The parameters of a Typer command by name, without those that only programs use."""
    assert found.callback is not None
    types = get_type_hints(inspect.unwrap(found.callback))
    return {
        item.name: _parameter(item, types[item.name])
        for item in found.params
        if isinstance(item, (TyperArgument, TyperOption))
        and item.name in types
        and item.name != "as_json"
        and not getattr(item, "hidden", False)
    }


def _parameter(item: TyperArgument | TyperOption, annotation: object) -> CommandParameter:
    options = [text for text in item.opts if text.startswith("--")]
    plain = _plain_type(annotation)
    is_class = isinstance(plain, type)
    kind = "text"
    if getattr(item, "is_flag", False):
        kind = "flag"
    elif is_class and issubclass(plain, Path):
        kind = "path"
    elif plain in (int, float):
        kind = "number"
    values: tuple[str, ...] = ()
    if is_class and issubclass(plain, Enum):
        values = tuple(str(member.value) for member in plain)
    elif get_origin(plain) is Literal:
        values = tuple(map(str, get_args(plain)))
    default = item.default.value if isinstance(item.default, Enum) else item.default
    return CommandParameter(
        name=item.name,
        option=options[0] if item.param_type_name == "option" and options else "",
        help=(getattr(item, "help", "") or "").rstrip("."),
        default=str(default) if isinstance(default, (str, int, float, Path)) else "",
        required=item.required,
        many=bool(getattr(item, "multiple", False)) or item.nargs == -1,
        kind=kind,
        values=values,
    )


def _plain_type(annotation: object) -> Any:
    """The type of a single value: ``Path`` for ``list[Path] | None``."""
    if get_origin(annotation) in (Union, UnionType):
        inner = [part for part in get_args(annotation) if part is not NoneType]
        return _plain_type(inner[0])
    if get_origin(annotation) in (list, tuple):
        return _plain_type(get_args(annotation)[0])
    return annotation


def commands_of(group: TyperGroup, path: tuple[str, ...] = ()) -> dict[str, TyperCommand]:
    """Every public command of a Typer program by its full name, such as ``data inspect``."""
    found: dict[str, TyperCommand] = {}
    for name, inner in group.commands.items():
        if getattr(inner, "hidden", False):
            continue
        if isinstance(inner, TyperGroup):
            found |= commands_of(inner, (*path, name))
        elif isinstance(inner, TyperCommand):
            found[" ".join((*path, name))] = inner
    return found
