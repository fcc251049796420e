from __future__ import annotations

import numpy as np
import pytest

from leukoscope.evaluation.statistics.metrics import compute_metrics
from leukoscope.evaluation.statistics.thresholds import reliability, roc_curves

FOUR = ("benign", "early_pre_b", "pre_b", "pro_b")


@pytest.fixture
def predictions() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 4, 300), np.round(rng.dirichlet(np.ones(4), 300), 2)


def test_the_area_under_each_roc_curve_is_the_metric(predictions) -> None:
    y, prob = predictions
    metrics = compute_metrics(y, prob, FOUR)
    for name, curve in roc_curves(y, prob, FOUR).items():
        assert np.trapezoid(curve.y, curve.x) == pytest.approx(metrics[f"roc_auc_{name}"])


def test_classes_without_images_have_no_curve(predictions) -> None:
    y, prob = predictions
    assert list(roc_curves(y % 2, prob, FOUR)) == ["benign", "early_pre_b"]


def test_the_reliability_diagram_sums_to_ece(predictions) -> None:
    y, prob = predictions
    prob = prob / prob.sum(axis=1, keepdims=True)
    diagram = reliability(y, prob)
    gaps = np.abs(diagram.accuracy - diagram.confidence)
    assert np.nansum(gaps * diagram.n) / 300 == pytest.approx(compute_metrics(y, prob, FOUR)["ece"])
    assert diagram.n.sum() == 300
    assert np.isnan(diagram.accuracy[diagram.n == 0]).all()
    filled = diagram.n > 0
    assert (diagram.confidence[filled] <= diagram.edges[1:][filled]).all()
    assert (diagram.confidence[filled] > diagram.edges[:-1][filled]).all()
