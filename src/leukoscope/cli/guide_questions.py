"""How the guide asks for a parameter of a command: by its name, its help and its default."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

OTHER = "another one (type it)"
NOT_GIVEN = "(leave it to the command)"


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


def parameters_of(found: Any) -> dict[str, CommandParameter]:
    """The parameters of a Typer command by name, without those that only programs use."""
    types = get_type_hints(inspect.unwrap(found.callback))
    return {
        item.name: _parameter(item, types[item.name])
        for item in found.params
        if item.name in types and item.name != "as_json" and not getattr(item, "hidden", False)
    }


def _parameter(item: Any, annotation: Any) -> CommandParameter:
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


def _plain_type(annotation: Any) -> Any:
    """The type of a single value: ``Path`` for ``list[Path] | None``."""
    if get_origin(annotation) in (Union, UnionType):
        inner = [part for part in get_args(annotation) if part is not NoneType]
        return _plain_type(inner[0])
    if get_origin(annotation) in (list, tuple):
        return _plain_type(get_args(annotation)[0])
    return annotation


def _recipes() -> list[str]:
    from leukoscope.config.loading import list_recipes

    return [*list_recipes(), OTHER]


def _protocols() -> list[str]:
    from leukoscope.core.protocols import PROTOCOLS

    return list(PROTOCOLS)


def _probes() -> list[str]:
    from leukoscope.config.study import PROBES

    return list(PROBES)


def _variants() -> list[str]:
    from leukoscope.imaging.observation import PROBE_INPUTS

    return list(PROBE_INPUTS)


def _backbones() -> list[str]:
    from leukoscope.learning.catalogue import BACKBONES

    return [*BACKBONES, OTHER]


def _layouts() -> list[str]:
    from leukoscope.datasets.layouts import LAYOUTS

    return ["auto", *LAYOUTS]


def _frozen() -> list[str]:
    from leukoscope.datasets.frozen_passports import list_frozen

    return list(list_frozen())


def _public_sets() -> list[str]:
    from leukoscope.datasets.fetch_registry import PUBLIC_SETS

    return list(PUBLIC_SETS)


def _confounders() -> list[str]:
    from leukoscope.phantom.spec import CONFOUNDERS

    return list(CONFOUNDERS)


def _runs() -> list[str]:
    from leukoscope.analyses.cleanup import find_runs

    folder = Path("runs")
    return [*(run.name for run in find_runs(folder)), OTHER] if folder.is_dir() else []


CHOICES: Mapping[str, Callable[[], list[str]]] = MappingProxyType(
    {
        "recipe": _recipes,
        "protocol": _protocols,
        "probe": _probes,
        "probes": _probes,
        "backbone": _backbones,
        "layout": _layouts,
        "confound": _confounders,
        "variant": _variants,
        "engine": lambda: ["auto", "openvino", "onnxruntime"],
        "data fetch.name": _public_sets,
        "data frozen.name": _frozen,
        "frozen": _frozen,
        "recipes show.name": _recipes,
        "models show.name": _backbones,
        "runs clean.names": _runs,
    }
)
"""Choices of a parameter by ``command.name``, or by its name in every command."""

READ_OPTIONS = frozenset({"bundle", "reuse", "root", "beside", "patients", "corrections"})
"""Options that name files or folders which have to be there; by position all have to."""
SAME = MappingProxyType({"runs": "run"})
"""Parameters that take what another one took before."""


def answer_to(question: Any) -> Any:
    """The answer to a question; None if the person pressed Ctrl-C."""
    return question.ask(kbi_msg="(back)")


def ask(
    parameter: CommandParameter,
    command: str,
    remembered: Mapping[str, str],
    *,
    insist: bool = False,
) -> list[str] | None:
    """Ask for the value of a parameter of a command.

    Args:
        parameter: The parameter.
        command: Name of the command.
        remembered: Parameter name → answer given earlier in this session.
        insist: Whether an answer is required.

    Returns:
        The values, empty to leave it to the command; None if the person went back.
    """
    import questionary

    insist = insist or parameter.required
    text = f"{(parameter.help or parameter.name).replace('; may be repeated', '')}:"
    default = remembered.get(SAME.get(parameter.name, parameter.name), parameter.default)
    if parameter.kind == "flag":
        answer = answer_to(questionary.confirm(text.replace(":", "?"), default=False))
        return None if answer is None else ["yes"] if answer else []
    offered = CHOICES.get(f"{command}.{parameter.name}", CHOICES.get(parameter.name))
    choices = list(parameter.values) or (offered() if offered else [])
    if choices:
        return _choose(parameter, text, choices, default, insist)
    answers: list[str] = []
    while True:
        answer = _type(parameter, text, default, insist and not answers)
        if answer is None:
            return None
        if answer:
            answers.append(answer)
        if not answer or not parameter.many:
            return answers
        text, default = "Another one (empty: no more):", ""


def _type(parameter: CommandParameter, text: str, default: str, insist: bool) -> str | None:
    """Ask for one typed value; empty if nothing was typed, None if the person went back."""
    import questionary

    if parameter.kind == "path" or parameter.name == "images":
        check = _exists(insist, parameter.default) if parameter.has_to_exist else _filled(insist)
        # Completion on tab only: an open list of completions would swallow the first enter.
        answer = answer_to(
            questionary.path(text, default=default, validate=check, complete_while_typing=False)
        )
        return answer and str(Path(answer.strip()).expanduser() if answer.strip() else "")
    check = _number(insist) if parameter.kind == "number" else _filled(insist)
    answer = answer_to(questionary.text(text, default=default, validate=check))
    return answer and str(answer).strip()


def _choose(
    parameter: CommandParameter, text: str, choices: list[str], default: str, insist: bool
) -> list[str] | None:
    import questionary

    if parameter.many:
        hint = "(space marks)" if insist else "(space marks; none: the default)"
        check = _some if insist else lambda answer: True
        marked = answer_to(questionary.checkbox(text, choices, instruction=hint, validate=check))
    else:
        options = choices if insist or default in choices else [NOT_GIVEN, *choices]
        start = default if default in options else None
        answer = answer_to(questionary.select(text, options, default=start))
        marked = None if answer is None else [answer]
    if marked is None:
        return None
    if OTHER in marked:
        typed = answer_to(questionary.text(text, validate=_filled(True)))
        if typed is None:
            return None
        marked = [*(name for name in marked if name != OTHER), typed.strip()]
    return [name for name in marked if name != NOT_GIVEN]


def _exists(insist: bool, default: str) -> Callable[[str], bool | str]:
    def check(answer: str) -> bool | str:
        if not answer.strip():
            return "name a file or folder (tab completes)" if insist else True
        path = Path(answer.strip()).expanduser()
        # Whether the command's own default exists is for the command to say.
        return path.exists() or answer.strip() == default or f"there is no {path}"

    return check


def _filled(insist: bool) -> Callable[[str], bool | str]:
    return lambda answer: bool(answer.strip()) or not insist or "this is needed"


def _some(answer: list[str]) -> bool | str:
    return bool(answer) or "mark at least one"


def _number(insist: bool) -> Callable[[str], bool | str]:
    def check(answer: str) -> bool | str:
        try:
            float(answer)
        except ValueError:
            return "expected a number" if insist or answer.strip() else True
        return True

    return check
