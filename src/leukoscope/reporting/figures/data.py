"""What the data set is: class balance, acquisition clusters, thumbnails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.reporting.figures.style import (
    DPI,
    class_styles,
    ink_on,
    new_figure,
    shades,
    short_title,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Six thumbnails and five gaps are the 1,440 px of a figure, so that nothing is resampled.
THUMB_PX = 225
GAP_PX = 18
TITLE_PX = 50
LINE_PX = 36
COLUMNS = 6


def class_balance(counts: Mapping[str, int], *, title: str) -> Figure:
    """Number of usable images of each class."""
    figure = new_figure(0.75 + 0.3 * len(counts))
    ax = figure.add_subplot()
    names, styles = list(counts), class_styles(counts)
    total = max(1, sum(counts.values()))
    ax.barh(
        [short_title(n) for n in names],
        [counts[n] for n in names],
        color=[styles[n].colour for n in names],
        height=0.66,
    )
    for y, name in enumerate(names):
        ax.text(
            counts[name], y, f"  {counts[name]:,} ({100 * counts[name] / total:.1f} %)", va="center"
        )
    ax.set_xlim(0, 1.22 * max(1, *counts.values()))
    ax.invert_yaxis()
    ax.set_xlabel("images")
    ax.tick_params(axis="y", length=0)
    ax.set_title(title)
    return figure


def cluster_heat_map(
    counts: NDArray[np.int64], class_names: Sequence[str], clusters: Sequence[str], *, title: str
) -> Figure:
    """The classes in each acquisition cluster, from (K, C) counts of images."""
    share = counts / np.maximum(1, counts.sum(axis=0, keepdims=True))
    figure = new_figure(1.35 + 0.4 * len(class_names))
    ax = figure.add_subplot()
    colours = shades()
    image = ax.imshow(100 * share, cmap=colours, vmin=0, vmax=100, aspect="auto")
    if len(clusters) <= 26:
        for k, c in np.ndindex(*counts.shape):
            if counts[k, c]:
                ink = ink_on(colours, share[k, c])
                ax.text(c, k, str(counts[k, c]), ha="center", va="center", fontsize=7.5, color=ink)
    ax.set_yticks(range(len(class_names)), [short_title(name) for name in class_names])
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(f"{len(clusters)} acquisition clusters, ordered by their main class")
    ax.set_title(title)
    figure.colorbar(image, ax=ax, label="% of the cluster", pad=0.01, ticks=[0, 50, 100])
    return figure


@dataclass(frozen=True)
class Thumbnail:
    """One image of a grid.

    Attributes:
        image: (THUMB_PX, THUMB_PX, 3) uint8 RGB.
        lines: Short lines of text below it, each with its colour.
    """

    image: NDArray[np.uint8]
    lines: tuple[tuple[str, str], ...]


def square_thumb(image: NDArray[np.uint8], size_px: int = THUMB_PX) -> NDArray[np.uint8]:
    """The whole (H, W, 3) uint8 RGB image inside a white square of ``size_px``.

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


def class_grid(rows: Sequence[tuple[str, Sequence[Thumbnail]]]) -> Figure:
    """One row of thumbnails per class, its title above and lines of text below each.

    ``rows`` hold a title and at most :data:`COLUMNS` thumbnails; an empty row is left out.
    """
    shown = [(title, thumbs) for title, thumbs in rows if thumbs]
    n_lines = max((len(t.lines) for _, thumbs in shown for t in thumbs), default=0)
    cell_w, cell_h = THUMB_PX + GAP_PX, TITLE_PX + THUMB_PX + LINE_PX * n_lines + GAP_PX
    width, height = COLUMNS * cell_w - GAP_PX, max(1, len(shown)) * cell_h
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    figure = new_figure(height / DPI, width_in=width / DPI)
    figure.set_layout_engine("none")
    ax = figure.add_axes((0, 0, 1, 1))
    for number, (title, thumbs) in enumerate(shown):
        top = number * cell_h
        ax.text(0, top + 7, title, va="top", fontsize=9, fontweight="bold")
        for column, thumb in enumerate(thumbs[:COLUMNS]):
            left, below = column * cell_w, top + TITLE_PX + THUMB_PX
            canvas[below - THUMB_PX : below, left : left + THUMB_PX] = thumb.image
            for line, (text, colour) in enumerate(thumb.lines):
                y = below + 5 + LINE_PX * line
                ax.text(left, y, text, color=colour, va="top", fontsize=8)
    ax.imshow(canvas, interpolation="nearest", aspect="auto")  # a pixel is a pixel of the figure
    ax.set_xlim(-0.5, width - 0.5)
    ax.set_ylim(height - 0.5, -0.5)
    ax.axis("off")
    return figure
