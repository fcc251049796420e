"""Find leukocytes by their violet: fast, without a trained model, across stains.

The picture is turned into optical densities against its own background (Beer–Lambert), so a
yellow or blue illumination drops out. Leukocytes absorb green much and blue little, and red
less than green; red cells, pink or blue-grey, do not. That difference is thresholded by Otsu's
method (1979), and cells are grown from the nuclei.

Masks that were found are remembered, for work that looks at the same images several times.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.inpaint import (
    LOG_INTENSITY,
    disc,
    fit_ground,
    grid_step,
    log_intensity,
)
from leukoscope.imaging.scale_bar import ScaleBar, find_scale_bar
from leukoscope.imaging.stain import lit_pixels

__all__ = [
    "NEUTRAL_GREY",
    "LeukocyteMasks",
    "ScaleBar",
    "enlarge_mask",
    "find_scale_bar",
    "is_cut_out",
    "segment_leukocytes",
]

NEUTRAL_GREY = (200, 200, 200)
"""RGB of the ground on which leukocytes are shown alone, the same for every image."""

_WORKING_PX = 256  # longer side at which masks are found
_LIT_SHARE = 0.9  # less of the picture is not black: the cell is cut out
_LOWEST_VIOLET = 0.08  # no leukocyte is paler
_VIOLET_SHARE = 0.4  # of the green density; red cells, pink or thick, have less
_PINK_STEP = 0.03  # density by which a smudged leukocyte is pinker than red cells
_FIELD_SHARE = 0.18  # more of the ground than this under other cells: a field, not one cell

_Mask = NDArray[np.uint8]
_Float = NDArray[np.float32]
LIMIT_BYTES = 32 * 2**20  # of packed masks: a field of cells takes about 1 kB
_Masks = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class LeukocyteMasks:
    """Where the leukocytes of an image are."""

    cell: NDArray[np.bool_]  # (H, W) bool, whole leukocytes
    nucleus: NDArray[np.bool_]  # (H, W) bool, their nuclei; inside ``cell``


def segment_leukocytes(image: NDArray[np.uint8]) -> LeukocyteMasks:
    """Masks of the leukocytes and their nuclei.

    Works on fields of many cells and on pictures of one, on a bright or a black ground. Platelets
    and red cells are left out; smudged leukocytes count as leukocytes.
    """
    height, width = image.shape[:2]
    scale = min(1.0, _WORKING_PX / max(height, width))
    small = image
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    nucleus, cell = known_or_found(small, lambda: _segment(small))
    if scale < 1:
        nucleus, cell = (enlarge_mask(mask, width, height) for mask in (nucleus, cell))
    return LeukocyteMasks(cell.astype(np.bool_), (nucleus & cell).astype(np.bool_))


def is_cut_out(image: NDArray[np.uint8]) -> bool:
    """Whether a picture shows what was cut out on black.

    >>> is_cut_out(np.zeros((8, 8, 3), np.uint8)), is_cut_out(np.full((8, 8, 3), 99, np.uint8))
    (True, False)
    """
    return bool(lit_pixels(image).mean() < _LIT_SHARE)


def _segment(image: NDArray[np.uint8]) -> tuple[_Mask, _Mask]:
    smooth = np.asarray(cv2.GaussianBlur(image, (0, 0), 1.0), np.uint8)
    lit = lit_pixels(smooth)
    if not lit.any():
        empty = np.zeros(image.shape[:2], np.uint8)
        return empty, empty
    density = _optical_density(smooth, lit)
    violet = _violet(density, lit)
    threshold = max(_otsu(violet), _LOWEST_VIOLET)
    stained = (violet > threshold) & (violet > _VIOLET_SHARE * density[:, :, 1])
    seeds = _open(stained.astype(np.uint8), 2)
    if lit.mean() < _LIT_SHARE:  # cut out on black: everything lit is the cell
        cell = _open(lit.astype(np.uint8), 2)
        return seeds & cell, cell
    solid = cv2.erode(seeds, disc(1))
    if not solid.any():
        return np.zeros_like(seeds), np.zeros_like(seeds)
    ground = cv2.add(density[:, :, 1], density[:, :, 2])
    others = ground > 0.8 * _otsu(ground[seeds == 0])
    away = _distance(1 - seeds)
    radius = float(_distance(seeds).max())
    far = away > 1.5 * radius
    if far.mean() > 0.03 and others[far].mean() > _FIELD_SHARE:
        return _grow_field(density, violet, threshold, seeds, others & far)
    return _grow_single(others, away, seeds)


def _optical_density(image: NDArray[np.uint8], lit: NDArray[np.bool_]) -> _Float:
    """(H, W, 3) float32 −ln(I / I₀), at least 0; I₀ is white where the cell is cut out."""
    log_image = log_intensity(image)
    if lit.mean() < _LIT_SHARE:
        return np.asarray(np.maximum(0, LOG_INTENSITY[255] - log_image), np.float32)
    green = image[::2, ::2, 1]
    plain = np.median(log_image[::2, ::2][green >= np.percentile(green, 85)], axis=0)
    step = grid_step(image)
    coarse = fit_ground(log_image[::step, ::step], plain)
    surface = cv2.resize(coarse, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.maximum(0, surface - log_image), np.float32)


def _violet(density: _Float, lit: NDArray[np.bool_]) -> _Float:
    """Green over blue density, less where red exceeds green (blue-grey red cells)."""
    red, green, blue = cv2.split(density)
    violet = green - blue - 1.5 * np.maximum(0, red - green)
    return np.where(lit, violet, np.float32(0))


def _otsu(values: _Float) -> float:
    if values.size == 0:
        return 0.0
    top = float(np.percentile(values.ravel()[::3], 99))
    if top <= 0:
        return 0.0
    return otsu_level(np.clip(values * (255 / top), 0, 255).astype(np.uint8)) / 255 * top


def otsu_level(levels: NDArray[np.uint8]) -> float:
    """Otsu's threshold (1979) of grey levels, 0–255; the brighter class lies above it."""
    column = np.ascontiguousarray(levels).reshape(-1, 1)
    threshold, _ = cv2.threshold(column, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return float(threshold)


def _grow_field(
    density: _Float, violet: _Float, threshold: float, seeds: _Mask, red_cells: NDArray[np.bool_]
) -> tuple[_Mask, _Mask]:
    """Cells of a field: what is more violet, or more pink, than this picture's red cells."""
    red, green, blue = cv2.split(density)
    pink = green - cv2.max(red, blue)
    level, pinkest = 0.0, 0.0
    if red_cells.any():
        level = float(np.percentile(violet[red_cells], 90))
        pinkest = max(0.0, float(np.percentile(pink[red_cells], 90)))
    low = float(np.clip(level, 0.55 * threshold, 0.8 * threshold))
    candidates = _open((violet > low).astype(np.uint8), 2)
    pale = _open(candidates, 5)
    # Smudged cells are pale and pink; red cells of the same picture may be pink too.
    smudges = (pink > pinkest + _PINK_STEP).astype(np.uint8)
    pale |= _open(smudges, 5)
    nuclei = _large_enough(seeds, _disc_area(4))
    cell = _touching(candidates | pale, nuclei | pale)
    cell = _fill_holes(_close(cell, 2))
    return nuclei, cell | nuclei


def _grow_single(stained: NDArray[np.bool_], away: _Float, seeds: _Mask) -> tuple[_Mask, _Mask]:
    """One cell on a plain ground: everything stained within reach of its nucleus."""
    nuclei = _large_enough(seeds, _disc_area(3))
    reach = 1.2 * float(np.sqrt(nuclei.sum() / np.pi))
    around = (stained & (away <= reach)).astype(np.uint8) | nuclei
    cell = _open(around, 4) | nuclei
    return nuclei, _fill_holes(_touching(cell, nuclei))


def _open(mask: _Mask, radius: int) -> _Mask:
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, disc(radius)), np.uint8)


