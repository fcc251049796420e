"""Limits of patients as a whole, from images that gates had not seen."""

from __future__ import annotations

import numpy as np

from leukoscope.study.patient_gate import UnseenPatients

PATIENTS, IMAGES, D = 60, 20, 40


def bags(rng: np.random.Generator, n: int) -> list[np.ndarray]:
    """Images that differ far more than their patients."""
    own = 3 + np.arange(D) % 5 + rng.normal(0, 0.2, (n, D))
    return [one + rng.normal(0, 1.5, (IMAGES, D)) for one in own]


def test_few_images_are_compared_with_as_few() -> None:
    rng = np.random.default_rng(2)
    known, fold = bags(rng, PATIENTS), np.arange(PATIENTS) % 5
    patients = np.repeat([f"p{k:02d}" for k in range(PATIENTS)], IMAGES)
    seen = UnseenPatients(
        patients, np.repeat(fold, IMAGES), np.concatenate(known).astype(np.float32),
        np.zeros(len(patients)),
    )  # fmt: skip
    limits, gate = seen.limits(1.0)
    assert [one.images for one in limits.distances] == [1, 2, 4, 8, 16]
    assert limits.rejected == 0
    for images in (1, 2, 5, 20):
        accepted = [gate.distance(X[:images]) <= limits.distance(images) for X in bags(rng, 200)]
        assert np.mean(accepted) >= 0.9, images


def test_the_share_of_rejected_images_has_a_limit_too() -> None:
    rng = np.random.default_rng(3)
    known = bags(rng, PATIENTS)
    scores = rng.random(PATIENTS * IMAGES)
    patients = np.repeat([f"p{k:02d}" for k in range(PATIENTS)], IMAGES)
    seen = UnseenPatients(
        patients, np.repeat(np.arange(PATIENTS) % 5, IMAGES),
        np.concatenate(known).astype(np.float32), scores,
    )  # fmt: skip
    limits, _ = seen.limits(0.9)
    shares = np.sort((scores > 0.9).reshape(PATIENTS, IMAGES).mean(axis=1))
    assert limits.rejected == shares[57]  # the 58th of 60: ⌈61 · .95⌉
