"""Shifted fields are found with their shift; chance matches are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from leukoscope.datasets.audit.measurements import measure_images
from leukoscope.datasets.audit.overlap import find_overlaps, nearest_in_colour

Image = NDArray[np.uint8]
Draw = Callable[..., Image]
Put = Callable[..., Path]


def overlaps(
    tmp_path: Path, put: Put, images: list[Image], **options: int
) -> list[tuple[int, ...]]:
    paths = [put(tmp_path / f"{k}.png", image) for k, image in enumerate(images)]
    sizes = [(image.shape[1], image.shape[0]) for image in images]
    found = find_overlaps(paths, sizes, measure_images(paths), **options)
    return [(o.first, o.second, o.dx, o.dy) for o in found]


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (7, -3), (-60, 20), (45, 55), (-90, 0)])
def test_a_shifted_field_is_found_with_its_shift(
    tmp_path: Path, smear: Draw, put: Put, dx: int, dy: int
) -> None:
    size = 176
    slide = smear(11, 400)
    rng = np.random.default_rng(1)
    window = slide[110 - dy : 110 - dy + size, 110 - dx : 110 - dx + size]
    second = np.clip(window * 0.93 + rng.normal(0, 2, window.shape), 0, 255).astype(np.uint8)
    images = [smear(k, size) for k in range(5)]
    images += [slide[110 : 110 + size, 110 : 110 + size], second]
    assert overlaps(tmp_path, put, images) == [(5, 6, dx, dy)]


def test_a_field_out_of_focus_is_found(tmp_path: Path, smear: Draw, put: Put) -> None:
    slide = smear(12, 300)
    blurred = np.asarray(cv2.GaussianBlur(slide, (0, 0), 3.0), np.uint8)
    images = [smear(1, 176), slide[20:196, 20:196], blurred[40:216, 50:226]]
    assert overlaps(tmp_path, put, images) == [(1, 2, -30, -20)]


def test_large_fields_are_verified_small_and_measured_in_their_own_pixels(
    tmp_path: Path, smear: Draw, put: Put
) -> None:
    slide = cv2.resize(smear(13, 260), (1040, 1040), interpolation=cv2.INTER_LINEAR)
    images = [np.asarray(slide[0:720, 0:800]), np.asarray(slide[120:840, 160:960])]
    (found,) = overlaps(tmp_path, put, images)
    assert found[2] == pytest.approx(-160, abs=4)
    assert found[3] == pytest.approx(-120, abs=4)


def test_unlike_fields_do_not_overlap(tmp_path: Path, smear: Draw, put: Put) -> None:
    images = [smear(seed, 160) for seed in range(200, 260)]
    rng = np.random.default_rng(0)
    images += [rng.integers(0, 256, (160, 160, 3)).astype(np.uint8) for _ in range(10)]
    images += [np.full((160, 160, 3), level, np.uint8) for level in (200, 201, 202)]
    assert overlaps(tmp_path, put, images) == []


def test_lone_cells_that_match_are_no_overlap(tmp_path: Path, put: Put) -> None:
    images = []
    for k, (x, y) in enumerate([(60, 60), (90, 80), (100, 120)]):
        rng = np.random.default_rng(k)
        image = np.full((176, 176, 3), (245, 240, 225), np.uint8)
        cv2.circle(image, (x, y), 14, (110, 60, 160), -1, cv2.LINE_AA)
        images.append(np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8))
    assert overlaps(tmp_path, put, images) == []


def cell_in_the_middle(seed: int, spread: int = 6) -> Image:
    """A dark textured cell with a red cell in one corner and noise; no two are of one place."""
    rng = np.random.default_rng(seed)
    image = np.full((176, 176, 3), (235, 225, 228), np.uint8)
    corner = tuple(int(v) for v in rng.integers(-spread, spread + 1, 2))
    cv2.circle(image, corner, 24, (205, 150, 160), -1, cv2.LINE_AA)
    axes = tuple(int(v) for v in rng.integers(36, 44, 2))
    cv2.ellipse(image, (88, 88), axes, 0, 0, 360, (110, 60, 160), -1, cv2.LINE_AA)
    spots = cv2.GaussianBlur(rng.normal(0, 40, (176, 176)), (0, 0), 3)
    inside = (image[:, :, 1] < 100)[:, :, None]
    noisy = image + inside * spots[:, :, None] * 2 + rng.normal(0, 2, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def test_cells_that_each_lie_in_the_middle_are_no_overlap(tmp_path: Path, put: Put) -> None:
    assert overlaps(tmp_path, put, [cell_in_the_middle(seed) for seed in range(12)]) == []


def test_a_red_cell_that_lies_in_one_place_by_chance_makes_no_overlap(
    tmp_path: Path, put: Put
) -> None:
    images = [cell_in_the_middle(seed, spread=1) for seed in range(12)]
    assert overlaps(tmp_path, put, images) == []


def test_a_common_scale_bar_is_no_overlap(tmp_path: Path, smear: Draw, put: Put) -> None:
    images = [smear(seed, 176) for seed in range(300, 312)]
    for image in images:
        image[150:172, 120:172] = 255
        image[164:167, 124:168] = 0
        image[154:162, 130:160:4] = 0
    assert overlaps(tmp_path, put, images) == []


def test_cut_out_cells_other_sizes_and_equal_pixels_are_left_out(
    tmp_path: Path, smear: Draw, put: Put
) -> None:
    slide = smear(14, 300)
    black = slide * (slide[:, :, 1:2] < 130)
    images = [
        slide[0:176, 0:176],
        slide[0:176, 0:176].copy(),
        slide[10:200, 10:200],
        black[0:176, 0:176],
        black[20:196, 20:196],
    ]
    assert overlaps(tmp_path, put, images) == []


def test_order_of_the_images_and_threads_change_nothing(
    tmp_path: Path, smear: Draw, put: Put
) -> None:
    slide = smear(15, 400)
    images = [
        slide[y : y + 176, x : x + 176] for x, y in [(0, 0), (60, 30), (200, 200), (150, 180)]
    ]
    first = overlaps(tmp_path, put, images, threads=1)
    assert [pair[:2] for pair in first] == [(0, 1), (2, 3)]
    turned = overlaps(tmp_path, put, images[::-1], threads=2)
    assert sorted((3 - b, 3 - a, -dx, -dy) for a, b, dx, dy in turned) == first


def test_neighbours_are_the_nearest() -> None:
    colour = np.arange(50, dtype=np.float32)[:, None] ** 1.0
    nearest = nearest_in_colour(colour, 2)
    assert set(nearest[10].tolist()) == {9, 10, 11}
    assert nearest_in_colour(colour[:3], 600).shape == (3, 3)
