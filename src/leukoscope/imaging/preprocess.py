"""From a decoded image to a model's input; the same code in training, study and service.

The filters and segmentations of the reference studies are steps among the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Literal

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
    HsvSegment,
    KmeansSegment,
    LabRange,
    LabRanges,
    Leukocytes,
    Macenko,
    MaskScaleBar,
    Morphology,
    MultiscaleKmeans,
    PreprocessSpec,
    Reinhard,
    Segmentation,
    SegmentStep,
    Step,
)
from leukoscope.imaging.inpaint import disc
from leukoscope.imaging.scale_bar import erase_scale_bar, find_scale_bar
from leukoscope.imaging.segment import (
    NEUTRAL_GREY,
    enlarge_mask,
    otsu_level,
    segment_leukocytes,
)
from leukoscope.imaging.stain import grey_density, lit_pixels, luma, macenko, reinhard

_LEAST_SHARE = 0.25  # of the median nucleus; what is smaller is a fragment
_WORKING_PX = 256  # longer side at which clusters are found
_CRITERIA = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)


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


def gaussian_blur(image: NDArray[np.uint8], sigma_px: float) -> NDArray[np.uint8]:
    """Convolve with a Gaussian; borders are mirrored.

    Args:
        sigma_px: Standard deviation, above 0.
    """
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px), np.uint8)


def bilateral_filter(
    image: NDArray[np.uint8], diameter_px: int, sigma_colour: float, sigma_px: float
) -> NDArray[np.uint8]:
    """Mean of near pixels of like colour (Tomasi & Manduchi 1998, doi 10.1109/ICCV.1998.710815).

    Args:
        sigma_colour: Standard deviation of the weight over differences of levels.
        sigma_px: Standard deviation of the weight over distances.
    """
    return np.asarray(cv2.bilateralFilter(image, diameter_px, sigma_colour, sigma_px), np.uint8)


def morphology(
    pixels: NDArray[np.uint8], operation: Literal["open", "close"], radius_px: int
) -> NDArray[np.uint8]:
    """Open or close by an ellipse (Serra 1982); a radius of 0 changes nothing.

    Args:
        pixels: (H, W, 3) uint8 RGB, each channel for itself, or an (H, W) mask of 0 and 1.
        operation: Opening removes what is lighter and smaller than the ellipse, closing what is
            darker and smaller.
        radius_px: Of the ellipse, at least 0.
    """
    if radius_px == 0:
        return pixels
    how = cv2.MORPH_OPEN if operation == "open" else cv2.MORPH_CLOSE
    return np.asarray(cv2.morphologyEx(pixels, how, disc(radius_px)), np.uint8)


def keep_segment(image: NDArray[np.uint8], step: Segmentation) -> NDArray[np.uint8]:
    """The image with everything outside the step's mask filled.

    Args:
        step: Which segmentation, and with what to fill.
    """
    fill = (0, 0, 0) if step.outside == "black" else NEUTRAL_GREY
    return np.where(segment(image, step)[:, :, None], image, np.array(fill, np.uint8))


def segment(image: NDArray[np.uint8], step: Segmentation) -> NDArray[np.bool_]:
    """(H, W) bool mask of a segmentation step, opened and closed as it says."""
    mask = _segment(image, step).astype(np.uint8)
    mask = morphology(mask, "open", step.open_px)
    return morphology(mask, "close", step.close_px).astype(np.bool_)


def _segment(image: NDArray[np.uint8], step: Segmentation) -> NDArray[np.bool_]:
    match step:
        case LabRanges():
            return lab_ranges_mask(image, step.ranges, otsu=step.otsu)
        case HsvSegment():
            return hsv_mask(image, step.hue_low, step.hue_high, step.saturation_min)
        case KmeansSegment():
            return kmeans_mask(image, step.clusters)
        case MultiscaleKmeans():
            return multiscale_kmeans_mask(image, step.clusters, step.scales)
        case Leukocytes():
            masks = segment_leukocytes(image)
            mask = masks.cell if step.part == "cell" else masks.nucleus
            bar = find_scale_bar(image)
            return mask if bar is None else mask & ~bar.mask


def lab_ranges_mask(
    image: NDArray[np.uint8], ranges: Sequence[LabRange], *, otsu: bool
) -> NDArray[np.bool_]:
    """Pixels in any of the colour ranges; with ``otsu`` only the darker of them.

    Otsu's method (1979, doi 10.1109/TSMC.1979.4310076) splits L of the pixels in the ranges.

    Args:
        ranges: In OpenCV's 8-bit LAB.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    inside = np.zeros(image.shape[:2], np.bool_)
    for box in ranges:
        inside |= cv2.inRange(lab, np.array(box.low), np.array(box.high)) > 0
    if otsu and inside.any():
        lightness = np.asarray(lab[:, :, 0], np.uint8)
        inside &= lightness <= otsu_level(lightness[inside])
    return inside


