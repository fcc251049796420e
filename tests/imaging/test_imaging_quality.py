"""Quality measures and the numbers of the background."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from leukoscope.imaging.background import (
    BACKGROUND_FEATURES,
    COLOUR_STATISTICS,
    background_features,
    colour_statistics,
)
from leukoscope.imaging.quality import QUALITY_MEASURES, measure_quality, noise_level
from leukoscope.imaging.scale_bar import find_scale_bar
from leukoscope.imaging.segment import segment_leukocytes


def features(image: np.ndarray) -> dict[str, float]:
    values = background_features(image, segment_leukocytes(image), find_scale_bar(image))
    assert values.dtype == np.float64
    assert np.isfinite(values).all()
    return dict(zip(BACKGROUND_FEATURES, values.tolist(), strict=True))


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_constant_images_are_finite(level: int) -> None:
    image = np.full((64, 48, 3), level, np.uint8)
    quality = measure_quality(image)
    assert tuple(quality) == QUALITY_MEASURES
    assert np.isfinite(list(quality.values())).all()
    assert quality["brightness"] == pytest.approx(level, abs=1)
    assert quality["contrast"] == quality["sharpness"] == quality["saturation"] == 0
    features(image)


def test_blur_lowers_sharpness_and_colour_raises_saturation() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    blurred = cv2.GaussianBlur(image, (0, 0), 2)
    assert measure_quality(blurred)["sharpness"] < 0.1 * measure_quality(image)["sharpness"]
    red = np.full((8, 8, 3), (200, 50, 50), np.uint8)
    assert measure_quality(red)["saturation"] == pytest.approx(0.75)


@pytest.mark.parametrize("sigma", [3, 8])
def test_noise_level_recovers_sigma(sigma: float) -> None:
    ramp = np.tile(np.linspace(60, 190, 256), (256, 1))
    noisy = ramp + np.random.default_rng(0).normal(0, sigma, ramp.shape)
    assert noise_level(np.round(noisy).astype(np.uint8)) == pytest.approx(sigma, rel=0.05)


def test_colour_statistics_match_numpy() -> None:
    image = np.random.default_rng(3).integers(0, 256, (17, 23, 3), dtype=np.uint8) // 3
    values = colour_statistics(image).reshape(3, 7)
    pixels = image.reshape(-1, 3).astype(float)
    np.testing.assert_allclose(values[:, 0], pixels.mean(axis=0))
    np.testing.assert_allclose(values[:, 1], pixels.std(axis=0))
    np.testing.assert_allclose(values[:, 2:], np.percentile(pixels, [5, 25, 50, 75, 95], axis=0).T)
    assert len(COLOUR_STATISTICS) == values.size


def test_background_sees_colour_light_and_red_cells() -> None:
    image = np.full((224, 224, 3), (240, 232, 236), np.uint8)
    image[:, :, :] = (image * np.linspace(0.8, 1, 224)[None, :, None]).astype(np.uint8)
    plain = features(image)
    assert plain["l_x"] > 2
    assert abs(plain["l_y"]) < 0.5
    for x in range(20, 210, 40):
        cv2.circle(image, (x, 100), 14, (150, 160, 175), -1)
    celled = features(image)
    assert celled["red_l"] < celled["ground_l"] - 15
    assert celled["bar_present"] == 0


def test_background_does_not_see_the_leukocyte() -> None:
    ground = np.full((224, 224, 3), (235, 230, 240), np.uint8)
    for x in range(20, 210, 36):
        cv2.circle(ground, (x, 40), 12, (170, 175, 190), -1)
    with_cell = ground.copy()
    cv2.circle(with_cell, (110, 140), 25, (110, 60, 170), -1)
    with_cell = cv2.GaussianBlur(with_cell, (0, 0), 1)
    ground = cv2.GaussianBlur(ground, (0, 0), 1)
    a, b = features(ground), features(with_cell)
    for name in ("ground_l", "ground_a", "ground_b", "red_l", "red_a", "red_b"):
        assert a[name] == pytest.approx(b[name], abs=1.0), name


def test_single_cell_on_black() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    cv2.circle(image, (100, 100), 50, (90, 40, 110), -1)
    assert features(image)["black_share"] > 0.9
