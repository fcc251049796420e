"""The correction for having chosen: right on pure luck, silent where one is truly better."""

from __future__ import annotations

import numpy as np
import pytest

from leukoscope.core.errors import DataError
from leukoscope.evaluation.statistics.intervals import Resampling
from leukoscope.evaluation.statistics.leaderboard import LeaderboardCriterion, corrected_best

NAMES = ("healthy", "all")


def noisy(y: np.ndarray, skill: float, rng: np.random.Generator) -> np.ndarray:
    right = rng.random(len(y)) < skill
    p = np.where(right, 0.8, 0.2)
    return np.where(y[:, None] == np.arange(2), p[:, None], 1 - p[:, None])


def test_equal_configurations_are_brought_back_to_their_true_value() -> None:
    true, corrected, naive = 0.8, [], []
    for repeat in range(20):
        rng = np.random.default_rng(repeat)
        y = rng.integers(0, 2, 120)
        best = corrected_best(
            y, [noisy(y, true, rng) for _ in range(25)], NAMES, "accuracy", replicates=100
        )
        corrected.append(best.corrected)
        naive.append(best.value)
    assert np.mean(naive) > true + 0.05
    assert abs(np.mean(corrected) - true) < 0.015


@pytest.mark.parametrize("criterion", ["accuracy", "weighted_f1", "log_loss"])
def test_one_that_is_clearly_better_loses_little(criterion: LeaderboardCriterion) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    tables = [noisy(y, skill, rng) for skill in (0.5, 0.95, 0.6)]
    best = corrected_best(y, tables, NAMES, criterion, replicates=200)
    assert best.chosen == 1
    assert best.low <= best.corrected <= best.high
    assert best.corrected == pytest.approx(best.value, abs=0.01)


def test_the_correction_by_hand() -> None:
    """Each draw of groups chooses, and the groups that were not drawn measure its choice."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 90)
    groups = [f"p{number}" for number in np.arange(90) // 9]
    tables = [noisy(y, 0.8, rng) for _ in range(6)]
    right = np.stack([table.argmax(axis=1) == y for table in tables])
    found = []
    for block in Resampling.of(groups, y, replicates=50, seed=7).weights():
        for weights in block:
            drawn = [np.average(hit, weights=weights) for hit in right]
            found.append(right[int(np.argmax(drawn))][weights == 0].mean())
    best = corrected_best(y, tables, NAMES, "accuracy", groups=groups, replicates=50, seed=7)
    assert best.chosen == int(right.mean(axis=1).argmax())
    assert best.value == pytest.approx(right.mean(axis=1).max())
    assert best.corrected == pytest.approx(np.mean(found))
    assert (best.low, best.high) == pytest.approx(tuple(np.quantile(found, [0.025, 0.975])))
    assert best.n_groups == 10


def test_a_single_group_gives_no_correction_and_nothing_gives_an_error() -> None:
    y = np.array([0, 1, 1])
    p = np.eye(2)[y]
    best = corrected_best(y, [p], NAMES, "accuracy", groups=["a"] * 3, replicates=10)
    assert np.isnan([best.corrected, best.low, best.high]).all()
    assert (best.chosen, best.value, best.n_groups) == (0, 1.0, 1)
    with pytest.raises(DataError, match=r"^the best of no configurations was asked for$"):
        corrected_best(y, [], NAMES, "accuracy")
