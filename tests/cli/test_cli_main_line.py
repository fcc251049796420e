"""``study`` with broken files, killed and resumed; ``predict`` without torch."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner, Result

from leukoscope.cli.main import app
from leukoscope.config import DEFAULT_RECIPE
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.runtime.bundle import read_bundle

FAST = [
    "-p", "random", "-p", "deduplicated", "--folds", "2", "--set", "preprocess.size_px=64",
    "--set", "bootstrap=100", "--set", "explanations=1", "--set", "model.backbone=test_resnet",
    "--set", "model.weights=none",
]  # fmt: skip


def _typed(*arguments: object) -> Result:
    """A command in this process, which has paid for its imports."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, broken_images: ModuleType) -> Path:
    """A small labelled folder with unusual and unreadable files among the images."""
    spec = PhantomSpec(images=48, sessions=6, size_px=96, seed=8)
    phantoms = write_phantoms(spec, tmp_path_factory.mktemp("cli") / "phantoms")
    folder = phantoms.parent / "data"
    for name in ("Benign", "Early", "Pre", "Pro"):
        shutil.copytree(phantoms / name, folder / name)
    broken_images.write_broken_images(folder / "Benign")
    return folder


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    out = data.parent / "run"
    done = _typed("study", data, "--out", out, *FAST)
    assert done.exit_code == 3, done.stderr
    return out


def test_every_broken_file_is_named_with_its_reason(
    run: Path, data: Path, broken_images: ModuleType
) -> None:
    with (run / "manifest.csv").open(encoding="utf-8") as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    expected = dict(broken_images.EXPECTED)
    assert expected.pop("notes.txt")
    assert "notes.txt" not in rows  # a text beside the images
    for name, reason in expected.items():
        row = rows[name]
        if reason:
            assert row["status"] == "quarantined", name
            assert row["reason"].startswith(f"{reason}:"), (name, row["reason"])
        else:
            assert row["status"] == "ok", (name, row["reason"])
    assert (run / "report.html").is_file()


def test_predict_without_torch_names_broken_files_and_does_the_rest(
    run: Path, data: Path, broken_images: ModuleType, tmp_path: Path
) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "sys.argv = ['leukoscope', *sys.argv[1:]]\n"
        "from leukoscope.cli.main import run; run()"
    )
    arguments = [str(data / "Benign"), "--bundle", str(run / "bundle"), "--out", "p.csv"]
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 3, done.stderr
    with (tmp_path / "p.csv").open(encoding="utf-8") as file:
        rows = {Path(row["image"]).name: row for row in csv.DictReader(file)}
    expected = dict(broken_images.EXPECTED)
    assert expected.pop("notes.txt")
    assert "notes.txt" not in rows  # a text beside the images
    for name, reason in expected.items():
        if reason:
            assert rows[name]["error"].startswith(reason), (name, rows[name])
            assert not rows[name]["predicted"]
        else:
            assert rows[name]["predicted"], name
    phantoms = [row for name, row in rows.items() if name.startswith("phantom")]
    assert len(phantoms) == 12
    for row in phantoms:
        total = sum(float(row[key]) for key in row if key.startswith("p_") and key != "p_malignant")
        assert total == pytest.approx(1, abs=1e-4)
        assert row["decision"] in {"accept", "review", "reject"}


@pytest.mark.slow
@pytest.mark.usefixtures("no_study_report")
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_study_killed_again_and_again_ends_with_the_same_metrics(
    run: Path, data: Path, broken_images: ModuleType
) -> None:
    out = data.parent / "killed"
    command = [sys.executable, "-m", "leukoscope", "study", str(data), "--out", str(out), *FAST]
    marks = [
        out / "models" / DEFAULT_RECIPE / "random" / "fold0" / "predictions.csv",
        out / "metrics.json",
    ]
    for mark in marks:
        process = subprocess.Popen(
            [*command, *(["--resume"] if (out / "config.toml").exists() else [])],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 600
        while not mark.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = _typed("study", "--out", out, "--resume")
    assert done.exit_code == 3, done.stderr
    for name, reason in broken_images.EXPECTED.items():
        if name != "notes.txt":  # a text beside the images is no image that cannot be read
            assert (name in done.stderr) == bool(reason), name
    assert (out / "metrics.json").read_bytes() == (run / "metrics.json").read_bytes()


def test_export_evaluate_and_explain(run: Path, data: Path, tmp_path: Path) -> None:
    small = tmp_path / "bundle"
    done = _typed("export", run, "--out", small, "--compact", "--um-per-px", 0.7)
    assert done.exit_code == 0, done.stderr
    found = read_bundle(small).record.field
    assert found is not None
    assert (found.width_px, found.height_px, found.shows, found.um_per_px) == (96, 96, "field", 0.7)
    assert 96 <= found.largest_px <= 112
    sizes = [(folder / "model.onnx").stat().st_size for folder in (small, run / "bundle")]
    assert sizes[0] < 0.9 * sizes[1]  # the weights are half: learning/graphs/test_compact.py
    done = _typed("evaluate", tmp_path / "bundle", data, "--out", tmp_path / "e", "--json")
    assert done.exit_code == 3, done.stderr
    metrics = json.loads(done.stdout)
    assert metrics["results"][0]["protocol"] == "external"
    assert any("used to train" in warning for warning in metrics["warnings"])
    done = _typed("explain", run, "--count", 1, "-p", "deduplicated", "-m", "grad-cam++")
    assert done.exit_code == 0, done.stderr
    folder = run / "explanations" / f"{DEFAULT_RECIPE}-deduplicated-grad-cam++"
    panels = json.loads((folder / "explanations.json").read_text())
    assert panels
    assert all((folder / panel["panel"]).is_file() for panel in panels)
    of_study = json.loads((run / "explanations" / "explanations.json").read_text())
    assert all((run / panel["panel"]).is_file() for panel in of_study)
    done = _typed("features", run, "-p", "deduplicated", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["protocol"] == "deduplicated"


def test_a_study_killed_before_anything_was_kept_is_started_again(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("process 1 on here\n")
    done = _typed("study", "--resume", "--out", tmp_path)
    assert done.exit_code == 2
    assert "stopped before anything of it was kept" in done.stderr
    assert "without --resume" in done.stderr


def test_plan_starts_nothing(data: Path, tmp_path: Path) -> None:
    done = _typed("study", data, "--out", tmp_path / "run", *FAST, "--plan", "--json")
    assert done.exit_code == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["n_images"] == 57
    assert any("patient" in text for text in plan["limits"])
    assert all(step["seconds"] >= 0 for step in plan["steps"])
    assert plan["inapplicable"] == []
    assert not (tmp_path / "run").exists()


def test_preview_and_split(data: Path, tmp_path: Path) -> None:
    done = _typed("data", "preview", data, "--out", tmp_path / "p", "--augment",
                  "-r", "cnn-baseline", "--per-class", 1)  # fmt: skip
    assert done.exit_code == 3, done.stderr
    assert {path.name for path in (tmp_path / "p").iterdir()} == {
        "inputs.png",
        "augment.png",
        "quality.csv",
    }
    done = _typed("data", "split", data, "-p", "deduplicated", "--out", tmp_path / "s.csv")
    assert done.exit_code == 3, done.stderr
    done = _typed("data", "split", data, "-p", "deduplicated", "--out", tmp_path / "t.csv",
                  "--reuse", tmp_path / "s.csv")  # fmt: skip
    assert done.exit_code == 3, done.stderr
    assert (tmp_path / "t.csv").read_text() == (tmp_path / "s.csv").read_text()
