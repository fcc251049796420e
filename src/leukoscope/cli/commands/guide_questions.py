"""How the guide asks for a parameter of a command: by its name, its help and its default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from leukoscope.cli.choices import CHOICES, OTHER
from leukoscope.cli.parameters import CommandParameter

NOT_GIVEN = "(leave it to the command)"


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
