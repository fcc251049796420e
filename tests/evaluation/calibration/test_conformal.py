from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from leukoscope.config.bundle import Conformal, SetScore
from leukoscope.config.guarantees import fewest_for
from leukoscope.core.errors import DataError
from leukoscope.evaluation.calibration.conformal import (
    coverage_distribution,
    covered,
    expected_coverage,
    fill_empty,
    fit_promise,
    fit_sets,
    prediction_sets,
    served_guarantee,
    set_scores,
    unseen_quantile,
)
from leukoscope.evaluation.calibration.scaling import (
    apply_calibration,
    evidence_weights,
    fit_calibration,
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
        record = fit_sets(probs[:n], y[:n], coverage)
        found.append(covered(prediction_sets(probs[n:], record), y[n:]).mean())
    assert np.mean(found) == pytest.approx(0.9, abs=0.008)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 80), seed=st.integers(0, 999), coverage=st.sampled_from([0.5, 0.9, 0.95]))
def test_calibration_images_are_covered_by_the_finite_sample_rank(
    n: int, seed: int, coverage: float
) -> None:
    probs, y = calibrated(n, seed)
    record = fit_sets(probs, y, coverage)
    inside = covered(prediction_sets(probs, record), y).sum()
    assert inside == min(n, int(np.ceil(round((n + 1) * coverage, 9))))


@pytest.mark.parametrize(("n", "every"), [(18, True), (19, False)])
@pytest.mark.parametrize("score", ["lac", "aps", "raps"])
@pytest.mark.parametrize("guarantee", ["marginal", "class", "group"])
def test_too_few_images_give_every_class(n: int, every: bool, score, guarantee) -> None:
    assert fewest_for(0.95) == 19
    probs = np.tile([0.5, 0.3, 0.2], (3 * n, 1))
    y = np.repeat([0, 1, 2], n) if guarantee == "class" else np.zeros(3 * n, int)
    if guarantee == "marginal":
        probs, y = probs[:n], y[:n]
    groups = [str(i % n) for i in range(3 * n)] if guarantee == "group" else None
    record = fit_sets(probs, y, 0.95, score=score, guarantee=guarantee, groups=groups)
    sets = prediction_sets([[0.02, 0.03, 0.95], [0.4, 0.35, 0.25]], record)
    assert sets.all() == every


def test_an_improbable_everything_is_an_empty_set() -> None:
    record = fit_sets([[0.9, 0.05, 0.05]] * 40, [0] * 40, 0.9)
    probs = [[0.4, 0.3, 0.3], [0.95, 0.03, 0.02]]
    sets = prediction_sets(probs, record)
    assert sets.tolist() == [[False] * 3, [True, False, False]]
    assert fill_empty(sets, probs).tolist() == [[True, False, False]] * 2


def test_scores_against_their_definitions() -> None:
    probs = np.random.default_rng(0).dirichlet([0.4] * 5, 40)
    for p, aps, raps in zip(
        probs, set_scores(probs, "aps"), set_scores(probs, "raps", penalty=0.2, free=2), strict=True
    ):
        for k in range(5):
            assert aps[k] == pytest.approx(p[p >= p[k]].sum())
            assert raps[k] == pytest.approx(aps[k] + 0.2 * max(0, (p >= p[k]).sum() - 2))


def test_each_class_is_covered_by_its_own_threshold() -> None:
    rng = np.random.default_rng(5)
    found: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(300):
        y = rng.permutation(np.repeat([0, 1], [300, 59]))
        p = np.clip(rng.normal(np.where(y == 0, 0.9, 0.45), 0.15), 0.01, 0.99)
        probs = np.stack([p, 1 - p], axis=1)
        record = fit_sets(probs[:180], y[:180], 0.9, guarantee="class")
        held = covered(prediction_sets(probs[180:], record), y[180:])
        for k in (0, 1):
            found[k].append(held[y[180:] == k].mean())
    for k in (0, 1):
        assert 0.895 < np.mean(found[k]) < 0.945


def grouped(rng: np.random.Generator, k: int, size: int) -> tuple[np.ndarray, list[str]]:
    """Scores of k groups that differ, as probabilities of a class 0 that is always right."""
    shift = rng.normal(0, 1, k).repeat(size)
    p = 1 / (1 + np.exp(-(1.5 + shift + rng.normal(0, 0.3, k * size))))
    return np.stack([p, 1 - p], axis=1), [str(i) for i in np.arange(k).repeat(size)]


def test_the_promise_by_group_holds_for_new_groups_where_that_by_image_need_not() -> None:
    rng, by_group, by_image = np.random.default_rng(3), [], []
    for _ in range(400):
        probs, groups = grouped(rng, 25, 8)
        zero, last = np.zeros(192, int), slice(192, 200)  # the last group is new
        for found, options in (
            (by_group, {"guarantee": "group", "groups": groups[:192]}), (by_image, {})
        ):  # fmt: skip
            record = fit_sets(probs[:192], zero, 0.9, **options)
            found.append(covered(prediction_sets(probs[last], record), zero[:8]).mean())
    assert np.mean(by_group) > 0.9
    assert np.mean(by_image) < np.mean(by_group)


