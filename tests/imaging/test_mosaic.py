"""Leukocytes cut out and laid out in tiles."""

from __future__ import annotations

import numpy as np
import pytest

from leukoscope.config.preprocess import CellMosaic
from leukoscope.imaging.preprocess import cell_mosaic, nucleus_centres
from leukoscope.imaging.segment import NEUTRAL_GREY, segment_leukocytes
from leukoscope.phantom.render import render_phantom
from leukoscope.phantom.spec import PhantomSpec


@pytest.fixture(scope="module")
def field() -> np.ndarray:
    return render_phantom(PhantomSpec(), 3).image


def test_every_tile_shows_a_cell_at_its_own_size(field: np.ndarray) -> None:
    step = CellMosaic(tiles=3, crop_px=56, tile_px=56)
    mosaic = cell_mosaic(field, step)
    assert mosaic.shape == (168, 168, 3)
    x, y = nucleus_centres(segment_leukocytes(field).nucleus, 9)[0]
    centre = mosaic[28, 28]
    assert np.array_equal(centre, field[y, x])
    for row in range(3):
        for column in range(3):
            tile = mosaic[56 * row : 56 * row + 56, 56 * column : 56 * column + 56]
            assert (tile != NEUTRAL_GREY).any()


def test_few_cells_are_repeated_so_that_their_number_does_not_show() -> None:
    nuclei = np.zeros((100, 100), bool)
    nuclei[20:30, 20:30] = nuclei[60:72, 50:62] = True
    nuclei[90:92, 90:92] = True  # a fragment
    assert nucleus_centres(nuclei, 16) == [(24, 24), (55, 65)]
    assert nucleus_centres(nuclei, 1) == [(55, 65)]


def test_nothing_found_is_neutral() -> None:
    blank = np.full((224, 224, 3), 235, np.uint8)
    mosaic = cell_mosaic(blank, CellMosaic(tiles=2, tile_px=32))
    assert mosaic.shape == (64, 64, 3)
    assert (mosaic == NEUTRAL_GREY).all()
    assert (cell_mosaic(blank, CellMosaic(outside="black")) == 0).all()
