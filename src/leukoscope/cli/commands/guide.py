"""``guide``: a menu for people who do not want to remember commands.

It asks for a parameter by its name, its help and its default.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from leukoscope.cli.choices import CHOICES, OTHER
from leukoscope.cli.console import DISCLAIMER, command, say
from leukoscope.cli.parameters import CommandParameter, commands_of, parameters_of
from leukoscope.core.errors import UsageError

if TYPE_CHECKING:
    import questionary
    from typer.core import TyperCommand

_RUN = (("run", "{out}"), ("bundle", "{out}/bundle"))
_DATA = (("data", "{out}"),)
LEFT_OUT: Mapping[str, str] = MappingProxyType({"guide": "this is it"})
"""Public commands without an entry, and why."""
RUN, MORE, HELP, BACK, LEAVE = (
    "Run it",
    "Set another option",
    "Show its help",
    "Back to the menu",
    "Leave",
)
OUTCOMES = {
    0: "done",
    1: "not done, see above",
    2: "wrong use, see above: nothing was started",
    3: "done, but some input could not be read, see above",
    130: "stopped",
}
NOT_GIVEN = "(leave it to the command)"
SAME = MappingProxyType({"runs": "run"})
"""Parameters that take what another one took before."""


@dataclass(frozen=True)
class Entry:
    """One line of the menu.

    Attributes:
        title: What it does, for a person who does not know the command.
        command: The command, such as ``data inspect``.
        questions: Python names of the parameters to ask for, in this order; ``!`` requires an
            answer. All others can be set on request.
        fixed: Arguments that this entry always passes.
        gives: Parameter name → path that the command leaves behind for later questions; ``{out}``
            stands for the answer to that question.
    """

    title: str
    command: str
    questions: str = ""
    fixed: tuple[str, ...] = ()
    gives: tuple[tuple[str, str], ...] = ()


ENTRIES: Mapping[str, tuple[Entry, ...]] = MappingProxyType(
    {
        "Start": (
            Entry("See everything once, on drawn images", "demo", "out",
                  gives=(("run", "{out}/run"), ("bundle", "{out}/run/bundle"))),
            Entry("Check the installation", "doctor"),
            Entry("Fetch a public data set", "data fetch", "name! out", gives=_DATA),
            Entry("Draw phantom smears with known truth", "phantom", "out! images confound",
                  gives=_DATA),
        ),
        "Data": (
            Entry("How would this folder be read?", "data inspect", "data"),
            Entry("Find duplicates, overlaps, sessions", "data audit", "data out"),
            Entry("Find samples of each class", "data samples", "data out per_class"),
            Entry("See what preprocessing does", "data preview", "data recipe out steps"),
            Entry("Write preprocessed images to disk", "data export", "data recipe out variant"),
            Entry("Divide the images without leaks", "data split", "data protocol! out"),
            Entry("Which public sets have frozen splits?", "data frozen"),
            Entry("Use the frozen splits of a public set", "data split", "data frozen! out"),
        ),
        "Train": (
            Entry("Which recipes are there?", "recipes list"),
            Entry("Show a recipe in full", "recipes show", "name"),
            Entry("Which backbones, and are their weights here?", "models list"),
            Entry("Show a backbone and check that it loads", "models show", "name"),
            Entry("Write a study's options as a file to edit", "new", "data out recipe protocol"),
            Entry("Plan a study: work, time, disk", "study", "data! recipe protocol",
                  fixed=("--plan",)),
            Entry("Run a study: train, measure, report, pack", "study",
                  "data! recipe protocol out", gives=_RUN),
            Entry("Resume a stopped study", "study", "out!", fixed=("--resume",), gives=_RUN),
            Entry("Train one recipe", "train", "data recipe protocol out", gives=_RUN),
            Entry("Search a recipe's values", "tune", "data! recipe trials out"),
            Entry("Does pretraining on other data help?", "transfer",
                  "source target recipe protocol out"),
            Entry("What does a part of a recipe bring?", "ablate", "data recipe without out"),
            Entry("Combine finished runs", "ensemble", "runs! method out", gives=_RUN),
            Entry("List runs: size, recipes, verdict", "runs list", "root"),
            Entry("Remove runs", "runs clean", "names keep_report"),
        ),
        "Examine": (
            Entry("Compare runs: tables, tests, figures", "compare", "runs out"),
            Entry("Which labels look wrong? A page to check them", "relabel", "run"),
            Entry("Write the corrected labels as a new data set", "relabel",
                  "run! apply_file! out!", gives=(("data", "{out}"),)),
            Entry("Look for shortcuts in a study, or audit another model", "probe",
                  "what! data classes predictions probes out"),
            Entry("Measure a bundle on other images", "evaluate", "bundle data out"),
            Entry("Show where a model looks", "explain", "run images method count"),
            Entry("Measure whether its heat maps are reliable", "explain", "run method masks",
                  fixed=("--audit",)),
            Entry("What do blur, stain, light and noise cost it?", "robustness",
                  "run recipe protocol images"),
            Entry("Map what a model's features follow", "features", "run recipe"),
        ),
        "Use": (
            Entry("Pack a trained model", "export", "run out", gives=(("bundle", "{out}"),)),
            Entry("Which bundles are there?", "bundle list", "folder"),
            Entry("Show what a bundle knows", "bundle show", "bundle"),
            Entry("Check that a bundle computes the same here", "bundle verify", "bundle"),
            Entry("Share a bundle: a folder, a store, Hugging Face", "bundle push",
                  "bundle target"),
            Entry("Fetch a bundle that somebody shared", "bundle pull", "source sha256 out"),
            Entry("Predict images", "predict", "images bundle out"),
            Entry("Count cell types by patient", "count", "images! bundle! out"),
            Entry("Count the patients of a study, each held out", "count", "run! out"),
            Entry("Predict a whole archive, in shards", "score", "images bundle out"),
            Entry("Is a scored archive complete?", "score", "out!", fixed=("--verify",)),
            Entry("Does the record of predictions hold?", "audit-log verify", "log head"),
            Entry("Predict again what a record says", "audit-log replay", "log bundle"),
            Entry("Answer over HTTP, with a web page", "serve", "bundle! open_page"),
        ),
    }
)  # fmt: skip
"""By group, in the order of the work."""


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("guide", epilog="Example: leukoscope guide")(guide)


@command
def guide(context: typer.Context) -> None:
    """Choose from a menu; see each command and run it."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "the guide asks questions, but there is no terminal to ask on",
            hint="type a command instead: leukoscope --help lists them",
        )
    program = context.find_root().command
    assert isinstance(program, TyperGroup)
    Guide(commands_of(program), run_command).loop()