def test_single_images_as_groups_are_the_promise_by_image() -> None:
    probs, y = calibrated(73, 4)
    own = [str(i) for i in range(73)]
    for coverage in (0.8, 0.9, 0.95):
        one = fit_sets(probs, y, coverage)
        other = fit_sets(probs, y, coverage, guarantee="group", groups=own)
        assert one.threshold == other.threshold


def test_images_count_as_their_weights_say() -> None:
    probs, y = calibrated(60, 5)
    plain = fit_sets(probs, y, 0.9)
    assert fit_sets(probs, y, 0.9, weights=np.ones(60)) == plain
    twice = fit_sets(np.repeat(probs, 2, axis=0), np.repeat(y, 2), 0.9, weights=np.full(120, 0.5))
    assert twice.threshold == plain.threshold
    own = [f"g{k % 7}" for k in range(60)]
    with pytest.raises(DataError, match="none for `group`"):
        fit_sets(probs, y, 0.9, guarantee="group", groups=own, weights=np.ones(60))


def test_coverage_is_distributed_as_scipy_says() -> None:
    found = coverage_distribution([(199, 300)], 0.95)
    assert found == pytest.approx(stats.betabinom(300, 190, 10).pmf(np.arange(301)), abs=1e-10)
    two = coverage_distribution([(39, 50), (49, 40)], 0.9)
    a, b = stats.betabinom(50, 36, 4), stats.betabinom(40, 45, 5)
    assert two[88] == pytest.approx(
        sum(a.pmf(i) * b.pmf(88 - i) for i in range(48, 51)), rel=1e-9
    )  # fmt: skip
    low, high = expected_coverage([(199, 300)], 0.95)
    assert stats.betabinom(300, 190, 10).interval(0.95) == (low * 300, high * 300)
    assert expected_coverage([(10, 300)], 0.95) == (1.0, 1.0)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(DataError, match="coverage in"):
        fit_sets([[0.5, 0.5]], [0], 1.0)
    with pytest.raises(DataError, match="unknown"):
        fit_sets([[0.5, 0.5]], [-1], 0.9)
    with pytest.raises(DataError, match="n ≥ 1"):
        fit_sets(np.zeros((0, 2)), [], 0.9)
    with pytest.raises(DataError, match="only for"):
        fit_sets([[0.5, 0.5]], [0], 0.9, guarantee="group")


@pytest.mark.parametrize(("score", "every", "penalty", "free"), [
    ("lac", 1.0, 0.0, 0), ("aps", 1.0, 0.0, 0), ("raps", 1.2, 0.1, 1),
])  # fmt: skip
def test_the_record_says_how_the_sets_were_made(
    score: SetScore, every: float, penalty: float, free: int
) -> None:
    probs, y = np.tile([0.5, 0.3, 0.2], (5, 1)), [0, 1, 2, 0, 1]
    record = fit_sets(probs, y, 0.95, score=score)  # five images are too few for 95 %
    assert record.threshold == pytest.approx(every)
    assert (record.score, record.penalty, record.free) == (score, penalty, free)
    assert (record.coverage, record.guarantee) == (0.95, "marginal")
    assert (record.n_cal, record.n_groups, record.thresholds) == (5, None, None)
    by_class = fit_sets(probs, y, 0.95, score=score, guarantee="class")
    assert by_class.thresholds == pytest.approx((every,) * 3)
    assert by_class.threshold == pytest.approx(every)
    grouped = fit_sets(probs, y, 0.5, score=score, guarantee="group", groups=list("aabbc"))
    assert (grouped.n_cal, grouped.n_groups) == (5, 3)
    own = set_scores(probs, score)[np.arange(5), y]
    assert fit_sets(probs, y, 0.5, score=score).threshold == np.sort(own)[2]  # of 6 / 2


def test_the_quantile_counts_the_new_image_too() -> None:
    assert unseen_quantile([], 0.5) == np.inf
    assert unseen_quantile([2.0], 0.5) == 2.0
    assert unseen_quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert unseen_quantile([3.0, 1.0, 2.0], 0.75) == 3.0
    assert unseen_quantile([3.0, 1.0, 2.0], 0.76) == np.inf
    # Half of 1 + 3 is reached by the image that counts 2 alone.
    assert unseen_quantile([1.0, 2.0], 0.5, [2.0, 1.0]) == 1.0
    assert unseen_quantile([1.0, 2.0], 0.5, [1.0, 2.0]) == 2.0