def _close(mask: _Mask, radius: int) -> _Mask:
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, disc(radius)), np.uint8)


def _distance(mask: _Mask) -> _Float:
    """Distance of each pixel of the mask from what is outside."""
    return np.asarray(cv2.distanceTransform(mask, cv2.DIST_L2, 3), np.float32)


def _disc_area(radius: int) -> int:
    return round(np.pi * radius**2)


def _large_enough(mask: _Mask, area: int) -> _Mask:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    keep = stats[:, cv2.CC_STAT_AREA] >= area
    keep[0] = False
    return keep.astype(np.uint8)[np.asarray(labels)]


def _touching(mask: _Mask, seeds: _Mask) -> _Mask:
    count, labels = cv2.connectedComponents(mask)
    keep = np.zeros(count, np.uint8)
    keep[labels[seeds > 0]] = 1
    keep[0] = 0
    return keep[np.asarray(labels)]


def _fill_holes(mask: _Mask) -> _Mask:
    framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    cv2.floodFill(framed, None, (0, 0), 1)
    return np.asarray(mask | (framed[1:-1, 1:-1] == 0), np.uint8)


def enlarge_mask(mask: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """A mask of 0 and 1 at a larger size, its outline interpolated.

    Args:
        mask: (h, w) uint8.
    """
    smooth = cv2.resize(mask * 255, (width, height), interpolation=cv2.INTER_LINEAR)
    return (smooth > 127).astype(np.uint8)


class _Memory:
    """Pairs of masks by the picture that they were found in; the oldest are forgotten."""

    def __init__(self) -> None:
        self._packed: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def find(self, image: NDArray[np.uint8], search: Callable[[], _Masks]) -> _Masks:
        """The masks (H, W) uint8, 0 or 1, of a picture (H, W, 3); ``search`` finds new ones."""
        digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(image).data)
        key = digest.digest()
        with self._lock:
            packed = self._packed.get(key)
        if packed is not None:
            bits = np.unpackbits(np.frombuffer(zlib.decompress(packed), np.uint8))
            first, second = bits[: 2 * image[..., 0].size].reshape(2, *image.shape[:2])
            return first, second
        masks = search()
        self._keep(key, zlib.compress(np.packbits(np.stack(masks)).tobytes(), level=1))
        return masks

    def _keep(self, key: bytes, packed: bytes) -> None:
        with self._lock:
            if key in self._packed:  # another thread was sooner
                return
            self._packed[key] = packed
            self._bytes += len(packed)
            while self._bytes > LIMIT_BYTES:
                self._bytes -= len(self._packed.popitem(last=False)[1])


_memory: _Memory | None = None


@contextmanager
def remembered_masks() -> Iterator[None]:
    """Within it each picture is segmented once, in whatever thread; one inside another is one."""
    global _memory  # noqa: PLW0603  (threads that others start must see it)
    if _memory is not None:
        yield
        return
    _memory = _Memory()
    try:
        yield
    finally:
        _memory = None


def known_or_found(image: NDArray[np.uint8], search: Callable[[], _Masks]) -> _Masks:
    """Masks of a picture (H, W, 3) uint8, from memory where they are remembered."""
    memory = _memory
    return search() if memory is None else memory.find(image, search)
