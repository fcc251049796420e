"""Limits without a bootstrap: against their published formulas and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from leukoscope.evaluation.statistics.limits import (
    LEAST_DF,
    PRIOR_DF,
    PRIOR_ICC,
    add_training_variance,
    calibrated_errors,
    debiased_error,
    ece_gaps,
    effective_groups,
    exact_limits,
    gap_limits,
    intraclass,
    jackknife_variance,
    proportion_limits,
    transformed_limits,
)

VALUES = np.array([0.4, 0.5, 0.7, 0.3, 0.9])
ALL = np.arange(5)


def test_the_variance_is_that_of_the_delete_one_jackknife() -> None:
    own = 4 / 5 * ((VALUES - VALUES.mean()) ** 2)
    variance, df = jackknife_variance(VALUES, [ALL], np.ones(5))
    assert variance == pytest.approx(own.sum())
    assert df == pytest.approx(min(4.0, 3 * own.sum() ** 2 / (own**2).sum()))


def test_strata_add_up_and_undefined_values_drop_out() -> None:
    one, two = jackknife_variance(VALUES[:2], [np.arange(2)], np.ones(2))[0], VALUES[2:]
    rest = 2 / 3 * ((two - two.mean()) ** 2).sum()
    both = jackknife_variance(VALUES, [np.arange(2), np.arange(2, 5)], np.ones(5))
    assert both[0] == pytest.approx(one + rest)
    assert both[1] <= 3.0  # five groups in two strata
    gone = np.append(VALUES, np.nan)
    found = jackknife_variance(gone, [np.arange(6)], np.ones(6))
    assert found[0] == pytest.approx(jackknife_variance(VALUES, [ALL], np.ones(5))[0])
    alone = jackknife_variance(VALUES, [np.arange(4), np.array([4])], np.ones(5))[0]
    assert alone == pytest.approx(jackknife_variance(VALUES[:4], [np.arange(4)], np.ones(4))[0])


def test_equal_values_have_no_variance_and_unequal_groups_few_degrees_of_freedom() -> None:
    assert jackknife_variance(np.full(5, 0.3), [ALL], np.ones(5)) == (0.0, 1.0)
    sizes = np.array([100.0, 1, 1, 1, 1])
    assert effective_groups(sizes) == pytest.approx(104**2 / 10004)
    assert jackknife_variance(VALUES, [ALL], sizes)[1] == 1.0
    one_odd = np.array([0.5, 0.5, 0.5, 0.5, 0.9])
    square = 4 / 5 * (one_odd - one_odd.mean()) ** 2
    expected = 3 * square.sum() ** 2 / (square**2).sum()
    assert jackknife_variance(one_odd, [ALL], np.ones(5))[1] == pytest.approx(min(4, expected))


def test_another_training_adds_what_the_groups_do_not_see() -> None:
    models = np.array([0.4, 0.5, 0.6, np.nan])
    both = 2 / 3 * 0.02
    more = both - 0.01
    variance, df = add_training_variance(models, 0.01, 19.0)
    assert variance == pytest.approx(both)
    assert df == pytest.approx(both**2 / (0.01**2 / 19 + more**2 / 2))
    assert add_training_variance(models, 0.02, 19.0) == (0.02, 19.0)
    assert add_training_variance(models, both, 19.0) == (both, 19.0)
    assert add_training_variance(np.array([0.4, np.nan]), 0.01, 19.0) == (0.01, 19.0)
    two = add_training_variance(np.array([0.4, 0.6]), 0.005, 19.0)
    assert two == pytest.approx((0.01, 0.01**2 / (0.005**2 / 19 + 0.005**2)))


@pytest.mark.parametrize(("given", "used"), [(19.0, 19.0), (2.5, 2.5), (1.0, LEAST_DF)])
def test_limits_on_the_scale_of_the_metric(given: float, used: float) -> None:
    half = stats.t.ppf(0.95, used) * 0.1
    low, high = transformed_limits(0.8, 0.01, given, confidence=0.9, scale="logit")
    odds = np.log(0.8 / 0.2) + np.array([-1, 1]) * half / (0.8 * 0.2)
    assert [low, high] == pytest.approx((1 / (1 + np.exp(-odds))).tolist())
    low, high = transformed_limits(0.5, 0.01, given, confidence=0.9, scale="log")
    assert [low, high] == pytest.approx([0.5 * np.exp(-half / 0.5), 0.5 * np.exp(half / 0.5)])


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (1, 1)])
def test_exact_limits_are_those_of_scipy(successes: int, n: int) -> None:
    expected = stats.binomtest(successes, n).proportion_ci(0.9, "exact")
    assert exact_limits(successes, n, 0.9) == pytest.approx((expected.low, expected.high))


def wilson(p: float, effective: float, df: float, confidence: float) -> tuple[float, float]:
    """Wilson's (1927) interval with Student's quantile."""
    z2 = stats.t.ppf((1 + confidence) / 2, df) ** 2
    middle = (p + z2 / (2 * effective)) / (1 + z2 / effective)
    root = np.sqrt(z2 * (p * (1 - p) / effective + z2 / (4 * effective**2)))
    return middle - root / (1 + z2 / effective), middle + root / (1 + z2 / effective)


def test_a_proportion_in_groups_has_wilsons_limits_with_an_effective_size() -> None:
    hits, trials = np.array([9.0, 5, 8, 10, 0]), np.array([10.0, 8, 10, 12, 0])
    kept = slice(0, 4)
    total, p = 40.0, 32 / 40
    left = (32 - hits[kept]) / (40 - trials[kept])  # the scale of 4 / 3 cancels out
    variance, df = jackknife_variance(left, [np.arange(4)], trials[kept])
    design = 1 + ((trials**2).sum() / total - 1) * PRIOR_ICC
    moderated = (df * variance + PRIOR_DF * p * (1 - p) * design / total) / (df + PRIOR_DF)
    expected = wilson(p, min(total, p * (1 - p) / moderated), df + PRIOR_DF, 0.9)
    assert proportion_limits(hits, trials, [ALL], confidence=0.9) == pytest.approx(expected)
    models = np.array([0.5, 0.95])
    wide, more = add_training_variance(models, moderated, df + PRIOR_DF)
    found = proportion_limits(hits, trials, [ALL], confidence=0.9, without_fit=models)
    assert found == pytest.approx(wilson(p, min(total, p * (1 - p) / wide), more, 0.9))


def test_limits_of_a_proportion_at_its_ends_and_of_single_images() -> None:
    none = proportion_limits(np.zeros(2), np.zeros(2), [np.arange(2)], confidence=0.9)
    assert np.isnan(none).all()
    tens = np.full(4, 10.0)
    strata = [np.arange(4)]
    assert proportion_limits(tens, tens, strata, confidence=0.9) == exact_limits(4, 4, 0.9)
    assert proportion_limits(0 * tens, tens, strata, confidence=0.9) == exact_limits(0, 4, 0.9)
    single = proportion_limits(np.array([1.0, 0, 1, 1]), np.ones(4), strata, confidence=0.9)
    assert single == exact_limits(3, 4, 0.9)


def test_a_stratum_of_one_group_joins_the_others() -> None:
    hits, trials = np.array([9.0, 5, 8, 4]), np.array([10.0, 8, 10, 9])
    apart = proportion_limits(hits, trials, [np.arange(3), np.array([3])], confidence=0.95)
    assert apart == proportion_limits(hits, trials, [np.arange(4)], confidence=0.95)
    two = proportion_limits(hits, trials, [np.arange(2), np.arange(2, 4)], confidence=0.95)
    assert two != apart


def test_gaps_stand_in_the_bin_of_their_confidence() -> None:
    gaps = ece_gaps(np.array([0, 1, 0]), np.array([[0.9, 0.1], [0.62, 0.38], [0.3, 0.7]]))
    assert gaps.sum(axis=1) == pytest.approx([0.1, -0.62, -0.7])
    assert (gaps != 0).sum(axis=1).tolist() == [1, 1, 1]
    assert len({int(row.nonzero()[0][0]) for row in gaps}) == 3


def test_limits_of_a_binned_error() -> None:
    rng = np.random.default_rng(0)
    inside = rng.integers(1, 5, (6, 3)).astype(float)
    gaps, sizes = rng.normal(0.05, 0.05, (6, 3)) * inside, inside.sum(axis=1)
    counts = rng.multinomial(6, np.full(6, 1 / 6), 500).astype(float)
    value, low, high = gap_limits(gaps, inside, sizes, counts, tail=0.05)
    mean = gaps.sum(axis=0) / sizes.sum()
    assert value == pytest.approx(np.abs(mean).sum())
    centred = gaps - inside * (gaps.sum(axis=0) / inside.sum(axis=0))
    chance = (counts @ centred) / (counts @ sizes)[:, None]
    assert low == pytest.approx(max(0, value - np.quantile(np.abs(chance).sum(axis=1), 0.95)))
    assert high == pytest.approx(value + np.quantile(-(chance * np.sign(mean)).sum(axis=1), 0.95))
    assert 0 < low < value < high < 1
    empty = np.zeros((6, 1))
    wider = np.hstack([gaps, empty]), np.hstack([inside, empty])
    assert gap_limits(*wider, sizes, counts, tail=0.05) == pytest.approx((value, low, high))
    still = gap_limits(0 * gaps, inside, sizes, counts, tail=0.05)
    assert still == (0.0, 0.0, 0.0)


def test_a_calibrated_model_errs_by_chance_alone() -> None:
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.5, 1, 400)
    right, place = rng.random(400) < confidence, (confidence * 10).astype(int)
    alone = calibrated_errors(confidence, right, place, np.arange(400), replicates=300, seed=3)
    assert alone.shape == (300,)
    assert alone.min() >= 0
    number = np.random.default_rng(3).random((300, 400))
    residual = (number < confidence) - confidence
    sums = np.stack([np.abs(residual[:, place == b].sum(axis=1)) for b in range(10)])
    assert alone == pytest.approx(sums.sum(axis=0) / 400)
    member = np.repeat(np.arange(20), 20)
    together = np.repeat(rng.random(20), 20) < confidence  # all of a group alike
    grouped = calibrated_errors(confidence, together, place, member, replicates=300)
    assert grouped.mean() > 1.5 * alone.mean()


def test_images_of_a_group_are_as_alike_as_they_were_made() -> None:
    rng = np.random.default_rng(2)
    member = np.repeat(np.arange(200), 10)
    confidence, place = np.full(2000, 0.7), np.zeros(2000, int)
    shared = np.repeat(rng.random(200), 10)
    for rho in (0.0, 0.3, 1.0):
        mixed = np.where(rng.random(2000) < rho**0.5, shared, rng.random(2000))
        found = intraclass((mixed < 0.7) - confidence, confidence, place, member)
        assert found == pytest.approx(rho, abs=0.06)
    one = np.zeros(2000, int)
    assert intraclass(np.ones(2000), confidence, place, one) == 0.0
    assert intraclass(np.ones(2000), confidence, place, np.arange(2000)) == 0.0


def test_the_part_of_chance_is_taken_off_in_squares() -> None:
    assert debiased_error(0.05, 0.03) == pytest.approx(0.04)
    assert debiased_error(0.03, 0.03) == debiased_error(0.02, 0.03) == 0.0
