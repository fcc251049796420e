from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leukoscope.config.metrics.file import study_metrics
from leukoscope.core.files import write_csv, write_json
from leukoscope.core.run_folder import OOD_COLUMNS, OOD_CSV, OOD_JSON, RunFolder
from leukoscope.reporting.content import Folded, Picture, Table
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.study.other_data import rejection
from leukoscope.reporting.study_files import Study, load_study

SHARE = {"value": 0.1, "low": 0.05, "high": 0.2, "reliable": True}


def entry(protocol: str, least_n_val: int) -> dict[str, Any]:
    return {
        "recipe": "quick", "protocol": protocol, "unit": "patient", "n": 3, "n_groups": 2,
        "n_outliers": 2, "accept": 0.95, "least_n_val": least_n_val, "rejected": SHARE,
        "roc_auc": SHARE | {"value": 0.987}, "accuracy": {"accepted": SHARE},
        "kinds": {"hue": {"n": 2, "roc_auc": 0.987, "false_accept": 0.5}},
        "folds_using": {"knn": 1, "softmax": 0}, "folds": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def study(make_study: Callable[..., RunFolder], tmp_path_factory: pytest.TempPathFactory) -> Study:
    run = make_study(tmp_path_factory.mktemp("ood"))
    folder = run.model("quick", "random", 0)
    rows = [
        {"image_id": str(i), "part": part, "outlier": kind, "score": score,
         "decided_by": "knn", "accepted": int(score < 1)}
        for i, (part, kind, score) in enumerate(
            [("val", "", 0.1), ("val", "", 0.9), ("test", "", 0.2), ("test", "", 1.4),
             ("test", "", -9.0), ("test", "hue", 50.0), ("test", "hue", 0.5), ("val", "hue", 3.0)]
        )
    ]  # fmt: skip
    write_csv(folder / OOD_CSV, OOD_COLUMNS, rows)
    write_json(folder / OOD_JSON, {"threshold": 1.0})
    return load_study(run)


def with_ood(study: Study, *entries: dict[str, Any]) -> Study:
    return replace(study, metrics=study_metrics(study.metrics.to_json() | {"ood": list(entries)}))


def test_the_section_has_a_table_a_figure_and_the_kinds(study: Study, tmp_path: Path) -> None:
    shown = with_ood(study, entry("random", 40))
    blocks = list(rejection(shown, Gallery(RunFolder(tmp_path))).blocks)
    table, picture, kinds = blocks[1:]
    assert isinstance(table, Table)
    assert isinstance(picture, Picture)
    assert isinstance(kinds, Folded)
    assert table.rows[0][2:4] == ("3 (2 patients)", "10.0 % (5.0–20.0)")
    assert table.rows[0][-1] == "knn"
    assert "cannot promise" not in table.note
    assert kinds.blocks[0].rows[0][-3:] == ("2", "0.987", "50.0 %")
    assert (tmp_path / picture.file).is_file()


def test_few_validation_images_are_named(study: Study, tmp_path: Path) -> None:
    shown = with_ood(study, entry("random", 6))
    table = list(rejection(shown, Gallery(RunFolder(tmp_path))).blocks)[1]
    assert isinstance(table, Table)
    assert "only 6 validation images" in table.note


def test_a_study_without_a_gate_has_no_section(study: Study, tmp_path: Path) -> None:
    assert not rejection(study, Gallery(RunFolder(tmp_path))).blocks
    assert not rejection(with_ood(study), Gallery(RunFolder(tmp_path))).blocks
