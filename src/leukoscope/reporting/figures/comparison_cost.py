"""Cost against accuracy, and the layers of a network as blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from leukoscope.config.comparison import NetworkLayer
from leukoscope.reporting.figures.comparison import PROTOCOL_COLOURS, PlottedEstimate
from leukoscope.reporting.figures.style import INK, QUIET, WIDTH_IN, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KIND_COLOURS: Mapping[str, str] = {
    "convolution": "#cfe3f2",
    "blocks": "#9cc4e0",
    "pooling": "#f6dfb4",
    "flatten": "#f6dfb4",
    "linear": "#d5ead9",
    "norm": "#e8e8ee",
    "other": "#eeeeee",
}
_RINGS_PT = (9.0, 15.0, 22.0, 30.0)  # distances at which a number may stand from its point
_ANGLES = 16


def cost_scatter(
    numbered: Sequence[str],
    cost: Mapping[str, float],
    panels: Sequence[tuple[str, Mapping[str, PlottedEstimate]]],
    *,
    xlabel: str,
    ylabel: str,
) -> Figure:
    """A score over a cost on a logarithmic scale; numbers stand for the recipes of the legend.

    Args:
        numbered: Recipes in the order of their numbers, from 1.
        cost: Recipe → cost > 0.
        panels: ``(protocol title, recipe → score with interval)``.
        xlabel: Name of the cost, with its unit.
        ylabel: Name of the score.
    """
    legend_in = 0.2 * len(numbered) + 0.4
    figure = new_figure(max(2.5 * len(panels) + 0.3, legend_in))
    axes = np.atleast_1d(figure.subplots(len(panels), 1, sharex=True))
    numbered_points = []
    for number, (ax, (title, scores)) in enumerate(zip(axes, panels, strict=True)):
        colour = PROTOCOL_COLOURS[number % len(PROTOCOL_COLOURS)]
        points = []
        for place, name in enumerate(numbered, start=1):
            if name not in scores or name not in cost:
                continue
            e = scores[name]
            if e.low is not None and e.high is not None:
                ax.plot([cost[name]] * 2, [e.low, e.high], color=colour, alpha=0.35, linewidth=1.4)
            ax.plot([cost[name]], [e.value], "o", color=colour, markeredgecolor="white",
                    markeredgewidth=0.6)  # fmt: skip
            points.append((cost[name], e.value, str(place)))
        _plain_log_axis(ax)
        ax.margins(x=0.12, y=0.15)
        ax.set_title(title)
        ax.set_ylabel(ylabel)
        ax.grid()
        numbered_points.append((ax, points))
    axes[-1].set_xlabel(xlabel)
    text = "\n".join(f"{i:>2}  {name}" for i, name in enumerate(numbered, start=1))
    axes[0].annotate(text, (1.02, 1.0), xycoords="axes fraction", va="top", ha="left",
                     fontsize=8, linespacing=1.45)  # fmt: skip
    for ax, points in numbered_points:
        _number_points(ax, points)
    return figure


def _number_points(ax: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write a number beside each point where it covers the fewest others."""
    figure = ax.figure
    figure.canvas.draw()  # places in pixels are known only after the layout
    scale = figure.dpi / 72
    spots = [ax.transData.transform((x, y)) / scale for x, y, _ in points]
    taken = np.array(spots)
    angles = np.pi / 6 + 2 * np.pi * np.arange(_ANGLES) / _ANGLES
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    offsets = np.concatenate([radius * ring for radius in _RINGS_PT])
    for number, ((x, y, text), spot) in enumerate(zip(points, spots, strict=True)):
        others = np.delete(taken, number, axis=0)
        gaps = np.linalg.norm((spot + offsets)[:, None] - others[None], axis=2)
        crowding = np.exp(-((gaps / 8.0) ** 2)).sum(axis=1)
        best = int(np.argmin(crowding + 0.004 * np.linalg.norm(offsets, axis=1)))
        offset = offsets[best]
        taken = np.concatenate([taken, [spot + offset]])
        far = np.linalg.norm(offset) > _RINGS_PT[0]
        line = {"arrowstyle": "-", "color": QUIET, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}
        ax.annotate(text, (x, y), xytext=tuple(offset), textcoords="offset points", color=INK,
                    fontsize=7.5, ha="center", va="center",
                    arrowprops=line if far else None)  # fmt: skip


def _plain_log_axis(ax: Axes) -> None:
    """Use ticks such as 1, 2, 5, 10 instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def architecture(title: str, input_shape: Sequence[int], layers: Sequence[NetworkLayer]) -> Figure:
    """The layers of a network from top to bottom, each with its output shape and parameters.

    The width of a block shows its channels on a logarithmic scale.

    Args:
        title: Name of the recipe.
        input_shape: (channels, height, width).
        layers: From input to output.
    """
    from matplotlib.patches import FancyBboxPatch

    entry = NetworkLayer(
        name="", kind="other", label="input", shape=tuple(input_shape), parameters=0
    )
    rows = [entry, *layers]
    figure = new_figure(0.45 + 0.33 * len(rows), width_in=WIDTH_IN)
    ax = figure.add_subplot()
    widest = max(np.log2(1 + row.shape[0]) for row in rows)
    for y, row in enumerate(rows):
        width = 0.9 + 2.6 * np.log2(1 + row.shape[0]) / widest
        box = FancyBboxPatch(
            (1.9 - width / 2, y - 0.33), width, 0.66, boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=KIND_COLOURS.get(row.kind, "#eeeeee"), edgecolor=QUIET, linewidth=0.7,
        )  # fmt: skip
        ax.add_patch(box)
        ax.text(1.9, y, shape_text(row.shape), ha="center", va="center", fontsize=8)
        ax.text(3.95, y, _wrapped(row.label), ha="left", va="center", fontsize=8)
        if row.parameters:
            ax.text(9.95, y, f"{row.parameters:,}", ha="right", va="center", fontsize=8,
                    color=QUIET)  # fmt: skip
        if y:
            ax.annotate("", (1.9, y - 0.33), (1.9, y - 0.67),
                        arrowprops={"arrowstyle": "-|>", "color": QUIET, "linewidth": 0.8,
                                    "mutation_scale": 6})  # fmt: skip
    ax.text(9.95, 0, "parameters", ha="right", va="center", fontsize=8, color=QUIET)
    ax.set_xlim(0, 10)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.axis("off")
    ax.set_title(title)
    return figure


def shape_text(shape: Sequence[int]) -> str:
    """A shape as height × width × channels, or as a single width.

    >>> shape_text([32, 112, 112]), shape_text([1280])
    ('112 × 112 × 32', '1280')
    """
    if len(shape) == 3:
        return f"{shape[1]} × {shape[2]} × {shape[0]}"
    return " × ".join(map(str, shape))


def _wrapped(text: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, 58)[:2])
