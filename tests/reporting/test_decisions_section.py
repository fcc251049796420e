from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leukoscope.config.metrics.file import study_metrics
from leukoscope.config.metrics.results import Estimate
from leukoscope.core.run_folder import RunFolder
from leukoscope.pipeline.results.decisions import decision_entries, operating_entry
from leukoscope.pipeline.results.entries import calibration_entry
from leukoscope.reporting.content import Bullets, Folded, Paragraph, Picture, Section, Table
from leukoscope.reporting.figures.classification import coverage_chart
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.study.decisions import calibration, decisions
from leukoscope.reporting.study_files import Study, load_study

WORDS = "miss at most 10 % of malignant fields, with 90 % confidence"


@pytest.fixture(scope="module")
def drawn() -> Any:
    """The made-up predictions of the tests of ``study.decisions``."""
    path = Path(__file__).parents[1] / "pipeline" / "results" / "test_decisions.py"
    spec = importlib.util.spec_from_file_location("drawn_decisions", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def study(make_study, tmp_path: Path, drawn) -> Study:
    protocols = ("random", "grouped")
    loaded = load_study(make_study(tmp_path, images=40, protocols=protocols))
    tests = [drawn.results("random", coverage=0.95), drawn.results("grouped", 2.5, coverage=0.95)]
    record = decision_entries(tests, "quick", {"patient": drawn.patients(tests[0])})
    record["operating_point"] = operating_entry(tests, WORDS, None)
    entries = [calibration_entry(test, "quick") for test in tests]
    changed = {"calibration": entries, "decisions": record}
    return replace(loaded, metrics=study_metrics(loaded.metrics.to_json() | changed))


def words(section: Section) -> str:
    texts: list[str] = []
    for block in section.blocks:
        parts = block.blocks if isinstance(block, Folded) else (block,)
        for part in parts:
            if isinstance(part, Table):
                texts += [part.caption, *(cell for row in part.rows for cell in row)]
            elif isinstance(part, Bullets):
                texts += part.items
            elif isinstance(part, Paragraph):
                texts.append(part.text)
    return " | ".join(texts)


def test_every_question_has_its_table_and_figure(study: Study, tmp_path: Path) -> None:
    gallery = Gallery(RunFolder(tmp_path / "out"))
    honest, kept = calibration(study, gallery), decisions(study, gallery)
    assert "2 × temperature; 180 images" in words(honest)
    text = words(kept)
    assert "not attainable with 9 patients, needs 19" in text
    assert "not attainable with 3 patients a class, needs 19" in text
    assert "rest on as few as 9 patients (a promise for a new patient needs 19)" in text
    assert "patients below what is expected" in text
    assert f"Operating point: “{WORDS}” | " in text
    assert " | broken | " in text
    files = [block.file for block in kept.blocks if isinstance(block, Picture)]
    assert files == [
        "figures/coverage.svg", "figures/risk-coverage.svg", "figures/net-benefit.svg",
    ]  # fmt: skip


def test_a_study_of_patients_counts_patients(study: Study, tmp_path: Path) -> None:
    data = study.config.model_copy(update={"unit": "patient"})
    gallery = Gallery(RunFolder(tmp_path / "out"))
    of_patients = replace(study, config=data)
    text = words(calibration(of_patients, gallery)) + words(decisions(of_patients, gallery))
    assert "2 × temperature; 180 patients" in text
    assert "180 patients; needs 19" in text
    assert "180 images" not in text
    assert "for a new patient" in text
    assert "over all patients" in text


def test_sets_on_validation_parts_count_over_folds(study: Study, tmp_path: Path) -> None:
    """A patient may be in the validation part of several folds, so n may exceed their number."""
    blocks = decisions(study, Gallery(RunFolder(tmp_path / "out"))).blocks
    parts = [part for block in blocks if isinstance(block, Folded) for part in block.blocks]
    table = next(p for p in parts if isinstance(p, Table) and "on validation" in p.caption)
    assert table.columns[-1].title == "n (over folds)"
    assert "one may be in several" in table.note


def test_a_harm_by_calibration_is_said(study: Study, tmp_path: Path) -> None:
    change = {"log_loss": Estimate(value=0.05, low=0.01, high=0.09)}
    entry = study.metrics.calibration[0].model_copy(update={"change": change})
    worse = replace(study, metrics=study.metrics.model_copy(update={"calibration": (entry,)}))
    text = words(calibration(worse, Gallery(RunFolder(tmp_path / "out"))))
    assert "calibration made the log loss worse, by +0.050 (+0.010 to +0.090)" in text


def test_without_an_operating_point_the_report_says_what_could_be_asked(
    study: Study, tmp_path: Path, drawn
) -> None:
    values = study.metrics.to_json()
    values["decisions"]["operating_point"] = operating_entry([drawn.results("random")], "", None)
    plain = replace(study, metrics=study_metrics(values))
    text = words(decisions(plain, Gallery(RunFolder(tmp_path / "out"))))
    assert "Not set." in text
    assert "malignant calibration images)" in text


def test_a_figure_without_groups_is_drawn() -> None:
    from leukoscope.reporting.figures.classification import CoverageMark, CoveragePanel

    mark = CoverageMark(0.9, None, None, "benign")
    assert coverage_chart([CoveragePanel("Random", 0.95, [mark], (), "")]).axes
