"""Confident learning against its definition, step by step, and the worked example of the paper."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from leukoscope.core.errors import DataError
from leukoscope.evaluation.examples import (
    confident_learning,
    joint_distribution,
    margin_uncertainty,
    review_order,
)


def noisy(n: int, k: int, share: float, seed: int) -> tuple[NDArray, NDArray, NDArray]:
    """Labels, probabilities of a decent model of the true classes, and which labels are wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k, n)
    probs = np.stack([rng.dirichlet(1 + 12 * np.eye(k)[y]) for y in truth])
    wrong = rng.random(n) < share
    return np.where(wrong, (truth + rng.integers(1, k, n)) % k, truth), probs, wrong


@pytest.mark.parametrize("seed", range(5))
def test_the_confident_joint_follows_its_definition(seed: int) -> None:
    y, probs, _ = noisy(120, 4, 0.2, seed)
    found = confident_learning(y, probs)
    thresholds = [np.mean([p[j] for p, label in zip(probs, y, strict=True) if label == j])
                  for j in range(4)]  # fmt: skip
    counts = np.zeros((4, 4), int)
    likely = []
    for p, label in zip(probs, y, strict=True):
        above = [j for j in range(4) if p[j] >= thresholds[j]]
        best = max(above, key=lambda j: p[j]) if above else None
        if best is not None:
            counts[label, best] += 1
        likely.append(best is not None and best != label)
    np.testing.assert_allclose(found.thresholds, thresholds)
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_array_equal(found.likely, likely)
    margin = [p[label] - max(np.delete(p, label)) for p, label in zip(probs, y, strict=True)]
    np.testing.assert_allclose(found.margin, margin)


def test_the_joint_of_the_papers_dogs_foxes_and_cows() -> None:
    # Northcutt et al. 2021, figure 1: counts of confident images and the joint they give.
    counts = [[100, 40, 20], [56, 60, 0], [32, 12, 80]]
    joint = joint_distribution(counts, np.sum(counts, axis=1))
    np.testing.assert_allclose(joint, [[0.25, 0.1, 0.05], [0.14, 0.15, 0], [0.08, 0.03, 0.2]])


def test_planted_errors_are_found_and_their_share_estimated() -> None:
    y, probs, wrong = noisy(2000, 4, 0.1, 9)
    found = confident_learning(y, probs)
    order = review_order(found, np.zeros(len(y), bool))
    head = order[: round(0.12 * len(y))]
    assert wrong[head].sum() >= 0.98 * wrong.sum()
    share = 1 - np.trace(joint_distribution(found.counts, np.bincount(y)))
    assert share == pytest.approx(wrong.mean(), abs=0.02)


def test_a_class_that_nobody_carries_is_never_suggested_as_an_error() -> None:
    y, probs, _ = noisy(60, 3, 0.0, 2)
    found = confident_learning(np.where(y == 2, 0, y), probs)
    assert np.isinf(found.thresholds[2])
    assert not (found.likely & (found.suggested == 2)).any()


def test_conflicts_join_the_likely_errors_in_the_order_of_margin() -> None:
    y = np.array([0, 0, 0, 1, 1])
    probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.4, 0.6]])
    order = review_order(confident_learning(y, probs), np.array([1, 0, 0, 0, 1], bool))
    assert order.tolist() == [2, 4, 0]
    assert margin_uncertainty(probs).argmax() == 4


@pytest.mark.parametrize(("y", "probs"), [([], np.empty((0, 2))), ([0, 2], np.ones((2, 2)) / 2),
                                          ([0], np.ones((2, 2)) / 2)])  # fmt: skip
def test_labels_that_do_not_fit_are_refused(y: list[int], probs: NDArray) -> None:
    with pytest.raises(DataError, match="label errors"):
        confident_learning(y, probs)


def test_a_class_that_one_image_carries_has_its_probability_as_threshold() -> None:
    probs = [[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1]]
    found = confident_learning([0, 1, 1], probs)
    assert found.thresholds.tolist() == [0.6, 0.75, np.inf]
    assert found.counts.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_a_label_that_is_never_confident_is_taken_as_it_is_and_a_single_count_counts() -> None:
    assert joint_distribution([[0, 0], [1, 1]], [4, 4]).tolist() == [[0.5, 0.0], [0.25, 0.25]]
    assert joint_distribution([[0, 1], [0, 2]], [2, 2]).tolist() == [[0.0, 0.5], [0.0, 0.5]]


def test_an_image_that_two_classes_share_evenly_is_not_suspicious() -> None:
    probs = np.array([[0.5, 0.5], [0.9, 0.1], [0.1, 0.9], [0.2, 0.8]])
    found = confident_learning([0, 0, 1, 1], probs)
    assert found.margin[0] == 0
    assert review_order(found, np.zeros(4, bool)).tolist() == []


def test_an_unknown_class_is_refused_in_words() -> None:
    with pytest.raises(DataError, match=r"^label errors: every image needs a label"):
        confident_learning([0, 2], np.ones((2, 2)) / 2)
