"""The linear head against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight

from leukoscope.config.training import LinearHeadTraining
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
    weight = balanced_weights(y, K)[y] if balanced else None
    head = fit_linear_head(X, y, K, c_grid=[c], sample_weight=weight)
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


def test_an_image_that_counts_twice_is_two_images(
    data: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> None:
    X, y = data
    twice = np.concatenate([X, X[:100]])
    weight = np.where(np.arange(len(y)) < 100, 2.0, 1.0)
    heads = [
        fit_linear_head(twice, np.concatenate([y, y[:100]]), K, c_grid=[0.01]),
        fit_linear_head(X, y, K, c_grid=[0.01], sample_weight=weight),
    ]
    # Features are standardised over rows, which the two count differently.
    np.testing.assert_allclose(heads[0].logits(X), heads[1].logits(X), atol=0.15)


def test_a_unit_penalty_turns_from_what_tells_units_apart() -> None:
    rng = np.random.default_rng(3)
    unit = np.repeat(np.arange(12), 40)
    y = (unit >= 6).astype(np.int64)
    session = rng.normal(size=12)
    X = rng.normal(size=(480, 6)).astype(np.float32)
    X[:, 0] += 2 * session[unit] + 1.5 * y  # differs between units, and by chance with the class
    X[:, 1] += 1.2 * y  # differs between the classes alone
    plain = fit_linear_head(X, y, 2, c_grid=[0.1])
    fair = fit_linear_head(X, y, 2, c_grid=[0.1], unit_penalty=100.0, units=unit)

    def share(weight: NDArray[np.float64]) -> float:
        return float(abs(weight[1, 0]) / abs(weight[1, 1]))

    assert share(fair.weight) < 0.25 * share(plain.weight)
    same = fit_linear_head(X, y, 2, c_grid=[0.1], unit_penalty=0.0, units=unit)
    np.testing.assert_array_equal(same.weight, plain.weight)


def test_a_unit_penalty_is_a_plain_one_on_turned_features() -> None:
    rng = np.random.default_rng(4)
    unit, X = np.repeat(np.arange(10), 30), rng.normal(size=(300, 5))
    y = (unit % 2).astype(np.int64)
    X += rng.normal(size=(10, 5))[unit]
    X = (X - X.mean(0)) / X.std(0)
    deviations = []
    for k in range(2):
        means = np.stack([X[unit == u].mean(0) for u in range(k, 10, 2)])
        deviations.append(np.cov(means.T))
    metric = np.eye(5) + 3.0 * np.mean(deviations, axis=0)
    values, axes = np.linalg.eigh(metric)
    root = (axes / np.sqrt(values)) @ axes.T
    oracle = LogisticRegression(C=0.2, tol=1e-10, max_iter=5000).fit(X @ root, y)
    head = fit_linear_head(X.astype(np.float32), y, 2, c_grid=[0.1], unit_penalty=3.0, units=unit)
    probs = 1 / (1 + np.exp(np.subtract(*head.logits(X.astype(np.float32)).T)))
    np.testing.assert_allclose(probs, oracle.predict_proba(X @ root)[:, 1], atol=5e-3)


def test_a_copy_penalty_turns_from_what_damage_changes() -> None:
    rng = np.random.default_rng(5)
    y = np.repeat([0, 1], 200)
    X = rng.normal(size=(400, 6)).astype(np.float32)
    X[:, 0] += 1.5 * y  # fine texture: a copy has another
    X[:, 1] += 1.2 * y  # a copy has the same
    copy = X.copy()
    copy[:, 0] = rng.normal(size=400)
    both, images = np.concatenate([X, copy]), np.tile(np.arange(400), 2)
    plain = fit_linear_head(both, np.tile(y, 2), 2, c_grid=[0.1])
    kept = fit_linear_head(both, np.tile(y, 2), 2, c_grid=[0.1], copy_penalty=100.0, images=images)

    def share(weight: NDArray[np.float64]) -> float:
        return float(abs(weight[1, 0]) / abs(weight[1, 1]))

    assert share(kept.weight) < 0.25 * share(plain.weight)


def test_penalties_add_up() -> None:
    rng = np.random.default_rng(6)
    unit, X = np.tile(np.repeat(np.arange(10), 30), 2), rng.normal(size=(600, 5))
    X += rng.normal(size=(10, 5))[unit]
    X = (X - X.mean(0)) / X.std(0)
    y, images = (unit % 2).astype(np.int64), np.tile(np.arange(300), 2)
    means = [np.stack([X[unit == u].mean(0) for u in range(k, 10, 2)]) for k in range(2)]
    between = np.mean([np.cov(m.T) for m in means], axis=0)
    half = (X[:300] - X[300:]) / 2
    within = 2 * half.T @ half / 300
    values, axes = np.linalg.eigh(np.eye(5) + 3.0 * between + 2.0 * within)
    root = (axes / np.sqrt(values)) @ axes.T
    oracle = LogisticRegression(C=0.1, tol=1e-10, max_iter=5000).fit(X @ root, y)
    head = fit_linear_head(
        X.astype(np.float32),
        y,
        2,
        c_grid=[0.05],
        unit_penalty=3.0,
        units=unit,
        copy_penalty=2.0,
        images=images,
    )
    probs = 1 / (1 + np.exp(np.subtract(*head.logits(X.astype(np.float32)).T)))
    np.testing.assert_allclose(probs, oracle.predict_proba(X @ root)[:, 1], atol=5e-3)


def test_a_copy_penalty_needs_copies() -> None:
    with pytest.raises(ValueError, match="name them in degraded"):
        LinearHeadTraining(copy_penalty=1.0)
