"""What a probe is shown: an image with something taken away, at its full size.

Each function takes and gives (H, W, 3) uint8 RGB, and equal images give equal results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.scale_bar import find_scale_bar
from leukoscope.imaging.segment import (
    NEUTRAL_GREY,
    keep_leukocytes,
    remove_leukocytes,
    segment_leukocytes,
)
from leukoscope.imaging.stain import grey_density, luma

Image = NDArray[np.uint8]
SILHOUETTE = (60, 60, 60)
"""RGB of every leukocyte of :func:`silhouettes`."""


def whole(image: Image) -> Image:
    """The image itself."""
    return image


def background(image: Image) -> Image:
    """Every leukocyte painted over and the scale bar masked."""
    return remove_leukocytes(image, segment_leukocytes(image))


def cells(image: Image) -> Image:
    """The leukocytes on a neutral ground."""
    return keep_leukocytes(image, segment_leukocytes(image))


def silhouettes(image: Image) -> Image:
    """The outlines of the leukocytes filled with one colour, on a neutral ground."""
    mask = segment_leukocytes(image).cell
    bar = find_scale_bar(image)
    if bar is not None:
        mask = mask & ~bar.mask
    flat = np.where(mask[:, :, None], np.array(SILHOUETTE, np.uint8), np.uint8(0))
    return np.where(mask[:, :, None], flat, np.array(NEUTRAL_GREY, np.uint8))


def _grey_background(image: Image) -> Image:
    return luma(background(image))


def _grey_cells(image: Image) -> Image:
    return luma(cells(image))


PROBE_INPUTS: Mapping[str, Callable[[Image], Image]] = MappingProxyType(
    {
        "image": whole,
        "background-only": background,
        "background-grey": _grey_background,
        "silhouette-only": silhouettes,
        "cells-only": cells,
        "cells-only-grey": _grey_cells,
        "stain-neutral": grey_density,
    }
)
"""Name of each input that is an image → what makes it."""
