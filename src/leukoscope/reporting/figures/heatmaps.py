"""Heat maps beside the original, with the scale of their colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.program import DISCLAIMER
from leukoscope.reporting.figures.style import QUIET, new_figure
from leukoscope.runtime.heatmap import overlay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHOD_TITLES: Mapping[str, str] = {
    "grad-cam": "Grad-CAM",
    "grad-cam++": "Grad-CAM++",
    "occlusion": "occlusion",
    "integrated-gradients": "integrated gradients",
}
SIDE_IN = 2.1
TOP_IN = 0.54
BOTTOM_IN = 0.42
SCALE_IN = 0.62
GAP_IN = 0.07


@dataclass(frozen=True)
class HeatColumn:
    """One picture of a panel.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        title: One or two short lines above it.
        heat: (h, w) in 0–1 of any size to lay over it, or None for the picture alone.
    """

    image: NDArray[np.uint8]
    title: str
    heat: NDArray[np.floating] | None = None


def heat_panel(columns: Sequence[HeatColumn], *, title: str, note: str) -> Figure:
    """Pictures side by side; those with a heat map in its colours, which a scale explains.

    Args:
        columns: From left to right.
        title: One line above all.
        note: One line below all, before the disclaimer.
    """
    width = len(columns) * (SIDE_IN + GAP_IN) + SCALE_IN
    height = TOP_IN + SIDE_IN + BOTTOM_IN
    figure = new_figure(height, width_in=width)
    figure.set_layout_engine("none")
    for number, column in enumerate(columns):
        left = number * (SIDE_IN + GAP_IN)
        ax = figure.add_axes((left / width, BOTTOM_IN / height, SIDE_IN / width, SIDE_IN / height))
        ax.axis("off")
        empty = column.heat is not None and not np.any(column.heat)
        shown = column.image if column.heat is None else overlay(column.image, column.heat)
        ax.imshow(shown, interpolation="antialiased")
        text = f"{column.title}: nothing" if empty else column.title
        above = (BOTTOM_IN + SIDE_IN + 0.04) / height
        figure.text(left / width, above, text, va="bottom", fontsize=7.5, linespacing=1.15)
    figure.text(0, 1 - 0.03 / height, title, va="top", fontsize=9, fontweight="bold")
    if any(column.heat is not None for column in columns):
        _scale(figure, width, height)
    _note(figure, note, width, height)
    return figure


def _scale(figure: Figure, width: float, height: float) -> None:
    from matplotlib.cm import ScalarMappable

    left = width - SCALE_IN + 0.04
    ax = figure.add_axes((left / width, BOTTOM_IN / height, 0.12 / width, SIDE_IN / height))
    bar = figure.colorbar(ScalarMappable(cmap="cividis"), cax=ax)
    bar.set_ticks([0, 1], labels=["0", "max"])
    bar.ax.tick_params(labelsize=7.5, length=2)
    bar.outline.set_visible(False)
    ax.text(2.2, 0.5, "evidence", rotation=90, va="center", fontsize=7.5, transform=ax.transAxes)


def _note(figure: Figure, note: str, width: float, height: float) -> None:
    """Two lines, smaller where the panel is narrow."""
    for line, text in enumerate((note, DISCLAIMER)):
        y = (BOTTOM_IN - 0.07 - 0.16 * line) / height
        size = min(7.5, 7.5 * width / (0.058 * max(1, len(text))))
        figure.text(0, y, text, va="top", fontsize=size, color=QUIET)
