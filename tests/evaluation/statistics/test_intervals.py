from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from leukoscope.core.errors import DataError
from leukoscope.evaluation.statistics.intervals import (
    Resampling,
    bootstrap_mean,
    bootstrap_metrics,
    proportion_interval,
)
from leukoscope.evaluation.statistics.metrics import compute_metrics, weighted_metrics

TWO = ("healthy", "all")


def noisy(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    p = np.clip(0.5 + (y - 0.5) * 0.4 + rng.normal(0, 0.25, n), 0.01, 0.99)
    return y, np.column_stack([1 - p, p])


def test_values_are_those_of_the_whole_sample_and_limits_enclose_them() -> None:
    y, prob = noisy(200)
    whole = compute_metrics(y, prob, TWO)
    found = bootstrap_metrics(y, prob, TWO, replicates=200, seed=3)
    assert found.keys() == whole.keys()
    for name, interval in found.items():
        assert interval.value == whole[name]
        assert interval.low <= interval.value <= interval.high
        assert (interval.n_groups, interval.reliable) == (200, True)
        assert interval.replicates >= 90  # images of a class, groups left out, or resamples


def test_width_agrees_with_the_binomial_and_with_scipy() -> None:
    y, prob = noisy(400, seed=1)
    hit = (prob.argmax(axis=1) == y).astype(float)
    interval = bootstrap_metrics(y, prob, TWO, replicates=4000, names=["accuracy"])["accuracy"]
    low, high = stats.binom.interval(0.95, 400, hit.mean())
    assert interval.low == pytest.approx(low / 400, abs=0.01)
    assert interval.high == pytest.approx(high / 400, abs=0.01)
    ours = bootstrap_mean(hit, replicates=4000)
    theirs = stats.bootstrap(
        (hit,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_groups_of_equal_images_widen_the_interval_as_theory_says() -> None:
    y, prob = noisy(100, seed=2)
    rows = np.repeat(np.arange(100), 9)
    options = {"replicates": 2000, "names": ["accuracy"]}
    alone = bootstrap_metrics(y[rows], prob[rows], TWO, **options)["accuracy"]
    grouped = bootstrap_metrics(y[rows], prob[rows], TWO, groups=rows, **options)["accuracy"]
    ratio = (grouped.high - grouped.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(3, rel=0.15)


def test_groups_of_one_class_are_drawn_within_their_class() -> None:
    y = np.repeat([0, 1], [30, 70])
    groups = np.arange(100) // 10
    for weights in Resampling.of(groups, y, replicates=50, seed=0).weights():
        assert (weights[:, y == 0].sum(axis=1) == 30).all()
        assert (weights[:, y == 1].sum(axis=1) == 70).all()
        assert (weights.reshape(-1, 10, 10).std(axis=2) == 0).all()  # whole groups


def test_groups_that_mix_classes_are_drawn_together() -> None:
    y = np.arange(60) % 2
    y[:10] = 0
    (weights,) = Resampling.of(np.arange(60) // 10, y, replicates=50, seed=0).weights()
    assert (weights.sum(axis=1) == 60).all()
    assert len(np.unique(weights[:, y == 0].sum(axis=1))) > 1


def test_seed_and_groups_fix_the_result_whatever_the_order_of_rows() -> None:
    y, prob = noisy(80)
    groups = np.array([f"g{i // 4}" for i in range(80)])
    order = np.random.default_rng(0).permutation(80)

    def limits(rows: np.ndarray, seed: int) -> list[tuple[float, float]]:
        metrics = bootstrap_metrics(y[rows], prob[rows], TWO, groups=groups[rows], seed=seed)
        mean = bootstrap_mean(prob[rows, 1], groups=groups[rows], replicates=200, seed=seed)
        return [(i.low, i.high) for i in (metrics["log_loss"], metrics["ece"], mean)]

    for found, again in zip(limits(np.arange(80), 5), limits(order, 5), strict=True):
        assert found == pytest.approx(again, abs=1e-12)
    first, other = limits(np.arange(80), 5), limits(np.arange(80), 6)
    assert first[0] == other[0]  # nothing is drawn
    assert first[1:] != other[1:]


def test_undefined_replicates_are_left_out_and_counted() -> None:
    y = np.array([0] * 20 + [1] + [0] * 20 + [1])
    groups = np.array(["a"] * 21 + ["b"] * 21)
    prob = np.eye(2)[y] * 0.6 + 0.2
    found = bootstrap_metrics(y, prob, TWO, groups=groups)["roc_auc"]
    assert (found.value, found.replicates) == (1.0, 2)
    alone = np.array(["a"] * 21 + ["b"] * 20 + ["a"])
    found = bootstrap_metrics(y, prob, TWO, groups=alone)["roc_auc"]
    assert found.replicates == 1  # without a there is no image of the other class
    assert not found.reliable


def test_undefined_everywhere_is_nan_and_null_in_json() -> None:
    prob = np.tile([0.5, 0.3, 0.2], (30, 1))
    names = ("benign", "pre_b", "pro_b")
    found = bootstrap_metrics(np.arange(30) % 2, prob, names, replicates=100)
    assert np.isnan(found["recall_pro_b"].value)
    assert found["recall_pro_b"].replicates == 0
    assert json.loads(json.dumps(found["recall_pro_b"].to_json(), allow_nan=False)) == {
        "value": None,
        "low": None,
        "high": None,
        "reliable": False,
    }


@pytest.mark.parametrize(("groups", "reliable"), [(19, False), (20, True)])
def test_fewer_than_twenty_groups_are_not_reliable(groups: int, reliable: bool) -> None:
    y, prob = noisy(groups * 4)
    found = bootstrap_metrics(y, prob, TWO, groups=np.arange(groups * 4) // 4, replicates=100)
    assert found["accuracy"].reliable is reliable
    assert found["accuracy"].low < found["accuracy"].high


@pytest.mark.parametrize(("of_class", "reliable"), [(4, False), (5, True)])
def test_a_class_in_fewer_than_five_groups_is_not_reliable(of_class: int, reliable: bool) -> None:
    y = np.repeat([0, 1], [100, 5 * of_class])
    groups = np.arange(len(y)) // 5
    found = bootstrap_metrics(y, np.eye(2)[y], TWO, groups=groups, replicates=100)
    assert {i.reliable for i in found.values()} == {reliable}


def test_a_perfect_value_rests_on_the_rarest_class() -> None:
    """95 healthy and 5 ill patients, all right: five trials, not a hundred."""
    y = (np.arange(100) >= 95).astype(np.int64)
    found = bootstrap_metrics(y, np.eye(2)[y] * 0.8 + 0.1, TWO, replicates=100)
    five = 0.025 ** (1 / 5)
    for name in ("recall_all", "f1_all", "roc_auc_all"):
        assert found[name].low == pytest.approx(five), name
    for name in ("balanced_accuracy", "macro_f1", "roc_auc"):  # the mean of both classes
        assert found[name].low == pytest.approx((1 + five) / 2), name
    assert found["weighted_f1"].low == pytest.approx(found["accuracy"].low)
    assert found["recall_healthy"].low == pytest.approx(0.025 ** (1 / 95))


def test_patients_who_are_all_right_are_not_surer_than_with_one_error() -> None:
    """One answer a patient, pooled over ten folds: 15 of 16 began at 53 %, 16 of 16 at 79 %."""
    y = np.arange(16) % 2
    called = np.where(np.arange(16) == 3, 0, y)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "recall_all"):
        perfect, flawed = (
            bootstrap_metrics(y, np.eye(2)[k] * 0.8 + 0.1, TWO, names=[name], folds=10)[name]
            for k in (y, called)
        )
        assert flawed.low < perfect.low < 0.75, name


def test_a_value_of_nothing_rests_on_its_own_class() -> None:
    y = np.array([0] * 6 + [1] * 94)
    called = np.where(np.arange(100) < 6, 1, y)
    found = bootstrap_metrics(y, np.eye(2)[called] * 0.8 + 0.1, TWO, replicates=100)
    assert found["recall_healthy"].high == pytest.approx(1 - 0.025 ** (1 / 6))
    assert found["f1_healthy"].high == pytest.approx(found["recall_healthy"].high)


def test_one_error_among_many_patients_costs_little() -> None:
    """Few degrees of freedom on the logit scale had made (96–100 %) one of (52–100 %)."""
    y = np.repeat([0, 1], 200)
    called = y.copy()
    called[7] = 1
    groups = np.arange(400) // 10
    found = bootstrap_metrics(y, np.eye(2)[called] * 0.8 + 0.1, TWO, groups=groups)
    for name in ("balanced_accuracy", "macro_f1", "weighted_f1", "f1_all", "weighted_precision"):
        assert 0.93 < found[name].low < found[name].value < found[name].high < 1, name


def test_patients_of_a_rare_class_that_agree_are_not_taken_for_many() -> None:
    """Five ill patients, four of them found: the jackknife alone held .8 too rarely."""
    y = (np.arange(100) >= 95).astype(np.int64)
    called = np.where(np.arange(100) == 99, 0, y)
    found = bootstrap_metrics(y, np.eye(2)[called] * 0.8 + 0.1, TWO)["balanced_accuracy"]
    assert found.low < 0.75
    assert found.high > 0.95


def test_no_error_at_all_still_has_an_interval() -> None:
    y = np.arange(40) % 2
    found = bootstrap_metrics(y, np.eye(2)[y] * 0.8 + 0.1, TWO, replicates=100)
    assert found["accuracy"].low == pytest.approx(0.025 ** (1 / 40))
    assert found["recall_all"].low == pytest.approx(0.025 ** (1 / 20))
    assert found["specificity_all"].low == pytest.approx(0.025 ** (1 / 20))
    assert found["recall_malignant"].low == pytest.approx(0.025 ** (1 / 20))
    assert found["accuracy"].high == 1.0
    assert found["roc_auc"].low == pytest.approx(0.025 ** (1 / 40))
    assert found["f1_all"].low == pytest.approx(0.025 ** (1 / 20))


def test_intervals_of_few_alike_groups_hold_the_truth() -> None:
    """Finding 6: 17 groups of unequal size; percentiles of a bootstrap held it in 84–86 %."""
    rng, truth, held = np.random.default_rng(1), 0.9, []
    for _ in range(400):
        sizes = np.round(np.exp(rng.normal(3.5, 0.9, 17))).clip(5, 600).astype(int)
        hits = rng.binomial(sizes, rng.beta(0.9 * 4, 0.1 * 4, 17))  # intraclass correlation .2
        wrong = np.concatenate([np.arange(n) >= k for n, k in zip(sizes, hits, strict=True)])
        groups = np.repeat(np.arange(17), sizes)
        found = bootstrap_metrics(
            np.zeros(len(groups), int), np.eye(2)[wrong.astype(int)], TWO,
            groups=groups, names=["accuracy"], replicates=200,
        )["accuracy"]  # fmt: skip
        held.append(found.low <= truth <= found.high)
    assert np.mean(held) > 0.92


def test_roc_auc_near_one_is_held_by_its_interval() -> None:
    """Finding 6: a percentile bootstrap over 20 mixed groups held an AUC of .978 in 80 %."""
    rng, held = np.random.default_rng(2), []
    for _ in range(150):
        groups = np.repeat(np.arange(20), 30)
        y = rng.integers(0, 2, len(groups))
        score = (2 * y - 1) * 2.2 + rng.normal(0, 1.2, 20)[groups] + rng.normal(0, 1, len(y))
        p = 1 / (1 + np.exp(-score))
        found = bootstrap_metrics(
            y, np.column_stack([1 - p, p]), TWO, groups=groups, names=["roc_auc"], replicates=200
        )["roc_auc"]
        held.append(found.low <= 0.9768 <= found.high)  # measured on 4,000 groups
    assert np.mean(held) > 0.9


def test_the_ece_of_a_calibrated_model_is_compatible_with_zero() -> None:
    """Finding 5: percentiles of resampled ECE never held 0, and could leave out the value."""
    rng, low = np.random.default_rng(3), []
    for _ in range(40):
        p = rng.uniform(0.5, 1, 2000)
        y = (rng.random(2000) > p).astype(int)
        found = bootstrap_metrics(
            y, np.column_stack([p, 1 - p]), TWO, groups=np.arange(2000) // 80, names=["ece"]
        )["ece"]
        assert found.low <= found.value <= found.high
        low.append(found.low)
    assert np.mean(np.array(low) == 0) > 0.9
    wrong = np.column_stack([np.full(2000, 0.95), np.full(2000, 0.05)])
    y = (rng.random(2000) > 0.75).astype(int)
    found = bootstrap_metrics(y, wrong, TWO, groups=np.arange(2000) // 80, names=["ece"])["ece"]
    assert 0.1 < found.low < 0.2 < found.high < 0.3


def test_many_groups_are_left_out_in_blocks_with_the_same_result() -> None:
    y, prob = noisy(1200, seed=4)
    groups = np.arange(1200) // 2
    found = bootstrap_metrics(y, prob, TWO, groups=groups, names=["roc_auc"])["roc_auc"]
    assert found.replicates == 200
    drawn = np.concatenate([
        weighted_metrics(y, prob, TWO, w, ["roc_auc"])["roc_auc"]
        for w in Resampling.of(groups, y).weights()
    ])  # fmt: skip
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 300), share=st.floats(0, 1), level=st.sampled_from([0.9, 0.95, 0.99]))
def test_proportion_intervals_equal_scipy(n: int, share: float, level: float) -> None:
    successes = round(share * n)
    test = stats.binomtest(successes, n)
    expected = test.proportion_ci(level, method="exact")
    found = proportion_interval(successes, n, confidence=level)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_impossible_proportions_and_groups_are_refused() -> None:
    with pytest.raises(DataError, match="got 3 of 2"):
        proportion_interval(3, 2)
    with pytest.raises(DataError, match="got 0 of 0"):
        proportion_interval(0, 0)
    with pytest.raises(DataError, match="one group label for each of 2"):
        bootstrap_metrics([0, 1], np.eye(2), TWO, groups=["a"])
    with pytest.raises(DataError, match="≥ 1 images"):
        bootstrap_mean([])


def test_the_luck_of_a_training_widens_what_groups_alone_would_say() -> None:
    """Five models, one of which is much worse: its groups are not the only ones it would spoil."""
    rng = np.random.default_rng(2)
    member = np.repeat(np.arange(50), 20)
    fit = member % 5
    p = np.where(rng.random(1000) < np.where(fit == 0, 0.6, 0.95), 0.9, 0.1)
    prob = np.column_stack([1 - p, p])
    y, names = np.ones(1000, np.int64), ("healthy", "all")
    y[member < 25] = 0
    prob[y == 0] = prob[y == 0][:, ::-1]
    how = {"groups": member, "names": ["accuracy", "roc_auc", "log_loss", "ece"]}
    alone = bootstrap_metrics(y, prob, names, **how)
    whole = bootstrap_metrics(y, prob, names, fits=fit, **how)
    for name in ("accuracy", "roc_auc", "log_loss"):
        assert whole[name].value == alone[name].value
        width, before = (i.high - i.low for i in (whole[name], alone[name]))
        assert width > 1.5 * before
    assert whole["ece"] == alone["ece"]
    one = bootstrap_metrics(y, prob, names, fits=np.zeros(1000), **how)
    assert one == alone  # a single hold-out cannot tell
