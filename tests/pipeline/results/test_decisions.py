from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from leukoscope.config.loading import load_recipe
from leukoscope.config.study import DataConfig, StudyConfig
from leukoscope.core.records import Fold
from leukoscope.evaluation.calibration.scaling import softmax
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.evaluation.statistics.limits import shared_training
from leukoscope.pipeline.jobs import calibration_tables, fit_fold_calibration, with_calibration
from leukoscope.pipeline.results.decisions import (
    _coverage,
    decision_entries,
    operating_entry,
)
from leukoscope.pipeline.results.entries import (
    FoldResults,
    Statistics,
    calibration_entry,
    result_entry,
)
from leukoscope.pipeline.results.out_of_fold import _mean

NAMES = ("benign", "pre_b", "pro_b")
N, PATIENTS = 720, 36  # twenty images of each patient, whose class is that of the patient


def drawn(protocol: str, harder: float) -> tuple[PredictionTable, list[Fold]]:
    """Two folds; test images have logits that are less sharp by ``harder``."""
    rng = np.random.default_rng(len(protocol))
    ids, patient = np.array([f"i{i:03d}" for i in range(N)]), np.arange(N) % PATIENTS
    groups = {i: f"p{p:02d}" for i, p in zip(ids.tolist(), patient.tolist(), strict=True)}
    y, folds, tables = patient % 3, [], []
    for k in (0, 1):
        if protocol == "random":
            part = rng.permutation(np.repeat(["train", "val", "cal", "test"], N // 4))
        else:
            part = np.array(["train", "val", "cal", "test"])[(patient // 3 + k) % 4]
        parts = dict(zip(ids.tolist(), part.tolist(), strict=True))
        folds.append(Fold(protocol, k, parts, groups))
        right = 4.0 - harder * (part == "test")
        logits = rng.normal(0, 1.5, (N, 3)) + np.eye(3)[y] * right[:, None]
        kept = part != "train"
        tables.append(PredictionTable.build(
            NAMES, ids[kept], softmax(logits[kept]), recipe="quick", protocol=protocol, fold=k,
            part=part[kept], y_true=y[kept], logits=logits[kept],
        ))  # fmt: skip
    records = map(fit_fold_calibration, folds, calibration_tables(tables))
    return concatenate(list(map(with_calibration, tables, records))), folds


def config(**changes: Any) -> StudyConfig:
    values = {"data": DataConfig(path="nowhere"), "recipes": (load_recipe("quick"),),
              "bootstrap": 100, "coverage": 0.9}  # fmt: skip
    return StudyConfig(**(values | changes))


def results(protocol: str, harder: float = 0.0, **changes: Any) -> FoldResults:
    table, folds = drawn(protocol, harder)
    return FoldResults.of(table, folds, "quick", protocol, config(**changes), {})


def patients(test: FoldResults) -> dict[str, str]:
    return test.folds[0].groups


def test_coverage_lies_where_it_is_expected_if_images_are_alike() -> None:
    test = results("random")
    record = decision_entries([test], "quick", {"patient": patients(test)})
    entry = record["sets"]["random"]
    assert entry["expected"][0] <= entry["coverage"]["value"] <= entry["expected"][1]
    assert entry["gap"]["value"] == pytest.approx(entry["coverage"]["value"] - 0.9)
    assert (entry["size"]["value"], entry["empty"] > 0) == (1.0, True)  # filled, and said
    assert entry["single"] == pytest.approx(1 - entry["empty"])
    assert entry["seen"]["patient"] == {"cal": 1.0, "test": 1.0}
    assert len(entry["by_unit"]["patient"]) == PATIENTS
    weights = [row["n"] for row in entry["by_unit"]["patient"]]
    values = [row["coverage"] for row in entry["by_unit"]["patient"]]
    assert np.average(values, weights=weights) == pytest.approx(entry["coverage"]["value"])
    assert [row["class"] for row in entry["by_class"]] == list(NAMES)
    assert record["coverage"]["protocol"]["random"] == entry["coverage"]
    for row in record["candidates"]["random"]:
        assert 0.8 < row["coverage"] <= 1


def test_harder_test_images_break_the_promise_and_it_is_said() -> None:
    test = results("grouped", harder=2.5)
    entry = decision_entries([test], "quick", {"patient": patients(test)})["sets"]["grouped"]
    assert entry["gap"]["high"] < 0
    assert entry["coverage"]["value"] < entry["expected"][0]
    assert entry["seen"]["patient"] == {"cal": 0.0, "test": 0.0}
    assert entry["by_unit"]["patient"][0]["coverage"] < 0.7


def test_a_promise_that_too_few_patients_allow_is_not_printed() -> None:
    test = results("grouped", coverage=0.95, set_guarantee="group")
    record = decision_entries([test], "quick", {})
    promises = {row["guarantee"]: row for row in record["promises"]["grouped"]}
    assert promises["group"] == {"guarantee": "group", "n": 9, "needed": 19, "attainable": False}
    assert promises["class and group"]["n"] == 3
    assert promises["class"]["attainable"]
    assert promises["class"]["lowest_class"] > 0.85
    assert record["coverage"]["protocol"]["grouped"]["value"] is None
    assert record["sets"]["grouped"]["gap"]["value"] is None
    nine = decision_entries([results("grouped", set_guarantee="group")], "quick", {})
    assert nine["promises"]["grouped"][2]["attainable"]  # 90 % needs nine patients
    assert nine["coverage"]["protocol"]["grouped"]["value"] > 0.85


def test_calibration_is_measured_before_and_after() -> None:
    entry = calibration_entry(results("random"), "quick")
    assert entry["methods"] == ["temperature"] * 2
    assert entry["n_cal"] == [180, 180]
    assert entry["before"]["log_loss"]["value"] > entry["after"]["log_loss"]["value"]
    change = entry["change"]["log_loss"]
    assert change["low"] < change["value"] < change["high"] < 0
    assert entry["slope"]["low"] < entry["slope"]["value"] < entry["slope"]["high"]
    assert "intercept" not in entry  # three classes
    chance = entry["chance"]
    assert chance["ece"] == pytest.approx(entry["after"]["ece"]["value"])
    assert 0 < chance["low"] < chance["expected"] < chance["high"]
    assert chance["debiased"] < chance["ece"]


def test_the_next_patient_is_forecast_where_patients_are_held_out() -> None:
    for protocol in ("random", "grouped"):
        table, folds = drawn(protocol, harder=2.5)
        test = table.select(part="test")
        entry = result_entry(Statistics.of(folds, config()), test, "quick", protocol)
        found, mean = entry["next_unit"], entry["metrics"]["accuracy"]
        if protocol == "random":
            assert found == {"reason": "this protocol holds out no whole patients or clusters"}
            continue
        assert (found["unit"], found["metric"], found["n_groups"]) == ("patient", "accuracy", 18)
        assert found["median_n"] == 20
        assert found["low"] < mean["low"] < found["value"] < mean["high"] < found["high"]


def test_acting_on_the_model_is_worth_more_than_acting_on_all_or_none() -> None:
    tests = [results("random"), results("grouped")]
    found = decision_entries(tests, "quick", {})["net_benefit"]
    for entry in found.values():
        at = entry["thresholds"].index(0.5)
        assert entry["prevalence"] == pytest.approx(2 / 3, abs=0.05)
        assert entry["gain"]["low"][at] > 0
        assert entry["model"]["high"][at] <= entry["prevalence"] + 0.1


def test_the_operating_point_is_kept_broken_or_refused() -> None:
    words = "miss at most 10 % of malignant fields, with 90 % confidence"
    alike, harder = results("random"), results("grouped", harder=3.5)
    entry = operating_entry([alike, harder], words, None)["protocol"]
    assert entry["random"]["kept"]
    assert entry["random"]["sensitivity"]["value"] > 0.9
    assert not entry["grouped"]["kept"]
    strict = words.replace("10 %", "1 %").replace("90 %", "95 %")
    refused = operating_entry([alike], strict, None)["protocol"]["random"]
    assert "with 1" in refused["refused"]
    assert "299 are needed" in refused["refused"]
    assert "sensitivity" not in refused


def test_an_operating_point_by_patient_needs_patients() -> None:
    words = "miss at most 40 % of malignant patients, with 90 % confidence"
    test = results("grouped")
    assert "no patient ids" in operating_entry([test], words, None)["inapplicable"]
    entry = operating_entry([test], words, patients(test))["protocol"]["grouped"]
    assert entry["n_cal"] == [6, 6]
    assert entry["patients_found"]["n"] == 12
    few = operating_entry([test], words.replace("40", "5"), patients(test))["protocol"]["grouped"]
    assert few["refused"] == (
        "Not attainable with 6 malignant calibration patients: even with none of them missed, up "
        "to 31.9 % might be; 45 are needed."
    )


def test_an_operating_point_needs_both_branches() -> None:
    test = results("random")
    table = test.test[0]
    one = PredictionTable.build(("pre_b", "pro_b"), table.image_id[:2], [[0.5, 0.5]] * 2,
                                recipe="quick", protocol="random", fold=0, part="test")  # fmt: skip
    only = FoldResults("random", test.folds[:1], (one,), (one,), (one,), (), test.config)
    assert "do not divide" in operating_entry([only], "", None)["inapplicable"]
    assert operating_entry([test], "", None)["n"]["random"] > 100


def test_intervals_allow_for_the_training_only_where_it_is_random() -> None:
    table, folds = drawn("grouped", harder=2.5)
    test = table.select(part="test")
    deal = load_recipe("cnn-baseline").model_copy(update={"name": "quick"})
    assert (deal.random_training, load_recipe("quick").random_training) == (True, False)
    assert load_recipe("features-boosting").random_training
    assert not load_recipe("features-knn").random_training
    plain, random = (
        Statistics.of(folds, config(recipes=(recipe,))) for recipe in (load_recipe("quick"), deal)
    )
    assert plain.random == frozenset()
    worse = np.where((test.fold == 1)[:, None], test.probs[:, ::-1], test.probs)
    uneven = PredictionTable(**{**vars(test), "probs": worse})
    narrow, wide = (s.metrics(uneven, "grouped", ["accuracy"])["accuracy"] for s in (plain, random))
    assert narrow["value"] == wide["value"]
    assert wide["high"] - wide["low"] > 1.2 * (narrow["high"] - narrow["low"])


def test_the_interval_of_pooled_folds_is_wider_than_that_of_one_model() -> None:
    table, folds = drawn("grouped", harder=2.5)
    test = table.select(part="test")
    statistics = Statistics.of(folds, config())
    several = statistics.metrics(test, "grouped", ["accuracy", "log_loss"])
    one = PredictionTable(**{**vars(test), "fold": np.zeros_like(test.fold)})
    alone = statistics.metrics(one, "grouped", ["accuracy", "log_loss"])
    factor = shared_training(len(set(test.fold.tolist()))) ** 0.5
    for name in ("accuracy", "log_loss"):
        widths = [found[name]["high"] - found[name]["low"] for found in (several, alone)]
        assert several[name]["value"] == alone[name]["value"]
        assert widths[0] == pytest.approx(factor * widths[1], rel=0.15)


def test_groups_of_one_row_have_one_interval_of_their_coverage() -> None:
    """In a study of patients each group is one row: sets and promises say the same of them."""
    table, folds = drawn("grouped", 2.5)
    folds = [Fold(f.protocol, f.fold, f.parts, {i: i for i in f.parts}) for f in folds]
    test = FoldResults.of(table, folds, "quick", "grouped", config(set_guarantee="group"), {})
    record = decision_entries([test], "quick", {})
    promised = {row["guarantee"]: row for row in record["promises"]["grouped"]}
    assert promised["group"]["coverage"] == record["coverage"]["protocol"]["grouped"]
    held = np.arange(len(test.y)) % 9 > 0
    assert _mean(test, held, True) == _coverage(test, held, by_group=True)
    size = held + 1
    entry = record["sets"]["grouped"]["size"]
    assert _mean(test, size, True).to_json().keys() == entry.keys()
    of_patients = results("grouped", 2.5)  # twenty rows each: the groups count the same
    assert _coverage(of_patients, held, by_group=True) != _coverage(
        of_patients, held, by_group=False
    )
