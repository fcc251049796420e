from __future__ import annotations

import numpy as np
import pytest

from leukoscope.core.errors import DataError
from leukoscope.evaluation.comparison import compare_predictions, compare_tables
from leukoscope.evaluation.metrics import compute_metrics
from leukoscope.evaluation.predictions import PredictionTable

TWO = ("healthy", "all")
Y = np.arange(200) % 2


def prob(right: float, seed: int = 0) -> np.ndarray:
    hit = np.random.default_rng(seed).random(len(Y)) < right
    return np.eye(2)[np.where(hit, Y, 1 - Y)] * 0.8 + 0.1


def test_the_difference_is_that_of_the_metrics_and_is_antisymmetric() -> None:
    a, b = prob(0.95), prob(0.7, seed=1)
    there = compare_predictions(Y, a, b, TWO, replicates=200, seed=4)
    back = compare_predictions(Y, b, a, TWO, replicates=200, seed=4)
    expected = compute_metrics(Y, a, TWO)["accuracy"] - compute_metrics(Y, b, TWO)["accuracy"]
    assert there.difference.value == pytest.approx(expected)
    assert (there.verdict, back.verdict) == ("better", "worse")
    assert there.difference.low == pytest.approx(-back.difference.high)


def test_lower_is_better_for_losses() -> None:
    found = compare_predictions(Y, prob(0.95), prob(0.6, 1), TWO, metric="log_loss", replicates=200)
    assert found.difference.high < 0
    assert found.verdict == "better"


def test_pairing_tells_apart_what_separate_intervals_cannot() -> None:
    worse = prob(0.8)
    better = worse.copy()
    wrong = np.flatnonzero(worse.argmax(axis=1) != Y)[:8]
    better[wrong] = np.eye(2)[Y[wrong]]
    found = compare_predictions(Y, better, worse, TWO, replicates=500)
    assert found.verdict == "better"
    assert found.difference.value == pytest.approx(0.04)
    assert found.difference.high < 0.08  # far narrower than two accuracies of 200 images


def test_the_same_predictions_are_not_distinguishable() -> None:
    assert compare_predictions(Y, prob(0.8), prob(0.8), TWO, replicates=100).verdict == (
        "not distinguishable"
    )


def test_fewer_than_ten_groups_never_give_a_verdict() -> None:
    groups = np.arange(200) // 25
    found = compare_predictions(Y, prob(1.0), prob(0.0), TWO, groups=groups, replicates=100)
    assert found.difference.n_groups == 8
    assert found.difference.low > 0
    assert not found.difference.reliable
    assert found.verdict == "not distinguishable"
    assert found.to_json()["difference"]["reliable"] is False


def as_table(probs: np.ndarray, rows: np.ndarray, **changes: object) -> PredictionTable:
    return PredictionTable.build(
        TWO,
        [f"i{row:03d}" for row in rows],
        probs[rows],
        recipe="quick",
        protocol="random",
        part="test",
        **({"y_true": Y[rows], "fold": 0} | changes),  # type: ignore[arg-type]
    )


def test_tables_are_matched_by_image_whatever_their_order() -> None:
    a, b = prob(0.9), prob(0.7, seed=1)
    order = np.random.default_rng(0).permutation(200)
    groups = {f"i{row:03d}": f"g{row // 4}" for row in range(200)}
    found = compare_tables(
        as_table(a, np.arange(200)), as_table(b, order[:150]), groups=groups, replicates=100
    )
    rows = np.sort(order[:150])
    expected = compare_predictions(Y[rows], a[rows], b[rows], TWO, groups=rows // 4, replicates=100)
    assert found.n == 150
    assert found.difference.value == pytest.approx(expected.difference.value)


def test_tables_that_do_not_fit_are_refused() -> None:
    rows = np.arange(20)
    plain = as_table(prob(0.9), rows)
    with pytest.raises(DataError, match="no labelled image in common"):
        compare_tables(plain, as_table(prob(0.9), rows + 20))
    with pytest.raises(DataError, match="no labelled image in common"):
        compare_tables(plain, as_table(prob(0.9), rows, y_true=None))
    with pytest.raises(DataError, match="different true classes"):
        compare_tables(plain, as_table(prob(0.9), rows, y_true=1 - Y[rows]))
    with pytest.raises(DataError, match=r"20 images have no group, e\.g\. i000"):
        compare_tables(plain, plain, groups={})
    two_folds = as_table(prob(0.9), np.array([0, 0]), fold=[0, 1])
    with pytest.raises(DataError, match="two rows"):
        compare_tables(plain, two_folds)
