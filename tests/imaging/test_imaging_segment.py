"""Leukocytes, scale bars, and what is left when they are removed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.inpaint import NO_GROUND, paint_ground
from leukoscope.imaging.observation import PROBE_INPUTS, Observation
from leukoscope.imaging.scale_bar import erase_scale_bar, find_scale_bar
from leukoscope.imaging.segment import (
    NEUTRAL_GREY,
    segment_leukocytes,
)

STAINS = {
    "grey-blue": ((245, 243, 230), (160, 170, 180), (120, 70, 190)),
    "blue": ((235, 242, 250), (110, 145, 200), (110, 75, 195)),
    "pink": ((250, 230, 205), (205, 175, 170), (85, 45, 130)),
    "pale": ((250, 248, 240), (185, 190, 200), (215, 150, 230)),
}


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / max(1, int(a.sum() + b.sum()))


def field(stain: str, size: int = 224, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A field of red cells and five leukocytes, and the leukocytes' true mask."""
    ground, red, violet = STAINS[stain]
    rng = np.random.default_rng(seed)
    image = np.full((size, size, 3), ground, np.uint8)
    unit = size / 224
    for x, y in rng.uniform(0, size, (45, 2)):
        cv2.circle(image, (int(x), int(y)), round(9 * unit), red, -1)
    truth = np.zeros((size, size), np.uint8)
    for x, y in ((50, 60), (120, 40), (170, 110), (60, 150), (130, 160)):
        centre = (round(x * unit), round(y * unit))
        cv2.circle(image, centre, round(15 * unit), violet, -1)
        cv2.circle(truth, centre, round(15 * unit), 1, -1)
    noisy = cv2.GaussianBlur(image, (0, 0), 1.2) + rng.normal(0, 2, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), truth > 0


def with_bar(image: np.ndarray, style: str) -> np.ndarray:
    image = image.copy()
    if style == "red":
        cv2.line(image, (188, 214), (216, 214), (225, 30, 35), 1)
        cv2.putText(image, "20 um", (188, 209), cv2.FONT_HERSHEY_PLAIN, 0.6, (225, 30, 35), 1)
    elif style == "black":
        image[196:222, 184:220] = 255
        cv2.rectangle(image, (188, 215), (216, 216), (0, 0, 0), -1)
        cv2.putText(image, "200", (190, 210), cv2.FONT_HERSHEY_PLAIN, 0.8, (0, 0, 0), 1)
    return image


@pytest.mark.parametrize("stain", STAINS)
def test_leukocytes_of_a_field(stain: str) -> None:
    image, truth = field(stain)
    masks = segment_leukocytes(image)
    assert masks.cell.dtype == masks.nucleus.dtype == np.bool_
    assert dice(masks.nucleus, truth) > 0.93
    assert dice(masks.cell, truth) > 0.88  # generous by a pixel, so that no halo stays
    assert not (masks.nucleus & ~masks.cell).any()


def test_large_images_are_segmented_at_their_own_size() -> None:
    image, truth = field("grey-blue", size=700)
    masks = segment_leukocytes(image)
    assert masks.cell.shape == (700, 700)
    assert dice(masks.cell, truth) > 0.93


def test_red_cells_alone_are_no_leukocytes() -> None:
    for stain, (ground, red, _) in STAINS.items():
        image = np.full((224, 224, 3), ground, np.uint8)
        for x, y in np.random.default_rng(1).uniform(0, 224, (40, 2)):
            cv2.circle(image, (int(x), int(y)), 9, red, -1)
        masks = segment_leukocytes(cv2.GaussianBlur(image, (0, 0), 1.2))
        assert masks.cell.mean() < 0.02, stain


def test_uneven_coloured_light_is_no_leukocyte() -> None:
    image, truth = field("grey-blue")
    y, x = np.mgrid[-1:1:224j, -1:1:224j]
    fall = 1 - 0.12 * (x * x + y * y)[:, :, None] * np.array([1.0, 1.2, 0.5])
    masks = segment_leukocytes((image * fall).astype(np.uint8))
    assert dice(masks.cell, truth) > 0.9


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (33, 17), (224, 224)])
@pytest.mark.parametrize("level", [0, 7, 200, 255])
def test_empty_pictures(shape: tuple[int, int], level: int) -> None:
    image = np.full((*shape, 3), level, np.uint8)
    masks = segment_leukocytes(image)
    assert masks.cell.shape == shape
    assert not masks.nucleus.any()
    assert find_scale_bar(image) is None
    assert Observation(image).background.shape == image.shape


