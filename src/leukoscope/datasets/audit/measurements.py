"""What the audit needs of each image, computed in one decoding pass."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.datasets.audit.neighbour_search import allocate_array, row_blocks
from leukoscope.imaging.background import BACKGROUND_FEATURES, background_features
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.scale_bar import ScaleBar, find_scale_bar
from leukoscope.imaging.segment import segment_leukocytes
from leukoscope.imaging.stain import lit_pixels

LOW_PX = 64
"""Side of the small pictures on which candidates are compared."""

_HASH_PX = 32
_CUT_OUT = 0.3  # share of black pixels from which a picture is cells cut out on black
_HIGH_PASS = 5.0  # px of the small picture
RELIEF_LEVELS = 40.0
"""int8 steps per standard deviation of a relief."""
_NO_BOX = (-1, -1, -1, -1)


@dataclass(frozen=True)
class Measures:
    """n images, measured.

    Attributes:
        pixels: (n, 32) uint8 SHA-256 of size and decoded pixels.
        hashes: (n, 8) uint64 perceptual hashes of the eight flips and quarter turns.
        luma: (n, 64, 64) uint8, the whole picture made small, scale bar filled in.
        relief: (n, 64, 64) int8, green channel without its slow changes, 40 steps per standard
            deviation; 0 under the scale bar.
        colour: (n, 12) float32, CIELAB percentiles 25, 50, 75, 95.
        background: (n, len(BACKGROUND_FEATURES)) float64.
        bar: (n, 4) int32 box of the scale bar, −1 where there is none.
        bar_red: (n,) bool, whether it is red.
        cut_out: (n,) bool, whether the picture shows cells cut out on black.
    """

    pixels: NDArray[np.uint8]
    hashes: NDArray[np.uint64]
    luma: NDArray[np.uint8]
    relief: NDArray[np.int8]
    colour: NDArray[np.float32]
    background: NDArray[np.float64]
    bar: NDArray[np.int32]
    bar_red: NDArray[np.bool_]
    cut_out: NDArray[np.bool_]

    def take(self, rows: NDArray[np.int64] | slice) -> Measures:
        """Those of some of the images."""
        return Measures(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def audit_image(path: Path) -> Measures:
    """Decode one image and measure all that the audit compares; n is 1.

    Raises:
        ImageError: The image cannot be read.
    """
    return measure_image(decode_image(path).image)


def measure_image(image: NDArray[np.uint8]) -> Measures:
    """Measure one image (H, W, 3) uint8 RGB; n is 1."""
    bar = find_scale_bar(image)
    filled = _without_bar(image, bar)
    small = np.asarray(cv2.resize(filled, (LOW_PX, LOW_PX), interpolation=cv2.INTER_AREA), np.uint8)
    luma = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)
    lab = cv2.cvtColor(small.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB)
    percentiles = np.percentile(lab.reshape(-1, 3), [25, 50, 75, 95], axis=0)
    return Measures(
        pixels=pixel_hash(image)[None],
        hashes=perceptual_hashes(luma)[None],
        luma=luma[None],
        relief=_relief(small[:, :, 1], bar, image.shape[:2])[None],
        colour=percentiles.ravel().astype(np.float32)[None],
        background=background_features(image, segment_leukocytes(image), bar)[None],
        bar=np.array([_NO_BOX if bar is None else bar.box], np.int32),
        bar_red=np.array([bar is not None and bar.colour == "red"]),
        cut_out=np.array([(~lit_pixels(small)).mean() > _CUT_OUT]),
    )


def measure_images(
    paths: Sequence[Path],
    *,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Measures:
    """Measure many images.

    Raises:
        ImageError: An image cannot be read any more.
    """
    names = [field.name for field in fields(Measures)]
    empty = measure_image(np.zeros((LOW_PX, LOW_PX, 3), np.uint8))
    shapes = {name: getattr(empty, name) for name in names}
    found = {
        n: allocate_array((len(paths), *one.shape[1:]), one.dtype) for n, one in shapes.items()
    }
    with ThreadPoolExecutor(max(1, threads)) as pool:
        # A part at a time: what is measured ahead of the copying would fill the memory.
        for rows in row_blocks(np.arange(len(paths))):
            part = pool.map(audit_image, [paths[i] for i in rows])
            for i, measures in zip(rows.tolist(), part, strict=True):
                for name in names:
                    found[name][i] = getattr(measures, name)[0]
                if progress is not None:
                    progress(i + 1, len(paths))
    return Measures(**found)


def perceptual_hashes(luma: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """64-bit pHashes of a picture and of its seven other flips and quarter turns.

    The signs, against their median, of the 64 lowest frequencies (constant left out) of the
    discrete cosine transform of 32 × 32 pixels (Zauner 2010, section 3.2). Mirroring an axis
    flips the sign of its odd frequencies and turning swaps the axes, so one transform serves all.

    Args:
        luma: (H, W) uint8.

    Returns:
        (8,) uint64 in the order of :func:`dihedral`; two pictures that differ by a flip or turn
        hold each other's hashes.
    """
    small = cv2.resize(luma, (_HASH_PX, _HASH_PX), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:8, :8]
    low[0, 0] = 0
    odd = np.where(np.arange(8) % 2 == 1, np.float32(-1), np.float32(1))
    result = np.empty(8, np.uint64)
    for variant in range(8):
        turned = low.T if variant & 4 else low
        if variant & 1:
            turned = turned * odd[None, :]
        if variant & 2:
            turned = turned * odd[:, None]
        bits = np.packbits((turned > np.median(turned)).ravel())
        result[variant] = bits.view(np.uint64)[0]
    return result


def dihedral(picture: NDArray[np.generic], variant: int) -> NDArray[np.generic]:
    """One of the eight flips and quarter turns of a picture.

    Args:
        picture: (H, W) or (H, W, C).
        variant: Bit 2 swaps the axes first, then bit 0 mirrors left–right, bit 1 up–down.

    >>> dihedral(np.array([[1, 2], [3, 4]]), 1).tolist()
    [[2, 1], [4, 3]]
    """
    turned = picture.swapaxes(0, 1) if variant & 4 else picture
    if variant & 1:
        turned = turned[:, ::-1]
    return turned[::-1] if variant & 2 else turned


def even_contrast(
    relief: NDArray[np.float32],
    reach_px: float,
    least: float,
    inside: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """A relief divided by its local contrast, so that an edge counts no more than faint texture.

    Args:
        relief: (h, w) float32.
        reach_px: Standard deviation of the Gaussian over which contrast is taken.
        least: Contrast, in the relief's units, below which it is left as it is.
        inside: (h, w) where given, only there contrast counts.

    Returns:
        (h, w) float32.
    """
    if inside is None:
        power = cv2.GaussianBlur(relief * relief, (0, 0), reach_px)
        return np.asarray(relief / (np.sqrt(power) + np.float32(least)), np.float32)
    counted = inside.astype(np.float32)
    weight = cv2.GaussianBlur(counted, (0, 0), reach_px) + np.float32(1e-3)
    power = cv2.GaussianBlur(relief * relief * counted, (0, 0), reach_px)
    return np.asarray(relief / (np.sqrt(power / weight) + np.float32(least)), np.float32)


def _without_bar(image: NDArray[np.uint8], bar: ScaleBar | None) -> NDArray[np.uint8]:
    if bar is None:
        return image
    filled = image.copy()
    x0, y0, x1, _ = bar.box
    around = image[max(0, y0 - 8) : y0, x0:x1].reshape(-1, 3)
    filled[bar.mask] = np.median(around, axis=0) if len(around) else np.median(image, axis=(0, 1))
    return filled


def _relief(
    green: NDArray[np.uint8], bar: ScaleBar | None, shape: tuple[int, int]
) -> NDArray[np.int8]:
    level = green.astype(np.float32)
    level -= cv2.GaussianBlur(level, (0, 0), _HIGH_PASS)
    if bar is not None:
        x0, y0, x1, y1 = bar.box
        fy, fx = LOW_PX / shape[0], LOW_PX / shape[1]
        level[int(y0 * fy) : int(np.ceil(y1 * fy)), int(x0 * fx) : int(np.ceil(x1 * fx))] = 0
    level /= level.std() + np.float32(1e-3)
    return np.asarray(np.clip(level, -3, 3) * RELIEF_LEVELS, np.int8)


def pixel_hash(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(32,) uint8 SHA-256 of an image's shape as text, then its (H, W, 3) uint8 RGB values."""
    digest = hashlib.sha256(f"{image.shape}".encode())
    digest.update(np.ascontiguousarray(image).data)
    return np.frombuffer(digest.digest(), np.uint8)


def has_bar(measures: Measures) -> NDArray[np.bool_]:
    """(n,) bool: whether each image has a burned-in scale bar."""
    return np.asarray(measures.bar[:, 0] >= 0)


def black_share(measures: Measures) -> NDArray[np.float64]:
    """(n,) float64: share of black outside the leukocytes of each image."""
    return measures.background[:, BACKGROUND_FEATURES.index("black_share")]
