"""The program as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from leukoscope.cli import console
from leukoscope.cli.main import GROUPS, app
from leukoscope.cli.parameters import commands_of

runner = CliRunner()

COMMANDS = [
    "demo", "doctor", "phantom", "study", "train", "tune", "transfer", "ablate", "compare",
    "evaluate",
    "explain", "features", "export", "guide", "runs list", "runs clean",
    "models show", "robustness", "probe", "relabel", "count",
    "predict", "new",
    "data inspect", "data audit", "data split", "data preview", "data fetch", "data export",
    "data frozen",
    "data samples", "recipes list", "recipes show",
    "models list", "bundle show", "bundle verify", "bundle list",
    "audit-log verify", "audit-log replay",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example(command: str) -> None:
    done = runner.invoke(app, [*command.split(), "--help"])
    assert done.exit_code == 0
    assert f"Example: leukoscope {command}" in " ".join(done.output.split())


@pytest.mark.parametrize(("asked", "imported"), [("", []), ("predict", ["predict"])])
def test_help_imports_the_module_of_the_command_and_nothing_heavy(
    asked: str, imported: list[str]
) -> None:
    code = (
        "import sys; from leukoscope.cli.main import HOMES, run\n"
        f"sys.argv = ['leukoscope', *{asked.split()}, '--help']\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'cv2', 'scipy', 'sklearn', 'rich', 'matplotlib'}\n"
        "names = {name.removeprefix('leukoscope.cli.commands.') for name in sys.modules}\n"
        "print(sorted((heavy | set(HOMES.values())) & names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(imported)


def test_the_list_of_commands_says_what_their_own_help_says() -> None:
    commands = typer.main.get_command(app).commands
    for group in GROUPS.values():
        for name, (_, words) in group.items():
            assert commands[name].get_short_help_str(200) == words, name


def test_help_shows_every_command_in_one_group_the_main_line_first() -> None:
    commands = typer.main.get_command(app).commands
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(commands)
    lines = runner.invoke(app, ["--help"]).output.splitlines()
    start = lines.index("Start:")
    main_line = ["demo", "guide", "new", "study", "predict", "serve"]
    assert [line.split()[0] for line in lines[start + 1 : start + 7]] == main_line
    shown = lines[start : lines.index("", lines.index("Data:"))]
    commands_and_titles = len(commands) + 2 * len(GROUPS) - 1
    assert len(shown) == commands_and_titles, "a command needs one line"


def test_options_of_one_name_are_spelled_alike() -> None:
    for name, command in commands_of(typer.main.get_command(app)).items():
        spelled = [item.opts for item in command.params if "--out" in item.opts]
        assert all("-o" in names for names in spelled), name


@pytest.mark.parametrize(
    ("words", "completed"),
    [("leukoscope stu", "study"), ("leukoscope study x -r qui", "quick")],
)
def test_the_shell_completes_commands_and_names(words: str, completed: str) -> None:
    environment = os.environ | {
        "_LEUKOSCOPE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    code = "import sys; sys.argv[0] = 'leukoscope'; from leukoscope.cli.main import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.split() == [completed]


@pytest.mark.parametrize(
    "words",
    ["evaluate bundle images", "data audit images", "compare a b", "robustness bundle images"],
)
def test_no_command_writes_into_the_folder_of_another_study(words: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    (tmp_path / "images").mkdir()
    named = [str(tmp_path / "images") if word == "images" else word for word in words.split()]
    done = runner.invoke(app, [*named, "--out", str(tmp_path)])
    assert done.exit_code == 2, done.output
    assert "holds a study (config.toml)" in " ".join(done.output.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "images"]


def test_version() -> None:
    assert runner.invoke(app, ["--version"]).output.startswith("leukoscope 0.")


def test_recipes_as_json() -> None:
    done = runner.invoke(app, ["recipes", "list", "--json"])
    assert {row["name"] for row in json.loads(done.output)} >= {"quick", "cnn-baseline"}


def test_a_typing_error_is_answered_with_the_nearest_name() -> None:
    done = runner.invoke(app, ["recipes", "show", "quik"])
    assert done.exit_code == 2
    assert "Did you mean 'quick'?" in done.output


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    done = runner.invoke(app, ["study", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")])
    assert done.exit_code in (1, 2)
    assert "nowhere" in done.output
    assert "Traceback" not in done.output


def test_an_unknown_protocol_is_wrong_use(tmp_path: Path) -> None:
    done = runner.invoke(app, ["study", str(tmp_path), "-p", "grouping"])
    assert done.exit_code == 2
    assert "grouping" in done.output


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["inspect", "x"], "'data inspect'"),
        (["report"], "'study'"),
        (["studdy"], "'study'"),
        (["study", "x", "--set", "training.epoch=3", "-r", "finetune"], "did you mean epochs?"),
        (["study", "x", "--set", "splits.fold=3"], "did you mean folds?"),
        (["study", "x", "-p", "patient"], "did you mean 'grouped'?"),
        (["study", "x", "-p", "acquisitoin"], "did you mean 'acquisition'?"),
        (["study", "x", "-r", "quik"], "Did you mean 'quick'?"),
        (["study", "x", "--backbone", "resnet51"], "or 'resnet50'?"),
        (["study", "x", "--recpe", "quick"], "Did you mean --recipe?"),
        (["predict", "x", "--model", "run"], "Did you mean --bundle?"),
        (["serve", "run/bundle"], "A bundle is named with --bundle."),
        (["train", "x", "--epochs", "3"], "Did you mean --set training.epochs=…?"),
        (["data", "inspect", "x", "--layot", "auto"], "Did you mean --layout?"),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_one(typed: list[str], meant: str) -> None:
    done = runner.invoke(app, typed)
    assert done.exit_code == 2
    assert meant in " ".join(done.output.split())
    assert "Extra inputs" not in done.output
    assert "Tuple should" not in done.output


def test_a_study_that_found_no_data_does_not_block_its_folder(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    for data in ("nowhere", "nowhere either"):
        done = runner.invoke(app, ["study", str(tmp_path / data), "--out", out])
        assert f"{data}: expected a folder" in done.output


def test_an_empty_folder_gives_no_answers_and_says_so(tmp_path: Path) -> None:
    done = runner.invoke(app, ["predict", str(tmp_path)])
    assert done.exit_code == 2
    assert "no image in it" in done.output


def test_answers_do_not_replace_the_predictions_of_a_study(tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    for name in ("predictions.csv", "."):
        done = runner.invoke(app, ["predict", "x.png", "--out", str(tmp_path / name)])
        assert done.exit_code == 2
        assert "whose files are not replaced" in " ".join(done.output.split())


def test_serve_refuses_what_is_no_bundle_before_it_names_an_address(tmp_path: Path) -> None:
    done = runner.invoke(app, ["serve", "--bundle", str(tmp_path), "--port", "0"])
    assert done.exit_code == 1
    assert "expected a bundle or the folder of a run" in done.output
    assert "http" not in done.output


def test_phantom_writes_a_readable_data_set(tmp_path: Path) -> None:
    out = str(tmp_path / "p")
    done = runner.invoke(app, ["phantom", "--images", "8", "--size", "96", "--out", out])
    assert done.exit_code == 0, done.output
    done = runner.invoke(app, ["data", "inspect", out, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["layout"]
    done = runner.invoke(app, ["phantom", "--confound", "stein", "--out", str(tmp_path / "q")])
    assert done.exit_code == 2
    assert "Did you mean 'stain'?" in done.output
    done = runner.invoke(app, ["phantom", "--artefact", "blurr", "--out", str(tmp_path / "q")])
    assert done.exit_code == 2
    assert "Did you mean 'blur'?" in done.output
    planted = ["phantom", "--images", "4", "--size", "96", "--artefact", "blur", "--strength", "3"]
    done = runner.invoke(app, [*planted, "--out", str(tmp_path / "r")])
    assert done.exit_code == 0, done.output
    assert "Artefact. blur, strength 3" in (tmp_path / "r" / "README.md").read_text()


def test_a_log_says_now_and_then_how_far_long_work_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 10.0, 31.0, 40.0, 70.0])
    monkeypatch.setattr(console.time, "perf_counter", lambda: next(clock))
    show = console._Lines()
    for done in (100, 200, 410, 500, 1000):
        show("scoring", done, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "· scoring",
        "· scoring: 41 %, 59 s left",
    ]
