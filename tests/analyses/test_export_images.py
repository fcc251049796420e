"""Images that are written to disk, and samples that are found."""

from __future__ import annotations

import csv
import json
import tomllib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from leukoscope.analyses.export_images import (
    SampleImage,
    copy_samples,
    draw_samples,
    export_images,
    pick_samples,
)
from leukoscope.cli.main import app
from leukoscope.config.loading import load_recipe
from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import Recipe
from leukoscope.core.errors import DataError, UnknownNameError, UsageError
from leukoscope.core.files import sha256_file
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.datasets.layouts.load import load_dataset
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.observation import PROBE_INPUTS
from leukoscope.imaging.preprocess import apply_preprocess

runner = CliRunner()


def smear(seed: int) -> NDArray[np.uint8]:
    """(48, 48, 3): a violet disc on a pale ground."""
    rng = np.random.default_rng(seed)
    image = rng.integers(205, 230, (48, 48, 3), dtype=np.uint8)
    cv2.circle(image, (24, 24), 12, (90, 40, 140), -1)
    return image


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes in two folds, patients in the names, one name twice, one broken file."""
    root = tmp_path / "data"
    for number in range(8):
        label, patient = (("all", "11"), ("hem", "H3"))[number % 2]
        fold = f"fold_{number // 4}"
        name = f"UID_{patient}_{number}_1_{label}.bmp"
        file = root / fold / label / name
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), smear(number)[:, :, ::-1])
    cv2.imwrite(str(root / "fold_0/all/UID_11_0_1_all.png"), smear(99)[:, :, ::-1])
    (root / "fold_1/hem/UID_H3_9_1_hem.bmp").write_bytes(b"BM broken")
    return root


@pytest.fixture
def manifest(data: Path) -> Manifest:
    return load_dataset(data)


@pytest.fixture
def recipe() -> Recipe:
    """CLAHE at 32 px."""
    return load_recipe("densenet121-clahe", ["preprocess.size_px=32"])


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("variant", list(PROBE_INPUTS))
def test_files_are_what_the_model_sees(
    manifest: Manifest, recipe: Recipe, tmp_path: Path, variant: str
) -> None:
    out = tmp_path / "out"
    done = export_images(manifest, recipe, out, variant=variant)
    assert (done.written, done.kept, done.unreadable) == (9, 0, ())
    for row in rows(out):
        source = decode_image(manifest.root / row["source"]).image
        expected = apply_preprocess(PROBE_INPUTS[variant](source), recipe.preprocess)
        assert (decode_image(out / row["path"]).image == expected).all()
        assert sha256_file(out / row["path"]) == row["sha256"]
        assert sha256_file(manifest.root / row["source"]) == row["source_sha256"]
    values = tomllib.loads((out / "preprocess.toml").read_text())
    assert PreprocessSpec.model_validate(values["preprocess"]) == recipe.preprocess
    assert values["variant"] == variant


def test_an_export_is_a_data_set_with_patients_and_folds(
    manifest: Manifest, recipe: Recipe, tmp_path: Path
) -> None:
    export_images(manifest, recipe, tmp_path / "out")
    again = load_dataset(tmp_path / "out")

    def told(data: Manifest) -> list[tuple[str, str, str]]:
        return sorted((r.label, r.patient_id, r.given_part) for r in data.usable)

    assert told(again) == told(manifest)
    names = {row["path"] for row in rows(tmp_path / "out")}
    assert "fold_0/healthy/UID_H3_1_1_hem.png" in names
    assert "fold_0/all/UID_11_0_1_all.png" not in names, "it comes twice"
    assert sum(name.startswith("fold_0/all/UID_11_0_1_all-") for name in names) == 2


def test_a_stopped_export_goes_on_and_equals_an_unbroken_one(
    manifest: Manifest, recipe: Recipe, tmp_path: Path
) -> None:
    class StopNowError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise StopNowError

    out, whole = tmp_path / "out", tmp_path / "whole"
    with pytest.raises(StopNowError):
        export_images(manifest, recipe, out, progress=stop)
    some = next(out.rglob("*.png"))
    some.write_bytes(some.read_bytes()[:60])  # a damaged file is written again
    left = some.with_name(f".{some.name}.k2x9_a.png")
    left.write_bytes(b"of a kill")
    done = export_images(manifest, recipe, out)
    assert not left.exists()
    assert done.kept >= 2
    assert done.written + done.kept == 9
    export_images(manifest, recipe, whole)
    for file in whole.rglob("*.*"):
        assert (out / file.relative_to(whole)).read_bytes() == file.read_bytes()


def test_an_export_never_touches_the_data_or_another_folder(
    manifest: Manifest, recipe: Recipe, data: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(data)
    for place in (data / "out", data, data.parent, link / "out"):
        with pytest.raises(UsageError, match="the data stay as they are"):
            export_images(manifest, recipe, place)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="expected an empty or new folder"):
        export_images(manifest, recipe, tmp_path / "full")
    export_images(manifest, recipe, tmp_path / "out")
    with pytest.raises(DataError, match="another preprocessing or variant"):
        export_images(manifest, load_recipe("quick"), tmp_path / "out")
    with pytest.raises(UnknownNameError, match="backgroundonly"):
        export_images(manifest, recipe, tmp_path / "new", variant="backgroundonly")


def test_an_image_that_cannot_be_read_any_more_is_named(
    manifest: Manifest, recipe: Recipe, tmp_path: Path
) -> None:
    gone = manifest.path_of(manifest.usable[2])
    gone.unlink()
    done = export_images(manifest, recipe, tmp_path / "out")
    assert [path for path, _ in done.unreadable] == [manifest.usable[2].path]
    assert done.written == 8
    assert len(rows(tmp_path / "out")) == 8


def test_samples_are_the_same_for_a_seed(manifest: Manifest, tmp_path: Path) -> None:
    samples = pick_samples(manifest, 3, seed=1)
    assert samples == pick_samples(manifest, 3, seed=1)
    assert samples != pick_samples(manifest, 3, seed=2)
    assert [sample.label for sample in samples] == ["healthy"] * 3 + ["all"] * 3
    fewer = manifest.with_images(r for r in manifest.images if r.path != samples[0].path)
    assert set(samples[1:3]) <= set(pick_samples(fewer, 3, seed=1))
    first = draw_samples(manifest, samples, tmp_path / "a.png", seed=1).read_bytes()
    assert draw_samples(manifest, samples, tmp_path / "b.png", seed=1).read_bytes() == first
    assert len(pick_samples(manifest, 20, seed=1)) == 9
    with pytest.raises(UsageError, match="PNG"):
        draw_samples(manifest, samples, tmp_path / "a.jpg", seed=1)


def test_copies_keep_their_bytes(manifest: Manifest, data: Path, tmp_path: Path) -> None:
    samples = pick_samples(manifest, 20, seed=1)
    for _ in range(2):
        copy_samples(manifest, samples, tmp_path / "copies")
    copies = {sha256_file(file) for file in (tmp_path / "copies").rglob("*.*")}
    assert copies == {sample.sha256 for sample in samples}
    with pytest.raises(UsageError, match="the data stay as they are"):
        copy_samples(manifest, samples, data / "copies")


def test_the_commands_name_the_broken_file(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call = ["data", "export", str(data), "--out", str(out), "--set", "preprocess.size_px=32"]
    done = runner.invoke(app, [*call, "--json"])
    assert done.exit_code == 3, done.output
    assert json.loads(done.stdout)["written"] == 9
    assert "UID_H3_9_1_hem.bmp" in done.stderr
    done = runner.invoke(app, [*call, "--variant", "cells"])
    assert done.exit_code == 2
    sheet = tmp_path / "sheet.png"
    done = runner.invoke(
        app,
        ["data", "samples", str(data), "--per-class", "2", "--out", str(sheet),
         "--copy", str(tmp_path / "copies")],
    )  # fmt: skip
    assert done.exit_code == 3, done.output
    assert done.stdout.count("healthy") == 2
    assert sheet.is_file()
    assert sorted(path.name for path in (tmp_path / "copies").iterdir()) == ["all", "healthy"]


def test_fetch_lists_the_sets_and_asks_first(tmp_path: Path) -> None:
    done = runner.invoke(app, ["data", "fetch"])
    assert done.exit_code == 0, done.output
    for word in ("all-4class", "cnmc-2019", "bloodmnist", "CC BY 4.0", "35.5 MB"):
        assert word in done.output
    done = runner.invoke(app, ["data", "fetch", "bloodmnist", "--out", str(tmp_path / "b")])
    assert done.exit_code == 2
    assert "CC BY 4.0" in done.output
    assert "say --yes" in done.output
    assert not (tmp_path / "b").exists()
    done = runner.invoke(app, ["data", "fetch", "all4class"])
    assert done.exit_code == 2
    assert "Did you mean 'all-4class'?" in done.output
    (tmp_path / "file").write_text("x")
    done = runner.invoke(app, ["data", "fetch", "cnmc-2019", "--out", str(tmp_path / "file"), "-y"])
    assert done.exit_code == 1
    assert "expected a folder" in done.output


def test_classes_of_a_table_lead_to_no_other_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    record = ImageRecord("a" * 12, "a.png", "", "../../outside", width=48, height=48)
    cv2.imwrite(str(data / "a.png"), smear(1))
    record = replace(record, sha256=sha256_file(data / "a.png"))
    manifest = Manifest(data, (record,))
    sample = SampleImage(record.label, "a.png", record.sha256)
    assert copy_samples(manifest, [sample], tmp_path / "deep/copies") == 1
    out = tmp_path / "deep/export"
    export_images(manifest, load_recipe("quick"), out)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert written == {
        "data/a.png",
        "deep/copies/___.._outside/a.png",
        "deep/export/___.._outside/a.png",
    }
