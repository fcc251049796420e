"""Two or more arms side by side: their learning curves, and the differences with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leukoscope.reporting.figures.style import QUIET, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Columns = Mapping[str, NDArray[np.float64]]
ARM_COLOURS = (SERIES[1], SERIES[2], *SERIES[3:])


def arm_curves(panels: Sequence[tuple[str, Mapping[str, Sequence[Columns]]]]) -> Figure:
    """Validation (solid) and training (dashed) loss and accuracy by epoch, one colour an arm.

    Args:
        panels: ``(protocol title, arm title → histories of its folds)``.
    """
    figure = new_figure(0.7 + 1.9 * len(panels))
    axes = figure.subplots(len(panels), 2, squeeze=False)
    for row, (title, arms) in zip(axes, panels, strict=True):
        for ax, what, scale in ((row[0], "loss", 1.0), (row[1], "accuracy", 100.0)):
            for colour, (arm, folds) in zip(_colours(len(arms)), arms.items(), strict=True):
                _draw_arm(ax, folds, what, scale, colour, arm)
            ax.set_ylabel(what if scale == 1 else f"{what}, %")
            ax.grid()
            ax.xaxis.get_major_locator().set_params(integer=True)
        row[0].set_title(title)
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
    return figure


def _draw_arm(
    ax: Axes, folds: Sequence[Columns], what: str, scale: float, colour: str, arm: str
) -> None:
    for number, columns in enumerate(folds):
        for part, style, width in (("train", "--", 1.0), ("val", "-", 1.6)):
            values = columns.get(f"{part}_{what}")
            if values is None or not np.isfinite(values).any():
                continue
            # A run of one epoch has one point, which a line alone would not show.
            marker = "o" if len(values) < 4 else None
            label = f"{arm}" if number == 0 and part == "val" else None
            ax.plot(
                columns["epoch"], scale * values, style, color=colour, linewidth=width,
                marker=marker, markersize=3.5, label=label,
            )  # fmt: skip


def difference_chart(
    rows: Sequence[tuple[str, str, float, float | None, float | None]], *, xlabel: str
) -> Figure:
    """Differences in accuracy with their intervals; right of zero the first arm is better.

    Args:
        rows: ``(what, difference as text, value, low, high)``, in percentage points.
        xlabel: Label of the axis.
    """
    figure = new_figure(0.9 + 0.42 * len(rows))
    ax = figure.add_subplot()
    ax.axvline(0, color=QUIET, linewidth=1)
    for y, (_, text, value, low, high) in enumerate(rows):
        if low is not None and high is not None:
            ax.plot([low, high], [y, y], color=SERIES[2], linewidth=2)
        ax.plot(value, y, "o", color=SERIES[2])
        right = value if high is None else high
        ax.annotate(text, (right, y), (6, 0), textcoords="offset points", va="center", fontsize=8.5)
    ends = [0.0, *(x for row in rows for x in row[2:] if x is not None)]
    span = max(max(ends) - min(ends), 1.0)
    ax.set_xlim(min(ends) - 0.08 * span, max(ends) + 0.75 * span)  # room for the text
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_yticks(range(len(rows)), [row[0] for row in rows])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")
    ax.set_xlabel(xlabel)
    return figure


def _colours(count: int) -> list[str]:
    return [ARM_COLOURS[k % len(ARM_COLOURS)] for k in range(count)]
