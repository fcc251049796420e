"""The table of a manifest's further columns in the data section."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from leukoscope.core.records import ImageRecord
from leukoscope.datasets.audit.associations import associations
from leukoscope.reporting.study.data import columns
from leukoscope.reporting.study_files import Study


def study(**passport: Any) -> Study:
    return cast("Study", SimpleNamespace(passport=passport))


def test_columns_are_shown_with_effect_or_reason() -> None:
    rows = [
        ImageRecord(f"{k}", f"{k}.png", label="ab"[k % 2], patient_id=f"p{k % 20}",
                    site="NS"[k % 2], session="" if k < 7 else "x")
        for k in range(100)
    ]  # fmt: skip
    table = columns(study(columns=[one.to_json() for one in associations(rows)]))
    assert table is not None
    assert table.rows == (
        ("site", "2", "0", "1.00", "Cramér's V", "< 0.001", "patients"),
        ("session", "1", "7", "—", "not testable: all images have the same value", "—", "—"),
    )


def test_without_such_columns_there_is_no_table() -> None:
    assert columns(study()) is None
