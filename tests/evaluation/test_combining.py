"""Weights and votes against SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

from leukoscope.core.errors import DataError
from leukoscope.evaluation.calibration.scaling import softmax
from leukoscope.evaluation.combining import (
    accuracy_weights,
    fit_weights,
    log_probs,
    vote,
    weighted_mean,
)

K = 3


def members(seed: int = 0, n: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Four members of unequal worth."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, K, n)
    sharp = np.array([3.0, 2.0, 0.5, 0.0])
    logits = sharp[:, None, None] * np.eye(K)[y] + rng.normal(size=(4, n, K))
    return softmax(logits), y


def test_weights_have_the_smallest_log_loss_on_the_simplex() -> None:
    probs, y = members()

    def loss(w: np.ndarray) -> float:
        return float(-np.log(np.tensordot(w, probs, 1)[np.arange(len(y)), y]).mean())

    ours = fit_weights(probs, y)
    oracle = minimize(
        loss, np.full(4, 0.25), method="SLSQP", bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, options={"ftol": 1e-12},
    )  # fmt: skip
    assert ours.sum() == pytest.approx(1)
    assert (ours >= 0).all()
    assert loss(ours) <= oracle.fun + 1e-6
    assert ours.argmax() == 0
    with pytest.raises(DataError, match="no validation images"):
        fit_weights(probs[:, :0], y[:0])


def test_averages_and_votes_are_sklearns() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, K, 200)
    X = rng.normal(size=(200, 4)) + y[:, None] * 0.7
    trees = DecisionTreeClassifier(max_depth=2)
    models = [("a", LogisticRegression()), ("b", GaussianNB()), ("c", trees)]
    soft = VotingClassifier(models, voting="soft", weights=[1, 2, 1]).fit(X[:150], y[:150])
    probs = np.stack([m.predict_proba(X[150:]) for m in soft.estimators_])
    np.testing.assert_allclose(weighted_mean(probs, [0.25, 0.5, 0.25]), soft.predict_proba(X[150:]))
    hard = VotingClassifier(models, voting="hard").fit(X[:150], y[:150])
    votes = np.eye(K)[probs.argmax(2)].sum(0)
    clear = np.sort(votes, axis=1)[:, -1] > np.sort(votes, axis=1)[:, -2]
    np.testing.assert_array_equal(vote(probs).argmax(1)[clear], hard.predict(X[150:])[clear])
    np.testing.assert_allclose(vote(probs).sum(1), 1)


def test_ties_go_to_the_larger_mean() -> None:
    assert vote([[[0.55, 0.45]], [[0.1, 0.9]]]).argmax() == 1


def test_accuracy_weights_of_useless_members_are_equal() -> None:
    assert accuracy_weights([[[0.0, 1.0]], [[0.0, 1.0]]], [0]).tolist() == [0.5, 0.5]


def test_what_is_no_stack_of_probabilities_is_refused() -> None:
    with pytest.raises(DataError, match=r"expected probabilities \(M, n, K\), got \(2, 3\)"):
        weighted_mean(np.ones((2, 3)))
    assert np.isfinite(log_probs([0.0, 1.0])).all()
