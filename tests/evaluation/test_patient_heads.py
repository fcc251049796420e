"""Heads for patients: what one image adds, what one image is alone, and their files."""

from __future__ import annotations

import numpy as np
import pytest

from leukoscope.core.errors import DataError
from leukoscope.evaluation.calibration.scaling import log_softmax, softmax
from leukoscope.evaluation.patient_heads import (
    AttentionHead,
    Bags,
    MeanProbabilityHead,
    MeanSpreadHead,
    PatientHead,
    contributions,
    head_from_bytes,
    head_result,
    head_to_bytes,
)

RNG = np.random.default_rng(3)
N, D, K, P, H, S = 7, 5, 3, 4, 6, 2
X = RNG.normal(size=(N, D))


def _drawn(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape)


HEADS: dict[str, PatientHead] = {
    "mean-probability": MeanProbabilityHead(_drawn(K, D), _drawn(K)),
    "mean-spread": MeanSpreadHead(_drawn(K, 3 * D), _drawn(K), np.array([0.5])),
    "mean-spread, no quantiles": MeanSpreadHead(_drawn(K, 2 * D), _drawn(K), np.empty(0)),
    "gated-attention": AttentionHead(
        _drawn(D), _drawn(D, P), _drawn(S, H, P), _drawn(S, H), _drawn(S, H, P), _drawn(S, H),
        _drawn(S, H), _drawn(S, K, P), _drawn(S, K),
    ),
}  # fmt: skip


def _log_odds(logits: np.ndarray) -> np.ndarray:
    p = softmax(logits)
    return np.log(p / (1 - p))


@pytest.mark.parametrize("name", HEADS)
def test_leaving_an_image_out_is_the_answer_for_the_others(name: str) -> None:
    head = HEADS[name]
    left_out = np.stack([head.logits(np.delete(X, row, axis=0)) for row in range(N)])
    np.testing.assert_allclose(head.without_each(X), left_out, atol=1e-9)
    gained = _log_odds(head.logits(X)) - _log_odds(left_out)
    np.testing.assert_allclose(contributions(head, X), gained, atol=1e-9)
    assert head.weights(X).sum() == pytest.approx(1)


@pytest.mark.parametrize("name", HEADS)
def test_the_answer_for_one_image_is_linear(name: str) -> None:
    head = HEADS[name]
    weight, bias = head.of_one_image()
    for x in X:
        one = log_softmax(head.logits(x[None]))
        np.testing.assert_allclose(one, log_softmax(weight @ x + bias), atol=1e-9)
    assert not contributions(head, X[:1]).any()


@pytest.mark.parametrize("name", HEADS)
def test_a_head_survives_its_file(name: str) -> None:
    kind, head = name.partition(",")[0], HEADS[name]
    again = head_from_bytes(kind, head_to_bytes(kind, head), "here")
    np.testing.assert_allclose(again.logits(X), head.logits(X), atol=1e-4)
    with pytest.raises(DataError, match="here: expected the tensors of a patient head"):
        head_from_bytes(kind, b"nonsense", "here")


def test_images_of_patients_keep_their_places() -> None:
    bags = Bags.of(X, [np.array([4, 0]), np.array([2]), np.array([6, 5, 1])])
    np.testing.assert_array_equal(bags.members, [0, 0, 1, 2, 2, 2])
    np.testing.assert_array_equal(bags.take(np.array([2, 1])).X, X[[6, 5, 1, 2]])
    both = bags.take(np.array([1])).followed_by(bags.take(np.array([0])))
    np.testing.assert_array_equal(list(both)[1], X[[4, 0]])
    np.testing.assert_allclose(bags.pooled()[1], [*X[2], *np.zeros(D)], rtol=1e-6)


def test_the_interval_of_a_patient_is_over_its_images() -> None:
    head = MeanProbabilityHead(np.array([[1.0], [0.0]]), np.zeros(2))
    alike, mixed = np.full((20, 1), 2.0), np.array([[4.0], [-4.0]] * 10)
    sure, unsure = (head_result("p", rows, head, softmax) for rows in (alike, mixed))
    assert sure.high - sure.low == pytest.approx(0, abs=1e-9)
    assert unsure.high - unsure.low > 0.2
    assert (sure.agreement, unsure.agreement) == (1.0, 0.5)
