"""What a terminal is sent: letters of names, never their control sequences."""

from __future__ import annotations

import ast
import errno
import io
import json
from pathlib import Path

import pytest
import typer
from rich.table import Table

from leukoscope.cli import console as shared
from leukoscope.cli.commands.study import _next_step
from leukoscope.cli.console import Styled, command, console, print_json, print_table, say
from leukoscope.core.files import atomic_path

CLIPBOARD = "\x1b]52;c;Y3VybA==\x07"


def test_control_sequences_in_names_are_shown_not_obeyed() -> None:
    out = console()
    out.file = io.StringIO()
    table = Table("class")
    table.add_row(f"Pro{CLIPBOARD}")
    out.print(f"{CLIPBOARD}\x1b[2J\x9b31m.png\tä\n", markup=False)
    out.print(table)
    text = out.file.getvalue()
    assert not {"\x1b", "\x07", "\x9b"} & set(text)
    assert "\\x1b]52;c;" in text
    assert "ä" in text


def test_plain_lines_and_json_obey_no_name(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    name = f"{CLIPBOARD}\x9b2J\udce4.png"  # the last is a byte that is no UTF-8
    say(f"{name}\tä\nnext", err=True)
    print_json({"image": name})
    out, err = capsysbinary.readouterr()
    for text in (out.decode(), err.decode()):
        assert not {"\x1b", "\x07", "\x9b"} & set(text)
    assert "\\x1b]52;c;" in err.decode()
    assert "\\xe4.png\tä\nnext" in err.decode()
    assert json.loads(out)["image"] == name


def test_styled_parts_of_a_line_obey_no_name_either(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = "\\x1b]52;c;Y3VybA==\\x07"
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert str(Styled(CLIPBOARD, "red", bold=True)) == f"\x1b[31m\x1b[1m{shown}\x1b[0m"
    say("a ", Styled(CLIPBOARD, "red"))  # captured: no terminal
    assert capsys.readouterr().out == f"a {shown}\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert str(Styled(CLIPBOARD, "red", bold=True)) == shown


def test_every_command_prints_through_the_shared_functions() -> None:
    folder = Path(shared.__file__).parent
    past = [
        f"{path.name}:{node.lineno}"
        for path in folder.glob("*.py")
        if path.name != "console.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Attribute, ast.Name))
        and ast.unparse(node) in ("print", "typer.echo", "typer.secho", "typer.confirm")
    ]
    assert not past


def test_the_programs_own_colours_stay() -> None:
    out = console()
    out.file = io.StringIO()
    out._color_system = None
    out.print("[bold red]error:[/] fine")
    assert "error: fine" in out.file.getvalue()
    coloured = type(out)(file=io.StringIO(), force_terminal=True, color_system="standard")
    coloured.print("[bold red]error:[/]")
    assert "\x1b[1;31m" in coloured.file.getvalue()  # type: ignore[attr-defined]


def test_an_array_that_found_no_room_is_a_full_disk(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def writes() -> None:
        raise OSError("46080 requested and 34784 written")  # as NumPy says it

    with pytest.raises(typer.Exit):
        writes()
    assert "a file: cannot be used, the disk is full" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("number", "what", "hint"),
    [
        (errno.ENOSPC, "the disk is full", "--resume"),
        (errno.EROFS, "the disk is read-only", "--resume"),
        (errno.EEXIST, "a file of this name is in the way of a folder", "--out"),
        (errno.ENOENT, "there is no such place", "--out"),
    ],
)
def test_a_place_that_cannot_be_written_is_no_fault_of_ours(
    number: int, what: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @command
    def writes(resume: bool = False) -> None:
        raise OSError(number, "as the system says it", "out/metrics.json.partial")

    with pytest.raises(typer.Exit):
        writes()
    said = " ".join(capsys.readouterr().err.split())
    assert f"out/metrics.json: cannot be used, {what}" in said
    assert hint in said
    assert "fault of Leukoscope" not in said


@pytest.mark.parametrize(("place", "another"), [("out/a.csv", True), ("smears/a.png", False)])
def test_another_out_is_no_help_where_an_input_is_closed(
    place: str, another: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    @command
    def reads(out: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", place)

    with pytest.raises(typer.Exit):
        reads(out=Path("out"))
    said = " ".join(capsys.readouterr().err.split())
    assert f"{place}: cannot be used, you have no permission" in said
    assert ("--out" in said) is another
    assert ("ls -l" in said) is not another


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_resume_is_named_by_the_commands_that_have_it(
    fault: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    @command
    def with_it(resume: bool = False) -> None:
        raise fault

    @command
    def without() -> None:
        raise fault

    for function, told in ((with_it, True), (without, False)):
        with pytest.raises(typer.Exit):
            function()
        assert ("--resume" in capsys.readouterr().err) is told


def test_a_full_disk_names_the_file_that_found_no_room(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as caught, atomic_path(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "a.json")


def test_only_the_name_of_a_row_is_wrapped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    value, name = "0.642 (0.444–0.801) †", "a-recipe-whose-name-is-far-too-long-for-this-table"
    print_table(("model", "n", "accuracy", "F1"), [(name, "480", value, value)], width=80)
    first, second = capsys.readouterr().out.splitlines()[1:3]
    assert first.count(value) == 2
    assert first.split()[0] + second.strip() == name


def test_a_study_of_patients_is_followed_by_answers_for_patients() -> None:
    bundle = Path("run/bundle")
    assert _next_step("image", bundle) == "leukoscope predict IMAGES --bundle run/bundle"
    assert "predict NEW --by-patient NEW --out answers.csv" in _next_step("patient", bundle)
