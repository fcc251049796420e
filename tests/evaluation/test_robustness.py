"""Curves, mean corruption error and limits against worked examples."""

from __future__ import annotations

import numpy as np
import pytest

from leukoscope.evaluation.robustness import (
    ConditionOutputs,
    ConditionSample,
    fit_limit,
    is_beyond,
    mean_corruption_error,
    tolerated,
)
from leukoscope.evaluation.statistics.intervals import Sampling, bootstrap_mean, bootstrap_metrics

# AlexNet's error averaged over severities, and CE of a ResNet-50 in %, both by corruption, as
# published with ImageNet-C (github.com/hendrycks/robustness); its mCE is given as 76.7.
ALEXNET = [
    .886428, .894468, .922640, .819880, .826268, .785948, .798360, .866816, .826572, .819324,
    .564592, .853204, .646056, .717840, .606500,
]  # fmt: skip
RESNET_50 = [80, 82, 83, 75, 89, 78, 80, 78, 75, 66, 57, 71, 85, 77, 77]


def test_mean_corruption_error_of_the_publication() -> None:
    reference = np.repeat(np.array(ALEXNET)[:, None], 5, axis=1)
    ladder = np.array([0.6, 0.8, 1.0, 1.2, 1.4])  # severities differ, their sum counts
    errors = reference * np.array(RESNET_50)[:, None] / 100 * ladder
    assert 100 * mean_corruption_error(errors, reference) == pytest.approx(76.7, abs=0.3)


def test_a_corruption_without_any_error_of_the_reference_is_undefined() -> None:
    assert np.isnan(mean_corruption_error([[0.1], [0.2]], [[0.0], [0.1]]))


def answers(right: list[int]) -> ConditionOutputs:
    p = np.where(np.array(right)[:, None], [[0.9, 0.1]], [[0.2, 0.8]])
    return ConditionOutputs(p, np.array(right) == 0, None)


SAMPLE = ConditionSample(
    ("benign", "pre_b"), np.zeros(40, np.int64), [f"g{i // 2}" for i in range(40)]
)


def test_a_condition_is_compared_image_by_image() -> None:
    clean, damaged = answers([1] * 36 + [0] * 4), answers([1] * 30 + [0] * 10)
    row = SAMPLE.describe(("defocus", 2, 1.5), damaged, clean)
    assert (row.corruption, row.severity, row.level) == ("defocus", 2, 1.5)
    assert row.accuracy.value == 0.75
    assert row.difference.value == pytest.approx(-0.15)
    assert row.difference.low < -0.15 < row.difference.high <= 0
    assert row.review.value == 0.25
    assert row.reject is None
    oracle = bootstrap_metrics(SAMPLE.y_true, damaged.probs, SAMPLE.class_names,
                               groups=SAMPLE.groups, names=["ece"])["ece"]  # fmt: skip
    assert row.ece.value == oracle.value


def test_the_interval_of_the_error_is_that_of_its_mean_over_images() -> None:
    rng = np.random.default_rng(1)
    errors = (rng.random((3, 5, 40)) < 0.3).astype(float)
    found = SAMPLE.corruption_error(errors)
    oracle = SAMPLE.mean(errors.mean(axis=(0, 1)))
    assert (found.value, found.low, found.high) == pytest.approx(
        (oracle.value, oracle.low, oracle.high)
    )
    assert SAMPLE.corruption_error(errors, errors).value == 1.0
    half = SAMPLE.corruption_error(errors, np.ones_like(errors))
    assert half.low < errors.mean() < half.high


def test_severities_count_up_to_the_first_failure() -> None:
    assert tolerated([-0.05, -0.0501], 0.05) == 1
    assert tolerated([], 0.05) == 0
    assert tolerated([None], 0.05) == 0


def test_a_limit_keeps_what_is_tolerated_and_is_dropped_where_it_never_catches() -> None:
    rng = np.random.default_rng(0)
    values = [rng.normal(mean, 1.0, 2000) for mean in (20, 15, 8)]
    found = fit_limit(values, 1, "low")
    assert found["low"] == pytest.approx(15 - 2.326, abs=0.2)
    assert found["caught"] > 0.99
    assert is_beyond(values[1], found["low"]).mean() == pytest.approx(0.01, abs=0.001)
    both = fit_limit([values[0], np.concatenate([values[0] - 9, values[0] + 9])], 0, "both")
    assert both["low"] < 20 < both["high"]
    same = [rng.normal(0, 1, 500) for _ in range(2)]
    assert set(fit_limit(same, 0, "high")) == {"caught", "caught_worst"}
    late = fit_limit([values[0], values[0] - 0.1, values[2]], 0, "low")
    assert late["caught"] < 0.05
    assert late["caught_worst"] > 0.99
    assert "low" in late
    assert set(fit_limit(values, 2, "low")) == {"low"}  # all tolerated: where measuring ended


HOW: Sampling = {"replicates": 200, "confidence": 0.7, "seed": 5, "folds": 3}
TWO = ConditionSample(
    ("benign", "pre_b"), np.repeat([0, 1], 20), [f"g{i // 4}" for i in range(40)], HOW
)


def test_every_number_of_a_condition_is_resampled_as_the_sample_says() -> None:
    rng = np.random.default_rng(2)
    p = rng.dirichlet([1, 1], 40)
    review, reject = p.max(axis=1) < 0.7, p.max(axis=1) < 0.6
    row = TWO.describe(("blur", 1, 0.5), ConditionOutputs(p, review, reject), answers([1] * 40))
    oracle = bootstrap_metrics(
        TWO.y_true, p, TWO.class_names, groups=TWO.groups, names=("accuracy", "ece"), **HOW
    )
    assert (row.accuracy, row.ece) == (oracle["accuracy"].estimate, oracle["ece"].estimate)
    for found, values in ((row.review, review), (row.reject, reject)):
        told = bootstrap_mean(values, groups=TWO.groups, y_true=TWO.y_true, **HOW)
        assert found == told.estimate
    lost = TWO.wrong(answers([1] * 40)) - TWO.wrong(ConditionOutputs(p, review, None))
    told = bootstrap_mean(lost, groups=TWO.groups, y_true=TWO.y_true, **HOW)
    assert row.difference == told.estimate


def test_the_reference_is_resampled_with_the_model() -> None:
    errors = (np.random.default_rng(1).random((3, 5, 40)) < 0.3).astype(float)
    found = SAMPLE.corruption_error(errors, errors)
    assert (found.low, found.high) == (1.0, 1.0)
    wide, narrow = (
        ConditionSample(TWO.class_names, TWO.y_true, TWO.groups, {"confidence": level})
        for level in (0.99, 0.5)
    )
    first, second = wide.corruption_error(errors), narrow.corruption_error(errors)
    assert first.high - first.low > 1.5 * (second.high - second.low)


def test_limits_are_kept_from_half_of_the_worst_on_and_belong_to_the_inside() -> None:
    inside, worst = np.full(4, 1.0), np.array([0.0, 0.0, 2.0, 2.0])
    assert fit_limit([inside, worst], 0, "low") == {"caught": 0.5, "caught_worst": 0.5, "low": 1.0}
    assert fit_limit([inside, worst], 0, "high")["high"] == 1.0
    assert is_beyond(np.arange(4.0), low=1.0, high=2.0).tolist() == [True, False, False, True]
