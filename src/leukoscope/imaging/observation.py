"""An image and what several probes need of it, each found once, and what a probe is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.background import ground_colours
from leukoscope.imaging.inpaint import cover_region, paint_ground
from leukoscope.imaging.scale_bar import ScaleBar, find_scale_bar
from leukoscope.imaging.segment import NEUTRAL_GREY, LeukocyteMasks, is_cut_out, segment_leukocytes
from leukoscope.imaging.stain import grey_density, lit_pixels, luma

_Value = TypeVar("_Value")
Image = NDArray[np.uint8]
SILHOUETTE = (60, 60, 60)
"""RGB of every leukocyte of ``silhouette-only``."""
_RIM = 150  # the rim of a transplanted cell is this part of the longer side


class Observation:
    """One decoded image; masks and the scale bar are found on first use.

    Attributes:
        um_per_px: The scale that the file states; None where it states none.
        data: The bytes of its file; empty for pixels that came from elsewhere.
    """

    def __init__(
        self, image: NDArray[np.uint8], *, um_per_px: float | None = None, data: bytes = b""
    ) -> None:
        self.image = image
        self.um_per_px = um_per_px
        self.data = data
        self._found: dict[str, object] = {}

    @property
    def masks(self) -> LeukocyteMasks:
        """Its leukocytes."""
        return self._once("masks", lambda: segment_leukocytes(self.image))

    @property
    def bar(self) -> ScaleBar | None:
        """Its scale bar."""
        return self._once("bar", lambda: find_scale_bar(self.image))

    @property
    def cut_out(self) -> bool:
        """Whether it shows a cell that was cut out on black."""
        return self._once("cut_out", lambda: is_cut_out(self.image))

    @property
    def lit(self) -> NDArray[np.bool_]:
        """(H, W) bool, what is not the black surroundings of a cell that was cut out."""
        return self._once("lit", lambda: lit_pixels(self.image))

    @property
    def ground_colours(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """See :func:`~leukoscope.imaging.background.ground_colours`."""
        return self._once("ground", lambda: ground_colours(self.image, self.masks, self.bar))

    @property
    def removal(self) -> NDArray[np.bool_]:
        """(H, W) bool, what is painted over so that no leukocyte and no scale bar is left."""
        return self._once("removal", self._removal)

    @property
    def background(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, the image without its leukocytes and its scale bar."""
        return self._once("background", lambda: paint_ground(self.image, self.removal))

    def _removal(self) -> NDArray[np.bool_]:
        cell = self.masks.cell
        return cover_region(cell if self.bar is None else cell | self.bar.mask)

    def _once(self, name: str, find: Callable[[], _Value]) -> _Value:
        # No cached_property: until Python 3.12 its lock is shared by all images.
        if name not in self._found:
            self._found[name] = find()
        return cast(_Value, self._found[name])


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


def on_ground(seen: Observation, other: Observation) -> Image:
    """The leukocytes of an image where they lay, on the ground of another image.

    The ground has its own leukocytes painted over; the cells come with a soft rim.
    """
    height, width = seen.image.shape[:2]
    ground = cv2.resize(other.background, (width, height), interpolation=cv2.INTER_AREA)
    sigma = max(height, width) / _RIM
    kept = cv2.GaussianBlur(_kept(seen).astype(np.float32), (0, 0), sigma)
    share = np.clip(2 * kept, 0, 1)[:, :, None]  # all of the cell, and a rim outside it
    return np.rint(seen.image * share + ground * (1 - share)).astype(np.uint8)


def transplanted(seen: Observation, holes: NDArray[np.bool_]) -> Image:
    """The ground of an image with its own leukocytes and those of another image painted over.

    What was painted over then belongs to both images alike, so it cannot tell which of their two
    classes is right; only the ground that is left can.

    Args:
        holes: (h, w) bool, what was painted over in the other one, at any size.
    """
    height, width = seen.image.shape[:2]
    other = cv2.resize(holes.astype(np.uint8) * 255, (width, height))
    return paint_ground(seen.image, seen.removal | (np.asarray(other) > 127))
