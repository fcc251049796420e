"""From images to patients: each method against its definition, the bootstrap against itself."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from leukoscope.core.errors import UnknownNameError
from leukoscope.evaluation.combining import (
    PATIENT_METHODS,
    aggregate,
    choose_method,
    patient_log_losses,
    patient_result,
)

PROBS = np.random.default_rng(0).dirichlet([1, 1, 1], (5, 7))


def test_the_mean_logit_is_the_softmax_of_the_mean_logits_with_their_temperature() -> None:
    logits = np.random.default_rng(1).normal(size=(9, 4)) * 3
    expected = special.softmax((logits / 1.7).mean(axis=0))
    np.testing.assert_allclose(aggregate(special.softmax(logits / 1.7, axis=1)), expected)


def test_median_and_vote_follow_their_definitions() -> None:
    for p in PROBS:
        median = np.median(p, axis=0)
        np.testing.assert_allclose(aggregate(p, "median-probability"), median / median.sum())
        votes = np.bincount(p.argmax(axis=1), minlength=3)
        np.testing.assert_allclose(aggregate(p, "vote"), (votes + 1 / 3) / 8)


@pytest.mark.parametrize("method", PATIENT_METHODS)
def test_patients_in_a_block_are_as_patients_alone(method: str) -> None:
    together = aggregate(PROBS, method)
    np.testing.assert_allclose(together, [aggregate(p, method) for p in PROBS])
    np.testing.assert_allclose(together.sum(axis=1), 1)
    assert (together > 0).all()
    order = np.random.default_rng(2).permutation(7)
    np.testing.assert_allclose(aggregate(PROBS[:, order], method), together)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="mean-logit"):
        aggregate(PROBS[0], "mean-logits")


def test_the_interval_narrows_with_the_images_and_a_single_image_has_none() -> None:
    rng = np.random.default_rng(3)
    p = rng.beta(4, 2, 400)
    probs = np.stack([p, 1 - p], axis=1)
    few, many = patient_result("a", probs[:20]), patient_result("a", probs)
    assert few.high - few.low > 2 * (many.high - many.low)
    assert many.low < many.probs[0] < many.high
    # A normal approximation in the logit agrees with the bootstrap.
    z = special.logit(p)
    normal = special.expit(z.mean() + np.array([-1.96, 1.96]) * z.std(ddof=1) / 20)
    np.testing.assert_allclose([many.low, many.high], normal, atol=0.006)
    assert many.stability == 1
    assert many.agreement == (p > 0.5).mean()
    one = patient_result("b", probs[:1])
    assert (one.low, one.high, one.stability) == (None, None, None)
    assert patient_result("a", probs[:20]).low == few.low


def test_the_method_is_chosen_by_log_loss_of_patients_not_of_images() -> None:
    sure = [([[0.99, 0.01]] * 9 + [[0.01, 0.99]], 0), ([[0.2, 0.8]] * 3, 1)]
    losses = patient_log_losses(sure)
    expected = -np.mean([np.log(aggregate(p, "vote")[y]) for p, y in sure])
    assert losses["vote"] == pytest.approx(expected)
    assert choose_method(losses) == min(losses, key=losses.get)
    assert patient_log_losses([]) == {}


def test_images_that_all_vote_alike_have_limits_that_a_vote_can_reach() -> None:
    result = patient_result("a", [[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]], "vote")
    exact = stats.binomtest(3, 3).proportion_ci(method="exact")
    assert result.low == pytest.approx((3 * exact.low + 1 / 2) / 4)
    assert result.high == result.probs[0] == (3 + 1 / 2) / 4
