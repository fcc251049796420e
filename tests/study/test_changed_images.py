"""Images that are swapped while a study runs: nothing is trained on or packed with them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.core.errors import DataError
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.datasets.layouts.load import load_dataset
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.pipeline.features.inputs import check_unchanged, load_input, observe, read_unchanged
from leukoscope.study.run import run_study

SMALL: dict[str, Any] = {
    "recipes": ["quick"],
    "protocols": ["random"],
    "probes": [],
    "folds": 2,
    "overrides": ["model.backbone=test_resnet", "model.weights=none", "preprocess.size_px=64",
                  "bootstrap=100", "explanations=0", "control_draws=0", "splits.clusters=6"],
}  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = PhantomSpec(images=48, sessions=6, size_px=96, seed=5)
    return write_phantoms(spec, tmp_path_factory.mktemp("data") / "phantoms")


@pytest.fixture
def data(drawn: Path, tmp_path: Path) -> Path:
    return shutil.copytree(drawn, tmp_path / "data")


def images_of(data: Path) -> list[ImageRecord]:
    return list(load_dataset(data).usable)


def swap(data: Path, records: list[ImageRecord]) -> None:
    """Each file gets the content of the next one, as a sorting of files by mistake would do."""
    contents = [(data / record.path).read_bytes() for record in records]
    for record, content in zip(records, [*contents[1:], contents[0]], strict=True):
        (data / record.path).write_bytes(content)


def test_pixels_are_read_only_of_the_file_that_was_audited(data: Path) -> None:
    record = images_of(data)[0]
    path = data / record.path
    assert (
        load_input(path, "image", PreprocessSpec(size_px=64), sha256=record.sha256).shape[0] == 64
    )
    assert read_unchanged(path, record.sha256) == path.read_bytes()
    path.write_bytes(path.read_bytes() + b"\0")
    for read in (
        lambda: load_input(path, "image", PreprocessSpec(size_px=64), sha256=record.sha256),
        lambda: observe(path, record.sha256),
    ):
        with pytest.raises(DataError, match=r"expected the image that was audited \(SHA-256 "):
            read()


def test_changed_and_missing_images_are_counted_and_named(data: Path) -> None:
    records = images_of(data)
    manifest = Manifest(data, tuple(records))
    check_unchanged(manifest)
    (data / records[0].path).unlink()
    (data / records[5].path).write_bytes(b"other")
    with pytest.raises(DataError, match=f"2 of {len(records)} were changed .*: ") as caught:
        check_unchanged(manifest)
    assert records[0].path in caught.value.message
    assert records[5].path in caught.value.message
    assert "start a new study" in caught.value.hint


def test_a_study_stops_when_images_are_swapped_after_the_split(data: Path, tmp_path: Path) -> None:
    records = images_of(data)

    def after_the_split(step: str, done: int, total: int) -> None:
        if step == "splits" and done:
            swap(data, records[:20])

    run = tmp_path / "run"
    with pytest.raises(DataError, match="expected the image that was audited"):
        run_study(data, run, listener=after_the_split, **SMALL)
    assert not (run / "metrics.json").exists()
    assert not (run / "bundle").exists()
    with pytest.raises(DataError, match=f"20 of {len(records)} were changed"):
        run_study(data, run, resume=True, **SMALL)


@pytest.mark.usefixtures("few_perturbed")
def test_a_study_packs_no_bundle_of_images_swapped_after_training(
    data: Path, tmp_path: Path
) -> None:
    records = images_of(data)

    def before_packing(step: str, done: int, total: int) -> None:
        if step == "explanations" and done:
            swap(data, records[:20])

    run = tmp_path / "run"
    with pytest.raises(DataError, match="expected the image"):
        run_study(data, run, listener=before_packing, **SMALL)
    assert not (run / "bundle").exists()
