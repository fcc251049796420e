from __future__ import annotations

from pathlib import Path

import pytest

from leukoscope.core.errors import DataError, SplitError
from leukoscope.core.files import sha256_bytes
from leukoscope.core.records import Fold, ImageRecord, Manifest, save_folds
from leukoscope.datasets.frozen_passports import apply_saved_splits, load_saved_splits


def record(content: str, copy: int = 1, **changes: str) -> ImageRecord:
    digest = sha256_bytes(content.encode())
    image_id = digest[:12] + (f"-{copy}" if copy > 1 else "")
    return ImageRecord(
        image_id, f"{content}{copy}.png", digest, "benign", status=changes.get("status", "ok")
    )


def manifest(*records: ImageRecord) -> Manifest:
    return Manifest(Path("here"), records)


def saved(tmp_path: Path, records: list[ImageRecord], parts: list[str]) -> Path:
    ids = [r.image_id for r in records]
    folds = [
        Fold("random", 0, dict(zip(ids, parts, strict=True)), {ids[0]: "g"}),
        Fold("random", 1, dict(zip(ids, parts[::-1], strict=True))),
    ]
    save_folds(tmp_path / "splits.csv", folds, manifest(*records))
    return tmp_path / "splits.csv"


def test_images_are_found_by_content_under_other_names_and_ids(tmp_path: Path) -> None:
    theirs = [record("a"), record("b"), record("c")]
    path = saved(tmp_path, theirs, ["train", "val", "test"])
    mine = [
        ImageRecord("x", "other/1.png", theirs[2].sha256, "benign"),
        ImageRecord("y", "other/2.png", theirs[0].sha256, "benign"),
        record("d"),
        record("b", status="quarantined"),
    ]
    found = load_saved_splits(path, manifest(*mine))
    assert found.folds[0] == Fold("random", 0, {"x": "test", "y": "train"}, {"y": "g"})
    assert found.folds[1] == Fold("random", 1, {"x": "train", "y": "test"})
    assert found.missing == (theirs[1].image_id,)
    assert found.unassigned == (mine[2].image_id,)


def test_copies_are_matched_one_by_one(tmp_path: Path) -> None:
    theirs = [record("a", copy) for copy in (1, 2, 10)]
    path = saved(tmp_path, theirs, ["train", "purged", "test"])
    found = load_saved_splits(path, manifest(record("a", 2), record("a")))
    assert found.folds[0].parts == {theirs[0].image_id: "train", theirs[1].image_id: "purged"}
    assert found.missing == (theirs[2].image_id,)
    more = load_saved_splits(path, manifest(*theirs, record("a", 11)))
    assert more.unassigned == (record("a", 11).image_id,)


def test_splits_of_other_data_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, [record("a"), record("b")], ["train", "test"])
    with pytest.raises(SplitError, match=r"splits\.csv: none of its images is in here"):
        load_saved_splits(path, manifest(record("z")))


@pytest.mark.parametrize(("fold", "part"), [("x", "train"), ("0", "training")])
def test_a_wrong_row_is_named(fold: str, part: str) -> None:
    row = {"image_id": "a", "sha256": "s", "protocol": "random", "fold": fold, "part": part}
    with pytest.raises(SplitError, match=r"saved splits:2: expected a fold number and one of"):
        apply_saved_splits(manifest(record("a")), [row])


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "splits.csv").write_text("image_id,fold\n")
    with pytest.raises(DataError, match="sha256, protocol, part missing"):
        load_saved_splits(tmp_path / "splits.csv", manifest(record("a")))
