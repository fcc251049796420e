"""``transfer`` and ``ablate`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leukoscope.cli.main import app
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec

SMALL = ["-p", "random"]
for _text in ("training.epochs=1", "preprocess.size_px=32", "bootstrap=100", "explanations=0",
              "control_draws=0"):  # fmt: skip
    SMALL += ["--set", _text]
runner = CliRunner()


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 fields, one of them a broken file."""
    spec = PhantomSpec(images=40, sessions=8, size_px=96, seed=6)
    folder = write_phantoms(spec, tmp_path_factory.mktemp("cli") / "fields")
    (folder / "manifest.csv").unlink()
    (folder / "Early" / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.mark.usefixtures("no_study_report")
def test_ablate_prints_a_verdict_and_names_the_broken_file(fields: Path, tmp_path: Path) -> None:
    call = ["ablate", str(fields), "-r", "cnn-baseline", "--without", "augmentation", *SMALL]
    out = str(tmp_path / "out")
    done = runner.invoke(app, [*call, "--out", out])
    assert done.exit_code == 3, done.output
    assert "verdict (" in done.output
    assert "the one without augmentation" in done.output
    assert "McNemar p = " in done.output
    assert "broken.png" in done.output
    done = runner.invoke(app, [*call, "--out", out])
    assert done.exit_code == 2
    assert "add --resume" in done.output
    done = runner.invoke(app, [*call, "--out", out, "--resume", "--json"])
    assert done.exit_code == 3
    start = done.stdout.index("{")
    assert json.loads(done.stdout[start:])["kind"] == "ablation"


def test_a_wrong_part_names_those_that_there_are(fields: Path, tmp_path: Path) -> None:
    call = ["ablate", str(fields), "-r", "cnn-baseline", "--out", str(tmp_path / "out")]
    done = runner.invoke(app, [*call, "--without", "augmentatio"])
    assert done.exit_code == 2
    assert "Did you mean 'augmentation'?" in done.output
    assert not (tmp_path / "out").exists()


def test_transfer_says_what_it_needs(fields: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out")]
    done = runner.invoke(app, ["transfer", str(fields), str(fields), "-r", "quick", *out])
    assert done.exit_code == 2
    assert "nothing to take over" in done.output
    done = runner.invoke(app, ["transfer", str(tmp_path / "gone"), str(fields), *out])
    assert done.exit_code == 1
    assert "gone" in done.output


@pytest.mark.parametrize("name", ["transfer", "ablate"])
def test_help_has_an_example(name: str) -> None:
    done = runner.invoke(app, [name, "--help"])
    assert done.exit_code == 0
    assert f"Example: leukoscope {name}" in " ".join(done.output.split())
