"""The schema of metrics.json accepts what is written and names what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from leukoscope.config.metrics.file import (
    StudyMetrics,
    load_evaluation,
    load_metrics,
    study_metrics,
)
from leukoscope.config.metrics.results import NextUnit, PatientAnswer, Reason
from leukoscope.core.errors import DataError

ACCURACY = {"value": 0.9, "low": 0.8, "high": 1.0, "reliable": True}


def values(**more: Any) -> dict[str, Any]:
    """The smallest file with one result."""
    result = {
        "recipe": "quick", "protocol": "random", "n": 10, "n_groups": 10,
        "group_unit": "component", "folds": 1, "metrics": {"accuracy": ACCURACY},
        "confusion": [[5, 0], [1, 4]], "calibrated": True,
        "next_unit": {"reason": "no unit is held out"},
    }  # fmt: skip
    return {
        "schema": 1, "class_names": ["healthy", "all"], "confidence": 0.95, "results": [result],
        "verdict": {"headline": "H.", "level": "inconclusive"}, **more,
    }  # fmt: skip


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_file_that_is_read_and_written_again_stays_the_same(tmp_path: Path) -> None:
    metrics = load_metrics(write(tmp_path / "metrics.json", values(control=None)))
    metrics.save(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text("utf-8")) == values(control=None)


def test_an_interval_or_the_reason_for_none_is_told_by_its_keys() -> None:
    (without,) = study_metrics(values()).results
    assert without.next_unit == Reason(reason="no unit is held out")
    given = values()
    given["results"][0]["next_unit"] = {
        "unit": "patient", "metric": "accuracy", **ACCURACY, "n_groups": 20, "median_n": 3.0,
    }  # fmt: skip
    (measured,) = study_metrics(given).results
    assert isinstance(measured.next_unit, NextUnit)
    assert measured.next_unit.low == 0.8


def test_the_probabilities_of_a_patient_are_read_by_class() -> None:
    answer = PatientAnswer.model_validate({
        "true": "all", "predicted": "all", "fold": 0, "patient": "P1", "low": None, "high": None,
        "stability": None, "agreement": 1.0, "n_images": 1, "p_all": 0.75, "p_healthy": 0.25,
    })  # fmt: skip
    assert answer.probability("all") == 0.75
    with pytest.raises(ValueError, match="p_all"):
        PatientAnswer.model_validate({**answer.model_dump(), "p_all": "much"})


def test_a_foreign_model_is_known_by_its_split_even_where_that_is_unknown() -> None:
    assert study_metrics(values(split=None)).foreign
    assert not study_metrics(values()).foreign


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdicts": []}, r"verdicts: found a key that the schema does not know"),
        ({"confidence": "0.95"}, r'confidence: expected a valid number, found "0.95"'),
        ({"schema": 2}, r"schema: expected 1, found 2"),
        ({"verdict": {"headline": "H.", "level": "fine"}}, r"verdict.level: expected 'unsafe',"),
        ({"inapplicable": [{"protocol": "grouped"}]},
         r"inapplicable.0.reason: expected this key, found none"),
        ({"class_names": None}, r"class_names: expected .*, found null"),
    ],
)  # fmt: skip
def test_a_wrong_key_or_type_is_named_with_what_to_do(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "metrics.json", values(**change))
    with pytest.raises(DataError, match=message) as caught:
        load_metrics(path)
    assert str(path) in caught.value.message
    assert caught.value.hint == f"measure again: leukoscope study --out {tmp_path} --resume"


def test_an_undefined_number_in_memory_is_refused_before_it_is_written() -> None:
    with pytest.raises(DataError, match="expected finite numbers or null"):
        study_metrics(values(confidence=float("nan")))


def test_a_file_that_is_no_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a JSON object, found list"):
        load_metrics(write(tmp_path / "metrics.json", []))


def test_a_study_is_no_evaluation(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.json", values())
    with pytest.raises(DataError, match="decisions: expected this key") as caught:
        load_evaluation(path)
    assert "leukoscope evaluate" in caught.value.hint


def test_every_key_is_described(site_hooks: ModuleType) -> None:
    page = (Path(__file__).parents[2] / "docs/protocols.md").read_text("utf-8")
    page = site_hooks.on_page_markdown(page, None)
    names = (field.alias or name for name, field in StudyMetrics.model_fields.items())
    assert [name for name in names if f"| `{name}` | " not in page] == []
