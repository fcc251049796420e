"""Steps, resizing and normalisation."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukoscope.config.preprocess import CenterCrop, Clahe, MaskScaleBar, PreprocessSpec
from leukoscope.imaging.preprocess import apply_preprocess, centre_square, clahe, normalise, resize


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.integers(16, 64),
    how=st.sampled_from(["stretch", "letterbox", "crop"]),
)
def test_any_size_becomes_a_square(height: int, width: int, size: int, how: str) -> None:
    image = noise(height, width)
    spec = PreprocessSpec(size_px=size, resize=how)
    result = apply_preprocess(image, spec)
    assert result.shape == (size, size, 3)
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    assert not np.shares_memory(result, image)
    np.testing.assert_array_equal(result, apply_preprocess(image, spec))


def test_interpolation_follows_the_direction() -> None:
    image = noise(64, 64)
    np.testing.assert_array_equal(
        resize(image, 32, "stretch"), cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
    )
    np.testing.assert_array_equal(
        resize(image, 96, "stretch"), cv2.resize(image, (96, 96), interpolation=cv2.INTER_LINEAR)
    )


def test_letterbox_pads_with_black_and_crop_takes_the_centre() -> None:
    image = np.full((20, 40, 3), 255, np.uint8)
    image[:, :10] = 100
    image[:, -10:] = 100
    boxed = resize(image, 40, "letterbox")
    assert (boxed[:10] == 0).all()
    assert (boxed[30:] == 0).all()
    np.testing.assert_array_equal(boxed[10:30], image)
    assert (resize(image, 20, "crop") == 255).all()


def test_centre_square_crops_and_pads() -> None:
    image = noise(10, 30)
    np.testing.assert_array_equal(centre_square(image, 10), image[:, 10:20])
    padded = centre_square(image, 20)
    np.testing.assert_array_equal(padded[5:15], image[:, 5:25])
    assert not padded[:5].any()


def test_steps_run_in_order() -> None:
    image = noise(64, 64)
    spec = PreprocessSpec(steps=(CenterCrop(size_px=32), Clahe(clip_limit=3, tiles=4)), size_px=32)
    np.testing.assert_array_equal(apply_preprocess(image, spec), clahe(image[16:48, 16:48], 3, 4))
    other = PreprocessSpec(steps=spec.steps[::-1], size_px=32)
    assert (apply_preprocess(image, other) != apply_preprocess(image, spec)).any()


def test_masking_without_a_bar_changes_nothing() -> None:
    image = np.full((224, 224, 3), 230, np.uint8)
    spec = PreprocessSpec(steps=(MaskScaleBar(),), size_px=224)
    np.testing.assert_array_equal(apply_preprocess(image, spec), image)


def test_clahe_raises_contrast_and_keeps_colour() -> None:
    flat = (noise(64, 64) // 16 + 120).astype(np.uint8)
    better = clahe(flat, 2.0, 8)
    assert better.std() > 1.3 * flat.std()
    before = cv2.cvtColor(flat, cv2.COLOR_RGB2LAB)[:, :, 1:].astype(int)
    after = cv2.cvtColor(better, cv2.COLOR_RGB2LAB)[:, :, 1:].astype(int)
    assert np.abs(after - before).mean() < 2


def test_normalise() -> None:
    spec = PreprocessSpec(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    batch = np.stack([noise(5, 7, seed) for seed in range(3)])
    result = normalise(batch, spec)
    assert result.shape == (3, 3, 5, 7)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    for channel in range(3):
        expected = (batch[..., channel] / 255 - spec.mean[channel]) / spec.std[channel]
        assert result[:, channel] == pytest.approx(expected, abs=1e-5)
