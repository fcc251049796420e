"""Patients as rows: one class each, every image named, overlaps join them."""

from __future__ import annotations

from pathlib import Path

import pytest

from leukoscope.core.errors import DataError
from leukoscope.core.files import read_csv
from leukoscope.core.patients import Patients
from leukoscope.core.records import ImageRecord, Manifest


def manifest(*images: tuple[str, str, str], **more: str) -> Manifest:
    """Images as (patient, label, component)."""
    records = [
        ImageRecord(f"i{k}", f"{k}.png", f"{k:064d}", label, patient, group, **more)
        for k, (patient, label, group) in enumerate(images)
    ]
    return Manifest(Path("data"), tuple(records))


def test_a_patient_is_one_row_with_all_its_images() -> None:
    found = Patients.of(manifest(("b", "aml", ""), ("a", "apl", ""), ("b", "aml", ""), cohort="x"))
    assert [(r.image_id, r.label, r.cohort) for r in found.records] == [
        ("a", "apl", "x"),
        ("b", "aml", "x"),
    ]
    assert [rows.tolist() for rows in found.rows] == [[1], [0, 2]]
    assert found.of_images().tolist() == [1, 0, 1]


def test_patients_with_overlapping_images_are_connected(tmp_path: Path) -> None:
    found = Patients.of(
        manifest(("a", "aml", "g"), ("b", "aml", "g"), ("b", "aml", "h"), ("c", "aml", "h"),
                 ("d", "aml", ""))
    )  # fmt: skip
    assert [r.group_id for r in found.records] == ["a", "a", "a", "d"]
    found.save(tmp_path / "patients.csv")
    rows = read_csv(tmp_path / "patients.csv")
    assert [(row["patient_id"], row["images"]) for row in rows][1] == ("b", "2")


def test_an_image_without_a_patient_is_named() -> None:
    with pytest.raises(DataError, match=r"1 of 2 do not: 1\.png"):
        Patients.of(manifest(("a", "aml", ""), ("", "aml", "")))


def test_a_patient_with_two_classes_is_named() -> None:
    with pytest.raises(DataError, match=r"1 of 2 patients .*: a \(aml, apl\)"):
        Patients.of(manifest(("a", "aml", ""), ("a", "apl", ""), ("b", "apl", "")))
