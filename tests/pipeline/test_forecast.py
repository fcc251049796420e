"""Does a study foretell? Its statistics on simulated groups, against groups that come later."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from leukoscope.config.metrics.results import Estimate
from leukoscope.core.records import Fold
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.statistics.forecast import INSIDE, forecasts
from leukoscope.evaluation.statistics.metrics import weighted_metrics
from leukoscope.pipeline.results.entries import Statistics, result_entry
from leukoscope.study.options import study_config

CLASSES, NAMES = ("healthy", "all"), ("accuracy", "roc_auc")
SIGNAL = (2.2, 1.2)  # distance of the classes, spread between patients
REPETITIONS, PATIENTS, NEW = 60, "25", 8
Sample = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]


@pytest.fixture(scope="module")
def simulated() -> Callable[..., Sample]:
    """The scores of benchmarks/intervals.py: each patient shifts those of all his images."""
    path = Path(__file__).parents[2] / "benchmarks" / "intervals.py"
    spec = spec_from_file_location("intervals_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    scores: Callable[..., Sample] = module.scores
    return scores


def as_rows(sample: Sample) -> tuple[PredictionTable, list[str]]:
    """Test rows of a study and the patient of each."""
    y, probs, member = sample
    ids = [f"i{number}" for number in range(len(y))]
    table = PredictionTable.build(
        CLASSES, ids, probs, recipe="r", protocol="grouped", fold=0, part="test", y_true=y
    )
    return table, [f"p{patient}" for patient in member]


def values(sample: Sample) -> dict[str, float]:
    y, probs, _ = sample
    found = weighted_metrics(y, probs, CLASSES, np.ones((1, len(y))), NAMES)
    return {name: float(value[0]) for name, value in found.items()}


@pytest.fixture(scope="module")
def repeated(simulated: Callable[..., Sample]) -> dict[str, list[Any]]:
    """What each report said, and what then came."""
    config = study_config(".", probes=["colour-only"], overrides=["bootstrap=100"])
    truth = values(simulated("50", SIGNAL, np.random.default_rng(1), groups=60))
    rng = np.random.default_rng(2)
    found: dict[str, list[Any]] = {"truth": [truth], "reports": [], "cohorts": []}
    for _ in range(REPETITIONS):
        table, patients = as_rows(simulated(PATIENTS, SIGNAL, rng))
        groups = dict(zip(table.image_id.tolist(), patients, strict=True))
        fold = Fold("grouped", 0, dict.fromkeys(groups, "test"), groups)
        statistics = Statistics.of([fold], config)
        found["reports"].append(result_entry(statistics, table, "r", "grouped", NAMES))
        later = simulated(str(NEW), SIGNAL, rng)
        new, of = as_rows(later)
        measured = {
            name: Estimate(value=value, low=None, high=None)
            for name, value in values(later).items()
        }
        how = {"replicates": 100, "confidence": 0.95, "seed": 0}
        cohort = forecasts(table, patients, "patient", new, of, "patient", measured, how=how)
        hit, member = later[1].argmax(axis=1) == later[0], later[2]
        alone = np.bincount(member, weights=hit) / np.bincount(member)
        found["cohorts"].append((cohort, alone))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_interval_holds_the_mean_over_all_new_patients(
    repeated: dict[str, list[Any]], name: str
) -> None:
    truth = repeated["truth"][0][name]
    intervals = [report["metrics"][name] for report in repeated["reports"]]
    assert np.mean([one["low"] <= truth <= one["high"] for one in intervals]) >= 0.85
    assert abs(np.mean([one["value"] for one in intervals]) - truth) < 0.01
    assert np.mean([one["high"] - one["low"] for one in intervals]) < 0.15  # and says something


@pytest.mark.parametrize("name", NAMES)
def test_the_forecast_holds_a_cohort_that_comes_later(
    repeated: dict[str, list[Any]], name: str
) -> None:
    assert np.mean([cohort[name]["verdict"] == INSIDE for cohort, _ in repeated["cohorts"]]) >= 0.85


def test_the_prediction_interval_holds_the_next_patient(repeated: dict[str, list[Any]]) -> None:
    pairs = zip(repeated["reports"], repeated["cohorts"], strict=True)
    inside = [
        (report["next_unit"]["low"] <= alone) & (alone <= report["next_unit"]["high"])
        for report, (_, alone) in pairs
    ]
    assert np.concatenate(inside).mean() >= 0.9
    means = [report["metrics"]["accuracy"] for report in repeated["reports"]]
    narrow = [
        (mean["low"] <= alone) & (alone <= mean["high"])
        for mean, (_, alone) in zip(means, repeated["cohorts"], strict=True)
    ]
    assert np.concatenate(narrow).mean() < 0.85  # the interval of the mean does not: they differ


def row(level: str, **outcome: Any) -> dict[str, Any]:
    """One repetition of benchmarks/forecast.py."""
    cohort = {"low": 0.7, "high": 0.95, "verdict": INSIDE}
    found = {"roc_auc": 0.8, "roc_auc_low": 0.7, "accuracy": 0.8, "forecast": {"accuracy": cohort}}
    honest = {"sources": {"grain": "refuted"}, "control": True}
    return {"set": "cnmc", "recipe": "quick", "number": 0, "level": level, **honest} | {
        "outcome": found | outcome
    }


def test_which_verdicts_are_counted_as_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    wrong = import_module("forecast_table").wrong
    outside = {"accuracy": {"low": 0.9, "high": 0.95, "verdict": "outside the forecast"}}
    assert wrong(row("plausible")) is None
    assert "chance" in str(wrong(row("plausible", roc_auc=0.45)))
    assert "outside" in str(wrong(row("plausible-by-clusters", forecast=outside)))
    assert wrong(row("inconclusive", roc_auc=0.45, forecast=outside)) is None
    assert "better than chance" in str(wrong(row("unsafe")))
    assert wrong(row("unsafe", roc_auc_low=0.4)) is None
    shown = row("unsafe") | {"sources": {"grain": "shown"}}
    assert wrong(shown) is None  # nobody knows whether real data has a shortcut
    assert "where none was" in str(wrong(shown | {"set": "phantoms"}))


def test_every_patient_is_taken_away_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    deal = import_module("forecast_sets").deal
    units = [f"p{number}" for number in range(12)]
    hands = [deal(units, 3, number, "all") for number in range(8)]
    assert sorted(np.ravel(hands[:4])) == sorted(np.ravel(hands[4:])) == sorted(units)
    assert hands[:4] != hands[4:]
