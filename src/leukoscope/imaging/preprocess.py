"""From a decoded image to a model's input; the same code in training, study and service."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.config.preprocess import (
    AdaptiveClahe,
    BilateralFilter,
    CellMosaic,
    CenterCrop,
    Clahe,
    GaussianBlur,
    Grey,
    Macenko,
    MaskScaleBar,
    Morphology,
    PreprocessSpec,
    Reinhard,
    SegmentStep,
    Step,
)
from leukoscope.imaging.scale_bar import erase_scale_bar, find_scale_bar
from leukoscope.imaging.segment import NEUTRAL_GREY, segment_leukocytes
from leukoscope.imaging.segment_variants import (
    bilateral_filter,
    gaussian_blur,
    keep_segment,
    morphology,
)
from leukoscope.imaging.stain import grey_density, luma, macenko, reinhard

_LEAST_SHARE = 0.25  # of the median nucleus; what is smaller is a fragment


def clahe(image: NDArray[np.uint8], clip_limit: float, tiles: int) -> NDArray[np.uint8]:
    """Contrast-limited adaptive histogram equalisation of L in CIELAB (Zuiderveld 1994).

    Args:
        clip_limit: Largest height of a histogram bin relative to the mean, above 0.
        tiles: Number of tiles along each side, at least 1.

    Returns:
        (H, W, 3) uint8 RGB; a and b are those of the input.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    # A fresh object each time: OpenCV's keeps state and must not be shared between threads.
    equaliser = cv2.createCLAHE(clipLimit=clip_limit, tileGridSize=(tiles, tiles))
    lab[:, :, 0] = equaliser.apply(np.ascontiguousarray(lab[:, :, 0]))
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), np.uint8)


def adaptive_clahe(
    image: NDArray[np.uint8], clip_limits: Sequence[float], tiles: Sequence[int]
) -> NDArray[np.uint8]:
    """The CLAHE, of all pairs of settings, with the largest standard deviation of grey levels.

    Returns:
        (H, W, 3) uint8 RGB; of equal results the first, limits before tiles.
    """
    candidates = (clahe(image, limit, number) for limit, number in product(clip_limits, tiles))
    return max(candidates, key=_grey_deviation)


def _grey_deviation(image: NDArray[np.uint8]) -> float:
    _, deviation = cv2.meanStdDev(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    return float(deviation[0, 0])


def cell_mosaic(image: NDArray[np.uint8], step: CellMosaic) -> NDArray[np.uint8]:
    """Cut the leukocytes out and lay them out in tiles, as :class:`CellMosaic` says.

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
    """
    _, _, stats, centres = cv2.connectedComponentsWithStats(nuclei.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    if not len(areas):
        return []
    large = np.flatnonzero(areas >= _LEAST_SHARE * np.median(areas))
    chosen = np.sort(large[np.argsort(-areas[large], kind="stable")[:most]]) + 1
    return [(int(x), int(y)) for x, y in centres[chosen]]


def apply_preprocess(image: NDArray[np.uint8], spec: PreprocessSpec) -> NDArray[np.uint8]:
    """Run the steps and the resize of a specification.

    Mean and standard deviation are not applied: they live inside the exported graph.

    Returns:
        (size_px, size_px, 3) uint8 RGB, contiguous; never a view of the input.
    """
    result = image
    for step in spec.steps:
        result = apply_step(result, step)
    result = resize(result, spec.size_px, spec.resize)
    if np.shares_memory(result, image):
        return result.copy()
    return np.ascontiguousarray(result)


def normalise(batch: NDArray[np.uint8], spec: PreprocessSpec) -> NDArray[np.float32]:
    """Scale to 0–1, subtract the mean, divide by the standard deviation.

    Args:
        batch: (N, H, W, 3) uint8 RGB.

    Returns:
        (N, 3, H, W) float32.
    """
    mean = np.asarray(spec.mean, np.float32)
    std = np.asarray(spec.std, np.float32)
    scaled = (batch.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def resize(image: NDArray[np.uint8], size_px: int, how: str) -> NDArray[np.uint8]:
    """Resize to a square.

    Args:
        how: ``stretch``, ``letterbox`` (padded with black) or ``crop`` (short side scaled,
            centre taken).
    """
    height, width = image.shape[:2]
    if how == "stretch":
        return _scale(image, size_px, size_px)
    side = max(height, width) if how == "letterbox" else min(height, width)
    scaled = _scale(
        image, max(1, round(width * size_px / side)), max(1, round(height * size_px / side))
    )
    return centre_square(scaled, size_px)


def centre_square(image: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """The centred square of a given side; what lies outside the image is black."""
    height, width = image.shape[:2]
    top, left = max(0, (height - size_px) // 2), max(0, (width - size_px) // 2)
    middle = image[top : top + size_px, left : left + size_px]
    height, width = middle.shape[:2]
    if (height, width) == (size_px, size_px):
        return middle
    square = np.zeros((size_px, size_px, 3), np.uint8)
    top, left = (size_px - height) // 2, (size_px - width) // 2
    square[top : top + height, left : left + width] = middle
    return square


def _scale(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    if image.shape[:2] == (height, width):
        return image
    # Averaging when shrinking (no aliasing), linear when enlarging (no ringing).
    shrinking = height * width < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


def apply_step(image: NDArray[np.uint8], step: Step) -> NDArray[np.uint8]:
    """Run one step of a specification.

    Returns:
        uint8 RGB of the same size, but for ``center_crop`` and ``cell_mosaic``; may be the input
        itself.
    """
    match step:
        case CenterCrop():
            return centre_square(image, step.size_px)
        case Clahe():
            return clahe(image, step.clip_limit, step.tiles)
        case MaskScaleBar():
            return erase_scale_bar(image)
        case AdaptiveClahe():
            return adaptive_clahe(image, step.clip_limits, step.tiles)
        case GaussianBlur():
            return gaussian_blur(image, step.sigma_px)
        case BilateralFilter():
            return bilateral_filter(image, step.diameter_px, step.sigma_colour, step.sigma_px)
        case Morphology():
            return morphology(image, step.operation, step.radius_px)
        case SegmentStep():
            return keep_segment(image, step)
        case CellMosaic():
            return cell_mosaic(image, step)
        case Grey():
            return grey_density(image) if step.of == "density" else luma(image)
        case Reinhard():
            return reinhard(image, step.mean, step.std)
        case Macenko():
            return macenko(image, step)
