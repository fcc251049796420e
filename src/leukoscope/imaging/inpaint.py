"""Fill regions with plausible background, copied from elsewhere in the same image.

Diffusion alone (Telea, Navier–Stokes) leaves smooth blobs that keep the shape of what was
removed. So each piece of a hole is covered with the intact patch whose surroundings fit best
(exemplar-based inpainting after Criminisi et al. 2004, doi 10.1109/TIP.2004.833105, with whole
pieces instead of single pixels); diffusion closes only what no patch fits.

This looks best, and serves for scale bars. Leukocytes are removed by :mod:`.ground` instead: pasted
patches show the size of the hole.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

NO_GROUND = (200, 200, 200)
"""RGB used where an image has no background at all."""

_SEARCH_PX = 64  # patches are looked up on an image of about this size
_PIECE = 8  # side of a piece at that size
_RING = 2  # width of the surroundings compared, at that size
_TONE = 24.0  # largest correction of a patch's tone

_Colour = NDArray[np.uint8]
_Flags = NDArray[np.uint8]


def fill_region(image: NDArray[np.uint8], hole: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Fill ``hole`` with background of the same image.

    Args:
        image: (H, W, 3) uint8 RGB.
        hole: (H, W) bool, what to replace; nothing inside it is ever copied.

    Returns:
        (H, W, 3) uint8 RGB; unchanged but for the hole and a seam of two pixels around it.
    """
    if not hole.any():
        return image.copy()
    if hole.mean() > 0.98:
        return np.where(hole[:, :, None], np.array(NO_GROUND, np.uint8), image)
    result = image.copy()
    left = hole.astype(np.uint8)
    search = _Search(image, left, max(1, round(max(hole.shape) / _SEARCH_PX)))
    for side in (_PIECE, _PIECE // 2):  # small pieces find room where large ones do not
        for piece in search.pieces(left, side):
            found = search.find(piece)
            if found is not None:
                _copy(result, left, hole, found, search.factor)
    if left.any():
        closed = cv2.inpaint(result, left, 3, cv2.INPAINT_TELEA)
        result[left > 0] = closed[left > 0]
    return _soften(result, hole)


@dataclass(frozen=True)
class _Patch:
    """What to copy where, in pixels of the small image.

    Attributes:
        box: y0, x0, y1, x1 of the target, with one pixel around the piece.
        shift: dy, dx from the target to the source.
        tone: RGB to add.
    """

    box: tuple[int, int, int, int]
    shift: tuple[int, int]
    tone: NDArray[np.float32]


class _Search:
    """Looks up patches on a small copy of the image."""

    def __init__(self, image: _Colour, hole: _Flags, factor: int) -> None:
        # Rounded up and padded, so that the last rows and columns belong to a piece too.
        self.factor = factor
        bottom, right = (-size % factor for size in hole.shape)
        padded = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        holes = cv2.copyMakeBorder(hole, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        height, width = (size // factor for size in holes.shape)
        small = cv2.resize(padded, (width, height), interpolation=cv2.INTER_AREA)
        self.small = small.astype(np.float32)
        blocks = holes.reshape(height, factor, width, factor)
        self.hole = np.ascontiguousarray(blocks.max(axis=(1, 3)), np.float32)
        self.known = 1 - self.hole
        self.used = np.zeros_like(self.hole)
        # Green shows cells best; one channel is enough to compare surroundings.
        self.green = np.ascontiguousarray(self.small[:, :, 1])

    def pieces(self, left: _Flags, side: int) -> list[tuple[int, int, int, int]]:
        """Squares (y0, x0, y1, x1) of the small image that still hold something to fill."""
        height, width = self.hole.shape
        block = side * self.factor
        return [
            (y, x, min(y + side, height), min(x + side, width))
            for y in range(0, height, side)
            for x in range(0, width, side)
            if left[
                y * self.factor : y * self.factor + block, x * self.factor : x * self.factor + block
            ].any()
        ]

    def find(self, piece: tuple[int, int, int, int]) -> _Patch | None:
        """The patch whose surroundings fit best, or None where no intact one has room."""
        height, width = self.hole.shape
        outer = _widen(piece, _RING, height, width)
        inner = _widen(piece, 1, height, width)
        window = np.s_[outer[0] : outer[2], outer[1] : outer[3]]
        wanted = np.zeros_like(self.hole)
        target = np.s_[inner[0] : inner[2], inner[1] : inner[3]]
        wanted[target] = self.hole[target]
        blocked = cv2.matchTemplate(self.hole, wanted[window], cv2.TM_CCORR) > 0.5
        if blocked.all():
            return None
        ring = np.ascontiguousarray(self.known[window])
        cost = self._mismatch(np.ascontiguousarray(self.green[window]), ring)
        # A patch used again and again would weave a pattern.
        cost += self.used[: cost.shape[0], : cost.shape[1]] * (ring.sum() * self.green.var())
        cost[blocked] = np.inf
        y, x = (int(value) for value in np.unravel_index(int(cost.argmin()), cost.shape))
        self.used[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] += 1
        rows, columns = ring.shape
        patch = self.small[y : y + rows, x : x + columns]
        weight = ring * (1 - self.hole[y : y + rows, x : x + columns])
        tone = np.zeros(3, np.float32)
        if weight.sum() >= 3:
            tone = np.tensordot(weight, self.small[window] - patch, 2) / weight.sum()
            tone = np.clip(tone, -_TONE, _TONE).astype(np.float32)
        inside = wanted[window] > 0
        self.small[window][inside] = patch[inside] + tone
        self.green[window][inside] = self.small[window][inside][:, 1]
        self.known[window][inside] = 1
        return _Patch(inner, (y - outer[0], x - outer[1]), tone)

    def _mismatch(
        self, template: NDArray[np.float32], ring: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Σ ring · (patch − template)² at every place, less the term that is the same for all."""
        square = cv2.matchTemplate(self.green * self.green, ring, cv2.TM_CCORR)
        cross = cv2.matchTemplate(self.green, ring * template, cv2.TM_CCORR)
        return np.asarray(square - 2 * cross, np.float32)


def _widen(
    box: tuple[int, int, int, int], by: int, height: int, width: int
) -> tuple[int, int, int, int]:
    y0, x0, y1, x1 = box
    return max(0, y0 - by), max(0, x0 - by), min(height, y1 + by), min(width, x1 + by)


def _copy(
    result: _Colour, left: _Flags, hole: NDArray[np.bool_], patch: _Patch, factor: int
) -> None:
    height, width = left.shape
    y0, x0, y1, x1 = (value * factor for value in patch.box)
    dy, dx = (value * factor for value in patch.shift)
    y1, x1 = min(y1, height, height - dy), min(x1, width, width - dx)
    target = np.s_[y0:y1, x0:x1]
    source = result[y0 + dy : y1 + dy, x0 + dx : x1 + dx].astype(np.float32) + patch.tone
    # The overlap with pieces that are filled already is blended, or their edges would show.
    ramp_y, ramp_x = (_ramp(end - start, factor) for start, end in ((y0, y1), (x0, x1)))
    share = np.where(left[target] > 0, 1, np.minimum.outer(ramp_y, ramp_x)) * hole[target]
    share = share[:, :, None].astype(np.float32)
    mixed = source * share + result[target] * (1 - share)
    result[target] = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)
    left[target] = 0


def _ramp(length: int, over: int) -> NDArray[np.float32]:
    steps = np.arange(length, dtype=np.float32)
    return np.minimum(1, (np.minimum(steps, steps[::-1]) + 0.5) / (2 * over))


def _soften(image: _Colour, hole: NDArray[np.bool_]) -> _Colour:
    """Blur the seam between the hole and its surroundings."""
    flags = hole.astype(np.uint8)
    kernel = np.ones((3, 3), np.uint8)
    seam = cv2.dilate(flags, kernel) - cv2.erode(flags, kernel)
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0)
    return np.where(seam[:, :, None] > 0, smooth, image)
