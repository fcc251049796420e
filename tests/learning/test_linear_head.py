"""The linear head against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight

from leukoscope.core.errors import TrainingError
from leukoscope.learning.linear_head import balanced_weights, fit_linear_head

K = 3


@pytest.fixture(scope="module")
def data() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """150 correlated, positive, unequally scaled features of 300 unequally frequent classes."""
    rng = np.random.default_rng(0)
    y = rng.choice(K, 300, p=[0.6, 0.3, 0.1])
    X = rng.normal(size=(300, 10)) @ rng.normal(size=(10, 150)) + rng.normal(size=(300, 150))
    X = np.abs(X + rng.normal(size=(K, 150))[y]) * rng.gamma(1, 3, 150) + 5
    X[:, 7] = 2.5  # constant
    return X.astype(np.float32), y


@pytest.mark.parametrize("c", [0.0003, 0.03, 1.0])
@pytest.mark.parametrize("balanced", [False, True])
def test_it_is_sklearns_logistic_regression(
    data: tuple[NDArray[np.float32], NDArray[np.int64]], c: float, balanced: bool
) -> None:
    X, y = data
    scaler = StandardScaler().fit(X.astype(np.float64))
    Z = scaler.transform(X.astype(np.float64))
    oracle = LogisticRegression(
        C=c, max_iter=5000, tol=1e-9, class_weight="balanced" if balanced else None
    ).fit(Z, y)
    weight = balanced_weights(y, K) if balanced else None
    head = fit_linear_head(X, y, K, c_grid=[c], class_weight=weight)
    scale = np.abs(oracle.coef_).max()
    np.testing.assert_allclose(head.weight * scaler.scale_, oracle.coef_, atol=0.01 * scale)
    logits = head.logits(X)
    probs = np.exp(logits - logits.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    np.testing.assert_allclose(probs, oracle.predict_proba(Z), atol=2e-3)


def test_balanced_weights_are_sklearns() -> None:
    y = np.array([0, 0, 0, 1, 1, 2])
    np.testing.assert_allclose(
        balanced_weights(y, 3), compute_class_weight("balanced", classes=np.arange(3), y=y)
    )
    assert balanced_weights(y, 4)[3] == 0


def test_the_strength_with_the_best_log_loss_on_val_wins(
    data: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> None:
    X, y = data
    grid = (3.0, 0.00001, 0.003)
    head = fit_linear_head(X[:150], y[:150], K, c_grid=grid, X_val=X[150:], y_val=y[150:])
    losses = {row["c"]: row["val_loss"] for row in head.history}
    assert list(losses) == sorted(grid)
    assert head.c == min(losses, key=lambda c: losses[c] or 0)
    assert head.c == 0.003  # neither end of the path
    logits = head.logits(X[150:])
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert losses[head.c] == pytest.approx(log_loss(y[150:], probs, labels=range(K)), rel=1e-5)
    row = next(row for row in head.history if row["c"] == head.c)
    assert row["val_accuracy"] == pytest.approx((logits.argmax(1) == y[150:]).mean())


def test_refit_is_a_fit_on_both(data: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    X, y = data
    head = fit_linear_head(
        X[:150], y[:150], K, c_grid=[0.01], X_val=X[150:], y_val=y[150:], refit_with_val=True
    )
    both = fit_linear_head(X, y, K, c_grid=[0.01])
    alone = fit_linear_head(X[:150], y[:150], K, c_grid=[0.01])
    np.testing.assert_allclose(head.logits(X), both.logits(X), atol=5e-3)
    assert np.abs(head.logits(X) - alone.logits(X)).max() > 0.05


def test_a_class_without_training_images_is_never_predicted(
    data: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> None:
    X, y = data
    head = fit_linear_head(X, y, K + 1, c_grid=[0.01])
    assert head.weight.shape == (K + 1, X.shape[1])
    assert (head.logits(X).argmax(1) < K).all()


def test_what_cannot_be_fitted_is_said(
    data: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> None:
    X, y = data
    with pytest.raises(TrainingError, match="2 strengths of the penalty need validation images"):
        fit_linear_head(X, y, K, c_grid=[0.1, 1.0], X_val=X[:0], y_val=y[:0])
    with pytest.raises(TrainingError, match="no training images"):
        fit_linear_head(X[:0], y[:0], K, c_grid=[0.1])
    broken = X.copy()
    broken[3, 3] = np.nan
    with pytest.raises(TrainingError, match="not finite"):
        fit_linear_head(broken, y, K, c_grid=[0.1])
