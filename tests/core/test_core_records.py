from pathlib import Path

import pytest

from leukoscope.core.errors import DataError
from leukoscope.core.files import read_csv, write_csv
from leukoscope.core.records import Fold, ImageRecord, Manifest, load_folds, save_folds

RECORDS = (
    ImageRecord("aa", "Pro/ä b.jpg", "aa" * 32, "pro_b", width=224, height=220, group_id="g0"),
    ImageRecord("bb", "Early/b.jpg", "bb" * 32, "early_pre_b", patient_id="7", width=1, height=2),
    ImageRecord("cc", "Early/c.jpg", status="quarantined", reason="truncated: ends early, at 10"),
)


def test_manifest_round_trip(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, RECORDS)
    names = ", ".join(manifest.class_names)
    assert repr(manifest) == f"<Manifest of {tmp_path}: {len(RECORDS)} images, classes: {names}>"
    manifest.save(tmp_path / "manifest.csv")
    assert Manifest.load(tmp_path / "manifest.csv", tmp_path) == manifest


def test_only_readable_labelled_images_are_usable() -> None:
    manifest = Manifest(Path(), RECORDS)
    assert [record.image_id for record in manifest.usable] == ["aa", "bb"]
    assert manifest.class_names == ("early_pre_b", "pro_b")


def test_a_manifest_with_a_wrong_number_is_named(tmp_path: Path) -> None:
    Manifest(tmp_path, RECORDS).save(tmp_path / "manifest.csv")
    text = (tmp_path / "manifest.csv").read_text().replace(",224,", ",wide,")
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(DataError, match="width or height is no number"):
        Manifest.load(tmp_path / "manifest.csv", tmp_path)


def test_folds_round_trip_with_units(tmp_path: Path) -> None:
    folds = [
        Fold("grouped", 0, {"aa": "train", "bb": "test"}, {"aa": "p1", "bb": "p2"}),
        Fold("random", 0, {"aa": "test", "bb": "train"}),
    ]
    save_folds(tmp_path / "splits.csv", folds, Manifest(tmp_path, RECORDS))
    assert load_folds(tmp_path / "splits.csv") == folds
    assert folds[0].ids("test") == ["bb"]
    assert "bb" * 32 in (tmp_path / "splits.csv").read_text()


def test_manifests_and_splits_of_older_runs_still_load(tmp_path: Path) -> None:
    record = ImageRecord("a" * 12, "a.png", "a" * 64, "all", patient_id="7")
    data = Manifest(tmp_path, (record,))
    data.save(tmp_path / "manifest.csv")
    folds = [Fold("random", 0, {record.image_id: "test"}, {record.image_id: "7"}, "patient")]
    save_folds(tmp_path / "splits.csv", folds, data)
    assert load_folds(tmp_path / "splits.csv") == folds
    for name, column in (("manifest.csv", "cohort"), ("splits.csv", "unit")):
        rows = read_csv(tmp_path / name)
        write_csv(
            tmp_path / name,
            [key for key in rows[0] if key != column],
            [{key: value for key, value in row.items() if key != column} for row in rows],
        )
    assert Manifest.load(tmp_path / "manifest.csv", tmp_path) == data
    (old,) = load_folds(tmp_path / "splits.csv")
    assert (old.groups, old.unit) == ({record.image_id: "7"}, "")


@pytest.mark.parametrize(
    ("protocol", "fold"), [("../../home", "0"), ("/tmp", "0"), ("", "0"), ("random", "-1/..")]
)
def test_splits_name_no_folder_elsewhere(tmp_path: Path, protocol: str, fold: str) -> None:
    """Protocol and fold become the folders of models, also in a run that somebody sent."""
    row = {"image_id": "a", "sha256": "", "protocol": protocol, "fold": fold, "part": "test"}
    write_csv(tmp_path / "splits.csv", (*row, "group", "unit"), [row])
    with pytest.raises(DataError, match=r"splits\.csv: expected a protocol"):
        load_folds(tmp_path / "splits.csv")
