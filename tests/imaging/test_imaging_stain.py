"""Stain normalisation against mixtures of known stains."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from leukoscope.config.preprocess import Macenko
from leukoscope.imaging.stain import (
    BLACK,
    estimate_stains,
    lab_statistics,
    lit_pixels,
    macenko,
    nuclear_blue,
    reinhard,
)

NUCLEAR = np.array([0.65, 0.70, 0.29])
OTHER = np.array([0.10, 0.80, 0.59])


def mixture(nuclear: np.ndarray, other: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """(100, 100, 3) of pixels that hold two stains in random amounts (Beer–Lambert)."""
    rng = np.random.default_rng(0)
    amounts = rng.uniform(0, 1.3, (10_000, 2)) * strength
    amounts[:3000, 1] = 0
    amounts[3000:6000, 0] = 0
    amounts[6000:7000] = 0
    vectors = np.stack([nuclear / np.linalg.norm(nuclear), other / np.linalg.norm(other)])
    levels = 240 * np.exp(-amounts @ vectors) - 1
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8).reshape(100, 100, 3)


def degrees(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))))


def test_macenko_finds_the_stains_of_a_mixture() -> None:
    for order in ((NUCLEAR, OTHER), (OTHER, NUCLEAR)):
        found = estimate_stains(mixture(*order), Macenko())
        assert found is not None
        assert degrees(found.vectors[0], NUCLEAR) < 2
        assert degrees(found.vectors[1], OTHER) < 2
        assert found.concentrations == pytest.approx([1.29, 1.29], abs=0.05)


def test_macenko_brings_two_laboratories_together() -> None:
    one = mixture(NUCLEAR, OTHER)
    two = mixture(np.array([0.55, 0.78, 0.31]), np.array([0.2, 0.9, 0.4]), 0.7)
    step = Macenko(
        stains=(tuple(NUCLEAR.tolist()), tuple(OTHER.tolist())), concentrations=(1.29, 1.29)
    )
    before = np.abs(one.astype(float) - two).mean()
    after = np.abs(macenko(one, step).astype(float) - macenko(two, step)).mean()
    assert before > 15
    assert after < 4
    # An image that has the target's stains already hardly changes.
    assert np.abs(macenko(one, step).astype(float) - one).mean() < 2.5


def test_macenko_leaves_what_has_no_two_stains() -> None:
    rng = np.random.default_rng(0)
    ground = rng.integers(225, 250, (60, 60, 3)).astype(np.uint8)
    assert macenko(ground, Macenko()) is ground
    speck = ground.copy()
    speck[:5, :5] = mixture(NUCLEAR, OTHER)[:5, :5]
    assert macenko(speck, Macenko()) is speck
    plain = np.full((60, 60, 3), (120, 60, 150), np.uint8)
    assert macenko(plain, Macenko()) is plain
    assert macenko(mixture(NUCLEAR, OTHER), Macenko(tissue_min=0.95)).mean() == pytest.approx(
        mixture(NUCLEAR, OTHER).mean()
    )


@pytest.mark.parametrize("seed", range(3))
def test_reinhard_gives_the_target_statistics(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lab = np.stack([rng.normal(m, s, (80, 80)) for m, s in ((55, 6), (10, 4), (8, 5))], axis=2)
    image = np.rint(255 * cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB)).astype(np.uint8)
    mean, std = (62.0, 5.0, -4.0), (5.0, 6.0, 3.0)
    found = lab_statistics(reinhard(image, mean, std))
    assert found is not None
    assert found[0] == pytest.approx(mean, abs=0.4)
    assert found[1] == pytest.approx(std, abs=0.3)


def test_statistics_are_cielab() -> None:
    found = lab_statistics(np.full((4, 4, 3), (255, 0, 0), np.uint8))
    assert found is not None
    # sRGB red under D65: 53.24, 80.09, 67.20 (Lindbloom).
    assert found[0] == pytest.approx([53.24, 80.09, 67.20], abs=0.2)
    assert found[1] == pytest.approx([0, 0, 0], abs=1e-4)
    assert lab_statistics(np.zeros((4, 4, 3), np.uint8)) is None


def test_black_surroundings_are_neither_counted_nor_changed() -> None:
    inside = mixture(NUCLEAR, OTHER)
    image = np.zeros((200, 200, 3), np.uint8)
    image[50:150, 50:150] = inside
    frame = np.ones((200, 200), np.bool_)
    frame[50:150, 50:150] = False
    for change in (lambda x: macenko(x, Macenko()), lambda x: reinhard(x, (70, 5, 5), (9, 9, 9))):
        result = change(image)
        assert not result[frame].any()
        np.testing.assert_array_equal(result[50:150, 50:150], change(inside))
        assert (result[50:150, 50:150] != inside).any()


def test_every_measure_draws_the_line_of_black_at_the_same_level() -> None:
    """A pixel is black below the level; at the level it counts."""
    image = np.zeros((112, 112, 3), np.uint8)
    image[..., 2] = BLACK
    assert lit_pixels(image).all()
    assert nuclear_blue(image) == pytest.approx(BLACK)
    assert not lit_pixels(image - np.array([0, 0, 1], np.uint8)).any()
    assert nuclear_blue(image - np.array([0, 0, 1], np.uint8)) == 0
