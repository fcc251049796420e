"""Every step on every input; smoothing, morphology and adaptive CLAHE."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from leukoscope.config.preprocess import PreprocessSpec, Step
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import (
    adaptive_clahe,
    apply_preprocess,
    bilateral_filter,
    clahe,
    gaussian_blur,
    morphology,
)

KINDS = sorted(TypeAdapter(Step).json_schema()["discriminator"]["mapping"])
SIZED = {"center_crop": {"size_px": 16}}


def one_step(kind: str) -> PreprocessSpec:
    values = {"steps": [{"kind": kind, **SIZED.get(kind, {})}], "size_px": 16}
    return PreprocessSpec.model_validate(values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (61, 40), (300, 280)])
def test_every_step_on_any_size_twice_the_same(kind: str, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(5).integers(0, 256, (*shape, 3), dtype=np.uint8)
    before = image.copy()
    spec = one_step(kind)
    result = apply_preprocess(image, spec)
    assert result.shape == (16, 16, 3)
    assert result.dtype == np.uint8
    assert not np.shares_memory(result, image)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(apply_preprocess(image, spec), result)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [0, 9, 128, 255])
def test_every_step_on_a_plain_image(kind: str, level: int) -> None:
    result = apply_preprocess(np.full((40, 40, 3), level, np.uint8), one_step(kind))
    assert (result == result[0, 0]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", ["8-bit grey", "16-bit grey", "16-bit colour"])
def test_every_step_on_grey_and_16_bit_files(kind: str, depth: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    path = tmp_path / "image.png"
    if depth == "8-bit grey":
        Image.fromarray(rng.integers(0, 256, (50, 60), dtype=np.uint8)).save(path)
    else:
        shape = (50, 60) if depth == "16-bit grey" else (50, 60, 3)
        assert cv2.imwrite(str(path), rng.integers(0, 65536, shape, dtype=np.uint16))
    image = decode_image(path).image
    assert image.shape == (50, 60, 3)
    assert apply_preprocess(image, one_step(kind)).shape == (16, 16, 3)


def test_adaptive_clahe_keeps_the_largest_grey_deviation() -> None:
    rng = np.random.default_rng(0)
    image = (rng.integers(0, 40, (96, 96, 3)) + 100).astype(np.uint8)

    def deviation(candidate: np.ndarray) -> float:
        return float(cv2.cvtColor(candidate, cv2.COLOR_RGB2GRAY).std())

    settings = [(clip, tiles) for clip in (1.0, 2.0, 3.0) for tiles in (8, 16)]
    best = max(deviation(clahe(image, *pair)) for pair in settings)
    result = adaptive_clahe(image, (1.0, 2.0, 3.0), (8, 16))
    assert deviation(result) == best
    assert best > deviation(clahe(image, 1.0, 8))
    np.testing.assert_array_equal(adaptive_clahe(image, (2.0,), (8,)), clahe(image, 2.0, 8))


def test_gaussian_blur_spreads_a_point_by_its_sigma() -> None:
    image = np.zeros((61, 61, 3), np.uint8)
    image[30, 30] = 255
    image[28:33, 28:33] = 255
    row = gaussian_blur(image, 3.0)[:, :, 1].astype(float).sum(axis=0)
    x = np.arange(61) - 30
    # Variances add: a box of five pixels has (5² − 1) / 12 = 2.
    assert (row * x**2).sum() / row.sum() == pytest.approx(9 + 2, rel=0.06)


def test_bilateral_filter_smooths_and_keeps_an_edge() -> None:
    rng = np.random.default_rng(1)
    step = np.full((40, 40, 3), 60.0)
    step[:, 20:] = 200
    noisy = (step + rng.normal(0, 8, step.shape)).astype(np.uint8)
    result = bilateral_filter(noisy, 9, 50.0, 5.0).astype(float)
    assert result[5:35, 5:15].std() < 0.5 * noisy[5:35, 5:15].std()
    assert (result[:, 20] - result[:, 19]).mean() > 125
    blurred = gaussian_blur(noisy, 3.0).astype(float)
    assert (blurred[:, 20] - blurred[:, 19]).mean() < 40


def test_opening_removes_light_specks_and_closing_dark_ones() -> None:
    image = np.full((40, 40, 3), 100, np.uint8)
    image[10, 10] = 220
    image[30, 30] = 10
    opened, closed = morphology(image, "open", 2), morphology(image, "close", 2)
    assert opened.max() == 100
    assert opened.min() == 10
    assert closed.min() == 100
    assert closed.max() == 220
    np.testing.assert_array_equal(morphology(image, "open", 0), image)
