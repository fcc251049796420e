"""Filters, and the segmentations of the reference studies as preprocessing steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.config.preprocess import (
    HsvSegment,
    KmeansSegment,
    LabRange,
    LabRanges,
    Leukocytes,
    MultiscaleKmeans,
    Segmentation,
)
from leukoscope.imaging.inpaint import disc
from leukoscope.imaging.scale_bar import find_scale_bar
from leukoscope.imaging.segment import (
    NEUTRAL_GREY,
    enlarge_mask,
    otsu_level,
    segment_leukocytes,
)
from leukoscope.imaging.stain import lit_pixels

_WORKING_PX = 256  # longer side at which clusters are found
_CRITERIA = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)


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
