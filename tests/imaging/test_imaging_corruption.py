"""Damage: what each kind does to a picture, and the measures that tell it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from leukoscope.config.preprocess import Macenko
from leukoscope.core.errors import UnknownNameError
from leukoscope.imaging.corruption import CORRUPTIONS, HAEMATOLOGY, STUDY_S1, corrupt
from leukoscope.imaging.quality import BEYOND, measure_conditions, measure_quality
from leukoscope.imaging.stain import estimate_stains, optical_density
from leukoscope.phantom.render import render_phantom
from leukoscope.phantom.spec import PhantomSpec

SPEC = PhantomSpec(images=6, sessions=3, size_px=224, seed=11)
BEFORE_CUTTING = ["stain-shift", "stain-fading", "bubble", "deposit", "noise", "darker", "brighter"]


@pytest.fixture(scope="module")
def fields() -> list[NDArray[np.uint8]]:
    return [render_phantom(SPEC, index).image for index in range(3)]


def look(image: NDArray[np.uint8]) -> dict[str, float]:
    return measure_conditions(image, measure_quality(image))


def distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_shape_and_pixels_of_the_input_stay_and_the_seed_decides(name: str, fields: list) -> None:
    image = fields[0][:, :160]  # not square
    before = image.copy()
    level = CORRUPTIONS[name].levels[3]
    found = corrupt(image, name, level, key="a", seed=1)
    assert found.shape == image.shape
    assert found.dtype == np.uint8
    assert np.array_equal(image, before)
    assert not np.shares_memory(found, image)
    assert np.array_equal(found, corrupt(image, name, level, key="a", seed=1))
    if name in {"motion", "uneven-light", "bubble", "deposit", "noise", "s1-noise"}:
        assert not np.array_equal(found, corrupt(image, name, level, key="b", seed=1))
        assert not np.array_equal(found, corrupt(image, name, level, key="a", seed=2))


@pytest.mark.parametrize("name", [n for n in (*HAEMATOLOGY, "s1-noise") if n != "rotation"])
def test_each_severity_is_further_from_the_undamaged_picture(name: str, fields: list) -> None:
    kind = CORRUPTIONS[name]
    assert len(kind.levels) == 5
    far = [
        np.mean([distance(f, corrupt(f, name, level, key=str(i))) for i, f in enumerate(fields)])
        for level in kind.levels
    ]
    assert far[0] > 0.02
    assert all(a < b for a, b in pairwise(far)), far


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if CORRUPTIONS[name].side])
def test_the_measure_of_a_corruption_follows_its_severity(name: str, fields: list) -> None:
    kind = CORRUPTIONS[name]
    assert (kind.statistic, "low" if kind.side == "both" else kind.side) in BEYOND
    for index, image in enumerate(fields):
        damaged = [corrupt(image, name, level, key=str(index)) for level in kind.levels]
        values = np.array([look(picture)[kind.statistic] for picture in (image, *damaged)])
        assert np.isfinite(values).all()
        if kind.side == "both":  # either way, by image
            values = values * np.sign(values[-1] - values[0])
        values = values * (-1 if kind.side == "low" else 1)
        assert (np.diff(values[1:]) > -0.02 * np.abs(values[1:-1])).all(), values
        assert values[-1] > values[0]


def test_a_rotation_is_one_of_the_stated_angle_either_way() -> None:
    y, x = np.mgrid[:224, :224]
    bar = np.repeat(np.where(np.abs(y - 111.5) < 6, 0, 255)[:, :, None], 3, axis=2).astype(np.uint8)
    signs = set()
    for key in "abcdef":
        dark = corrupt(bar, "rotation", 27.0, key=key)[60:164, 60:164, 0] < 128
        slope = np.polyfit(*(axis[60:164, 60:164][dark] for axis in (x, y)), 1)[0]
        assert np.degrees(np.arctan(abs(slope))) == pytest.approx(27, abs=1.5)
        signs.add(slope > 0)
    assert signs == {True, False}


def test_study_s1_names_its_own_range() -> None:
    noise, brightness = (CORRUPTIONS[name].levels for name in STUDY_S1)
    assert (noise[0], noise[-1]) == (0.01, 0.2)
    assert (brightness[0], brightness[-1]) == (0.5, 1.5)
    image = np.full((64, 64, 3), 100, np.uint8)
    assert corrupt(image, "s1-brightness", 0.5).max() == 50
    noisy = corrupt(image, "s1-noise", 0.1, key="x").astype(float)
    assert noisy.std() == pytest.approx(25.5, rel=0.03)


def test_fading_takes_the_stated_share_of_the_density(fields: list) -> None:
    image = fields[0]
    stained = optical_density(image, 240).mean(axis=2) > 0.3
    before = optical_density(image, 240)[stained].mean()
    after = optical_density(corrupt(image, "stain-fading", 0.3), 240)[stained].mean()
    assert after == pytest.approx(0.7 * before, rel=0.06)  # what is no stain does not fade


def test_a_stain_shift_changes_one_amount_against_the_other(fields: list) -> None:
    image, step = fields[0], Macenko()
    before = estimate_stains(image, step)
    assert before is not None
    inverse = np.linalg.pinv(before.vectors)
    shifted = corrupt(image, "stain-shift", 0.2, key="3")
    ratio = np.percentile(
        (optical_density(shifted, 240).reshape(-1, 3) @ inverse), 99, axis=0
    ) / np.percentile(optical_density(image, 240).reshape(-1, 3) @ inverse, 99, axis=0)
    assert sorted(ratio) == pytest.approx([0.8, 1.2], abs=0.06)


@pytest.mark.parametrize("name", BEFORE_CUTTING)
def test_black_surroundings_of_a_cut_out_cell_stay_black(name: str, fields: list) -> None:
    image = fields[0].copy()
    image[:40] = 0
    found = corrupt(image, name, CORRUPTIONS[name].levels[-1], key="a")
    assert found[:40].max() == 0
    assert distance(found[40:], image[40:]) > 1


def test_measures_of_simple_pictures() -> None:
    ramp = np.repeat(np.linspace(100, 200, 64).astype(np.uint8)[None, :, None], 64, axis=0)
    assert look(np.repeat(ramp, 3, axis=2))["unevenness"] == pytest.approx(0.5, abs=0.05)
    squares = (np.indices((64, 64)) // 8).sum(axis=0) % 2
    steps = np.repeat((100 + 20 * squares)[:, :, None], 3, axis=2).astype(np.uint8)
    steps[1::2] += 1
    steps[:, 1::2] += 1
    assert look(steps)["blockiness"] > 10
    blue, red = (np.full((64, 64, 3), 220, np.uint8) for _ in range(2))
    blue[:20], red[:20] = (90, 80, 160), (200, 80, 90)
    assert look(blue)["stain_balance"] > 0.2 > -0.2 > look(red)["stain_balance"]
    assert look(blue)["stain_strength"] == pytest.approx(np.log(221 / 81), abs=1e-9)
    for shape in ((1, 1), (3, 40), (9, 9)):
        for value in (0, 128, 255):
            found = look(np.full((*shape, 3), value, np.uint8))
            assert all(np.isfinite(number) for number in found.values())


def test_an_unknown_corruption_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="defocus"):
        corrupt(np.zeros((8, 8, 3), np.uint8), "defocuss", 1.0)