def test_cell_cut_out_on_black() -> None:
    image = np.zeros((450, 450, 3), np.uint8)
    cv2.circle(image, (220, 230), 90, (90, 40, 110), -1)
    truth = image.any(axis=2)
    masks = segment_leukocytes(image)
    assert dice(masks.cell, truth) > 0.97
    assert Observation(image).background.max() < 20


@pytest.mark.parametrize("stain", STAINS)
def test_removal_leaves_no_violet_and_no_halo(stain: str) -> None:
    image, truth = field(stain)
    removed = Observation(image).background
    assert segment_leukocytes(removed).cell.mean() < 0.1 * truth.mean()
    # What is painted looks like ground: its colour, and a grain of its strength.
    ground = np.array(STAINS[stain][0], float)
    assert np.abs(np.median(removed[truth], axis=0) - ground).max() <= 4
    assert 0.8 < removed[truth].std(axis=0).mean() < 4
    # Most of the rest is left exactly as it was, red cells included.
    assert (removed == image).all(axis=2).mean() > 0.5


def test_removal_is_deterministic_and_leaves_the_input_alone() -> None:
    image, _ = field("blue")
    before = image.copy()
    first, second = Observation(image).background, Observation(image).background
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(image, before)


def test_removal_copies_nothing_from_inside() -> None:
    image, truth = field("pink")
    marked = image.copy()
    marked[truth] = (0, 255, 0)
    wide = cv2.dilate(truth.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    np.testing.assert_array_equal(
        paint_ground(marked, wide)[truth], paint_ground(image, wide)[truth]
    )


def test_nothing_to_copy_from() -> None:
    image, _ = field("pink")
    hole = np.ones((224, 224), np.bool_)
    assert (paint_ground(image, hole) == NO_GROUND).all()
    hole[:20] = False
    assert paint_ground(image, hole).shape == image.shape


def test_kept_cells_stand_on_one_grey() -> None:
    image = with_bar(field("pink")[0], "red")
    kept, bar = PROBE_INPUTS["cells-only"](image), find_scale_bar(image)
    assert bar is not None
    cell = segment_leukocytes(image).cell & ~bar.mask
    np.testing.assert_array_equal(kept[cell], image[cell])
    assert (kept[~cell] == NEUTRAL_GREY).all()


@pytest.mark.parametrize("style", ["red", "black"])
@pytest.mark.parametrize("stain", STAINS)
def test_scale_bar_is_found_and_erased(style: str, stain: str) -> None:
    image, _ = field(stain)
    assert find_scale_bar(image) is None
    barred = with_bar(image, style)
    bar = find_scale_bar(barred)
    assert bar is not None
    assert bar.colour == style
    changed = (barred != image).any(axis=2)
    assert (bar.mask & changed).sum() > 0.95 * changed.sum()
    assert bar.mask.sum() < 0.04 * bar.mask.size
    x0, y0, x1, y1 = bar.box
    assert bar.mask[y0:y1, x0:x1].all()
    assert bar.thickness_px == (1 if style == "red" else 2)
    erased = erase_scale_bar(barred)
    assert find_scale_bar(erased) is None
    np.testing.assert_array_equal(erased[:170], barred[:170])


@pytest.mark.real_data
def test_dice_on_zheng(data_root: Path) -> None:
    folder = data_root / "zheng_wbc_masks"
    nucleus, cell = [], []
    for number in range(1, 301, 5):
        image = decode_image(folder / f"{number:03d}_image.png").image
        truth = decode_image(folder / f"{number:03d}.png").image[:, :, 0]
        masks = segment_leukocytes(image)
        nucleus.append(dice(masks.nucleus, truth == 255))
        cell.append(dice(masks.cell, truth > 0))
    assert np.mean(nucleus) > 0.93
    assert np.mean(cell) > 0.94


@pytest.mark.real_data
def test_fields_of_the_four_class_set(data_root: Path) -> None:
    for name in ("Benign", "Early", "Pre", "Pro"):
        for path in sorted((data_root / "aria_all" / name).iterdir())[::60]:
            image = decode_image(path).image
            bar = find_scale_bar(image)
            assert bar is not None, path
            assert bar.box[0] >= 180, path
            assert bar.box[1] >= 188, path
            masks = segment_leukocytes(image)
            assert 0.005 < masks.cell.mean() < 0.75, path


@pytest.mark.real_data
def test_no_scale_bar_on_single_cells(data_root: Path) -> None:
    files = sorted((data_root / "pbc_cells").rglob("*.jpg"))[::4]
    files += sorted((data_root / "cnmc_2019").rglob("*.webp"))[::100]
    assert not [path for path in files if find_scale_bar(decode_image(path).image)]
