"""Single leukocytes of a field as one image."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.config.preprocess import CellMosaic
from leukoscope.imaging.scale_bar import find_scale_bar
from leukoscope.imaging.segment import NEUTRAL_GREY, segment_leukocytes

_LEAST_SHARE = 0.25  # of the median nucleus; what is smaller is a fragment


def cell_mosaic(image: NDArray[np.uint8], step: CellMosaic) -> NDArray[np.uint8]:
    """Cut the leukocytes out and lay them out in tiles, as :class:`CellMosaic` says.

    Args:
        image: (H, W, 3) uint8 RGB.
        step: Number and size of the tiles.

    Returns:
        (tiles × tile_px, tiles × tile_px, 3) uint8 RGB.
    """
    masks = segment_leukocytes(image)
    keep, nuclei = masks.cell, masks.nucleus
    bar = find_scale_bar(image)
    if bar is not None:
        keep, nuclei = keep & ~bar.mask, nuclei & ~bar.mask
    fill = (0, 0, 0) if step.outside == "black" else NEUTRAL_GREY
    shown = image
    if step.outside != "keep":
        shown = np.where(keep[:, :, None], image, np.array(fill, np.uint8))
    places = nucleus_centres(nuclei, step.tiles**2)
    side = step.tiles * step.tile_px
    out = np.empty((side, side, 3), np.uint8)
    out[:] = fill
    if not places:
        return out
    half = step.crop_px // 2
    framed = np.empty((*(length + 2 * half + 2 for length in image.shape[:2]), 3), np.uint8)
    framed[:] = fill
    framed[half + 1 : -half - 1, half + 1 : -half - 1] = shown
    method = cv2.INTER_AREA if step.tile_px < step.crop_px else cv2.INTER_LINEAR
    for number in range(step.tiles**2):
        x, y = places[number % len(places)]
        cut = framed[y + 1 : y + 1 + step.crop_px, x + 1 : x + 1 + step.crop_px]
        tile = cv2.resize(cut, (step.tile_px, step.tile_px), interpolation=method)
        top, left = (step.tile_px * place for place in divmod(number, step.tiles))
        out[top : top + step.tile_px, left : left + step.tile_px] = tile
    return out


def nucleus_centres(nuclei: NDArray[np.bool_], most: int) -> list[tuple[int, int]]:
    """Centres (x, y) of the largest nuclei, in reading order.

    Args:
        nuclei: (H, W) bool; touching nuclei count as one.
        most: How many at the most.
    """
    _, _, stats, centres = cv2.connectedComponentsWithStats(nuclei.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    if not len(areas):
        return []
    large = np.flatnonzero(areas >= _LEAST_SHARE * np.median(areas))
    chosen = np.sort(large[np.argsort(-areas[large], kind="stable")[:most]]) + 1
    return [(int(x), int(y)) for x, y in centres[chosen]]
