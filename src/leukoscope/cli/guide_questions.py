"""How the guide asks for a parameter of a command: by its name, its help and its default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

OTHER = "another one (type it)"
NOT_GIVEN = "(leave it to the command)"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a command, as Typer knows it.

    Attributes:
        name: In Python.
        option: Its long option; empty where it is given by position.
        help: One line.
        default: What holds where it is not given.
        required: The command insists on it.
        flag: It has no value.
        many: It can be given several times.
    """

    name: str
    option: str
    help: str
    default: Any
    required: bool
    flag: bool
    many: bool

    @classmethod
    def of(cls, parameter: Any) -> Parameter:
        """Read a parameter of a Typer command."""
        options = [text for text in parameter.opts if text.startswith("--")]
        return cls(
            name=parameter.name,
            option=options[0] if parameter.param_type_name == "option" and options else "",
            help=(getattr(parameter, "help", "") or "").rstrip("."),
            default=parameter.default,
            required=parameter.required,
            flag=bool(getattr(parameter, "is_flag", False)),
            many=bool(getattr(parameter, "multiple", False)) or parameter.nargs == -1,
        )


def _recipes() -> list[str]:
    from leukoscope.config.loading import list_recipes

    return [*list_recipes(), OTHER]


def _protocols() -> list[str]:
    from leukoscope.config.study import PROTOCOLS

    return list(PROTOCOLS)


def _probes() -> list[str]:
    from leukoscope.config.study import PROBES

    return list(PROBES)


def _backbones() -> list[str]:
    from leukoscope.learning.catalogue import BACKBONES

    return [*BACKBONES, OTHER]


def _layouts() -> list[str]:
    from leukoscope.datasets.layouts import LAYOUTS

    return ["auto", *LAYOUTS]


def _public_sets() -> list[str]:
    from leukoscope.datasets.fetch_registry import PUBLIC_SETS

    return list(PUBLIC_SETS)


def _confounders() -> list[str]:
    from leukoscope.phantom.spec import CONFOUNDERS

    return list(CONFOUNDERS)


def _runs() -> list[str]:
    from leukoscope.study.cleanup import find_runs

    folder = Path("runs")
    return [*(run.name for run in find_runs(folder)), OTHER] if folder.is_dir() else []


CHOICES: Mapping[str, Callable[[], list[str]]] = MappingProxyType(
    {
        "recipe": _recipes,
        "protocol": _protocols,
        "probe": _probes,
        "backbone": _backbones,
        "layout": _layouts,
        "confound": _confounders,
        "variant": lambda: ["image", "background-only", "cells-only"],
        "engine": lambda: ["auto", "openvino", "onnxruntime"],
        "data fetch.name": _public_sets,
        "recipes show.name": _recipes,
        "models show.name": _backbones,
        "runs clean.names": _runs,
    }
)
"""Choices of a parameter by ``command.name``, or by its name in every command."""

EXISTING = frozenset({"data", "run", "bundle", "images", "reuse", "root"})
"""Parameters that name files or folders which have to be there."""
NEW = frozenset({"out", "copy", "explain"})
"""Parameters that name files or folders to write."""


def said(question: Any) -> Any:
    """The answer to a question; None where the person pressed Ctrl-C."""
    return question.ask(kbi_msg="(back)")


def ask(
    parameter: Parameter, command: str, remembered: Mapping[str, str], *, insist: bool = False
) -> list[str] | None:
    """Ask for the value of a parameter.

    Args:
        parameter: Which.
        command: Of which command.
        remembered: Answers of this session by the name of the parameter.
        insist: Whether an empty answer is no answer.

    Returns:
        The values; empty where it is left to the command. None where the person went back.
    """
    import questionary

    insist = insist or parameter.required
    text = f"{(parameter.help or parameter.name).replace('; may be repeated', '')}:"
    default = remembered.get(parameter.name, _default(parameter))
    if parameter.flag:
        answer = said(questionary.confirm(text.replace(":", "?"), default=False))
        return None if answer is None else ["yes"] if answer else []
    offered = CHOICES.get(f"{command}.{parameter.name}", CHOICES.get(parameter.name))
    if offered is not None and (choices := offered()):
        return _choose(parameter, text, choices, default, insist)
    if parameter.name in EXISTING | NEW:
        check = _exists(insist) if parameter.name in EXISTING else _filled(insist)
        # Completion on tab only: an open list of completions would swallow the first enter.
        answer = said(
            questionary.path(text, default=default, validate=check, complete_while_typing=False)
        )
        return (
            None if answer is None else [str(Path(answer).expanduser())] if answer.strip() else []
        )
    number = isinstance(parameter.default, (int, float))
    check = _number if number else _filled(insist)
    answer = said(questionary.text(text, default=default, validate=check))
    return None if answer is None else [answer.strip()] if answer.strip() else []


def _choose(
    parameter: Parameter, text: str, choices: list[str], default: str, insist: bool
) -> list[str] | None:
    import questionary

    if parameter.many:
        hint = "(space marks)" if insist else "(space marks; none: the default)"
        check = _some if insist else lambda answer: True
        marked = said(questionary.checkbox(text, choices, instruction=hint, validate=check))
    else:
        options = choices if insist or default in choices else [NOT_GIVEN, *choices]
        start = default if default in options else None
        answer = said(questionary.select(text, options, default=start))
        marked = None if answer is None else [answer]
    if marked is None:
        return None
    if OTHER in marked:
        typed = said(questionary.text(text, validate=_filled(True)))
        if typed is None:
            return None
        marked = [*(name for name in marked if name != OTHER), typed.strip()]
    return [name for name in marked if name != NOT_GIVEN]


def _default(parameter: Parameter) -> str:
    value = parameter.default
    return "" if value is None or callable(value) or value == () else str(value)


def _exists(insist: bool) -> Callable[[str], bool | str]:
    def check(answer: str) -> bool | str:
        if not answer.strip():
            return "name a file or folder (tab completes)" if insist else True
        path = Path(answer.strip()).expanduser()
        return path.exists() or f"there is no {path}"

    return check


def _filled(insist: bool) -> Callable[[str], bool | str]:
    return lambda answer: bool(answer.strip()) or not insist or "this is needed"


def _some(answer: list[str]) -> bool | str:
    return bool(answer) or "mark at least one"


def _number(answer: str) -> bool | str:
    try:
        float(answer)
    except ValueError:
        return "expected a number"
    return True
