"""Results by patient: chosen on validation patients, counted exactly, never on mixed patients."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from leukoscope.config.loading import load_recipe
from leukoscope.config.study import DataConfig, StudyConfig
from leukoscope.evaluation.combining import PATIENT_METHODS, aggregate
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.evaluation.statistics.limits import exact_limits, shared_training
from leukoscope.pipeline.results.summary import by_patient

CONFIG = StudyConfig(data=DataConfig(path="x"), recipes=(load_recipe("quick"),), bootstrap=200)
NAMES = ("healthy", "all")


def study(n: int, images: int = 6, seed: int = 0) -> tuple[PredictionTable, dict[str, str]]:
    """``n`` patients in two folds; each is a test patient once and a val patient once."""
    rng = np.random.default_rng(seed)
    patients = {f"i{p}-{k}": f"P{p:02d}" for p in range(n) for k in range(images)}
    ids = list(patients)
    truth = np.array([int(patients[i][1:]) % 2 for i in ids])
    fold = np.array([(int(patients[i][1:]) // 2) % 2 for i in ids])
    tables = []
    for part, of_fold in (("test", fold), ("val", 1 - fold)):
        z = (2 * truth - 1) * 0.7 + rng.normal(size=len(ids))
        p = 1 / (1 + np.exp(-z))
        tables.append(
            PredictionTable.build(
                NAMES, ids, np.stack([1 - p, p], axis=1), recipe="quick", protocol="grouped",
                fold=of_fold, part=part, y_true=truth,
            )
        )  # fmt: skip
    return concatenate(tables), patients


def test_metrics_count_patients_and_their_intervals_are_exact() -> None:
    table, patients = study(26)
    (entry,) = by_patient(table, patients, CONFIG, [])["results"]
    fewer = shared_training(len(entry["folds"]))  # the folds' models share patients
    assert (entry["n"], entry["n_images"], entry["by_class"]) == (
        26,
        156,
        {"healthy": 13, "all": 13},
    )
    rows = entry["patients"]
    right = sum(row["predicted"] == row["true"] for row in rows)
    accuracy = entry["metrics"]["accuracy"]
    low, high = exact_limits(right / fewer, 26 / fewer, 0.95)
    assert accuracy == {"value": right / 26, "low": pytest.approx(low),
                        "high": pytest.approx(high), "reliable": True}  # fmt: skip
    found = sum(row["predicted"] == "all" for row in rows if row["true"] == "all")
    assert entry["metrics"]["recall_malignant"]["value"] == pytest.approx(found / 13)
    y = [row["true"] == "all" for row in rows]
    area = entry["metrics"]["roc_auc"]["value"]
    assert area == pytest.approx(roc_auc_score(y, [row["p_all"] for row in rows]))


def test_the_method_of_a_fold_is_chosen_on_its_own_validation_patients() -> None:
    table, patients = study(20)
    (entry,) = by_patient(table, patients, CONFIG, [])["results"]
    for fold in entry["folds"]:
        val = table.select(fold=fold["fold"], part="val")
        names = np.array([patients[i] for i in val.image_id.tolist()])
        for method in PATIENT_METHODS:
            losses = []
            for name in np.unique(names):
                rows = names == name
                losses.append(-np.log(aggregate(val.probs[rows], method)[val.y_true[rows][0]]))
            assert fold["val_log_loss"][method] == pytest.approx(np.mean(losses))
        assert fold["method"] == min(fold["val_log_loss"], key=fold["val_log_loss"].get)
    # The labels of test patients decide nothing: with all of them wrong the choice is the same.
    flipped = table.y_true.copy()
    flipped[table.part == "test"] = 1 - flipped[table.part == "test"]
    fields = {name: getattr(table, name) for name in table.__dataclass_fields__} | {
        "y_true": flipped
    }
    (other,) = by_patient(PredictionTable(**fields), patients, CONFIG, [])["results"]
    assert [f["method"] for f in other["folds"]] == [f["method"] for f in entry["folds"]]


def test_few_patients_are_unreliable_and_a_perfect_ranking_has_exact_limits() -> None:
    table, patients = study(12, images=40)
    (entry,) = by_patient(table, patients, CONFIG, [])["results"]
    assert not any(value["reliable"] for value in entry["metrics"].values())
    area = entry["metrics"]["roc_auc"]
    assert (area["value"], area["high"]) == (1.0, 1.0)
    least = 0.025 ** (shared_training(len(entry["folds"])) / 12)
    assert area["low"] == pytest.approx(least)
    assert entry["metrics"]["accuracy"]["low"] == pytest.approx(least)


def test_a_patient_of_two_classes_is_left_out_and_named() -> None:
    table, patients = study(14)
    patients = patients | {"i0-0": "P01"}
    (entry,) = by_patient(table, patients, CONFIG, [])["results"]
    assert entry["mixed"] == ["P01"]
    assert entry["n"] == 13


def test_without_patients_the_reason_stands_there() -> None:
    table, _ = study(4)
    reason = "the images have no patient ids"
    found = by_patient(table, {}, CONFIG, [{"protocol": "grouped", "reason": reason}])
    assert found == {"inapplicable": reason}
    assert "was not asked for" in by_patient(table, {}, CONFIG, [])["inapplicable"]
