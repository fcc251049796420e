"""What a probe is shown: an image with something taken away, at its full size.

Each function takes and gives (H, W, 3) uint8 RGB, and equal images give equal results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.ground import paint_ground
from leukoscope.imaging.observation import Observation
from leukoscope.imaging.segment import NEUTRAL_GREY
from leukoscope.imaging.stain import grey_density, luma

Image = NDArray[np.uint8]
SILHOUETTE = (60, 60, 60)
"""RGB of every leukocyte of ``silhouette-only``."""


def _whole(seen: Observation) -> Image:
    return seen.image


def _background(seen: Observation) -> Image:
    """Every leukocyte painted over and the scale bar masked."""
    return seen.background


def _cells(seen: Observation) -> Image:
    """The leukocytes on a neutral ground."""
    return np.where(_kept(seen)[:, :, None], seen.image, np.array(NEUTRAL_GREY, np.uint8))


def _silhouettes(seen: Observation) -> Image:
    """The outlines of the leukocytes filled with one colour, on a neutral ground."""
    colours = np.array([NEUTRAL_GREY, SILHOUETTE], np.uint8)
    return colours[_kept(seen).astype(np.intp)]


def _kept(seen: Observation) -> NDArray[np.bool_]:
    """Leukocytes without the scale bar."""
    return seen.masks.cell if seen.bar is None else seen.masks.cell & ~seen.bar.mask


def _grey_background(seen: Observation) -> Image:
    return luma(_background(seen))


def _grey_cells(seen: Observation) -> Image:
    return luma(_cells(seen))


def _stain_neutral(seen: Observation) -> Image:
    return grey_density(seen.image)


OBSERVED_INPUTS: Mapping[str, Callable[[Observation], Image]] = MappingProxyType(
    {
        "image": _whole,
        "background-only": _background,
        "background-grey": _grey_background,
        "silhouette-only": _silhouettes,
        "cells-only": _cells,
        "cells-only-grey": _grey_cells,
        "stain-neutral": _stain_neutral,
    }
)
"""Name of each input that is an image → what makes it of an observation."""


def _of_image(make: Callable[[Observation], Image]) -> Callable[[Image], Image]:
    return lambda image: make(Observation(image))


PROBE_INPUTS: Mapping[str, Callable[[Image], Image]] = MappingProxyType(
    {name: _of_image(make) for name, make in OBSERVED_INPUTS.items()}
)
"""The same for single images."""


def transplanted(seen: Observation, holes: NDArray[np.bool_]) -> Image:
    """The ground of an image with its own leukocytes and those of another image painted over.

    What was painted over then belongs to both images alike, so it cannot tell which of their two
    classes is right; only the ground that is left can.

    Args:
        seen: The image.
        holes: (h, w) bool, what was painted over in the other one, at any size.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    height, width = seen.image.shape[:2]
    other = cv2.resize(holes.astype(np.uint8) * 255, (width, height))
    return paint_ground(seen.image, seen.removal | (np.asarray(other) > 127))
