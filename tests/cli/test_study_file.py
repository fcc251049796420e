"""A study file says what the options of ``study`` say, and every line of it can be used."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
import typer.main
from typer.testing import CliRunner

from leukoscope.cli.commands.study_file import keys_of, use_study_file, whole_configuration
from leukoscope.cli.main import app
from leukoscope.config.loading import load_study_config, save_study_config
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.study.options import study_config

runner = CliRunner()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("file") / "images"
    return write_phantoms(PhantomSpec(images=8, sessions=2, size_px=96), folder)


def defaults(path: Path) -> dict[str, object]:
    """What a study file sets, by the names of Python."""
    command = typer.main.get_command(app).commands["study"]  # type: ignore[attr-defined]
    context = typer.Context(command)
    use_study_file(context, path)
    return dict(context.default_map or {})


def test_new_writes_what_study_reads(images: Path) -> None:
    out = images.parent / "study.toml"
    done = runner.invoke(app, ["new", str(images), "--out", str(out), "-r", "quick"])
    assert done.exit_code == 0, done.output
    assert "benign (2 images)" in out.read_text()
    assert defaults(out) == {"data": str(images), "recipe": ["quick"]}
    again = runner.invoke(app, ["new", str(images), "--out", str(out)])
    assert again.exit_code == 2
    assert "is there already" in again.output


def test_data_that_need_options_to_be_read_can_have_a_study_file(tmp_path: Path) -> None:
    """What the refusal says to add is an option, and ends in the file."""
    folders = ("eosinofil/p1", "monocyte/p2")
    for name in folders:
        (tmp_path / "cells" / name).mkdir(parents=True)
        (tmp_path / "cells" / name / "a.png").touch()
    out = tmp_path / "study.toml"
    arguments = ["new", str(tmp_path / "cells"), "--out", str(out)]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 1
    assert "--class 'eosinofil=eosinophil' takes it for that class" in done.output
    options = ["--class", "eosinofil=eosinophil", "--layout", "{class}/{patient}",
               "--role", "eosinophil=healthy", "--unit", "patient"]  # fmt: skip
    done = runner.invoke(app, [*arguments, *options])
    assert done.exit_code == 0, done.output
    assert "eosinophil (1 image)" in out.read_text()
    assert defaults(out) == {
        "data": str(tmp_path / "cells"), "classes": ["eosinofil=eosinophil"],
        "layout": "{class}/{patient}", "roles": ["eosinophil=healthy"], "unit": "patient",
    }  # fmt: skip


def test_the_next_command_can_be_copied(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "my study (1).toml"
    done = runner.invoke(app, ["new", str(images), "--out", str(out)])
    words = ["leukoscope", "study", "--config", str(out), "--plan"]
    assert shlex.join(words) in done.output.replace("\n", "")
    assert "--config 'my study (1).toml'" in out.read_text().splitlines()[0]


def test_every_line_can_be_used(images: Path) -> None:
    out = images.parent / "all.toml"
    runner.invoke(app, ["new", str(images), "--out", str(out)])
    text = re.sub(r"^#(?=[a-z-]+ = )", "", out.read_text(), flags=re.MULTILINE)
    command = typer.main.get_command(app).commands["study"]  # type: ignore[attr-defined]
    assert tomllib.loads(text).keys() == keys_of(command).keys()
    out.write_text(text)
    given = defaults(out)
    assert given["external"] == [str(images.parent / "../other-laboratory")]
    assert given["recipe"] == ["quick", str(images.parent / "my-recipe.toml")]


def test_the_command_line_wins_over_the_file(images: Path) -> None:
    out = images.parent / "plan.toml"
    out.write_text('data = "images"\nrecipe = ["quick"]\nprotocol = ["grouping"]\n')
    done = runner.invoke(app, ["study", "--config", str(out), "--plan"])
    assert "expected 'random', 'grouped'" in done.output
    done = runner.invoke(app, ["study", "--config", str(out), "-p", "random", "-r", "quik"])
    assert "Did you mean 'quick'?" in done.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("protocols = []", "Did you mean 'protocol'?"),
        ("protocols = []", "unknown key 'protocols' in "),
        ("folds = true", "expected a whole number"),
        ('recipe = "quick"', "expected a list of texts"),
        ("folds = ", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_one_clear_message(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "study.toml").write_text(text)
    done = runner.invoke(app, ["study", "--config", str(tmp_path / "study.toml")])
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
    assert "no such study file" in runner.invoke(app, ["study", "--config", "nowhere"]).output


def test_the_configuration_of_a_run_is_a_study_file_too(images: Path) -> None:
    path = images.parent / "config.toml"
    save_study_config(path, study_config(images, recipes=["quick"], protocols=["random"]))
    assert load_study_config(path).protocols == ("random",)
    done = runner.invoke(app, ["study", "--config", str(path), "-p", "grouped", "--plan"])
    assert done.exit_code == 2
    assert "which options cannot change" in done.output
    context = typer.Context(typer.main.get_command(app).commands["study"])  # type: ignore[attr-defined]
    assert whole_configuration(context, path) == load_study_config(path)


def test_study_without_arguments_explains_itself() -> None:
    done = runner.invoke(app, ["study"])
    assert done.exit_code == 2
    assert "leukoscope study DATA --plan" in done.output
