"""A study's own comparisons: p-values beside intervals, corrected within each protocol."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from leukoscope.analyses.compare.results import ComparisonSettings, leaderboard_tests
from leukoscope.analyses.compare.sources import Candidate, Leaderboard
from leukoscope.config.loading import load_recipe
from leukoscope.config.study import DataConfig, StudyConfig
from leukoscope.core.records import Fold
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.evaluation.statistics.leaderboard import holm_adjusted
from leukoscope.pipeline.results.summary import summarise

NAMES = ("benign", "pre_b", "pro_b")
N = 360  # three parts of 120 images; each image its own component
RIGHT = {"quick": 0.95, "features-svm": 0.94, "features-knn": 0.89, "features-boosting": 0.75}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    ids, y = [f"i{i:03d}" for i in range(N)], np.arange(N) % 3
    part = np.repeat(["val", "cal", "test"], N // 3)
    folds, tables = [], []
    for seed, protocol in enumerate(("random", "deduplicated")):
        parts = dict(zip(ids, part.tolist(), strict=True))
        folds.append(Fold(protocol, 0, parts, {i: f"component-{i}" for i in ids}))
        for number, (recipe, right) in enumerate(RIGHT.items()):
            rng = np.random.default_rng(10 * seed + number)
            answer = np.where(rng.random(N) < right, y, (y + 1) % 3)
            probs = 0.7 * np.eye(3)[answer] + 0.1
            tables.append(PredictionTable.build(
                NAMES, ids, probs, recipe=recipe, protocol=protocol, fold=0, part=part, y_true=y,
                logits=np.log(probs),
            ))  # fmt: skip
    config = StudyConfig(
        data=DataConfig(path="nowhere"), recipes=tuple(load_recipe(name) for name in RIGHT),
        protocols=("random", "deduplicated"), probes=(), bootstrap=200,
    )  # fmt: skip
    metrics = summarise(concatenate(tables), folds, config, inapplicable=[])
    found: list[dict[str, Any]] = metrics["comparisons"]
    return found


def test_comparisons_that_answer_one_question_are_one_family(rows: list[dict[str, Any]]) -> None:
    by_sides: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        by_sides.setdefault((row["a"]["protocol"], row["b"]["protocol"]), []).append(row)
    families = list(by_sides.values())
    # Recipes under each protocol, and what a random split adds.
    assert sorted(map(len, families)) == [1, 3, 3]
    for family in families:
        expected = holm_adjusted([row["p"] for row in family])
        assert [row["p_holm"] for row in family] == pytest.approx(expected, abs=1e-5)


def test_only_what_stands_after_the_correction_is_called_a_difference(
    rows: list[dict[str, Any]],
) -> None:
    lost = [row for row in rows if row["difference"]["low"] > 0 and row["p_holm"] >= 0.05]
    kept = [row for row in rows if row["difference"]["low"] > 0 and row["p_holm"] < 0.05]
    assert lost  # chosen so: an interval beside 0 that many comparisons take back
    assert kept
    assert {row["verdict"] for row in lost} == {"not distinguishable"}
    assert {row["verdict"] for row in kept} == {"better"}


def test_compare_and_study_say_the_same_of_the_same_predictions() -> None:
    """Eight groups: a significant exchange test, but too few for an interval."""
    n = 240
    ids, y = [f"i{i:03d}" for i in range(n)], np.arange(n) % 3
    part = np.repeat(["val", "cal", "test"], n // 3)
    fold = Fold("random", 0, dict(zip(ids, part.tolist(), strict=True)),
                {name: f"patient-{i % 8}" for i, name in enumerate(ids)})  # fmt: skip
    tables = {}
    for number, (recipe, right) in enumerate({"quick": 0.98, "features-svm": 0.5}.items()):
        hit = np.random.default_rng(number).random(n) < right
        probs = 0.7 * np.eye(3)[np.where(hit, y, (y + 1) % 3)] + 0.1
        tables[recipe] = PredictionTable.build(
            NAMES, ids, probs, recipe=recipe, protocol="random", fold=0, part=part, y_true=y,
            logits=np.log(probs),
        )  # fmt: skip
    config = StudyConfig(
        data=DataConfig(path="nowhere"), recipes=tuple(load_recipe(name) for name in tables),
        protocols=("random",), probes=(), bootstrap=200,
    )  # fmt: skip
    (study,) = summarise(concatenate(list(tables.values())), [fold], config, inapplicable=[])[
        "comparisons"
    ]
    tests = {name: table.select(part="test") for name, table in tables.items()}
    first = tests["quick"]
    board = Leaderboard(
        "random", tuple(Candidate(name, None, name) for name in tests), NAMES,  # type: ignore[arg-type]
        first.image_id, first.y_true,
        np.array([fold.groups[name] for name in first.image_id.tolist()]),
        {name: table.probs for name, table in tests.items()},
        {name: table.fold for name, table in tests.items()}, (),
    )  # fmt: skip
    settings = ComparisonSettings(
        "accuracy", "features-svm", {"replicates": 200, "confidence": 0.95, "seed": 42}
    )
    (compared,) = leaderboard_tests(board, {}, settings)
    assert compared.p_holm == study["p_holm"] < 0.05
    assert compared.difference.model_dump() == study["difference"]
    assert compared.difference.reliable is False
    assert compared.verdict == study["verdict"] == "not distinguishable"
