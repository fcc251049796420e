from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukoscope.imaging.decode import decode_image
from leukoscope.runtime.heatmap import (
    OPACITY,
    class_activation,
    colour_map,
    encode_png,
    overlay,
    triptych,
)

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)


def test_class_activation_is_the_positive_part_scaled_to_one() -> None:
    maps = np.array([[[9, 9], [9, 9]], [[-4, 1], [2, 0]]], np.float32)
    np.testing.assert_array_equal(class_activation(maps, 1), [[0, 0.5], [1, 0]])
    assert maps[1, 0, 0] == -4  # the network's output is left alone


def test_class_activation_without_evidence_is_zero() -> None:
    assert not class_activation(-np.ones((2, 3, 3), np.float32), 0).any()


@given(seed=st.integers(0, 1000), height=st.integers(1, 9), width=st.integers(1, 9))
def test_class_activation_stays_in_range(seed: int, height: int, width: int) -> None:
    maps = np.random.default_rng(seed).normal(size=(3, height, width)).astype(np.float32)
    heat = class_activation(maps, 2)
    assert heat.shape == (height, width)
    assert heat.dtype == np.float32
    assert 0 <= heat.min() <= heat.max() <= 1


def test_the_image_stays_visible_under_the_heat() -> None:
    shown = overlay(IMAGE, np.full((5, 5), 0.3, np.float32)).astype(int)
    for channel in range(3):
        line = np.polyfit(IMAGE[..., channel].ravel(), shown[..., channel].ravel(), 1)
        assert line[0] == pytest.approx(OPACITY, abs=0.01)


def test_heat_lies_where_the_map_says() -> None:
    bright = np.full((80, 80, 3), 235, np.uint8)  # as the background of a smear
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3] = 1  # top right
    shown = overlay(bright, heat).astype(int)
    assert shown[5, 74, 0] - shown[5, 74, 2] > 60  # yellow
    assert (shown[40:, :40] == shown[79, 0]).all()  # the same blue all over
    assert shown[79, 0, 2] > shown[79, 0, 0]


def test_the_colours_go_from_blue_to_yellow_and_get_steadily_lighter() -> None:
    ramp = colour_map(np.linspace(0, 1, 256, dtype=np.float32)[None], (1, 256))[0]
    assert ramp[0, 2] > ramp[0, 0]  # blue
    assert min(ramp[-1, 0], ramp[-1, 1]) > 200 > ramp[-1, 2]  # yellow
    lightness = cv2.cvtColor(ramp[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0, :, 0]
    assert (np.diff(lightness) > -0.5).all()


def test_the_triptych_holds_the_original_first() -> None:
    big = cv2.resize(IMAGE, (260, 240))
    panel = triptych(big, np.eye(7, dtype=np.float32), "Präparat, predicted pre_b, p 0.97")
    assert panel.shape == (240 + 48, 3 * 260 + 12, 3)
    np.testing.assert_array_equal(panel[24:264, :260], big)
    assert panel[:24].min() < 100  # the title is drawn
    assert panel[264:].min() < 100  # and so is the disclaimer


def test_a_small_image_is_enlarged_and_a_long_title_cut() -> None:
    panel = triptych(IMAGE, np.ones((2, 2), np.float32), "long " * 200)
    assert panel.shape == (224 + 48, 3 * 280 + 12, 3)
    assert panel[:24, -4:].min() == 255


def test_png_round_trip() -> None:
    np.testing.assert_array_equal(decode_image(encode_png(IMAGE)).image, IMAGE)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_overlay_takes_any_float(dtype: type) -> None:
    assert overlay(IMAGE, np.ones((3, 3), dtype)).dtype == np.uint8