def hsv_mask(
    image: NDArray[np.uint8], hue_low: int, hue_high: int, saturation_min: int
) -> NDArray[np.bool_]:
    """Pixels of the hues, more saturated than Otsu's threshold over all lit pixels.

    Args:
        hue_low: In half degrees; the range runs upwards from here, through red if need be.
        saturation_min: Least threshold, 0–255.

    Returns:
        (H, W) bool; black pixels never belong to it.
    """
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hue, saturation, _ = (np.asarray(plane, np.uint8) for plane in cv2.split(hsv))
    lit = lit_pixels(image)
    if not lit.any():
        return lit
    above, below = hue >= hue_low, hue <= hue_high
    hues = above & below if hue_low <= hue_high else above | below
    return np.asarray(lit & hues & (saturation > max(saturation_min, otsu_level(saturation[lit]))))


def kmeans_mask(image: NDArray[np.uint8], clusters: int) -> NDArray[np.bool_]:
    """The most violet of k-means clusters (Lloyd 1982) of the pixels' colours in LAB.

    Clusters start from equal shares of the pixels in order of L, so equal images give equal
    masks. The most violet has the largest a − b − L. Images above 256 px are clustered smaller;
    black pixels are left out.

    Returns:
        (H, W) bool; empty where an image has fewer colours than clusters.
    """
    height, width = image.shape[:2]
    scale = min(1.0, _WORKING_PX / max(height, width))
    return _kmeans_at(image, clusters, scale)


def multiscale_kmeans_mask(
    image: NDArray[np.uint8], clusters: int, scales: Sequence[float]
) -> NDArray[np.bool_]:
    """Pixels that more than half of the scales give to :func:`kmeans_mask`.

    Args:
        scales: Above 0 to 1, relative to the size at which :func:`kmeans_mask` works.
    """
    height, width = image.shape[:2]
    base = min(1.0, _WORKING_PX / max(height, width))
    votes = np.zeros((height, width), np.int64)
    for scale in scales:
        votes += _kmeans_at(image, clusters, base * scale)
    return np.asarray(2 * votes > len(scales))


def _kmeans_at(image: NDArray[np.uint8], clusters: int, scale: float) -> NDArray[np.bool_]:
    height, width = image.shape[:2]
    small = image
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    mask = _violet_cluster(small, clusters)
    if scale < 1:
        # An interpolated outline may reach into black surroundings.
        large = enlarge_mask(mask.astype(np.uint8), width, height) > 0
        mask = np.asarray(large & lit_pixels(image))
    return mask


def _violet_cluster(image: NDArray[np.uint8], clusters: int) -> NDArray[np.bool_]:
    mask = lit_pixels(image)
    colours = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[mask].astype(np.float32)
    packed = colours @ np.array([65536, 256, 1], np.float32)  # exact: below 2²⁴
    if len(np.unique(packed)) < clusters:
        return np.zeros_like(mask)
    rank = np.argsort(np.argsort(colours[:, 0], kind="stable"))
    start = (rank * clusters // len(rank)).astype(np.int32)[:, None]
    # One attempt from given labels draws no random numbers.
    _, labels, centres = cv2.kmeans(
        colours, clusters, start, _CRITERIA, 1, cv2.KMEANS_USE_INITIAL_LABELS
    )
    violet = centres[:, 1] - centres[:, 2] - centres[:, 0]
    mask[mask] = labels.ravel() == int(np.argmax(violet))
    return mask
