"""The section by patient: what it says, what it lists, and when it is silent."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from leukoscope.config.metrics.results import Patients
from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.study.patient_results import subjects

ROWS = [
    {"true": "healthy", "fold": 0, "patient": "H1", "predicted": "healthy", "p_healthy": 0.8,
     "p_all": 0.2, "low": 0.7, "high": 0.9, "stability": 1.0, "agreement": 0.9, "n_images": 12},
    {"true": "all", "fold": 0, "patient": "3+4", "predicted": "healthy", "p_healthy": 0.6,
     "p_all": 0.4, "low": 0.45, "high": 0.7, "stability": 0.9, "agreement": 0.6, "n_images": 9},
    {"true": "all", "fold": 1, "patient": "5", "predicted": "all", "p_healthy": 0.1,
     "p_all": 0.9, "low": None, "high": None, "stability": None, "agreement": 1.0, "n_images": 1},
]  # fmt: skip
VALUE = {"value": 2 / 3, "low": 0.09, "high": 0.99, "reliable": False}
LOSSES = {"mean-logit": 0.4, "vote": 0.3}
FOLDS = [{"fold": 0, "method": "vote", "n_val": 2, "val_log_loss": LOSSES},
         {"fold": 1, "method": "mean-logit", "n_val": 0, "val_log_loss": {}}]  # fmt: skip
ENTRY = {
    "recipe": "quick", "n": 3, "n_images": 22, "by_class": {"healthy": 1, "all": 2},
    "mixed": ["P9"], "folds": FOLDS, "bundle_method": "vote", "metrics": {"accuracy": VALUE},
    "patients": ROWS,
}  # fmt: skip


def by_patient(**subjects: Any) -> SimpleNamespace:
    return SimpleNamespace(subjects=Patients.model_validate_json(json.dumps(subjects)))


@pytest.fixture
def study(tmp_path: Path) -> SimpleNamespace:
    return SimpleNamespace(
        metrics=by_patient(protocol="grouped", results=[ENTRY]),
        class_names=("healthy", "all"),
        confidence=0.95,
        level="95 %",
        run=RunFolder(tmp_path),
    )


def test_patients_are_counted_listed_and_drawn(study: SimpleNamespace) -> None:
    said, results, chart, listed = subjects(study, Gallery(study.run)).blocks
    assert "3 patients (Healthy 1, ALL 2) with 22 images" in said.text
    assert "Left out: 1 patient" in said.text
    assert "names 4 ids; 1 patient here stands for" in said.text
    assert results.rows == (("quick", "66.7 % (9.0–99.0)†", "3"),)
    assert "allow for the training images that they share" in results.note
    assert "exact" not in results.note
    assert (study.run.path / chart.file).is_file()
    assert "1 of 3 patients are predicted wrongly" in chart.alt
    assert listed.rows[1][:4] == ("ALL", "3+4", "Healthy ✖", "60.0 % (45.0–70.0)")
    assert listed.rows[2][3:5] == ("90.0 %", "—")
    assert (
        "vote of the images in 1 fold, mean logit in 1 fold (0, 2 validation patients)" in said.text
    )


def test_what_does_not_apply_has_its_reason_and_an_old_study_has_no_section(
    study: SimpleNamespace,
) -> None:
    study.metrics = by_patient(inapplicable="the images have no patient ids")
    (said,) = subjects(study, Gallery(study.run)).blocks
    assert said.text == "Results by patient do not apply: the images have no patient ids."
    study.metrics = SimpleNamespace(subjects=None)
    assert not subjects(study, Gallery(study.run)).blocks


def test_many_patients_are_drawn_without_names_and_folded(study: SimpleNamespace) -> None:
    many = [ROWS[0] | {"patient": f"H{i}"} for i in range(80)]
    entry = {**ENTRY, "patients": many, "n": 80}
    study.metrics = by_patient(results=[entry])
    blocks = subjects(study, Gallery(study.run)).blocks
    assert blocks[3].title == "All 80 patients"
    assert blocks[3].blocks[0].rows[79][1] == "H79"
