from __future__ import annotations

import numpy as np
import pytest

from leukoscope.core.errors import DataError
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.statistics.comparison import (
    Comparison,
    PredictorPair,
    compare,
    paired_difference,
)
from leukoscope.evaluation.statistics.metrics import compute_metrics

TWO = ("healthy", "all")
Y = np.arange(200) % 2


def prob(right: float, seed: int = 0) -> np.ndarray:
    hit = np.random.default_rng(seed).random(len(Y)) < right
    return np.eye(2)[np.where(hit, Y, 1 - Y)] * 0.8 + 0.1


def alone(a: np.ndarray, b: np.ndarray, **changes: object) -> Comparison:
    """Two predictors as a family of one."""
    how = {name: changes.pop(name) for name in ("replicates", "seed") if name in changes}
    (found,) = compare([PredictorPair(Y, a, b, TWO, **changes)], **how)  # type: ignore[arg-type]
    return found


def test_the_difference_is_that_of_the_metrics_and_is_antisymmetric() -> None:
    a, b = prob(0.95), prob(0.7, seed=1)
    there = alone(a, b, replicates=200, seed=4)
    back = alone(b, a, replicates=200, seed=4)
    expected = compute_metrics(Y, a, TWO)["accuracy"] - compute_metrics(Y, b, TWO)["accuracy"]
    assert there.difference.value == pytest.approx(expected)
    assert (there.verdict, back.verdict) == ("better", "worse")
    assert there.difference.low == pytest.approx(-back.difference.high)


def test_lower_is_better_for_losses() -> None:
    found = alone(prob(0.95), prob(0.6, 1), metric="log_loss", replicates=200)
    assert found.difference.high < 0
    assert found.verdict == "better"


def test_pairing_tells_apart_what_separate_intervals_cannot() -> None:
    worse = prob(0.8)
    better = worse.copy()
    wrong = np.flatnonzero(worse.argmax(axis=1) != Y)[:8]
    better[wrong] = np.eye(2)[Y[wrong]]
    found = alone(better, worse, replicates=500)
    assert found.verdict == "better"
    assert found.difference.value == pytest.approx(0.04)
    assert found.difference.high < 0.08  # far narrower than two accuracies of 200 images


def test_the_same_predictions_are_not_distinguishable() -> None:
    assert alone(prob(0.8), prob(0.8), replicates=100).verdict == ("not distinguishable")


def test_few_groups_never_give_a_verdict() -> None:
    groups = np.arange(200) // 25
    found = alone(prob(1.0), prob(0.0), groups=groups, replicates=100)
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
        **({"y_true": Y[rows], "fold": 0} | changes),
    )


def test_tables_are_matched_by_image_whatever_their_order() -> None:
    a, b = prob(0.9), prob(0.7, seed=1)
    order = np.random.default_rng(0).permutation(200)
    groups = {f"i{row:03d}": f"g{row // 4}" for row in range(200)}
    pair = PredictorPair.of_tables(as_table(a, np.arange(200)), as_table(b, order[:150]), groups)
    rows = np.sort(order[:150])
    expected = PredictorPair(Y[rows], a[rows], b[rows], TWO, [f"g{row // 4}" for row in rows])
    assert len(np.asarray(pair.y_true)) == 150
    assert compare([pair], replicates=100) == compare([expected], replicates=100)


def test_a_significant_test_with_an_interval_that_holds_0_is_not_called_better() -> None:
    """What `compare` once called better, and `study` not distinguishable."""
    groups = np.repeat(np.arange(8), 25)  # too few for a reliable interval
    right = np.eye(2)[Y] * 0.8 + 0.1
    found = alone(right, 1 - right, groups=groups)
    assert found.p == found.p_holm < 0.05
    assert not found.difference.reliable
    assert found.verdict == "not distinguishable"


def test_an_interval_beside_0_needs_a_significant_test_too() -> None:
    worse = np.eye(2)[Y] * 0.8 + 0.1
    better = worse.copy()
    worse[:5] = 1 - worse[:5]  # 5 against 0 images: p of the sign test .0625
    pair = PredictorPair(Y, better, worse, TWO)
    assert paired_difference(pair).low > 0
    (found,) = compare([pair])
    assert found.difference.reliable
    assert found.p > 0.05
    assert found.verdict == "not distinguishable"


def test_the_family_is_corrected_together() -> None:
    worse = np.eye(2)[Y] * 0.8 + 0.1
    better = worse.copy()
    worse[:7] = 1 - worse[:7]  # p of the sign test .0156
    pair, same = PredictorPair(Y, better, worse, TWO), PredictorPair(Y, worse, worse, TWO)
    (alone_,) = compare([pair])
    first, *others = compare([pair, same, same, same])
    assert alone_.verdict == "better"
    assert first.p == alone_.p
    assert first.p_holm == pytest.approx(4 * first.p)
    assert first.verdict == "not distinguishable"
    assert {other.verdict for other in others} == {"not distinguishable"}


def test_a_large_family_can_still_be_significant() -> None:
    right, same = np.eye(2)[Y] * 0.8 + 0.1, prob(0.8)
    family = [PredictorPair(Y, right, 1 - right, TWO), *[PredictorPair(Y, same, same, TWO)] * 150]
    assert compare(family, replicates=100)[0].verdict == "better"


def test_tables_that_do_not_fit_are_refused() -> None:
    rows = np.arange(20)
    plain = as_table(prob(0.9), rows)
    with pytest.raises(DataError, match="no labelled image in common"):
        PredictorPair.of_tables(plain, as_table(prob(0.9), rows + 20))
    with pytest.raises(DataError, match="no labelled image in common"):
        PredictorPair.of_tables(plain, as_table(prob(0.9), rows, y_true=None))
    with pytest.raises(DataError, match="different true classes"):
        PredictorPair.of_tables(plain, as_table(prob(0.9), rows, y_true=1 - Y[rows]))
    with pytest.raises(DataError, match=r"20 images have no group, e\.g\. i000"):
        PredictorPair.of_tables(plain, plain, {})
    two_folds = as_table(prob(0.9), np.array([0, 0]), fold=[0, 1])
    with pytest.raises(DataError, match="two rows"):
        PredictorPair.of_tables(plain, two_folds)
