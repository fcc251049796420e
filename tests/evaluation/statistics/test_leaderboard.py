"""Places, paired tests, and their correction for many comparisons."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from leukoscope.core.errors import DataError, UnknownNameError
from leukoscope.evaluation.statistics import leaderboard
from leukoscope.evaluation.statistics.intervals import Resampling
from leukoscope.evaluation.statistics.leaderboard import (
    bootstrap_ranks,
    exchange_test,
    holm_adjusted,
)

CLASSES = ["benign", "pre_b", "pro_b"]


def _predictions(accuracy: float, y: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    answer = np.where(rng.random(len(y)) < accuracy, y, (y + 1) % 3)
    return 0.7 * np.eye(3)[answer] + 0.1


@pytest.fixture
def y() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, 120)


def test_a_clear_order_has_narrow_places_and_equals_share_them(y: np.ndarray) -> None:
    good, bad = _predictions(0.98, y, 1), _predictions(0.4, y, 2)
    places = bootstrap_ranks(y, [bad, good, good], CLASSES, replicates=200)
    assert [place.rank for place in places] == [3.0, 1.5, 1.5]
    assert (places[0].low, places[0].high) == (3.0, 3.0)
    assert [place.first for place in places] == [0.0, 1.0, 1.0]


def test_a_metric_that_should_be_small_ranks_the_small_first(y: np.ndarray) -> None:
    good, bad = _predictions(0.98, y, 1), _predictions(0.4, y, 2)
    ranks = [p.rank for p in bootstrap_ranks(y, [bad, good], CLASSES, metric="log_loss")]
    assert ranks == [2.0, 1.0]


def test_places_of_similar_predictors_overlap(y: np.ndarray) -> None:
    places = bootstrap_ranks(y, [_predictions(0.8, y, s) for s in range(4)], CLASSES)
    assert all(place.low <= place.rank <= place.high for place in places)
    assert max(place.high - place.low for place in places) >= 2


def test_ranks_are_those_of_the_groups_that_are_drawn(y: np.ndarray) -> None:
    """The same by hand: SciPy's mid-ranks of the accuracy in every draw, percentiles outwards."""
    groups = np.repeat([f"p{number}" for number in range(12)], 10)
    probs = [_predictions(0.8, y, seed) for seed in range(5)]
    how = {"replicates": 40, "confidence": 0.8, "seed": 3}
    found = bootstrap_ranks(y, probs, CLASSES, groups=groups, **how)  # type: ignore[arg-type]
    right = np.stack([prob.argmax(axis=1) == y for prob in probs])
    draws = Resampling.of(groups, y, **how)  # type: ignore[arg-type]
    drawn = np.stack(
        [
            stats.rankdata([-np.average(hit, weights=row) for hit in right])
            for block in draws.weights()
            for row in block
        ]
    )
    ordered = np.sort(drawn, axis=0)
    assert [place.low for place in found] == ordered[3].tolist()  # 39 × .1, rounded down
    assert [place.high for place in found] == ordered[36].tolist()
    best = drawn == drawn.min(axis=1, keepdims=True)
    assert [place.first for place in found] == pytest.approx(best.mean(axis=0))
    assert [place.reliable for place in found] == [draws.reliable] * 5


def test_own_classes_are_ranked_by_their_roles(y: np.ndarray) -> None:
    """Without the roles nobody knows what is malignant, and the metric does not exist."""
    names, roles = ["one", "two", "three"], {"one": "benign", "two": "malignant", "three": "benign"}
    good, bad = _predictions(0.98, y, 1), _predictions(0.4, y, 2)
    options = {"metric": "roc_auc_malignant", "roles": roles}
    ranks = bootstrap_ranks(y, [bad, good], names, replicates=20, **options)  # type: ignore[arg-type]
    assert [place.rank for place in ranks] == [2.0, 1.0]
    p = exchange_test(y, bad, good, names, permutations=199, **options)  # type: ignore[arg-type]
    assert p == 1 / 200


def test_exchange_test_agrees_with_the_sign_test(y: np.ndarray) -> None:
    """For accuracy with single images the test is the exact sign test (McNemar)."""
    a, b = _predictions(0.9, y, 1), _predictions(0.75, y, 2)
    hit_a, hit_b = a.argmax(1) == y, b.argmax(1) == y
    wins, losses = int((hit_a & ~hit_b).sum()), int((hit_b & ~hit_a).sum())
    exact = stats.binomtest(wins, wins + losses).pvalue
    assert exchange_test(y, a, b, CLASSES) == pytest.approx(exact, abs=0.01)


def test_whole_groups_are_swapped(y: np.ndarray) -> None:
    """Four groups can be swapped in 16 ways, so p cannot fall below about 2/16."""
    a, b = _predictions(0.95, y, 1), _predictions(0.5, y, 2)
    groups = np.repeat(list("abcd"), 30)
    assert exchange_test(y, a, b, CLASSES, groups=groups) == pytest.approx(0.125, abs=0.02)
    assert exchange_test(y, a, b, CLASSES) < 0.001


def test_the_quick_way_for_accuracy_is_the_same_test() -> None:
    """With as many images of each class, balanced accuracy is accuracy, computed in full."""
    even = np.repeat(np.arange(3), 40)
    a, b = _predictions(0.9, even, 1), _predictions(0.8, even, 2)
    options = {"groups": np.tile(np.arange(30), 4).astype(str), "permutations": 499}
    quick, full = (
        exchange_test(even, a, b, CLASSES, metric=metric, **options)  # type: ignore[arg-type]
        for metric in ("accuracy", "balanced_accuracy")
    )
    assert quick == full


def test_equal_predictors_differ_by_nothing(y: np.ndarray) -> None:
    a = _predictions(0.9, y, 1)
    assert exchange_test(y, a, a, CLASSES, permutations=99, metric="macro_f1") == 1.0


def test_permutations_come_in_blocks(y: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 33 do not divide 200: the last is shorter, and no permutation is counted twice."""
    monkeypatch.setattr(leaderboard, "_BLOCK", 33 * len(y))
    a = _predictions(0.9, y, 1)
    assert exchange_test(y, a, a, CLASSES, permutations=200) == 1.0


def test_wrong_input_is_refused(y: np.ndarray) -> None:
    a = _predictions(0.9, y, 1)
    with pytest.raises(UnknownNameError, match="accurcy"):
        exchange_test(y, a, a, CLASSES, metric="accurcy")
    with pytest.raises(DataError, match="120 group labels"):
        exchange_test(y, a, a, CLASSES, groups=["a"])


def test_holm_of_a_worked_example() -> None:
    """Sorted p times 4, 3, 2, 1, never falling: .005, .01, .03, .04 give .02, .03, .06, .06."""
    assert holm_adjusted([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_no_adjusted_p_value_is_above_one() -> None:
    assert holm_adjusted([0.9, 0.8, 0.7]) == [1.0, 1.0, 1.0]
