"""Reliability diagrams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from leukoscope.evaluation.curves import Reliability
from leukoscope.reporting.figures.style import QUIET, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE, AFTER = "#D55E00", "#0072B2"


@dataclass(frozen=True)
class ReliabilityPanel:
    """One protocol.

    Attributes:
        title: With the sample size.
        after: Of the probabilities as delivered.
        before: Of the softmax of the logits, or None where the model gives no logits.
    """

    title: str
    after: Reliability
    before: Reliability | None


def reliability_diagrams(panels: Sequence[ReliabilityPanel]) -> Figure:
    """Confidence against accuracy before and after calibration, with the images per bin."""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(3.35 * rows, width_in=7.2 if columns == 2 else 4.2)
    axes = figure.subplots(
        2 * rows, columns, squeeze=False, height_ratios=[3.4, 1] * rows, sharex=True
    )
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        top, bottom = axes[2 * row, column], axes[2 * row + 1, column]
        if number >= len(panels):
            top.set_visible(False)
            bottom.set_visible(False)
            continue
        _draw(top, bottom, panels[number])
    return figure


def calibration_error(entry: Reliability) -> float:
    """Expected calibration error of a reliability diagram (Guo et al. 2017, eq. 3).

    >>> bins = Reliability(np.array([0, 1.0]), np.array([2]), np.array([0.8]), np.array([0.5]))
    >>> round(calibration_error(bins), 3)
    0.3
    """
    gap = np.nan_to_num(np.abs(entry.accuracy - entry.confidence))
    return float((entry.n * gap).sum() / max(1, entry.n.sum()))


def draw_reliability(ax: Axes, panel: ReliabilityPanel) -> None:
    """Accuracy over confidence, without title and legend."""
    ax.plot([0, 1], [0, 1], color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)))
    for name, entry, colour, style in (
        ("before", panel.before, BEFORE, "--s"),
        ("calibrated", panel.after, AFTER, "-o"),
    ):
        if entry is not None:
            full = entry.n > 0
            ax.plot(
                entry.confidence[full],
                entry.accuracy[full],
                style,
                color=colour,
                markersize=4.2,
                label=f"{name}, ECE {calibration_error(entry):.3f}",
            )
    ax.set(xlim=(0, 1.01), ylim=(0, 1.04), yticks=[0, 0.5, 1])
    ax.set_ylabel("accuracy")
    ax.grid()


def _draw(top: Axes, bottom: Axes, panel: ReliabilityPanel) -> None:
    draw_reliability(top, panel)
    top.set_title(panel.title, pad=18)
    top.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 0.985), ncols=2, handlelength=1.4,
        columnspacing=1.0, borderpad=0.1, borderaxespad=0.1, handletextpad=0.5,
    )  # fmt: skip
    edges = panel.after.edges
    bottom.bar(
        edges[:-1],
        panel.after.n,
        width=0.94 * np.diff(edges),
        align="edge",
        color=AFTER,
        alpha=0.55,
    )
    bottom.set_yscale("log")
    bottom.set_ylim(0.7, max(10.0, float(panel.after.n.max()) * 2))
    bottom.minorticks_off()
    bottom.set_ylabel("images")
    bottom.set_xlabel("confidence")
    bottom.tick_params(labelbottom=True)
    bottom.grid(axis="y")