def test_few_groups_are_served_by_image_and_many_by_group() -> None:
    rng = np.random.default_rng(8)
    y = np.tile([0, 1], 80)
    logits = 3 * np.eye(2)[y] + rng.normal(0, 1.5, (160, 2))
    few, many = ([f"g{i * k // 160}" for i in range(160)] for k in (8, 40))
    calibration, sets = fit_promise(logits, y, few, 0.9)
    assert calibration == fit_calibration(logits, y, np.array(few))
    probs = apply_calibration(logits, calibration)
    weights = evidence_weights(few)
    assert sets == fit_sets(probs, y, 0.9, weights=weights)
    assert sets.n_groups is None
    _, sets = fit_promise(logits, y, many, 0.9, score="aps")
    assert (sets.guarantee, sets.score, sets.n_groups) == ("group", "aps", 40)
    _, sets = fit_promise(logits, y, many, 0.9, new_groups=False)
    assert (sets.guarantee, sets.score, sets.n_groups) == ("marginal", "lac", None)
    _, sets = fit_promise(logits, y, many, 0.9, guarantee="class")
    assert sets.guarantee == "class"
    _, sets = fit_promise(logits, y, few, 0.9, guarantee="group", new_groups=False)
    assert (sets.guarantee, sets.n_groups) == ("group", 8)


def test_only_a_marginal_promise_is_served_by_group() -> None:
    assert [served_guarantee("marginal", n, 0.9) for n in (18, 19)] == ["marginal", "group"]
    assert served_guarantee("class", 1000, 0.9) == "class"
    assert served_guarantee("group", 1, 0.9) == "group"
    assert [fewest_for(share) for share in (0.5, 0.7, 0.8, 0.99)] == [1, 3, 4, 99]


@pytest.mark.parametrize(
    ("probs", "y", "coverage", "message"),
    [
        ([0.5, 0.5], [0, 1], 0.9, r"got \(2,\), \(2,\) and 0.9"),
        ([[0.5, 0.5]], [0, 1], 0.9, r"got \(1, 2\), \(2,\) and 0.9"),
        ([[0.5, 0.5]], [0], 0.0, "a coverage in"),
        ([[0.5, 0.5]], [2], 0.9, "a true class is unknown"),
    ],
)
def test_what_does_not_fit_is_named(
    probs: list[object], y: list[int], coverage: float, message: str
) -> None:
    with pytest.raises(DataError, match=f"^prediction sets: .*{message}"):
        fit_sets(probs, y, coverage)


def test_groups_and_weights_fit_the_guarantee() -> None:
    probs, y = [[0.5, 0.5], [0.4, 0.6]], [0, 1]
    for options in ({"groups": ["a", "b"]}, {"guarantee": "group", "groups": ["a"]}):
        with pytest.raises(DataError, match=r"^prediction sets: expected one group an image for"):
            fit_sets(probs, y, 0.5, **options)
    with pytest.raises(DataError, match=r"^prediction sets: expected one weight an image"):
        fit_sets(probs, y, 0.5, weights=[1.0])


def test_without_test_images_nothing_is_expected() -> None:
    assert coverage_distribution([], 0.9).tolist() == [1.0]
    assert expected_coverage([], 0.9) == (0.0, 0.0)
    assert expected_coverage([(1, 2)], 0.5, confidence=0.2) == (0.5, 0.5)
    assert expected_coverage([(1, 1)], 0.5) == (0.0, 1.0)


def test_a_class_counts_its_own_images_as_their_weights_say() -> None:
    probs, y = calibrated(90, 6)
    weights = np.random.default_rng(0).uniform(0.2, 1, 90)
    record = fit_sets(probs, y, 0.8, guarantee="class", weights=weights)
    own = set_scores(probs)[np.arange(90), y]
    expected = [unseen_quantile(own[y == k], 0.8, weights[y == k]) for k in range(3)]
    assert record.thresholds == pytest.approx(np.minimum(expected, 1))
    assert record.thresholds != fit_sets(probs, y, 0.8, guarantee="class").thresholds


def test_thresholds_stay_in_the_range_of_the_scores() -> None:
    over_one = [[1 + 1e-9, 0.0]] * 40  # as float32 probabilities may sum to
    assert fit_sets(over_one, [0] * 40, 0.9).threshold == 0
    assert fit_sets([[1.0]] * 5, [0] * 5, 0.95, score="raps").threshold == 1.0


def test_sets_follow_the_score_of_their_record() -> None:
    probs = [[0.5, 0.3, 0.15, 0.05]]

    def held(threshold: float, **options: object) -> int:
        record = Conformal.model_validate(
            {"coverage": 0.9, "threshold": threshold, "n_cal": 99, **options}
        )
        return int(prediction_sets(probs, record).sum())

    assert held(0.84) == 2  # 1 − p of the third class is 0.85
    assert held(0.84, score="aps") == 2
    assert held(0.96, score="aps") == 3
    raps = {"score": "raps", "penalty": 0.2, "free": 2}
    assert [held(limit, **raps) for limit in (0.79, 0.81, 1.14, 1.16)] == [1, 2, 2, 3]


def test_arrays_of_other_types_give_the_same() -> None:
    probs, y = calibrated(60, 9)
    single = probs.astype(np.float32)
    assert set_scores(single).dtype == np.float64
    record = fit_sets(single, y.astype(float), 0.9)  # labels as a CSV gives them
    assert record == fit_sets(single.astype(np.float64), y, 0.9)
    sets = prediction_sets(single, record)
    expected = covered(sets, y)
    assert covered(sets.astype(int), y.astype(float)).tolist() == expected.tolist()
    assert covered(sets.astype(int), y).dtype == bool
