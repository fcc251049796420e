"""Thumbnails of images with a line below each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.reporting.figures.style import DPI, WIDTH_IN, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THUMB_PX = 256
COLUMNS = 5


@dataclass(frozen=True)
class Thumb:
    """One image of the montage.

    Attributes:
        image: (THUMB_PX, THUMB_PX, 3) uint8 RGB.
        lines: Text below, one or two short lines, each with its colour.
    """

    image: NDArray[np.uint8]
    lines: tuple[tuple[str, str], ...]


def square_thumb(image: NDArray[np.uint8], size_px: int = THUMB_PX) -> NDArray[np.uint8]:
    """The whole image inside a white square.

    Args:
        image: (H, W, 3) uint8 RGB.
        size_px: Side of the square.

    >>> square_thumb(np.zeros((10, 20, 3), np.uint8), 8)[:, 0, 0].tolist()
    [255, 255, 0, 0, 0, 0, 255, 255]
    """
    height, width = image.shape[:2]
    scale = size_px / max(height, width)
    new_h, new_w = max(1, round(height * scale)), max(1, round(width * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = cv2.resize(image, (new_w, new_h), interpolation=method)
    square = np.full((size_px, size_px, 3), 255, dtype=np.uint8)
    top, left = (size_px - new_h) // 2, (size_px - new_w) // 2
    square[top : top + new_h, left : left + new_w] = small
    return square


def montage(thumbs: Sequence[Thumb]) -> Figure:
    """Thumbnails in rows, drawn as one picture with text between the rows."""
    rows = -(-len(thumbs) // COLUMNS)
    gap, text_px = 16, 92
    cell_w, cell_h = THUMB_PX + gap, THUMB_PX + text_px
    canvas = np.full((rows * cell_h, COLUMNS * cell_w - gap, 3), 255, dtype=np.uint8)
    scale = WIDTH_IN * DPI / canvas.shape[1]
    figure = new_figure(canvas.shape[0] * scale / DPI)
    figure.set_layout_engine("none")
    ax = figure.add_axes((0, 0, 1, 1))
    for number, thumb in enumerate(thumbs):
        row, column = divmod(number, COLUMNS)
        top, left = row * cell_h, column * cell_w
        canvas[top : top + THUMB_PX, left : left + THUMB_PX] = thumb.image
        for line, (text, colour) in enumerate(thumb.lines):
            ax.text(
                left,
                top + THUMB_PX + 6 + 36 * line,
                text,
                color=colour,
                va="top",
                fontsize=9,
            )
    ax.imshow(canvas, interpolation="antialiased", aspect="auto")
    ax.set_xlim(0, canvas.shape[1])
    ax.set_ylim(canvas.shape[0], 0)
    ax.axis("off")
    return figure
