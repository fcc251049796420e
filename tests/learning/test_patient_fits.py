"""Fits of heads on patients: each finds what it is made to find, patients count the same."""

from __future__ import annotations

import numpy as np
import pytest

from leukoscope.config.training import GatedAttention, LinearHeadTraining, MeanSpread
from leukoscope.evaluation.patient_heads import Bags, bag_logits
from leukoscope.learning.patient_fits import fit_attention, fit_mean_probability, fit_mean_spread

D = 6
TRAINING = LinearHeadTraining(c_grid=(0.1, 1.0))


def bags(kind: str, n: int, seed: int) -> tuple[Bags, np.ndarray]:
    """``n`` patients of noise; class 1 differs in spread, in mean, or in a tenth of its images."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    found = []
    for label in y:
        X = rng.normal(size=(20, D))
        if label and kind == "spread":
            X[:, 0] *= 3
        if label and kind == "mean":
            X[:, 0] += 1
        if label and kind == "witness":
            X[:2, 0] += 8
        found.append(X.astype(np.float32))
    return Bags(np.concatenate(found), 20 * np.arange(1, n + 1)), y


def accuracy(fit, kind: str, **more) -> float:
    """Of new patients."""
    (train, y), (val, y_val), (new, truth) = (
        bags(kind, n, seed) for seed, n in enumerate((40, 20, 60))
    )
    found = fit(train, y, val, y_val, 2, **more)
    assert found.val_logits.shape == (20, 2)
    return float((bag_logits(found.head, new).argmax(axis=1) == truth).mean())


def test_spread_is_seen_by_mean_and_spread_only() -> None:
    assert accuracy(fit_mean_spread, "spread", pooling=MeanSpread(), training=TRAINING) > 0.95
    assert accuracy(fit_mean_probability, "spread", training=TRAINING) < 0.8


def test_a_shift_is_seen_by_the_mean_of_probabilities() -> None:
    assert accuracy(fit_mean_probability, "mean", training=TRAINING) > 0.95


@pytest.mark.parametrize("fit", [fit_mean_probability, fit_mean_spread])
def test_a_copy_penalty_turns_from_what_damage_changes_in_a_patients_images(fit) -> None:
    def shown(n: int, seed: int) -> tuple[Bags, np.ndarray]:
        """Patients, and after them the same with degraded images: the first feature is lost."""
        whole, y = bags("mean", n, seed)
        whole.X[:, 1] += 0.8 * np.repeat(y, 20)
        damaged = whole.X.copy()
        damaged[:, 0] = np.random.default_rng(seed + 9).normal(size=len(damaged))
        return whole.followed_by(Bags(damaged, whole.ends)), np.tile(y, 2)

    known, held = shown(40, 0), shown(20, 1)
    more = {"pooling": MeanSpread()} if fit is fit_mean_spread else {}

    def share(penalty: float) -> float:
        training = LinearHeadTraining(c_grid=(0.1,), degraded=("blur-1",), copy_penalty=penalty)
        weight = fit(*known, *held, 2, training=training, versions=2, **more).head.weight
        return float(abs(weight[1, 0]) / abs(weight[1, 1]))

    assert share(1000.0) < 0.5 * share(0.0)


def test_attention_finds_few_telling_images_and_repeats_itself() -> None:
    pooling = GatedAttention(components=6, hidden=8, seeds=2, learning_rate=0.02, epochs=120)
    assert accuracy(fit_attention, "witness", pooling=pooling, seed=1) > 0.9
    train, y = bags("witness", 40, 0)
    heads = [fit_attention(train, y, train, y, 2, pooling=pooling, seed=1).head for _ in range(2)]
    weights = heads[0].weights(train.X[20:40])  # the second patient, of class 1
    assert weights[:2].sum() > 0.3
    np.testing.assert_array_equal(*(head.logits(train.X[:20]) for head in heads))


def test_patients_count_the_same_however_many_images() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.normal(1, 0.1, (10, D)), rng.normal(-1, 0.1, (90, D))
    X = np.concatenate([few, many]).astype(np.float32)
    ends = np.array([5, 10, 55, 100])
    y = np.array([0, 0, 1, 1])
    found = fit_mean_probability(
        Bags(X, ends), y, Bags(X, ends), y, 2, training=LinearHeadTraining(c_grid=(1e-4,))
    )
    # Nothing is learnt at such a penalty but how frequent a class is: one half, not nine tenths.
    p = np.exp(bag_logits(found.head, Bags(np.zeros((1, D), np.float32), np.array([1]))))
    assert p[0, 0] == pytest.approx(0.5, abs=0.02)


def test_attention_with_fewer_images_than_components_stays_finite() -> None:
    rng = np.random.default_rng(2)
    X = (rng.normal(size=(24, 3)) @ rng.normal(size=(3, 40))).astype(np.float32)
    some, y = Bags(X, 3 * np.arange(1, 9)), np.arange(8) % 2
    pooling = GatedAttention(components=32, seeds=1, epochs=5)
    head = fit_attention(some, y, some, y, 2, pooling=pooling, seed=0).head
    strange = rng.normal(size=(3, 40)).astype(np.float32)
    assert np.abs(head.components(strange)).max() < 100
