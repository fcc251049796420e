from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from leukoscope.core.errors import DataError
from leukoscope.evaluation.calibration.scaling import (
    apply_calibration,
    apply_temperature,
    evidence_weights,
    fit_calibration,
    fit_temperature,
    fit_vector,
    log_softmax,
    softmax,
)


def drawn(temperature: float, n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose classes were drawn with probabilities softmax(logits / temperature)."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (n, 4))
    y = (softmax(logits / temperature).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return logits, y


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_true_temperature_is_recovered(temperature: float) -> None:
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.04)


def test_the_fit_is_the_minimum_of_the_log_loss() -> None:
    logits, y = drawn(2.0, n=4000)
    grid = np.linspace(1.5, 2.5, 401)
    losses = [-log_softmax(logits / t)[np.arange(len(y)), y].mean() for t in grid]
    assert fit_temperature(logits, y) == pytest.approx(grid[np.argmin(losses)], abs=0.02)


def test_images_that_are_all_right_do_not_prove_certainty() -> None:
    y = np.arange(100) % 4
    logits = np.eye(4)[y] * 5
    temperature = fit_temperature(logits, y)
    assert 0.5 < temperature < 1
    assert temperature < fit_temperature(logits[:4], y[:4]) < 1  # four images prove less


def test_scaling_keeps_the_ranking_and_moves_the_confidence() -> None:
    logits = np.random.default_rng(1).normal(size=(50, 3))
    cool, plain = apply_temperature(logits, 0.5), apply_temperature(logits, 1.0)
    assert np.array_equal(cool.argmax(axis=1), plain.argmax(axis=1))
    assert (cool.max(axis=1) > plain.max(axis=1)).all()
    assert plain == pytest.approx(special.softmax(logits, axis=1))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), min_size=1, max_size=5),
    st.floats(0.02, 50),
)
def test_rows_sum_to_one_for_any_logits(logits: list[list[float]], temperature: float) -> None:
    probs = apply_temperature(logits, temperature)
    assert probs.sum(axis=1) == pytest.approx(1)
    assert ((probs >= 0) & (probs <= 1)).all()


@pytest.mark.parametrize(
    ("logits", "y"),
    [
        (np.zeros((0, 2)), []),
        ([[0.0, np.nan]], [0]),
        ([[0.0, 1.0]], [2]),
        ([[0.0, 1.0]], [-1]),
        ([[0.0, 1.0]], [0, 1]),
    ],
)
def test_wrong_input_is_refused(logits, y) -> None:
    with pytest.raises(DataError, match="temperature"):
        fit_temperature(logits, y)
    with pytest.raises(DataError, match="temperature"):
        fit_calibration(logits, y)


def test_vector_scaling_recovers_weights_and_biases() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 3, (20_000, 3))
    true = softmax(logits * [0.5, 0.8, 0.6] + [0.0, 1.0, -1.0])
    y = (true.cumsum(axis=1) > rng.random((20_000, 1))).argmax(axis=1)
    weights, bias = fit_vector(logits, y)
    assert weights == pytest.approx([0.5, 0.8, 0.6], rel=0.05)
    assert bias - bias[0] == pytest.approx([0.0, 1.0, -1.0], abs=0.1)


def test_the_fit_of_vectors_is_a_minimum() -> None:
    from scipy.optimize import minimize

    from leukoscope.evaluation.calibration.scaling import BIAS_SD, PRIOR_SD, WEIGHT_SD

    logits, y = drawn(2.0, n=300)

    def loss(x: np.ndarray) -> float:  # the documented posterior, without a gradient
        log_p = log_softmax(logits * np.exp(x[1:5] - x[0]) + x[5:])
        prior = (x[0] / PRIOR_SD) ** 2 + ((x[1:5] / WEIGHT_SD) ** 2).sum()
        return -log_p[np.arange(300), y].sum() + (prior + ((x[5:] / BIAS_SD) ** 2).sum()) / 2

    found = minimize(loss, np.zeros(9), method="BFGS").x
    weights, bias = fit_vector(logits, y)
    assert weights == pytest.approx(np.exp(found[1:5] - found[0]), rel=2e-3)
    assert bias == pytest.approx(found[5:], abs=5e-3)


def test_the_prior_shrinks_vectors_to_one_temperature() -> None:
    logits, y = drawn(1.0, n=12)
    weights, bias = fit_vector(logits, y)
    assert np.ptp(np.log(weights)) < 0.3
    assert np.abs(bias).max() < 1.2


def test_images_of_few_groups_do_not_overrule_the_prior() -> None:
    logits, y = drawn(4.0, n=200)
    alone = fit_calibration(logits, y).temperature
    of_two = fit_calibration(logits, y, groups=["a"] * 100 + ["b"] * 100).temperature
    weights = evidence_weights(["a"] * 100 + ["b"] * 100)
    assert weights.sum() == pytest.approx(2 * 100 / (1 + 99 * 0.2))
    assert 1 < of_two < alone == pytest.approx(fit_temperature(logits, y), rel=1e-9)
    assert of_two == pytest.approx(fit_temperature(logits, y, weights), rel=1e-9)
    # Each image twice with half the weight is the same evidence.
    twice = fit_temperature(np.tile(logits, (2, 1)), np.tile(y, 2), np.full(400, 0.5))
    assert twice == pytest.approx(alone, rel=1e-4)
    halved = fit_vector(np.tile(logits, (2, 1)), np.tile(y, 2), np.full(400, 0.5))
    for once, doubled in zip(fit_vector(logits, y), halved, strict=True):
        assert doubled == pytest.approx(once, abs=1e-3)


def test_vector_scaling_serves_only_where_it_is_clearly_better() -> None:
    rng = np.random.default_rng(8)
    chosen = []
    for _ in range(30):  # temperature is the truth
        logits = rng.normal(0, 3, (200, 4))
        y = (softmax(logits / 1.5).cumsum(axis=1) > rng.random((200, 1))).argmax(axis=1)
        chosen.append(fit_calibration(logits, y).method == "vector")
    assert np.mean(chosen) < 0.25
    logits, y = drawn(1.0, n=400)
    moved = logits + np.array([2.0, 0, 0, 0])
    shifted = fit_calibration(moved, y)
    assert shifted.method == "vector"
    assert apply_calibration(moved, shifted) == pytest.approx(
        softmax(logits), abs=0.15
    )  # fmt: skip
    few = fit_calibration(moved, y, groups=[str(i % 9) for i in range(400)])
    assert few.method == "temperature"  # nine groups cannot tell
