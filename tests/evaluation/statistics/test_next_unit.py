from __future__ import annotations

import numpy as np
import pytest

from leukoscope.core.errors import DataError
from leukoscope.evaluation.statistics.forecast import (
    cohort_interval,
    cohort_metric_interval,
    next_unit_interval,
)

C_NMC = (1, 1, 1, 0.997, 0.974, 0.949, 0.945, 0.921, 0.88, 0.774, 0.706, 0.637, 0.395, 0.232)


def images(hits: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    right = np.concatenate([np.arange(n) < k for n, k in zip(sizes, hits, strict=True)])
    return right, np.repeat(np.arange(len(sizes)), sizes)


def test_fourteen_patients_of_c_nmc_do_not_exclude_the_worst_of_them() -> None:
    sizes = np.full(14, 256)
    found = next_unit_interval(*images(np.round(np.array(C_NMC) * 256).astype(int), sizes))
    assert found.low < 0.232 < 0.9 < found.high
    assert (found.n_groups, found.median_n, found.reliable) == (14, 256, False)


@pytest.mark.parametrize("count", [1, 8])
def test_new_groups_lie_inside_as_often_as_promised(count: int) -> None:
    rng, held = np.random.default_rng(count), []
    for _ in range(150):
        sizes = rng.integers(20, 91, 20)
        hits = rng.binomial(sizes, rng.beta(0.85 * 4, 0.15 * 4, 20))
        found = cohort_interval(*images(hits, sizes), count=count, seed=int(rng.integers(99)))
        new = rng.integers(20, 91, (20, count))
        got = rng.binomial(new, rng.beta(0.85 * 4, 0.15 * 4, (20, count))).sum(axis=1)
        share = got / new.sum(axis=1)
        held.append(((found.low <= share) & (share <= found.high)).mean())
    assert np.mean(held) > 0.93


def test_alike_groups_leave_what_chance_does_within_one() -> None:
    sizes = np.full(60, 50)
    found = next_unit_interval(*images(np.full(60, 45), sizes), images=50)
    assert 0.78 < found.low < 0.85 < 0.9 < found.high < 1
    many = next_unit_interval(*images(np.full(60, 45), sizes), images=5000)
    assert found.low < many.low < many.high < found.high


def test_a_metric_over_new_groups_varies_more_than_its_mean() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 20)
    y = (groups % 2).astype(int)
    score = 2 * y - 1 + rng.normal(0, 1, 30)[groups] + rng.normal(0, 1, 600)
    p = 1 / (1 + np.exp(-score))
    prob = np.column_stack([1 - p, p])
    few, many = (
        cohort_metric_interval(y, prob, ("healthy", "all"), groups, count=m) for m in (4, 40)
    )
    assert few.low < many.low < many.value < many.high < few.high
    with pytest.raises(DataError, match="1 new groups cannot be of 2 classes"):
        cohort_metric_interval(y, prob, ("healthy", "all"), groups, count=1)


def test_what_cannot_be_forecast_is_refused() -> None:
    with pytest.raises(DataError, match="2 groups say nothing"):
        next_unit_interval([True, False], ["a", "b"])
    with pytest.raises(DataError, match="one group an image"):
        next_unit_interval([True, False], ["a"])
    with pytest.raises(DataError, match="images of 2 ≥ 1 new groups"):
        cohort_interval([True] * 3, ["a", "b", "c"], count=2, images=[5])


def test_the_limits_hold_the_expected_accuracy_where_nearly_all_groups_are_alike():
    found = next_unit_interval([True] * 240, np.arange(240) // 4)
    assert found.value < 1
    assert found.low <= found.value <= found.high == 1
