"""The guide lists every command once, asks only what exists, and shows what it runs."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path

import pytest
import typer
import typer.main
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from typer.testing import CliRunner

from leukoscope.cli.choices import CHOICES, OTHER
from leukoscope.cli.commands.guide import (
    ENTRIES,
    LEFT_OUT,
    NOT_GIVEN,
    Entry,
    Guide,
    ask,
    command_line,
    run_command,
)
from leukoscope.cli.main import app
from leukoscope.cli.parameters import commands_of, parameters_of
from leukoscope.config import DEFAULT_RECIPE

COMMANDS = commands_of(typer.main.get_command(app))
ALL_ENTRIES = [entry for group in ENTRIES.values() for entry in group]
DOWN, ENTER, CTRL_C = "\x1b[B", "\r", "\x03"


def test_every_command_has_an_entry_or_is_left_out() -> None:
    listed = {entry.command for entry in ALL_ENTRIES}
    assert listed.isdisjoint(LEFT_OUT)
    assert listed | set(LEFT_OUT) == set(COMMANDS)


@pytest.mark.parametrize("entry", ALL_ENTRIES, ids=lambda entry: entry.title)
def test_an_entry_asks_for_what_its_command_has(entry: Entry) -> None:
    parameters = parameters_of(COMMANDS[entry.command])
    asked = [word.removesuffix("!") for word in entry.questions.split()]
    assert set(asked) <= set(parameters)
    options = {item.option for item in parameters.values() if item.option}
    assert set(entry.fixed) <= options
    for name, item in parameters.items():
        given = item.option in entry.fixed
        assert not item.required or name in asked or given, f"{name} would be missing"
    placed = [name for name, item in parameters.items() if not item.option]
    assert [name for name in asked if name in placed] == [n for n in placed if n in asked]
    read = {item.name for c in COMMANDS.values() for item in parameters_of(c).values()
            if item.has_to_exist}  # fmt: skip
    assert {name for name, _ in entry.gives} <= read
    assert all("{out}" in path for _, path in entry.gives)


def test_every_list_of_choices_belongs_to_a_parameter_and_is_not_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {f"{command}.{name}" for command, c in COMMANDS.items() for name in parameters_of(c)}
    for key, choices in CHOICES.items():
        assert key in names or any(name.endswith(f".{key}") for name in names), key
        assert choices() or key == "runs clean.names"


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


def test_a_parameter_is_read_from_its_type() -> None:
    program = typer.Typer()

    @program.command()
    def one(
        runs: list[Path],
        size: int = 3,
        colour: Colour = Colour.RED,
        note: str | None = None,
        beside: Path | None = None,
        fast: bool = False,
    ) -> None:
        """A command."""

    found = parameters_of(typer.main.get_command(program))
    assert {n: p.kind for n, p in found.items()} == {
        "runs": "path", "size": "number", "colour": "text", "note": "text", "beside": "path",
        "fast": "flag",
    }  # fmt: skip
    assert found["runs"].many
    assert found["runs"].has_to_exist
    assert found["runs"].required
    assert (found["colour"].values, found["colour"].default) == (("red", "blue"), "red")
    assert (found["size"].default, found["note"].default) == ("3", "")


def typed(keys: str, command: str, name: str, **options: bool) -> list[str] | None:
    """The answer to one question."""
    with create_pipe_input() as pipe:
        pipe.send_text(keys)
        with create_app_session(input=pipe, output=DummyOutput()):
            return ask(parameters_of(COMMANDS[command])[name], command, {}, **options)


def test_several_values_are_asked_until_none_comes() -> None:
    assert typed(f"a*.png{ENTER}b.png{ENTER}{ENTER}", "predict", "images") == ["a*.png", "b.png"]
    assert typed(f"{ENTER}x{CTRL_C}", "predict", "images") is None, "it insists"
    assert typed(f"{ENTER}", "data samples", "copy") == []
    assert typed(f"x{ENTER}\x7f\x7f7{ENTER}", "data samples", "per_class") == ["7"]


class Session:
    """A guide that is typed at and that only notes what it would run."""

    def __init__(self, code: int = 0) -> None:
        self.ran: list[list[str]] = []
        self.code = code
        self.guide = Guide(COMMANDS, self.note)
        self.effect: Callable[[], None] = lambda: None

    def note(self, arguments: list[str]) -> int:
        self.ran.append(arguments)
        self.effect()
        return self.code

    def type(self, *keys: str) -> None:
        with create_pipe_input() as pipe:
            pipe.send_text("".join((*keys, CTRL_C, CTRL_C, CTRL_C, CTRL_C)))
            with create_app_session(input=pipe, output=DummyOutput()):
                self.guide.loop()


def test_typing_and_enter_build_the_command(tmp_path: Path) -> None:
    data = tmp_path / "my images"
    data.mkdir()
    session = Session()
    session.type("samples", ENTER, str(data), ENTER, "sheet.png", ENTER, ENTER, ENTER, "x")
    assert session.ran == [["data", "samples", str(data), "--out", "sheet.png"]]
    assert session.guide.remembered["data"] == str(data)


def test_choices_marks_and_one_more_option(tmp_path: Path) -> None:
    session = Session()
    keys = ["run a study", ENTER, str(tmp_path), ENTER]
    keys += [" ", DOWN, " ", ENTER]  # two recipes
    keys += [ENTER]  # protocols: the default
    keys += [ENTER]  # out: the default
    place = list(parameters_of(COMMANDS["study"])).index("folds")
    keys += [DOWN, ENTER, *[DOWN] * place, ENTER, "\x7f3", ENTER]  # another option
    session.type(*keys, ENTER, "x")
    (arguments,) = session.ran
    assert arguments[:2] == ["study", str(tmp_path)]
    assert arguments.count("--recipe") == 2
    assert arguments[-2:] == ["--folds", "3"]
    assert "--out" not in arguments


def test_what_a_command_wrote_is_offered_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    session = Session()
    session.effect = lambda: (tmp_path / "runs/study/bundle").mkdir(parents=True, exist_ok=True)
    session.type("run a study", ENTER, "data", ENTER, ENTER, ENTER, ENTER, ENTER, "x",
                 "pack a", ENTER, ENTER, "packed", ENTER, ENTER, "x")  # fmt: skip
    assert session.ran[1] == ["export", "runs/study", "--out", "packed"]
    assert session.guide.remembered["bundle"] == "runs/study/bundle"


def test_a_failed_command_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    session = Session(code=1)
    session.type("installation", ENTER, ENTER, "x", "see everything", ENTER, ENTER, ENTER, "x")
    assert session.ran == [["doctor"], ["demo"]]
    assert "not done" in capsys.readouterr().out
    assert session.guide.remembered == {}


def test_a_path_that_is_not_there_is_asked_again_and_ctrl_c_goes_back(tmp_path: Path) -> None:
    session = Session()
    session.type("how would", ENTER, str(tmp_path / "nowhere"), ENTER, CTRL_C, "installation",
                 ENTER, ENTER, "x")  # fmt: skip
    assert session.ran == [["doctor"]]


def test_a_name_that_no_list_holds_can_be_typed() -> None:
    session = Session()
    session.type("show a recipe", ENTER, "\x1b[A", ENTER, "mine.toml", ENTER, ENTER, "x")
    assert session.ran == [["recipes", "show", "mine.toml"]]


def test_defaults_are_not_repeated_and_flags_have_no_value() -> None:
    entry = Entry("", "data preview")
    parameters = parameters_of(COMMANDS["data preview"])
    answers = {"data": ["a b"], "recipe": [DEFAULT_RECIPE], "steps": ["yes"], "augment": []}
    line = command_line(entry, parameters, answers)
    assert line == ["data", "preview", "a b", "--steps"]
    assert NOT_GIVEN != OTHER


def test_a_real_command_is_run_and_its_code_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command(["recipes", "show", "quik"]) == 2
    assert "Did you mean 'quick'?" in capfd.readouterr().err


def test_without_a_terminal_it_says_so() -> None:
    done = CliRunner().invoke(app, ["guide"])
    assert done.exit_code == 2
    assert "no terminal" in done.output


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_in_a_terminal_with_the_keyboard_only() -> None:
    """The whole way: start, choose, run, come back, leave."""
    import pty

    controller, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-m", "leukoscope", "guide"],
        stdin=terminal, stdout=terminal, stderr=terminal, env=environment, close_fds=True,
    )  # fmt: skip
    os.close(terminal)
    screen = ""

    def wait_for(text: str, seconds: float = 60) -> None:
        nonlocal screen
        end = time.monotonic() + seconds
        while text not in screen:
            assert time.monotonic() < end, f"no {text!r} in {screen!r}"
            if select.select([controller], [], [], 0.2)[0]:
                screen += os.read(controller, 65536).decode(errors="replace")
        screen = ""

    def send(text: str) -> None:
        os.write(controller, text.encode())

    try:
        wait_for("What do you want to do?")
        send("which recipes")
        wait_for("which recipes")
        send(ENTER)
        wait_for("This command:")
        send(ENTER)
        wait_for("→ done")
        send("x")
        wait_for("What do you want to do?")
        send(CTRL_C)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(controller)
