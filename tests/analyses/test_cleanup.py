"""Run folders are found by name; only what a study wrote is removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leukoscope.analyses.cleanup import OUR_NAMES, clean, find_runs, plan_cleaning
from leukoscope.cli.main import app
from leukoscope.config.loading import load_recipe, save_study_config
from leukoscope.config.study import DataConfig, StudyConfig
from leukoscope.core.errors import DataError, UnknownNameError
from leukoscope.core.files import write_json, write_text
from leukoscope.core.run_folder import RunFolder

runner = CliRunner()


def make_run(path: Path, finished: bool = True) -> Path:
    """A folder with files of a study's names."""
    run = RunFolder(path)
    config = StudyConfig(data=DataConfig(path="/data"), recipes=(load_recipe("quick"),))
    save_study_config(run.config, config)
    for file in (run.manifest, run.splits, run.predictions, run.report_html, run.environment):
        write_text(file, "x" * 1000)
    write_text(run.model("quick", "random", 0) / "checkpoint.safetensors", "w" * 5000)
    write_text(run.cache / "features" / "image.npy", "f" * 5000)
    if finished:
        results = [{"protocol": "random"}, {"protocol": "random"}]
        write_json(run.metrics, {"verdict": {"level": "shortcut"}, "results": results})
    return path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs, a folder that is none, and links."""
    root = tmp_path / "runs"
    make_run(root / "one")
    make_run(root / "deep" / "two", finished=False)
    write_text(root / "data" / "Benign" / "a.txt", "no run")
    write_text(root / "other" / "config.toml", "[tool]\nname = 'other'\n")
    (root / "link").symlink_to(root / "one")
    return root


def test_runs_are_found_with_size_and_verdict(runs: Path) -> None:
    found = {run.name: run for run in find_runs(runs)}
    assert set(found) == {"one", "deep/two"}
    assert (found["one"].state, found["one"].verdict) == ("finished", "shortcut")
    assert (found["deep/two"].state, found["deep/two"].verdict) == ("unfinished", "")
    assert found["one"].recipes == ("quick",)
    assert found["one"].protocols == ("random",)  # what ran, not all that were asked for
    assert len(found["deep/two"].protocols) > 1
    assert found["one"].size_mb > 0.015
    with pytest.raises(DataError, match="expected a folder with runs"):
        find_runs(runs / "nowhere")


def test_only_a_studys_own_files_go_and_links_are_not_followed(runs: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    write_text(precious / "image.txt", "data")
    one = runs / "one"
    write_text(one / "notes.txt", "mine")
    write_text(one / ".metrics.json.k2x.json", "left by a kill")
    (one / "cache" / "link").symlink_to(precious)
    (one / "bundle").symlink_to(precious)
    (plan,) = plan_cleaning(["one"], runs, keep_report=False)
    assert [path.name for path in plan.keep] == ["notes.txt"]
    clean(plan)
    assert [path.name for path in one.iterdir()] == ["notes.txt"]
    assert (precious / "image.txt").read_text() == "data"
    (plan,) = plan_cleaning(["deep/two"], runs, keep_report=False)
    clean(plan)
    assert not (runs / "deep" / "two").exists()


def test_the_report_can_stay(runs: Path) -> None:
    (plan,) = plan_cleaning([str(runs / "one")], runs, keep_report=True)
    clean(plan)
    assert {path.name for path in (runs / "one").iterdir()} == {
        "config.toml",
        "environment.json",
        "metrics.json",
        "report.html",
    }
    assert {run.name: run.state for run in find_runs(runs)}["one"] == "report only"


@pytest.mark.parametrize("name", ["data", "other"])
def test_a_folder_that_is_no_run_is_left_alone(runs: Path, name: str) -> None:
    with pytest.raises(DataError, match="expected the folder of a study"):
        plan_cleaning([name], runs, keep_report=False)


def test_links_and_unknown_names_are_refused(runs: Path) -> None:
    with pytest.raises(DataError, match="links are not followed"):
        plan_cleaning(["link"], runs, keep_report=False)
    with pytest.raises(UnknownNameError) as caught:
        plan_cleaning(["onne"], runs, keep_report=False)
    assert "Did you mean 'one'?" in caught.value.hint


def test_a_run_goes_before_another_folder_of_its_name(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path)
    (plan,) = plan_cleaning(["one"], runs, keep_report=False)
    assert plan.run.path == runs / "one"


def test_every_name_of_a_run_folder_is_known() -> None:
    folder = RunFolder(Path())
    properties = [n for n, v in vars(RunFolder).items() if isinstance(v, property)]
    assert {getattr(folder, name).name for name in properties} <= OUR_NAMES


def test_the_commands_ask_first(runs: Path) -> None:
    before = sorted(map(str, runs.rglob("*")))
    done = runner.invoke(app, ["runs", "list", str(runs), "--json"])
    assert [run["name"] for run in json.loads(done.output)] == ["deep/two", "one"]
    done = runner.invoke(app, ["runs", "clean", "one", "--root", str(runs), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "removed  " in done.output
    assert "a command may still be at work on it" in done.output
    done = runner.invoke(app, ["runs", "clean", "one", "--root", str(runs)])
    assert done.exit_code == 2, done.output
    assert "--yes" in done.output
    assert sorted(map(str, runs.rglob("*"))) == before
    done = runner.invoke(app, ["runs", "clean", "one", "deep/two", "--root", str(runs), "-y"])
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in runs.iterdir()) == ["data", "deep", "link", "other"]
