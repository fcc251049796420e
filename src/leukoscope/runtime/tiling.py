"""Cut an image that is much larger than a training image into what the model knows.

A model of fields gets tiles, a model of single cells gets leukocytes cut out on black, both at the
scale of the training images. Where a scale is not known, the image is cut in its own pixels and
the answer says so: nothing is guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import ModelField
from leukoscope.imaging.decode import Decoded, peek_size
from leukoscope.imaging.scale_bar import find_scale_bar
from leukoscope.imaging.segment import is_cut_out, segment_leukocytes

_LARGER = 1.5  # an image is cut where it is longer than the largest training image by this
_WINDOW_UM, _WINDOW_PX = 75.0, 1024  # in which leukocytes are looked for
_SMALLEST_NUCLEUS = 0.25  # of the median nucleus; what is smaller is a fragment or a platelet


@dataclass(frozen=True)
class Part:
    """A part of an image.

    Attributes:
        box: x, y, width, height in pixels of the image; a cell's box may exceed the image.
        pixels: (h, w, 3) uint8 RGB at the size of a training image.
    """

    box: tuple[int, int, int, int]
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class ImageScale:
    """The scale of one image.

    Attributes:
        um_per_px: Pixel size in µm, or None if unknown.
        source: Where the scale comes from; empty if it is unknown.
        factor: Pixels of this image for each pixel of a training image.
        doubt: Why the factor may be wrong, in one sentence; empty if both scales are known.
    """

    um_per_px: float | None
    source: str
    factor: float
    doubt: str


@dataclass(frozen=True)
class Cutter:
    """Cuts images for one model.

    Attributes:
        field: What the model was trained on.
        um_per_px: Pixel size of all images in µm, if the user gave it.
        bar_um: Length of their scale bars in µm, if the user gave it.
    """

    field: ModelField
    um_per_px: float | None = None
    bar_um: float | None = None

    def may_cut(self, source: Path | bytes | NDArray[np.uint8]) -> bool:
        """Whether an image is large enough to be worth decoding for its scale.

        Args:
            source: A file, its bytes, or (H, W, 3) uint8 RGB.
        """
        size = source.shape[:2] if isinstance(source, np.ndarray) else peek_size(source)
        factor = self._factor(self.um_per_px)
        return size is not None and max(size) > _LARGER * factor * self.field.largest_px

    def scale_of(self, decoded: Decoded) -> ImageScale:
        """The scale that the user gave, else that in the file, else that of the scale bar."""
        um, source, bar = self.um_per_px, "--um-per-px", None
        if um is None:
            um, source = decoded.um_per_px, "the file"
        if um is None:
            bar = find_scale_bar(decoded.image)
            if bar is not None and self.bar_um is not None:
                um, source = self.bar_um / bar.length_px, f"its bar of {bar.length_px} px"
        doubt, what = "", "cells were cut out" if self.field.shows == "cell" else "tiles were cut"
        if um is None:
            found = "no scale in the file, " + (
                "no scale bar" if bar is None
                else f"a scale bar of {bar.length_px} px whose length was not said"
            )  # fmt: skip
            doubt = f"The scale of the image is unknown ({found}): {what} in its own pixels."
        elif self.field.um_per_px is None:
            doubt = f"The scale of the training images is unknown: {what} in the image's pixels."
        return ImageScale(um, source if um is not None else "", self._factor(um), doubt)

    def _factor(self, um_per_px: float | None) -> float:
        known = self.field.um_per_px
        return known / um_per_px if known is not None and um_per_px is not None else 1.0

    def parts(self, image: NDArray[np.uint8], scale: ImageScale) -> tuple[int, Iterator[Part]]:
        """The parts of an image that the model is applied to, in reading order.

        Args:
            image: (H, W, 3) uint8 RGB.
            scale: From :meth:`scale_of`.

        Returns:
            The number of places, and an iterator over the parts. Tiles without a leukocyte and
            leukocytes at the edge are left out.
        """
        if self.field.shows == "cell":
            return self._cells(image, scale)
        size = (self.field.width_px * scale.factor, self.field.height_px * scale.factor)
        height, width = image.shape[:2]
        places = [(x, y) for y in _starts(height, size[1]) for x in _starts(width, size[0])]
        return len(places), self._tiles(image, places, size)

    def _tiles(
        self, image: NDArray[np.uint8], places: list[tuple[int, int]], size: tuple[float, float]
    ) -> Iterator[Part]:
        width = min(image.shape[1], round(size[0]))
        height = min(image.shape[0], round(size[1]))
        for x, y in places:
            tile = self._resized(image[y : y + height, x : x + width])
            if segment_leukocytes(tile).nucleus.any():
                yield Part((x, y, width, height), tile)

    def _cells(self, image: NDArray[np.uint8], scale: ImageScale) -> tuple[int, Iterator[Part]]:
        cell, nucleus = find_leukocytes(image, scale.um_per_px)
        _, labels, stats, centres = cv2.connectedComponentsWithStats(nucleus)
        areas = stats[1:, cv2.CC_STAT_AREA]
        if not len(areas):
            return 0, iter(())
        large = 1 + np.flatnonzero(areas >= _SMALLEST_NUCLEUS * np.median(areas))
        # A pixel of a cell belongs to the nearest nucleus.
        _, nearest = cv2.distanceTransformWithLabels(
            1 - nucleus, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP
        )
        wide = round(self.field.width_px * scale.factor)
        high = round(self.field.height_px * scale.factor)

        def cut() -> Iterator[Part]:
            for label in large.tolist():
                x, y = (round(float(value)) for value in centres[label])
                box = (x - wide // 2, y - high // 2, wide, high)
                window = _window(box, image.shape)
                own = nearest[window][labels[window] == label]
                mask = (nearest[window] == (own[0] if len(own) else -1)) & (cell[window] > 0)
                if not mask.any() or _touches_edge(mask, window, image.shape):
                    continue
                part = np.zeros((high, wide, 3), np.uint8)
                top, left = window[0].start - box[1], window[1].start - box[0]
                inside = part[top : top + mask.shape[0], left : left + mask.shape[1]]
                inside[mask] = image[window][mask]
                yield Part(box, self._resized(part))

        return len(large), cut()

    def _resized(self, part: NDArray[np.uint8]) -> NDArray[np.uint8]:
        size = (self.field.width_px, self.field.height_px)
        if part.shape[1::-1] == size:
            return np.ascontiguousarray(part)
        method = cv2.INTER_AREA if part.shape[1] > size[0] else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(part, size, interpolation=method), np.uint8)

    def is_one(self, decoded: Decoded, scale: ImageScale) -> bool:
        """Whether an image shows no more than a training image, or a single cut-out cell."""
        longest = _LARGER * scale.factor * self.field.largest_px
        return max(decoded.image.shape[:2]) <= longest or is_cut_out(decoded.image)


def find_leukocytes(
    image: NDArray[np.uint8], um_per_px: float | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Segment leukocytes and their nuclei in an image of any size, window by window.

    The segmentation works on 256 px at a time and expects leukocytes as large as in a field:
    windows are 75 µm wide, or 1024 px if the scale is unknown.

    Args:
        image: (H, W, 3) uint8 RGB.
        um_per_px: Pixel size in µm, or None if unknown.

    Returns:
        Two (H, W) uint8 masks of 0 and 1: leukocytes, nuclei.
    """
    height, width = image.shape[:2]
    side = _WINDOW_PX if um_per_px is None else max(64, round(_WINDOW_UM / um_per_px))
    cell = np.zeros((height, width), np.uint8)
    nucleus = np.zeros_like(cell)
    step = round(0.75 * side)  # windows overlap, so that each cell is whole in one of them
    for y in _starts(height, side, step):
        for x in _starts(width, side, step):
            window = np.s_[y : y + side, x : x + side]
            found = segment_leukocytes(np.ascontiguousarray(image[window]))
            cell[window] |= found.cell
            nucleus[window] |= found.nucleus
    # The outline is as coarse as the segmentation: lobes of one nucleus are joined across it, and
    # a rim of ground that wide is taken off the cells, which would be bright on black.
    coarse = max(1, round(side / 256))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * coarse + 1, 2 * coarse + 1))
    nucleus = np.asarray(cv2.morphologyEx(nucleus, cv2.MORPH_CLOSE, kernel), np.uint8)
    return np.asarray(cv2.erode(cell, kernel), np.uint8), nucleus


def _starts(length: int, size: float, step: float | None = None) -> list[int]:
    """Starts of equal parts that cover a length evenly, overlapping where they must.

    >>> _starts(1000, 300), _starts(100, 300)
    ([0, 233, 467, 700], [0])
    """
    if length <= size:
        return [0]
    count = 1 + math.ceil((length - size) / (step or size))
    return [round(k * (length - size) / (count - 1)) for k in range(count)]


def _window(box: tuple[int, int, int, int], shape: tuple[int, ...]) -> tuple[slice, slice]:
    x, y, width, height = box
    return (
        slice(max(0, y), min(shape[0], y + height)),
        slice(max(0, x), min(shape[1], x + width)),
    )


def _touches_edge(
    mask: NDArray[np.bool_], window: tuple[slice, slice], shape: tuple[int, ...]
) -> bool:
    """Whether the edge of the image cuts a cell."""
    rows, columns = window
    return bool(
        (rows.start == 0 and mask[0].any())
        or (columns.start == 0 and mask[:, 0].any())
        or (rows.stop == shape[0] and mask[-1].any())
        or (columns.stop == shape[1] and mask[:, -1].any())
    )
