"""Frozen passports: their hash fits, no group crosses a split, other copies are recognised."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from leukoscope.cli.main import app
from leukoscope.core.errors import DataError, SplitError, UnknownNameError
from leukoscope.core.records import Fold, ImageRecord, Manifest
from leukoscope.datasets import frozen_passports
from leukoscope.datasets.frozen_passports import (
    FrozenPassport,
    apply_frozen,
    freeze,
    list_frozen,
    load_frozen,
    recognise,
)
from leukoscope.datasets.layouts.load import load_dataset
from leukoscope.datasets.split_checks import check_folds
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec

FOLDER = resources.files("leukoscope.datasets") / "frozen"
IMAGES = {"aria-all": 3256, "cnmc-2019": 2002}


def copy_of(passport: FrozenPassport) -> Manifest:
    """The manifest of a complete copy; its files do not exist."""
    seen: dict[str, int] = {}
    records = []
    for number, row in enumerate(passport.rows):
        copy = seen[row["sha256"]] = seen.get(row["sha256"], 0) + 1
        image_id = row["sha256"][:12] + (f"-{copy}" if copy > 1 else "")
        records.append(ImageRecord(image_id, f"{number}.jpg", row["sha256"], row["label"]))
    return Manifest(Path("absent"), tuple(records))


def test_there_is_one_for_each_set_and_together_they_are_small() -> None:
    assert set(list_frozen()) == set(IMAGES)
    assert sum(len(file.read_bytes()) for file in FOLDER.iterdir()) < 400_000


@pytest.mark.parametrize("name", IMAGES)
def test_no_name_of_a_file_stands_in_it(name: str) -> None:
    passport = load_frozen(name)
    text = json.dumps(passport.header) + passport.table.decode()
    assert not re.search(r"\.(jpe?g|png|bmp|webp|tiff?)\b|UID_", text)
    assert len(passport.rows) == passport.header["images"] == IMAGES[name]


@pytest.mark.parametrize("name", IMAGES)
def test_a_complete_copy_gets_every_fold_and_no_group_crosses(name: str) -> None:
    passport = load_frozen(name)
    manifest = copy_of(passport)
    found = apply_frozen(passport, manifest)
    assert found.splits.missing == found.splits.unassigned == found.relabelled == ()
    assert {fold.protocol for fold in found.splits.folds} == set(passport.protocols)
    rows = dict(zip((r.image_id for r in manifest.images), passport.rows, strict=True))
    for column, protocols in (
        ("component", ("deduplicated", "acquisition", "acquisition-merged")),
        ("patient", ("grouped",)),
        ("cluster", ("acquisition",)),
    ):
        folds = [fold for fold in found.splits.folds if fold.protocol in protocols]
        check_folds(folds, {image_id: row[column] for image_id, row in rows.items()})
    for protocol in passport.protocols:
        tested = [i for f in found.splits.folds if f.protocol == protocol for i in f.ids("test")]
        assert sorted(tested) == sorted(rows)  # each image is tested once
    assert recognise(manifest) == (passport, IMAGES[name])


def test_missing_images_and_other_classes_are_named() -> None:
    passport = load_frozen("cnmc-2019")
    first, second, *rest = copy_of(passport).images
    other = replace(second, label="all" if second.label == "healthy" else "healthy")
    found = apply_frozen(passport, Manifest(Path("absent"), (other, *rest)), ["grouped"])
    assert found.splits.missing == (first.image_id,)
    assert found.relabelled == (second.image_id,)


def test_an_unknown_name_or_protocol_is_answered_with_the_choices() -> None:
    with pytest.raises(UnknownNameError, match="aria-all"):
        load_frozen("aria")
    passport = load_frozen("cnmc-2019")
    with pytest.raises(UnknownNameError, match="grouped"):
        apply_frozen(passport, copy_of(passport), ["random"])


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = PhantomSpec(images=8, sessions=4, size_px=96, seed=1)
    return write_phantoms(spec, tmp_path_factory.mktemp("frozen") / "data")


@pytest.fixture(scope="module")
def own(
    phantoms: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, FrozenPassport, list[Fold]]:
    """A frozen passport of eight phantoms, the folder it was written to, and its folds."""
    manifest = load_dataset(phantoms)
    parts = ["train", "val", "cal", "test", "purged", "train", "train", "test"]
    ids = [record.image_id for record in manifest.usable]
    folds = [Fold("random", k, dict(zip(ids, parts[k:] + parts[:k], strict=True)), {ids[0]: "g"})
             for k in range(2)]  # fmt: skip
    folds = [replace(fold, groups={i: fold.groups.get(i, i) for i in ids}) for fold in folds]
    about = {"name": "own", "title": "Phantoms", "doi": "10.1/1", "licence": "none"}
    passport = {"sha256": "x", "quarantined": [{"path": "secret.png"}], "findings": []}
    folder = tmp_path_factory.mktemp("passports")
    return folder, freeze(folder, manifest, passport, folds, about), folds


def test_freezing_twice_gives_the_same_bytes_and_reads_back(
    own: tuple[Path, FrozenPassport, list[Fold]], phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, frozen, folds = own
    monkeypatch.setattr(frozen_passports, "_folder", lambda: folder)
    assert load_frozen("own") == frozen
    assert "secret" not in json.dumps(frozen.header)
    found = apply_frozen(frozen, load_dataset(phantoms))
    assert found.by_pixels == 0
    assert list(found.splits.folds) == folds
    (folder / "own.csv.gz").write_bytes(gzip.compress(frozen.table + b"x"))
    with pytest.raises(DataError, match="do not fit its hash"):
        load_frozen("own")


def test_a_lossless_copy_is_found_by_its_pixels_and_a_lossy_one_is_not(
    own: tuple[Path, FrozenPassport, list[Fold]], phantoms: Path, tmp_path: Path
) -> None:
    _, frozen, _ = own
    for number, record in enumerate(load_dataset(phantoms).usable):
        suffix = ".jpg" if number == 0 else ".bmp"
        target = tmp_path / "copy" / record.path
        target.parent.mkdir(parents=True, exist_ok=True)
        image = cv2.imread(str(phantoms / record.path))
        cv2.imwrite(str(target.with_suffix(suffix)), image)
    copy = load_dataset(tmp_path / "copy")
    found = apply_frozen(frozen, copy)
    assert found.by_pixels == 7
    assert len(found.splits.missing) == len(found.splits.unassigned) == 1
    assert found.splits.unassigned[0] == next(
        r.image_id for r in copy.images if r.path.endswith(".jpg")
    )
    assert recognise(copy) is None
    for path in (tmp_path / "copy").rglob("*.bmp"):
        path.unlink()
    with pytest.raises(SplitError, match="none of its images is in"):
        apply_frozen(frozen, load_dataset(tmp_path / "copy"))


def test_the_commands_list_refuse_and_cite(phantoms: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    shown = runner.invoke(app, ["data", "frozen", "--json"])
    assert {entry["name"] for entry in json.loads(shown.output)} == set(IMAGES)
    one = runner.invoke(app, ["data", "frozen", "cnmc-2019"])
    assert load_frozen("cnmc-2019").sha256 in one.output
    split = ["data", "split", str(phantoms), "--out", str(tmp_path / "s.csv")]
    assert runner.invoke(app, [*split, "--frozen", "nothing"]).exit_code == 2
    assert runner.invoke(app, split).exit_code == 2  # no protocol
    other = runner.invoke(app, [*split, "--frozen", "aria-all"])
    assert other.exit_code == 1
    assert "none of its images" in other.output
