"""Grids of predictions, one row a true class, as ``explain`` writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import ImageError
from leukoscope.evaluation.examples import choose_examples
from leukoscope.imaging.decode import decode_image
from leukoscope.reporting.figures.style import DPI, INK, QUIET, new_figure, short_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Six thumbnails and five gaps are the 1,440 px of a figure, so that nothing is resampled.
THUMB_PX = 225
GAP_PX = 18
TITLE_PX = 50
LINE_PX = 36
COLUMNS = 6
WRONG = "#b23c00"


@dataclass(frozen=True)
class Thumbnail:
    """One image of a grid.

    Attributes:
        image: (THUMB_PX, THUMB_PX, 3) uint8 RGB.
        lines: Short lines of text below it, each with its colour.
    """

    image: NDArray[np.uint8]
    lines: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ExampleGrid:
    """One grid, ready to be drawn.

    Attributes:
        kind: One of :data:`leukoscope.evaluation.examples.EXAMPLE_KINDS`.
        rows: Title and thumbnails of each true class.
        rows_shown: Numbers of the predictions shown.
        total: Predictions of this kind in all.
        absent: Images that could not be read.
    """

    kind: str
    rows: tuple[tuple[str, tuple[Thumbnail, ...]], ...]
    rows_shown: frozenset[int]
    total: int
    absent: int

    @property
    def shown(self) -> int:
        """Number of thumbnails."""
        return len(self.rows_shown)


def example_grids(
    kinds: Sequence[str],
    y_true: NDArray[np.int64],
    probs: NDArray[np.float64],
    class_names: Sequence[str],
    path_of: Callable[[int], Path | None],
) -> list[ExampleGrid]:
    """Grids of predictions, one row a true class; a grid with nothing new is left out.

    Args:
        kinds: Which, of :data:`leukoscope.evaluation.examples.EXAMPLE_KINDS`.
        y_true: (n,) class indices.
        probs: (n, K) calibrated probabilities.
        class_names: K names.
        path_of: The image file of a row, or None where it is not there.

    Returns:
        One for each kind of which there is an image; ``wrong`` only where it shows mistakes that
        ``confident-wrong`` does not.
    """
    grids = [_grid_of(kind, y_true, probs, class_names, path_of) for kind in kinds]
    worst = next((grid.rows_shown for grid in grids if grid.kind == "confident-wrong"), frozenset())
    return [
        grid
        for grid in grids
        if (grid.shown or grid.absent)
        and not (grid.kind == "wrong" and worst and grid.rows_shown <= worst)
    ]


def _grid_of(
    kind: str,
    y_true: NDArray[np.int64],
    probs: NDArray[np.float64],
    class_names: Sequence[str],
    path_of: Callable[[int], Path | None],
) -> ExampleGrid:
    absent, used = 0, set()
    rows = []
    chosen = choose_examples(kind, y_true, probs)
    for label, candidates in enumerate(chosen):
        thumbs: list[Thumbnail] = []
        for row in candidates[: 2 * COLUMNS]:
            if len(thumbs) == COLUMNS:
                break
            image = load_thumb(path_of(row))
            if image is None:
                absent += 1
                continue
            thumbs.append(Thumbnail(image, _lines(int(y_true[row]), probs[row], class_names)))
            used.add(row)
        of = "" if kind == "least-certain" else f" of {len(candidates)}"
        rows.append((f"{short_title(class_names[label])} ({len(thumbs)}{of})", tuple(thumbs)))
    total = sum(len(candidates) for candidates in chosen)
    return ExampleGrid(kind, tuple(rows), frozenset(used), total, absent)


def _lines(
    truth: int, probs: NDArray[np.float64], class_names: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """What was predicted, and the class that came second."""
    first, second = (int(k) for k in np.argsort(-probs, kind="stable")[:2])
    colour = INK if first == truth else WRONG
    sign = "" if first == truth else "→ "
    return (
        (f"{sign}{short_title(class_names[first])} {probs[first]:.2f}", colour),
        (f"or {short_title(class_names[second])} {probs[second]:.2f}", QUIET),
    )


def load_thumb(path: Path | None, size_px: int = THUMB_PX) -> NDArray[np.uint8] | None:
    """A square thumbnail, or None where the image is not there or cannot be read."""
    if path is None or not path.is_file():
        return None
    try:
        return square_thumb(decode_image(path).image, size_px)
    except ImageError:
        return None


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
