"""A study's own comparisons: p-values beside intervals, corrected within each protocol."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from leukoscope.config.loading import load_recipe
from leukoscope.config.study import DataConfig, StudyConfig
from leukoscope.core.records import Fold
from leukoscope.evaluation.leaderboard import holm_adjusted
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.study.summary import summarise

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


def test_comparisons_of_one_protocol_are_one_family(rows: list[dict[str, Any]]) -> None:
    families = [
        [row for row in rows if row["b"]["protocol"] == protocol]
        for protocol in ("random", "deduplicated")
    ]
    assert [len(family) for family in families] == [3, 4]  # the last against random splits too
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
