"""The sheet of preprocessing steps shows what training does."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leukoscope.analyses.preview import draw_steps, stages, step_titles
from leukoscope.cli.main import app
from leukoscope.config.loading import load_recipe
from leukoscope.datasets.layouts.load import load_dataset
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.imaging.quality import measure_quality
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec

STEPS = 'preprocess.steps=[{kind="center_crop", size_px=72}, {kind="clahe"}, {kind="leukocytes"}]'


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = PhantomSpec(images=8, sessions=4, size_px=96, seed=5)
    return write_phantoms(spec, tmp_path_factory.mktemp("steps") / "data")


def test_the_last_stage_is_what_the_model_gets_and_the_table_measures_each(
    data: Path, tmp_path: Path
) -> None:
    recipe = load_recipe("quick", [STEPS, "preprocess.size_px=64"])
    manifest = load_dataset(data)
    image = decode_image(manifest.path_of(manifest.usable[0])).image
    found = stages(image, recipe.preprocess)
    assert [stage.shape[0] for stage in found] == [96, 72, 72, 72, 64]
    assert (found[-1] == apply_preprocess(image, recipe.preprocess)).all()
    sheet, table = draw_steps(manifest, recipe, tmp_path, seed=1)
    assert decode_image(sheet).image.shape[1] > 1000
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["what"] for row in rows] == ["original", *step_titles(recipe.preprocess)]
    brightness = [
        measure_quality(stages(decode_image(manifest.path_of(r)).image, recipe.preprocess)[2])
        for r in manifest.usable
    ]
    mean = sum(values["brightness"] for values in brightness) / len(brightness)
    assert float(rows[2]["mean_brightness"]) == pytest.approx(mean, rel=1e-4)
    assert rows[2]["what"].startswith("clahe: clip_limit 2, tiles 8")


def test_the_command_writes_the_sheet(data: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app,
        ["data", "preview", str(data), "--out", str(tmp_path), "-r", "bn-cnn", "--steps",
         "--per-class", "1"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert (tmp_path / "steps.png").is_file()
    assert (tmp_path / "steps.csv").is_file()


def test_the_command_writes_no_sheet_into_a_study(data: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    done = CliRunner().invoke(app, ["data", "preview", str(data), "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "holds a study" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
