from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from leukoscope.evaluation.calibration.errors import recalibration


def drawn(n: int, sure: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes of a model that is ``sure`` times too sure."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0.3, 1.5, n)
    y = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(int)
    p = 1 / (1 + np.exp(-sure * logit))
    return y, np.column_stack([1 - p, p])


def test_slope_is_that_of_a_logistic_regression_on_the_logit() -> None:
    y, prob = drawn(800, 2.0)
    logit = np.log(prob[:, 1] / prob[:, 0])[:, None]
    fitted = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(logit, y)
    found = recalibration(y, prob)
    assert found["slope"].value == pytest.approx(fitted.coef_[0, 0], abs=1e-4)
    assert found["slope"].low < 0.5 < found["slope"].high < 0.7
    spread = (found["slope"].high - found["slope"].low) / 2 / 1.96
    p = 1 / (1 + np.exp(-(logit[:, 0] * fitted.coef_[0, 0] + fitted.intercept_[0])))
    design = np.column_stack([logit[:, 0], np.ones(800)])
    fisher = np.linalg.inv(design.T @ (design * (p * (1 - p))[:, None]))
    assert spread == pytest.approx(fisher[0, 0] ** 0.5, rel=0.15)


def test_intercept_says_which_way_frequencies_are_off() -> None:
    y, prob = drawn(2000, 1.0)
    assert abs(recalibration(y, prob)["intercept"].value) < 0.15
    odds = prob[:, 1] / prob[:, 0] / 3
    low = np.column_stack([1 / (1 + odds), odds / (1 + odds)])
    assert recalibration(y, low)["intercept"].value == pytest.approx(np.log(3), abs=0.15)


def test_several_classes_have_a_slope_and_no_intercept() -> None:
    rng = np.random.default_rng(1)
    prob = rng.dirichlet([0.6] * 4, 3000)
    y = (prob.cumsum(axis=1) > rng.random((3000, 1))).argmax(axis=1)
    found = recalibration(y, prob, groups=[str(i // 30) for i in range(3000)])
    assert set(found) == {"slope"}
    assert found["slope"].low < 1 < found["slope"].high
    sharp = prob**2 / (prob**2).sum(axis=1, keepdims=True)
    assert recalibration(y, sharp)["slope"].value == pytest.approx(0.5, abs=0.05)


def test_groups_that_agree_widen_the_interval() -> None:
    y, prob = drawn(200, 1.0)
    rows = np.repeat(np.arange(200), 4)
    alone, grouped = (
        recalibration(y[rows], prob[rows], groups=groups)["slope"]
        for groups in (None, rows.astype(str))
    )
    assert (grouped.high - grouped.low) / (alone.high - alone.low) == pytest.approx(2, rel=0.15)


def test_separated_classes_and_a_single_class_have_none() -> None:
    y = np.array([0, 1] * 20)
    for truth in (y, np.zeros(40, int)):
        found = recalibration(truth, np.eye(2)[y] * 0.8 + 0.1)
        assert np.isnan(found["slope"].value)
        assert not found["slope"].reliable
