"""Examples are chosen by rule."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy

from leukoscope.core.errors import UnknownNameError
from leukoscope.evaluation.examples import EXAMPLE_KINDS, choose_examples, entropy, interleave


def _predictions(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, n), rng.dirichlet([0.5] * 3, n)


@given(st.integers(0, 1000), st.integers(0, 40))
def test_each_kind_holds_what_it_says(seed: int, n: int) -> None:
    y_true, probs = _predictions(seed, n)
    right = probs.argmax(axis=1) == y_true
    chosen = {kind: choose_examples(kind, y_true, probs) for kind in EXAMPLE_KINDS}
    for kind, rows_of in chosen.items():
        assert len(rows_of) == 3
        for label, rows in enumerate(rows_of):
            assert all(y_true[row] == label for row in rows), kind
    everything = {kind: sorted(chain.from_iterable(rows)) for kind, rows in chosen.items()}
    assert everything["least-certain"] == list(range(n))
    assert everything["right"] == np.flatnonzero(right).tolist()
    assert everything["wrong"] == everything["confident-wrong"] == np.flatnonzero(~right).tolist()


def test_order() -> None:
    y_true, probs = _predictions(5, 60)
    for rows in choose_examples("least-certain", y_true, probs):
        assert np.all(np.diff(entropy(probs[rows])) <= 0)
    for rows in choose_examples("confident-wrong", y_true, probs):
        assert np.all(np.diff(probs.max(axis=1)[rows]) <= 0)
    for rows in choose_examples("right", y_true, probs):
        confidence = probs.max(axis=1)[rows]
        assert abs(confidence[0] - np.median(confidence)) <= np.ptp(confidence) / len(rows)
    np.testing.assert_allclose(entropy(probs), scipy_entropy(probs, axis=1), atol=1e-12)


def test_in_turn_gives_all_there_are() -> None:
    assert interleave([[0, 3], [], [1]], 9) == [0, 1, 3]
    with pytest.raises(UnknownNameError, match="unknown kind of example 'rigth'"):
        choose_examples("rigth", np.zeros(0, np.int64), np.zeros((0, 2)))
