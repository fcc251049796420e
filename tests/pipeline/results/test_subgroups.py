"""Results by subgroup, on predictions whose subgroups are known to differ or not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from leukoscope.core.records import ImageRecord, columns_of
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.statistics.subgroups import difference_p, in_bands
from leukoscope.pipeline.results.subgroups import subgroup_columns

PATIENTS, IMAGES = 40, 5


def made_up(right_north: float, right_south: float) -> tuple[PredictionTable, list[ImageRecord]]:
    """Patients of two sites and classes; a share of each site's patients is called rightly."""
    records, probs, y = [], [], []
    for p in range(PATIENTS):
        site, label = ("north", "south")[p % 2], p // 2 % 2
        rank = p // 2 * 7 % 20  # whatever the age, the sex and the class
        right = rank < 20 * (right_north if site == "north" else right_south)
        further = (("age", str(20 + p)), ("sex", "mf"[p // 4 % 2]), ("name", f"n{p}"))
        for i in range(IMAGES):
            called = label if right else 1 - label
            records.append(
                ImageRecord(
                    f"{p}-{i}", f"{p}-{i}.png", label=("aml", "apl")[label], patient_id=f"p{p}",
                    site=site, diagnosis=("AML", "APL")[label], further=further if p else (),
                )
            )  # fmt: skip
            probs.append([0.9, 0.1] if called == 0 else [0.1, 0.9])
            y.append(label)
    table = PredictionTable.build(
        ("aml", "apl"), [r.image_id for r in records], np.array(probs), recipe="quick",
        protocol="grouped", fold=0, part="test", y_true=y,
    )  # fmt: skip
    return table, records


def by_name(table: PredictionTable, records: list[ImageRecord]) -> dict[str, dict]:  # type: ignore[type-arg]
    units = [record.patient_id for record in records]
    return {row["column"]: row for row in subgroup_columns(table, records, units, how={"seed": 1})}


def test_a_site_that_does_worse_is_found_and_nothing_else() -> None:
    columns = by_name(*made_up(1.0, 0.4))
    assert list(columns) == ["site", "age", "sex", "name"]  # the diagnosis is the label
    site = columns["site"]
    assert site["differs"] is True
    assert site["p"] <= site["p_holm"] < 0.05
    north, south = site["groups"]
    assert (north["value"], north["n"], north["n_groups"]) == ("north", 100, 20)
    assert north["by_class"] == {"aml": 50, "apl": 50}
    assert north["metrics"]["accuracy"]["value"] == 1.0
    assert south["metrics"]["accuracy"]["value"] == pytest.approx(0.4)
    assert south["metrics"]["accuracy"]["reliable"]  # 20 patients, 10 of each class
    assert columns["sex"]["differs"] is False


def test_numbers_come_in_bands_and_names_not_at_all() -> None:
    columns = by_name(*made_up(0.8, 0.8))
    age = columns["age"]
    assert (age["kind"], age["missing"]) == ("bands", IMAGES)
    assert [group["value"] for group in age["groups"]] == ["up to 33", "over 33 to 46", "over 46"]
    assert [group["n_groups"] for group in age["groups"]] == [13, 13, 13]
    assert not age["groups"][0]["metrics"]["accuracy"]["reliable"]  # 13 patients are few
    assert columns["name"]["reason"] == "39 values, more than 20"
    assert not any(column.get("differs") for column in columns.values())


def test_patients_whose_cells_differ_have_not_all_the_same_value() -> None:
    table, records = made_up(0.8, 0.8)
    table, records = table.take(np.arange(0, len(table), IMAGES)), records[::IMAGES]
    blasts = [replace(one, cell_type="blast" if i < 2 else "") for i, one in enumerate(records)]
    patients = [record.patient_id for record in records]
    found = subgroup_columns(table, blasts, patients, row="patient", metrics=("accuracy",))
    columns = {column["column"]: column for column in found}
    assert columns["cell_type"]["reason"] == (
        "the images of 38 of 40 patients differ in it, or have none; all others have the same value"
    )
    alike = [replace(record, cell_type="blast") for record in records]
    found = subgroup_columns(table, alike, patients, row="patient", metrics=("accuracy",))
    columns = {column["column"]: column for column in found}
    assert columns["cell_type"]["reason"] == "all have the same value"


def test_a_hard_class_is_not_blamed_on_the_site_that_has_more_of_it() -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], 100)
    site = (rng.random(200) < np.where(classes == 0, 0.2, 0.8)).astype(np.int64)
    right = rng.random(200) < np.where(classes == 0, 0.95, 0.5)
    assert difference_p(right, np.zeros(200, np.int64), site, np.arange(200)) < 0.01
    assert difference_p(right, classes, site, np.arange(200)) > 0.05


def test_the_test_keeps_its_level_and_deals_whole_patients() -> None:
    rng = np.random.default_rng(1)
    units = np.repeat(np.arange(30), 10)
    rejected, naive = 0, 0
    for _ in range(60):
        right = np.repeat(rng.random(30) < 0.7, 10)  # a patient is right or wrong as a whole
        site = np.repeat(rng.integers(0, 2, 30), 10)
        classes = np.repeat(np.arange(30) % 2, 10)
        rejected += difference_p(right, classes, site, units, draws=199) <= 0.05
        naive += difference_p(right, classes, site, np.arange(300), draws=199) <= 0.05
    assert rejected <= 8  # 3 expected; more than 8 has a probability of 0.3 %
    assert naive > 20


def test_what_cannot_be_told_from_the_class_is_not_tested() -> None:
    classes = np.arange(40) % 2
    right = np.arange(40) % 3 > 0
    assert difference_p(right, classes, classes, np.arange(40)) is None
    codes = np.arange(40) // 20
    assert difference_p(right, classes, codes, np.zeros(40, np.int64)) is not None


def test_equal_numbers_make_fewer_bands() -> None:
    codes, names = in_bands(np.array([1.0, 1, 1, 1, 5]), np.arange(5))
    assert names == ("up to 1", "over 1")
    assert codes.tolist() == [0, 0, 0, 0, 1]
    assert in_bands(np.ones(4), np.arange(4))[1] == ("all",)


def test_a_role_describes_no_image() -> None:
    record = ImageRecord("a", "a.png", further=(("role", "malignant"), ("age", "61")))
    assert columns_of([record]) == ("age",)
