"""What a plan says that the data cannot show, against what the study counts at its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.pipeline.folds import study_rows, undecided_protocols
from leukoscope.study.options import study_config
from leukoscope.study.plan import _limits


def _said(per_class: dict[str, tuple[int, int]], **options: object) -> str:
    """The limits of a data set with so many patients of so many images, by class."""
    records = tuple(
        ImageRecord(
            image_id=f"{name}-{patient}-{image}",
            path=f"{name}/{patient}-{image}.png",
            sha256=f"{name}-{patient}-{image}",
            label=name,
            patient_id=f"{name}-{patient}",
        )
        for name, (patients, images) in per_class.items()
        for patient in range(patients)
        for image in range(images)
    )
    manifest = Manifest(Path("d"), records)
    config = study_config("d", **options)  # type: ignore[arg-type]
    return "\n".join(_limits(manifest, study_rows(manifest, config), config, cut_out=False))


def test_merged_clusters_are_planned_only_if_the_audit_finds_overlaps() -> None:
    (row,) = undecided_protocols(("random", "acquisition", "acquisition-merged"))
    assert row["protocol"] == "acquisition-merged"
    assert row["reason"].startswith("if overlapping fields join clusters")
    assert undecided_protocols(("random", "grouped")) == ()


def test_one_patient_is_no_plural() -> None:
    assert "b: 1 patient, about 1 of them" in _said({"a": (24, 2), "b": (1, 2)}, folds=5)


def test_a_class_of_one_patient_cannot_be_told_from_the_patient() -> None:
    said = _said({"a": (24, 2), "b": (1, 2)}, folds=5)
    assert "b: images of one patient alone. Whether a model learns the class" in said
    assert "of one patient alone" not in _said({"a": (24, 2), "b": (2, 2)}, folds=5)


def test_the_other_folds_calibrate_a_fold() -> None:
    said = _said({"a": (24, 2), "b": (20, 2)}, folds=5)
    assert "a: " not in said
    assert "b: 20 patients, about 16 of them for calibration" in said
    assert "of 95% by class and patient needs 19 and is not attainable" in said
    assert "b: about" not in said  # 32 images of it calibrate a fold
    assert "44 patients, about" not in said


def test_a_hold_out_has_a_part_that_calibrates() -> None:
    said = _said({"a": (24, 2), "b": (20, 2)}, folds=1)
    assert "44 patients, about 4 of them for calibration" in said
    assert "a: about 5 calibration images" in said


@pytest.mark.parametrize(("folds", "held"), [(5, 14), (1, 2)])
def test_a_study_of_patients_counts_patients(folds: int, held: int) -> None:
    said = _said({"a": (40, 9), "b": (18, 9)}, folds=folds, unit="patient")
    assert f"b: about {held} calibration patients; prediction sets cannot promise" in said
    assert "calibration images" not in said
    assert ("a: about" in said) == (folds == 1)
