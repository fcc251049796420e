"""What is painted over must not tell which cells were there."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from leukoscope.imaging.inpaint import cover_region, paint_ground
from leukoscope.imaging.observation import Observation

PLACES = ((50, 60), (120, 40), (170, 110), (60, 150), (130, 170))


def discs(radius: int, places: tuple[tuple[int, int], ...] = PLACES, size: int = 224) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    for x, y in places:
        cv2.circle(mask, (x, y), radius, 1, -1)
    return mask > 0


def field(radius: int) -> np.ndarray:
    """One scene of red cells that keep away from leukocytes, whatever the leukocytes' radius."""
    rng = np.random.default_rng(0)
    image = np.full((224, 224, 3), (240, 235, 232), np.uint8)
    for x, y in rng.uniform(0, 224, (60, 2)):
        if min(np.hypot(x - a, y - b) for a, b in PLACES) > 36:
            cv2.circle(image, (int(x), int(y)), 10, (190, 160, 165), -1)
    image[discs(radius)] = (110, 70, 180)
    noisy = cv2.GaussianBlur(image, (0, 0), 1.0) + rng.normal(0, 2, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def test_removal_does_not_tell_the_size_of_the_cells() -> None:
    removed = []
    for radius in (10, 15, 20):
        image = field(radius)
        seen = Observation(image)
        assert seen.masks.cell[discs(radius)].mean() > 0.98
        removed.append(seen.background.astype(float))
    noise = 2 * np.sqrt(2)  # two independent grains differ by this
    for other in removed[1:]:
        assert np.sqrt(np.square(other - removed[0]).mean()) < noise
        assert (np.abs(other - removed[0]).max(axis=2) > 25).mean() < 0.005


def test_the_covered_region_is_the_same_for_small_and_large_cells() -> None:
    small, large = cover_region(discs(9)), cover_region(discs(21))
    assert (small != large).mean() < 0.01


def test_the_covered_share_does_not_tell_the_number_of_cells() -> None:
    shares = [cover_region(discs(12, PLACES[:count])).mean() for count in range(6)]
    assert min(shares) >= 0.3
    assert max(shares) < 0.36


@pytest.mark.parametrize("radius", [5, 30, 40, 60, 100])
def test_cells_of_any_size_are_covered_with_a_halo(radius: int) -> None:
    cells = discs(radius, ((112, 112), (30, 200)))
    halo = cv2.dilate(cells.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert cover_region(cells)[halo].all()


def test_close_ups_are_covered_alike() -> None:
    regions = [cover_region(discs(radius, ((112, 112),))) for radius in (50, 65, 80)]
    assert (regions[0] == regions[1]).all()
    assert (regions[0] == regions[2]).all()
    assert regions[0].mean() < 0.6


def test_dense_fields_keep_some_background() -> None:
    places = tuple((x, y) for x in range(12, 224, 40) for y in range(12, 224, 40))
    assert cover_region(discs(14, places)).mean() < 0.73
    assert cover_region(np.ones((50, 60), np.bool_)).all()


def test_paint_follows_the_light_and_knows_nothing_of_the_hole() -> None:
    y, x = np.mgrid[-1:1:224j, -1:1:224j]
    light = (235 * (1 - 0.08 * x - 0.06 * (x * x + y * y)))[:, :, None] * np.array([1, 0.97, 0.95])
    noise = np.random.default_rng(0).normal(0, 1.5, light.shape)
    image = np.clip(light + noise, 0, 255).astype(np.uint8)
    hole = discs(27)
    marked = image.copy()
    marked[hole] = (90, 40, 160)
    painted = paint_ground(marked, hole)
    np.testing.assert_array_equal(painted, paint_ground(image, hole))
    smooth = cv2.GaussianBlur(painted, (0, 0), 4).astype(float)
    assert np.abs(smooth - light)[hole].max() < 3.5
    assert 0.7 < (painted - light)[hole].std() < 2
