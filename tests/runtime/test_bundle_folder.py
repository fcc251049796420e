"""Finding bundles, and the commands that show and verify them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leukoscope.cli.main import app
from leukoscope.core.errors import BundleError
from leukoscope.runtime.bundle import find_bundles

runner = CliRunner()


@pytest.fixture
def shelf(tmp_path: Path, tiny_bundle: Path) -> Path:
    """A good bundle, a damaged one, and one in a hidden folder."""
    for name in ("runs/good", "runs/bad", "runs/.old/bundle"):
        shutil.copytree(tiny_bundle, tmp_path / name)
    (tmp_path / "runs/bad/LICENSE").write_text("changed")
    return tmp_path / "runs"


def test_a_damaged_bundle_is_listed_with_its_damage(shelf: Path) -> None:
    bad, good = find_bundles(shelf)
    assert (bad.folder.name, good.folder.name) == ("bad", "good")
    assert "LICENSE: changed" in bad.problem
    assert good.problem == ""
    assert good.name.startswith("tiny@")
    assert good.class_names == ("benign", "pre_b", "pro_b")
    with pytest.raises(BundleError, match="expected a folder"):
        find_bundles(shelf / "nowhere")


def test_list(shelf: Path) -> None:
    done = runner.invoke(app, ["bundle", "list", str(shelf), "--json"])
    assert [Path(row["folder"]).name for row in json.loads(done.output)] == ["bad", "good"]
    done = runner.invoke(app, ["bundle", "list", str(shelf)])
    assert done.exit_code == 0
    assert "readable" in done.output
    (shelf / "empty").mkdir()
    assert "no bundle below" in runner.invoke(app, ["bundle", "list", str(shelf / "empty")]).output


def test_verify_answers_with_its_exit_code(shelf: Path) -> None:
    done = runner.invoke(app, ["bundle", "verify", str(shelf / "good"), "--engine", "onnxruntime"])
    assert done.exit_code == 0, done.output
    assert done.output.count("PASS") == 4
    done = runner.invoke(app, ["bundle", "verify", str(shelf / "bad"), "--json"])
    assert done.exit_code == 1
    assert [check["ok"] for check in json.loads(done.output)] == [False]


def test_show_says_what_the_classes_are(shelf: Path) -> None:
    done = runner.invoke(app, ["bundle", "show", str(shelf / "good")])
    assert done.exit_code == 0, done.output
    words = " ".join(done.output.split())
    assert "Hematogones: benign B-cell precursors" in words
    assert "aim at 90%" in words
    done = runner.invoke(app, ["bundle", "show", str(shelf / "good"), "--json"])
    assert json.loads(done.output)["class_names"] == ["benign", "pre_b", "pro_b"]
    done = runner.invoke(app, ["bundle", "show", str(shelf / "bad")])
    assert done.exit_code == 1
    assert "LICENSE" in done.output
