"""Columns beside the label: who is dealt, what cannot be tested, how often chance is flagged."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from leukoscope.core.records import ImageRecord
from leukoscope.datasets.audit.associations import Association, associations
from leukoscope.datasets.audit.findings import _columns as findings_of_columns


def images(n: int, patients: int = 0, **columns: object) -> list[ImageRecord]:
    """Images of two classes in turn by patient; a callable gives the value of image or patient."""
    rows = []
    for k in range(n):
        unit = k % patients if patients else k
        values = {name: str(give(unit, k)) for name, give in columns.items()}  # type: ignore[operator]
        label = values.pop("label", "ab"[unit % 2])
        patient = f"p{unit}" if patients else ""
        rows.append(
            ImageRecord(str(k), f"{k}.png", label=label, patient_id=patient,
                        further=tuple((a, b) for a, b in values.items() if b))
        )  # fmt: skip
    return rows


def one(rows: list[ImageRecord]) -> Association:
    (found,) = associations(rows)
    return found


def test_the_p_value_agrees_with_the_chi_squared_test() -> None:
    rng = np.random.default_rng(1)
    site = rng.integers(0, 3, 300)
    label = np.where(rng.random(300) < 0.12, site % 2, rng.integers(0, 2, 300))
    rows = images(300, label=lambda u, k: "ab"[label[k]], scanner=lambda u, k: f"s{site[k]}")
    table = np.zeros((2, 3))
    np.add.at(table, (label, site), 1)
    expected = chi2_contingency(table, correction=False).pvalue
    assert one(rows).p == pytest.approx(expected, abs=0.015)


def test_patients_are_dealt_whole() -> None:
    """Ten patients with a site of their own look like a law if their images are counted."""
    site = [0, 1, 0, 1, 0, 0, 1, 1, 1, 1]
    rows = images(1000, 10, scanner=lambda u, k: site[u])
    by_patient = one(rows)
    by_image = one([replace(row, patient_id="") for row in rows])
    assert by_image.p == 0.0005
    assert (by_patient.unit, by_patient.p > 0.3) == ("patient", True)


@pytest.mark.parametrize("varies", ["column", "label", "both", "neither"])
def test_chance_is_flagged_as_often_as_the_level_says(varies: str) -> None:
    rng = np.random.default_rng(7)
    flagged = []
    for _ in range(60):
        column, label = rng.integers(0, 3, 200).tolist(), rng.integers(0, 2, 200).tolist()
        row_of_column = [k if varies in ("column", "both") else k % 20 for k in range(200)]
        row_of_label = [k if varies in ("label", "both") else k % 20 for k in range(200)]
        rows = [
            ImageRecord(
                str(k), f"{k}.png", label="ab"[label[row_of_label[k]]], patient_id=f"p{k % 20}",
                site=str(column[row_of_column[k]]),
            )
            for k in range(200)
        ]  # fmt: skip
        flagged.append((associations(rows, draws=99)[0].p or 0) < 0.05)
    assert np.mean(flagged) < 0.13


def test_numbers_use_the_correlation_ratio() -> None:
    rng = np.random.default_rng(2)
    ages = [40 + 12 * (u % 2) + rng.normal(0, 4) for u in range(40)]
    found = one(images(400, 40, age=lambda u, k: f"{ages[u]:.1f}"))
    assert found.measure == "correlation ratio"
    assert 0.7 < found.effect < 0.95
    assert found.p == 0.0005


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (lambda u, k: "x", "all images have the same value"),
        (lambda u, k: f"row {k}", "every image has a value of its own"),
        (lambda u, k: f"name {u}", "every patient has a value of its own"),
        (
            lambda u, k: "xy"[u // 2 % 2] if u % 2 else "",
            "the images that have a value are of one class",
        ),
    ],
)
def test_what_cannot_be_tested_is_said(column: object, reason: str) -> None:
    found = one(images(120, 12, note=column))
    assert (found.reason, found.effect, found.p, found.p_holm) == (reason, None, None, None)


def test_holm_over_columns_and_the_finding() -> None:
    rows = images(
        200, 40, scanner=lambda u, k: u % 2, lot=lambda u, k: u // 2 % 2, note=lambda u, k: "x"
    )
    found = {a.column: a for a in associations(rows)}
    assert found["scanner"].p_holm == 2 * found["scanner"].p
    assert found["note"].p_holm is None
    passport = {"columns": [a.to_json() for a in found.values()]}
    (said,) = findings_of_columns(passport)
    assert (said["level"], said["code"]) == ("warning", "column-follows-class")
    assert "scanner (2 values)" in said["text"]
    assert "corrected for 2 columns" in said["text"]
    assert ") follows the class (" in said["text"]
    weak = [row | {"effect": 0.06} for row in passport["columns"] if row["column"] == "scanner"]
    (said,) = findings_of_columns({"columns": weak})
    assert ") is weakly associated with the class (Cramér's V 0.06" in said["text"]


def test_a_role_is_no_column_to_test_and_cell_types_are_no_warning() -> None:
    rows = images(80, 20, role=lambda u, k: "x")
    assert associations(rows) == []
    rows = [replace(row, cell_type="blast" if row.label == "a" else "monocyte") for row in rows]
    (said,) = findings_of_columns({"columns": [a.to_json() for a in associations(rows)]})
    assert said["level"] == "info"


def test_many_images_take_seconds() -> None:
    rng = np.random.default_rng(0)
    lot = rng.integers(0, 20, 17_000)
    rows = images(17_000, label=lambda u, k: f"c{k % 8}", lot=lambda u, k: lot[k])
    start = time.process_time()
    associations(rows)
    assert time.process_time() - start < 10
