"""Masks are found once, and come back as they were found."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from leukoscope.imaging import segment
from leukoscope.imaging.segment import LeukocyteMasks, remembered_masks, segment_leukocytes
from leukoscope.phantom.render import render_phantom
from leukoscope.phantom.spec import PhantomSpec


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the pictures that were searched."""
    found: list[tuple[int, ...]] = []
    search = segment._segment

    def noted(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found.append(image.shape)
        return search(image)

    monkeypatch.setattr(segment, "_segment", noted)
    return found


def phantom(number: int, size_px: int) -> np.ndarray:
    return render_phantom(PhantomSpec(images=4, size_px=size_px), number).image


def equal(a: LeukocyteMasks, b: LeukocyteMasks) -> bool:
    return np.array_equal(a.cell, b.cell) and np.array_equal(a.nucleus, b.nucleus)


@pytest.mark.parametrize("size_px", [97, 300])  # bits that fill no byte; masks that are enlarged
def test_the_same_picture_is_searched_once(size_px: int, searched: list[tuple[int, ...]]) -> None:
    images = [phantom(0, size_px), phantom(1, size_px)]
    plain = [segment_leukocytes(image) for image in images]
    assert plain[0].cell.any()
    searched.clear()
    with remembered_masks(), ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            assert all(map(equal, pool.map(segment_leukocytes, images), plain))
        with remembered_masks():  # one inside another shares its memory
            assert equal(segment_leukocytes(images[0].copy()), plain[0])
        assert len(searched) == 2
        changed = images[0].copy()
        changed[0, 0] ^= 255
        segment_leukocytes(changed)
        assert len(searched) == 3
    segment_leukocytes(images[0])
    assert len(searched) == 4  # nothing is remembered afterwards


def test_the_oldest_masks_are_forgotten(
    searched: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "LIMIT_BYTES", 1)
    with remembered_masks():
        first = segment_leukocytes(phantom(0, 96))
        assert equal(segment_leukocytes(phantom(0, 96)), first)
    assert len(searched) == 2
