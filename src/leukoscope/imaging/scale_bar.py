"""Find and erase a burned-in scale bar: thin red or black strokes near the lower edge.

Cameras burn the bar in after the picture is taken, so it says which software, not which cell,
made the image; a classifier that reads it has learned the session.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.inpaint import paint_ground

# Fractions of the longer side of the image.
_STRIP = 0.25  # height of the strip at the lower edge that is searched
_STROKE = 0.036  # no stroke is thicker
_REACH = 0.045  # gaps inside one bar with its text are no wider

_RED = 28  # red minus the larger of green and blue, above its surroundings
_RED_PEAK = 55  # the reddest pixel of red ink
_YELLOW = 15  # green minus blue in red ink; more is the edge of a cell on a yellow ground
_INK_STEP = 90  # black strokes are darker than the white around them by this
_WHITE = 232  # darkest white of a label box


@dataclass(frozen=True)
class ScaleBar:
    """A burned-in scale bar with its text.

    Attributes:
        box: x0, y0, x1, y1 in pixels, half open, with the label box around the strokes.
        mask: (H, W) bool, the pixels to erase: the box with a margin of one pixel.
        colour: ``red`` strokes on the picture, or ``black`` strokes on white.
        strokes: (H, W) bool, the ink alone.
    """

    box: tuple[int, int, int, int]
    mask: NDArray[np.bool_]
    colour: Literal["red", "black"]
    strokes: NDArray[np.bool_]

    @property
    def thickness_px(self) -> int:
        """Thickness of the longest horizontal stroke, in pixels; 1 for mere ticks and text."""
        rows = self.strokes.sum(axis=1)
        widest = max(1, self.box[2] - self.box[0])
        return max(1, int((rows > 0.6 * widest).sum()))

    @property
    def length_px(self) -> int:
        """Length of the longest horizontal stroke, in pixels."""
        columns = np.flatnonzero(self.strokes[int(self.strokes.sum(axis=1).argmax())])
        return int(np.ptp(columns)) + 1


def find_scale_bar(image: NDArray[np.uint8]) -> ScaleBar | None:
    """The scale bar of an image, or None where there is none."""
    height, width = image.shape[:2]
    side = max(height, width)
    top = height - round(_STRIP * height)
    if min(height, width) < 64:
        return None
    strip = image[top:]
    kernel = np.ones((_odd(_STROKE * side),) * 2, np.uint8)
    for colour, ink in (
        ("black", _black_strokes(strip, kernel)),
        ("red", _red_strokes(strip, kernel)),
    ):
        found = _best_group(ink, side)
        if found is None or (colour == "red" and not _is_red_ink(strip[found])):
            continue
        strokes = np.zeros((height, width), np.bool_)
        strokes[top:] = found
        box = _label_box(image, strokes, colour, side)
        mask = np.zeros((height, width), np.bool_)
        mask[max(0, box[1] - 1) : box[3] + 1, max(0, box[0] - 1) : box[2] + 1] = True
        return ScaleBar(box, mask, "black" if colour == "black" else "red", strokes)
    return None


def erase_scale_bar(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Paint the scale bar over with plain ground; a copy where there is none."""
    bar = find_scale_bar(image)
    return image.copy() if bar is None else paint_ground(image, bar.mask)


def _odd(value: float) -> int:
    return max(3, 2 * round(value / 2) + 1)


def _black_strokes(strip: NDArray[np.uint8], kernel: NDArray[np.uint8]) -> NDArray[np.uint8]:
    red, green, blue = cv2.split(strip)
    dark, pale = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    white = cv2.morphologyEx(pale, cv2.MORPH_CLOSE, kernel)
    ink = (white >= _WHITE) & (white.astype(np.int16) - dark > _INK_STEP)
    return np.asarray(ink, np.uint8)


def _red_strokes(strip: NDArray[np.uint8], kernel: NDArray[np.uint8]) -> NDArray[np.uint8]:
    red, green, blue = cv2.split(strip)
    excess = cv2.subtract(red, cv2.max(green, blue))
    # Ink over a violet cell has no excess of its own, but more than the cell.
    shifted = cv2.add(cv2.subtract(red, cv2.min(green, blue)) // 4, excess)
    return np.asarray(cv2.morphologyEx(shifted, cv2.MORPH_TOPHAT, kernel) > _RED, np.uint8)


def _is_red_ink(pixels: NDArray[np.uint8]) -> bool:
    red, green, blue = pixels.astype(np.int16).T
    excess = red - np.maximum(green, blue)
    peak = excess.max()
    core = excess >= 0.7 * peak  # the rest is mixed with what lies beneath
    return bool(peak >= _RED_PEAK and np.median((green - blue)[core]) <= _YELLOW)


def _best_group(ink: NDArray[np.uint8], side: int) -> NDArray[np.bool_] | None:
    reach = _odd(2 * _REACH * side)
    joined = cv2.dilate(ink, np.ones((_odd(reach / 3), reach), np.uint8))
    count, labels = cv2.connectedComponents(joined)
    best, most = None, 0
    for label in range(1, count):
        group = (labels == label) & (ink > 0)
        pixels = int(group.sum())
        if pixels > most and _looks_like_bar(group, pixels, side, ink.shape[1]):
            best, most = group, pixels
    return best


def _looks_like_bar(group: NDArray[np.bool_], pixels: int, side: int, width: int) -> bool:
    columns, rows = np.flatnonzero(group.any(axis=0)), np.flatnonzero(group.any(axis=1))
    wide, high = int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1
    return (
        rows[0] > 0  # cut off by the strip: not at the edge
        and pixels >= 2e-4 * side * side
        and 0.03 * side <= wide <= 0.6 * width
        and 0.012 * side <= high <= 0.14 * side
        and wide >= 1.2 * high
        and 0.12 <= pixels / (wide * high) <= 0.9
    )


def _label_box(
    image: NDArray[np.uint8], strokes: NDArray[np.bool_], colour: str, side: int
) -> tuple[int, int, int, int]:
    height, width = strokes.shape
    columns, rows = np.flatnonzero(strokes.any(axis=0)), np.flatnonzero(strokes.any(axis=1))
    x0, x1, y0, y1 = int(columns[0]), int(columns[-1]) + 1, int(rows[0]), int(rows[-1]) + 1
    margin = max(1, round(0.03 * side))
    if colour == "red":  # faint end ticks and antialiasing lie just outside the strong ink
        return (
            max(0, x0 - margin), max(0, y0 - margin // 2),
            min(width, x1 + margin), min(height, y1 + margin),
        )  # fmt: skip
    # Ticks belong to the label too, so paper is white or ink.
    red, green, blue = cv2.split(image)
    low, high = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    paper = (low >= _WHITE) | ((high < 140) & (cv2.subtract(high, low) < 50))
    x0, x1 = _grow(paper[y0:y1].mean(axis=0), x0, x1, round(0.035 * side))
    y0, y1 = _grow(paper[:, x0:x1].mean(axis=1), y0, y1, round(0.055 * side))
    return x0, y0, x1, y1


def _grow(share: NDArray[np.float64], start: int, end: int, limit: int) -> tuple[int, int]:
    first, last = max(0, start - limit), min(len(share), end + limit)
    while start > first and share[start - 1] >= 0.75:
        start -= 1
    while end < last and share[end] >= 0.75:
        end += 1
    return start, end
