from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukoscope.core.errors import DataError
from leukoscope.evaluation.conformal import (
    empirical_coverage,
    fit_lac,
    grouped_coverage,
    prediction_sets,
)


def calibrated(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet([0.6, 0.6, 0.6], n)
    return probs, (probs.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)


def test_coverage_over_many_calibrations_is_the_nominal_one() -> None:
    n, coverage = 39, 0.9  # exactly 36 / 40 by theory, for continuous scores
    found = []
    for seed in range(600):
        probs, y = calibrated(n + 50, seed)
        threshold = fit_lac(probs[:n], y[:n], coverage)
        found.append(prediction_sets(probs[n:], threshold)[np.arange(50), y[n:]].mean())
    assert np.mean(found) == pytest.approx(0.9, abs=0.008)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 80), seed=st.integers(0, 999), coverage=st.sampled_from([0.5, 0.9, 0.95]))
def test_calibration_images_are_covered_by_the_finite_sample_rank(
    n: int, seed: int, coverage: float
) -> None:
    probs, y = calibrated(n, seed)
    threshold = fit_lac(probs, y, coverage)
    inside = prediction_sets(probs, threshold)[np.arange(n), y].sum()
    assert inside == min(n, int(np.ceil(round((n + 1) * coverage, 9))))


@pytest.mark.parametrize(("n", "every"), [(18, True), (19, False)])
def test_too_few_images_give_every_class(n: int, every: bool) -> None:
    probs, y = calibrated(n, 0)
    threshold = fit_lac(probs, y, 0.95)  # needs ⌈0.95 (n + 1)⌉ ≤ n, i.e. n ≥ 19
    assert (threshold == 1.0) is every
    assert prediction_sets(probs, 1.0).all()


def test_an_improbable_everything_is_an_empty_set() -> None:
    assert not prediction_sets([[0.4, 0.3, 0.3]], 0.5).any()


def test_coverage_with_intervals() -> None:
    sets = np.eye(2, dtype=bool)[np.repeat([0, 1], 50)]
    y = np.repeat([0, 1, 0], [50, 40, 10])
    value, low, high = empirical_coverage(sets, y)
    assert value == 0.9
    assert low == pytest.approx(0.8238, abs=1e-3)
    assert high == pytest.approx(0.9510, abs=1e-3)
    interval = grouped_coverage(sets, y, [str(i // 5) for i in range(100)], replicates=300)
    assert interval.value == 0.9
    assert interval.n_groups == 20
    assert interval.low < 0.9 < interval.high


def test_wrong_input_is_refused() -> None:
    with pytest.raises(DataError, match="coverage in"):
        fit_lac([[0.5, 0.5]], [0], 1.0)
    with pytest.raises(DataError, match="unknown"):
        fit_lac([[0.5, 0.5]], [-1], 0.9)
    with pytest.raises(DataError, match="0 of 0"):
        empirical_coverage(np.zeros((0, 2), bool), [])
