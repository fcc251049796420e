from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from leukoscope.core.errors import DataError
from leukoscope.evaluation.calibration import apply_temperature, fit_temperature
from leukoscope.evaluation.softmax import log_softmax, softmax


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