def run_command(arguments: list[str]) -> int:
    """Run this program with arguments, as a process of its own, and give its exit code."""
    # Ctrl-C reaches the command; with a handler that does nothing the guide outlives it.
    before = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        return subprocess.run(
            [sys.executable, "-m", "leukoscope", *arguments], check=False
        ).returncode
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass
class Guide:
    """One session of the guide.

    Attributes:
        commands: Name → command of the program.
        run: Runs arguments and returns the exit code.
        remembered: Parameter name → file or folder that was named or made in this session.
    """

    commands: Mapping[str, TyperCommand]
    run: Callable[[list[str]], int]
    remembered: dict[str, str] = field(default_factory=dict)

    def loop(self) -> None:
        """Show the menu until the person leaves."""
        import questionary

        say(f"Leukoscope, step by step. {DISCLAIMER}")
        say("Arrows and enter choose, typing filters, Ctrl-C goes back.\n")
        while True:
            entry = answer_to(
                questionary.select(
                    "What do you want to do?",
                    _menu(),
                    use_search_filter=True,
                    use_jk_keys=False,
                    instruction=" ",
                )
            )
            if entry is None or entry == LEAVE:
                return
            self.do(entry)

    def do(self, entry: Entry) -> None:
        """Ask for what an entry needs, show the command line, run it on request."""
        found = self.commands[entry.command]
        parameters = parameters_of(found)
        say(f"\n{(found.help or '').strip()}")
        answers: dict[str, list[str]] = {}
        for word in entry.questions.split():
            name = word.removesuffix("!")
            values = ask(
                parameters[name], entry.command, self.remembered, insist=word.endswith("!")
            )  # fmt: skip
            if values is None:
                return
            answers[name] = values
        self._decide(entry, parameters, answers)

    def _decide(
        self,
        entry: Entry,
        parameters: Mapping[str, CommandParameter],
        answers: dict[str, list[str]],
    ) -> None:
        import questionary

        while True:
            arguments = command_line(entry, parameters, answers)
            say(f"\n  {shlex.join(['leukoscope', *arguments])}\n")
            wish = answer_to(questionary.select("This command:", [RUN, MORE, HELP, BACK]))
            if wish is None or wish == BACK:
                return
            if wish == RUN:
                code = self.run(arguments)
                say(f"\n→ {OUTCOMES.get(code, f'it ended with the code {code}')}\n")
                self._remember(entry, parameters, answers, worked=code in (0, 3))
                answer_to(questionary.press_any_key_to_continue("Any key goes back to the menu."))
                return
            if wish == HELP:
                self.run([*entry.command.split(), "--help"])
                continue
            self._one_more(entry, parameters, answers)

    def _one_more(
        self,
        entry: Entry,
        parameters: Mapping[str, CommandParameter],
        answers: dict[str, list[str]],
    ) -> None:
        import questionary

        choices = [
            questionary.Choice(f"{item.option or item.name:18s} {item.help}", value=item.name)
            for item in parameters.values()
            if item.option not in entry.fixed
        ]
        name = answer_to(questionary.select("Which option?", choices))
        answer = name and ask(parameters[name], entry.command, self.remembered)
        if answer is not None:
            answers[name] = answer

    def _remember(
        self,
        entry: Entry,
        parameters: Mapping[str, CommandParameter],
        answers: Mapping[str, list[str]],
        *,
        worked: bool,
    ) -> None:
        """Remember existing folders that were named, and what the command has written."""
        for name, given in answers.items():
            if given and parameters[name].has_to_exist:
                self.remembered[SAME.get(name, name)] = given[0]
        if not worked:
            return
        values = {name: given[0] for name, given in answers.items() if given}
        if "out" in parameters and "out" not in values and parameters["out"].default:
            values["out"] = parameters["out"].default
        if entry.command == "data fetch":
            values.setdefault("out", f"data/{values['name']}")
        for name, pattern in entry.gives:
            if "out" in values and Path(path := pattern.format(**values)).exists():
                self.remembered[name] = path


def _menu() -> list[questionary.Choice]:
    """The lines of the menu, each with its group in front so that the filter finds both."""
    import questionary

    width = max(map(len, ENTRIES))
    lines = [
        questionary.Choice(f"{group:{width}s} · {entry.title}", value=entry)
        for group, entries in ENTRIES.items()
        for entry in entries
    ]
    return [*lines, questionary.Choice(LEAVE, value=LEAVE)]


def command_line(
    entry: Entry, parameters: Mapping[str, CommandParameter], answers: Mapping[str, list[str]]
) -> list[str]:
    """The arguments that answers stand for: command, positional arguments, options.

    An answer that equals the default is left out.
    """
    placed: list[str] = []
    options: list[str] = []
    for name, values in answers.items():
        parameter = parameters[name]
        if not parameter.option:
            placed += values
        elif parameter.kind == "flag":
            options += [parameter.option] if values else []
        elif values != [parameter.default]:
            for value in values:
                options += [parameter.option, value]
    return [*entry.command.split(), *placed, *options, *entry.fixed]


def answer_to(question: questionary.Question) -> Any:
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
