from __future__ import annotations

import numpy as np
import pytest

from leukoscope.imaging.background import describe_appearance
from leukoscope.imaging.outliers import CHALLENGES, SYNTHETIC, synthetic_outliers
from leukoscope.phantom.render import render_phantom
from leukoscope.phantom.spec import PhantomSpec


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    spec = PhantomSpec(images=4, sessions=4, size_px=96, seed=5)
    return np.stack([render_phantom(spec, index).image for index in range(3)])


def test_outliers_are_pictures_of_the_same_size_that_differ(images: np.ndarray) -> None:
    made = list(synthetic_outliers(images, 1))
    assert [(row, kind) for row, kind, _ in made] == [(r, k) for r in range(3) for k in SYNTHETIC]
    for row, _, image in made:
        assert (image.shape, image.dtype) == (images[0].shape, np.uint8)
        assert np.abs(image.astype(int) - images[row]).mean() > 1
    again = list(synthetic_outliers(images, 1))
    assert all(np.array_equal(a[2], b[2]) for a, b in zip(made, again, strict=True))


def test_the_measured_kinds_choose_nothing(images: np.ndarray) -> None:
    assert not set(CHALLENGES) & set(SYNTHETIC)
    rng = np.random.default_rng(0)
    for name, make in CHALLENGES.items():
        image = make(images[0], rng)
        assert (image.shape, image.dtype) == (images[0].shape, np.uint8), name
    assert np.array_equal(CHALLENGES["inverted"](images[0], rng), 255 - images[0])
    assert CHALLENGES["black"](images[0], rng).max() == 0


def test_noise_falls_with_frequency_as_in_photographs() -> None:
    big = np.zeros((256, 256, 3), np.uint8)
    noise = CHALLENGES["1/f noise"](big, np.random.default_rng(3)).mean(axis=2)
    power = np.abs(np.fft.fft2(noise - noise.mean())) ** 2
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None])
    used = (frequency > 0.02) & (frequency < 0.3)
    slope = np.polyfit(np.log(frequency[used]), np.log(power[used]), 1)[0]
    assert slope == pytest.approx(-2, abs=0.4)  # amplitude 1/f


def test_appearance_knows_colour_and_grain_but_no_place(images: np.ndarray) -> None:
    first = describe_appearance(images[0])
    assert first.shape == (29,)
    assert np.isfinite(first).all()
    # mirrored, the pyramid meets other borders
    assert describe_appearance(images[0][:, ::-1].copy()) == pytest.approx(first, abs=0.05)
    assert np.abs(describe_appearance(255 - images[0])[:25] - first[:25]).max() > 1
    blurred = CHALLENGES["blurred"](images[0], np.random.default_rng(0))
    assert (describe_appearance(blurred)[25:27] < first[25:27] - 1).all()
    for plain in ("white", "black"):
        assert describe_appearance(CHALLENGES[plain](images[0], np.random.default_rng(0)))[1] == 0
