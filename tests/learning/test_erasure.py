"""Linear concept erasure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukoscope.learning.erasure import fit_erasure

N, D = 400, 12


def drawn(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of very different scales that hold a class and two numbers of no interest."""
    rng = np.random.default_rng(seed)
    y = np.arange(N) % 2
    nuisance = rng.normal(size=(N, 2)) + 0.5 * y[:, None]
    X = rng.normal(size=(N, D)) @ rng.normal(size=(D, D))
    X += 2 * np.outer(y, rng.normal(size=D)) + 3 * nuisance @ rng.normal(size=(2, D))
    return (X * rng.uniform(0.1, 10, D)).astype(np.float32), nuisance, y


def about_the_class(values: np.ndarray, y: np.ndarray) -> np.ndarray:
    means = np.stack([values[y == k].mean(axis=0) for k in (0, 1)])
    return np.asarray(values - means[y], dtype=np.float64)


def explained(X: np.ndarray, numbers: np.ndarray, y: np.ndarray) -> float:
    """Share of the variance of numbers that a linear function of X tells within a class."""
    seen, wanted = about_the_class(X, y), about_the_class(numbers, y)
    found = seen @ np.linalg.lstsq(seen, wanted, rcond=1e-6)[0]
    return float((found**2).sum() / (wanted**2).sum())


@given(st.integers(0, 50))
@settings(max_examples=10, deadline=None)
def test_nothing_linear_tells_the_nuisance_any_more(seed: int) -> None:
    X, nuisance, y = drawn(seed)
    assert explained(X, nuisance, y) > 0.3
    assert explained(fit_erasure(X, nuisance, y).erased(X), nuisance, y) < 1e-3


def test_the_rest_stays_where_it_is() -> None:
    X, nuisance, y = drawn()
    erasure = fit_erasure(X, nuisance, y)
    assert np.linalg.matrix_rank(erasure.removed, tol=1e-6) == 2
    once = erasure.erased(X)
    np.testing.assert_allclose(erasure.erased(once), once, atol=1e-3)
    np.testing.assert_allclose(once.mean(axis=0), X.mean(axis=0), atol=1e-3)


def test_a_head_on_erased_features_is_one_on_the_features_as_they_are() -> None:
    X, nuisance, y = drawn()
    erasure = fit_erasure(X, nuisance, y)
    weight, bias = np.random.default_rng(1).normal(size=(3, D)), np.array([1.0, 2.0, 3.0])
    folded = erasure.folded(weight, bias)
    np.testing.assert_allclose(
        X @ folded[0].T + folded[1], erasure.erased(X) @ weight.T + bias, rtol=1e-3, atol=1e-3
    )


def test_unknown_constant_and_repeated_numbers_do_no_harm() -> None:
    X, nuisance, y = drawn()
    holed = nuisance.copy()
    holed[::7, 0] = np.nan
    more = np.column_stack([holed, np.ones(N), np.full(N, np.nan), nuisance[:, 1]])
    erasure = fit_erasure(X, more, y)
    assert np.isfinite(erasure.removed).all()
    assert explained(erasure.erased(X), nuisance[:, 1:], y) < 1e-3


@pytest.mark.parametrize("numbers", [np.ones((N, 1)), np.empty((N, 0))])
def test_without_a_nuisance_nothing_changes(numbers: np.ndarray) -> None:
    X, _, y = drawn()
    np.testing.assert_array_equal(fit_erasure(X, numbers, y).erased(X), X)


def test_fewer_images_than_features() -> None:
    X, nuisance, y = drawn()
    wide = np.random.default_rng(2).normal(size=(30, 100)).astype(np.float32)
    wide[:, :2] += 5 * nuisance[:30]
    erased = fit_erasure(wide, nuisance[:30], y[:30]).erased(wide)
    covariance = about_the_class(erased, y[:30]).T @ about_the_class(nuisance[:30], y[:30])
    assert np.abs(covariance).max() < 1e-2
    assert X.shape[1] < wide.shape[1]
