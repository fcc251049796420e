"""An image and what several probes need of it, each found once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.background import ground_colours
from leukoscope.imaging.cover import cover_region
from leukoscope.imaging.ground import paint_ground
from leukoscope.imaging.scale_bar import ScaleBar, find_scale_bar
from leukoscope.imaging.segment import LeukocyteMasks, is_cut_out, segment_leukocytes
from leukoscope.imaging.stain import lit_pixels

_Value = TypeVar("_Value")


class Observation:
    """One decoded image; masks and the scale bar are looked for when first asked for.

    Attributes:
        image: (H, W, 3) uint8 RGB.
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
