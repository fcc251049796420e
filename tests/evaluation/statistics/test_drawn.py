"""What is counted once by group is what weighting every image gives."""

from __future__ import annotations

import numpy as np
import pytest

from leukoscope.evaluation.statistics import drawn
from leukoscope.evaluation.statistics.intervals import Resampling
from leukoscope.evaluation.statistics.metrics import metric_names, weighted_metrics

NAMES = {2: ("healthy", "all"), 3: ("benign", "pre_b", "pro_b")}


def predictions(classes: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """60 images of 9 groups of unequal size, with ties among the probabilities."""
    rng = np.random.default_rng(classes)
    truth = rng.integers(0, classes, 60)
    scores = rng.integers(1, 5, (60, classes)).astype(np.float64)
    groups = [f"g{number}" for number in rng.integers(0, 9, 60)]
    return truth, scores / scores.sum(axis=1, keepdims=True), groups


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("most", [0, 400])
def test_every_metric_is_that_of_the_weighted_images(
    classes: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawn, "_MOST_GROUPS", most)
    truth, prob, groups = predictions(classes)
    resampling = Resampling.of(groups, truth, replicates=150, seed=3)
    weights = np.concatenate(list(resampling.weights()))
    expected = weighted_metrics(truth, prob, NAMES[classes], weights)
    for metric in metric_names(NAMES[classes]):
        found = drawn.drawn_metric(resampling, truth, prob, NAMES[classes], metric)
        np.testing.assert_array_equal(found, expected[metric], err_msg=metric)


def test_a_replicate_without_a_class_has_no_area() -> None:
    truth = np.array([0, 0, 1, 1])
    prob = np.array([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6], [0.2, 0.8]])
    resampling = Resampling.of(["a", "a", "b", "b"], truth, replicates=100)
    mixed = Resampling.of(["a", "b", "a", "b"], truth, replicates=100)
    for draws in (resampling, mixed):
        found = drawn.drawn_metric(draws, truth, prob, NAMES[2], "roc_auc")
        assert np.nanmin(found) == 1.0  # the order is right whatever is drawn
    alone = Resampling.of(["a", "b", "c", "d"], np.zeros(4, np.int64), replicates=200)
    found = drawn.drawn_metric(alone, truth, prob, NAMES[2], "roc_auc")
    assert np.isnan(found).any()
    assert not np.isnan(found).all()
