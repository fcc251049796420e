"""A patient as a whole against those of a study."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save

from leukoscope.core.errors import DataError
from leukoscope.evaluation.gate import PatientGate, means_of, unseen_distances
from leukoscope.evaluation.ood import fit_threshold

PATIENTS, IMAGES, D = 60, 20, 40


def bags(rng: np.random.Generator, n: int, shift: float = 0.0) -> list[np.ndarray]:
    """Images that differ far more than their patients, around one point or a shifted one."""
    centre = 3 + np.arange(D) % 5 + shift * (np.arange(D) % 2)
    own = centre + rng.normal(0, 0.2, (n, D))
    return [one + rng.normal(0, 1.5, (IMAGES, D)) for one in own]


def test_a_shift_that_single_images_hide_shows_in_the_mean_of_a_patient() -> None:
    rng = np.random.default_rng(0)
    known, new, foreign = bags(rng, PATIENTS), bags(rng, 100), bags(rng, 100, shift=1.0)
    fold = np.arange(PATIENTS) % 5
    limit = fit_threshold(unseen_distances(known, fold, enumerate(known)), accept=0.95)
    gate = PatientGate.of(means_of(known))
    accepted = np.mean([gate.distance(X) <= limit for X in new])
    assert accepted >= 0.9  # 95 % are aimed at
    assert np.mean([gate.distance(X) <= limit for X in foreign]) < 0.05

    # Images alone: the same machinery lets nearly all of the foreign ones pass.
    images = [x[None] for X in known for x in X]
    found = unseen_distances(images, np.repeat(fold, IMAGES), enumerate(images))
    limit_of_image = fit_threshold(found, accept=0.95)
    alone = PatientGate.of(means_of(images))
    passed = np.mean([alone.distance(x[None]) <= limit_of_image for X in foreign[:20] for x in X])
    assert passed > 0.5


def test_the_same_patients_come_back_from_bytes() -> None:
    rng = np.random.default_rng(1)
    gate = PatientGate.of(rng.normal(size=(12, D)))
    again = PatientGate.from_bytes(gate.to_bytes(), "here")
    X = rng.normal(size=(3, D))
    assert again.distance(X) == gate.distance(X)
    with pytest.raises(DataError, match="here: expected the tensors"):
        PatientGate.from_bytes(b"no tensors", "here")
    for tensor in (np.zeros(3, np.float16), np.zeros((0, 3), np.float16)):
        with pytest.raises(DataError, match=r"here: expected references \(R, D\), got"):
            PatientGate.from_bytes(PatientGate(tensor).to_bytes(), "here")
    with pytest.raises(DataError, match="here: expected the tensors of a patient gate"):
        PatientGate.from_bytes(save({"other": np.zeros(3)}), "here")


def test_a_patient_is_compared_with_those_of_other_folds() -> None:
    """By hand: the fifth nearest mean, of length 1, among the patients of the other folds."""
    rng = np.random.default_rng(2)
    known = [X.astype(np.float32) for X in bags(rng, 18)]
    fold = np.arange(18) % 3
    means = np.stack([X.astype(np.float64).mean(axis=0) for X in known])
    np.testing.assert_allclose(means_of(known), means)
    asked = [(4, known[4]), (7, known[7][:3])]
    expected = []
    for row, X in asked:
        others = means[fold != fold[row]]
        one = X.astype(np.float64).mean(axis=0)
        unit = others / np.linalg.norm(others, axis=1, keepdims=True)
        expected.append(np.sort(np.linalg.norm(one / np.linalg.norm(one) - unit, axis=1))[4])
    assert unseen_distances(known, fold, asked) == pytest.approx(expected, rel=0.02)
