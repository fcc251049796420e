"""Recipes over each other and side by side: ROC curves, learning curves, training time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from leukoscope.reporting.figures.comparison import LINE_IN, PROTOCOL_COLOURS
from leukoscope.reporting.figures.style import GRID, QUIET, SERIES, WIDTH_IN, new_figure, panel_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES = 6  # told apart by colour


def roc_overlay(
    panels: Sequence[
        tuple[str, Mapping[str, tuple[Sequence[float], Sequence[float], float | None]]]
    ],
) -> Figure:
    """One-vs-rest ROC curves of all recipes, a panel a class; the first six in colour.

    Args:
        panels: ``(class title, recipe → (false positive rates, true positive rates, area))``.
    """
    figure, axes = panel_grid(len(panels), 2.75, extra_in=0.5)
    columns = min(2, len(panels))
    for ax, (title, lines) in zip(axes, panels, strict=False):
        ax.plot([0, 1], [0, 1], color=GRID, linewidth=0.9, linestyle=(0, (2, 2)))
        for number, (name, (x, y, area)) in reversed(list(enumerate(lines.items()))):
            plain = number >= MOST_LINES
            label = f"{name}  {area:.3f}" if area is not None else name
            ax.plot(x, y, color="#b9c2cc" if plain else SERIES[number],
                    linewidth=0.8 if plain else 1.4, label=None if plain else label)  # fmt: skip
        ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        ax.set_title(title)
        ax.grid()
        handles, labels = ax.get_legend_handles_labels()
        ax.legend(handles[::-1], labels[::-1], loc="lower right", fontsize=7, handlelength=1.3,
                  labelspacing=0.25, title="area", title_fontsize=7, alignment="right")  # fmt: skip
    for ax in axes[-columns:]:
        ax.set_xlabel("false positive rate")
    for ax in axes[::columns]:
        ax.set_ylabel("true positive rate")
    return figure


Curve = Mapping[str, Sequence[float | None]]


def training_curves(
    panels: Sequence[tuple[str, Sequence[tuple[str, Sequence[Curve]]]]], what: str
) -> Figure:
    """Loss or accuracy by epoch side by side, a panel a recipe; dashed train, solid validation.

    Args:
        panels: ``(recipe, [(protocol title, curves of its folds)])``.
        what: ``loss`` or ``accuracy``.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    shared = what == "accuracy"
    figure, axes = panel_grid(len(panels), 1.5, columns=3, extra_in=0.5, sharey=shared)
    protocols = list(dict.fromkeys(name for _, lines in panels for name, _ in lines))
    for ax, (title, lines) in zip(axes, panels, strict=False):
        _draw_curves(ax, lines, protocols, what)
        ax.set_title(title, fontsize=8)
        ax.grid()
        ax.locator_params(axis="x", integer=True)
        ax.tick_params(labelsize=7.5)
    for ax in axes[::columns]:
        ax.set_ylabel(what if what == "loss" else f"{what}, %")
    for ax in axes[columns * (rows - 1) : len(panels)]:
        ax.set_xlabel("epoch")
    _curve_legend(figure, protocols)
    return figure


def _draw_curves(
    ax: Axes,
    lines: Sequence[tuple[str, Sequence[Curve]]],
    protocols: Sequence[str],
    what: str,
) -> None:
    scale = 1.0 if what == "loss" else 100.0
    for name, curves in lines:
        colour = PROTOCOL_COLOURS[protocols.index(name) % len(PROTOCOL_COLOURS)]
        for curve in curves:
            epochs = np.array(curve["epoch"], dtype=np.float64)
            for part, style in (("train", "--"), ("val", "-")):
                values = scale * np.array(curve[f"{part}_{what}"], dtype=np.float64)
                marker = "o" if len(epochs) < 4 else None
                ax.plot(epochs, values, style, color=colour, linewidth=1.1, marker=marker,
                        markersize=2.5)  # fmt: skip


def _curve_legend(figure: Figure, protocols: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    colours = [PROTOCOL_COLOURS[i % len(PROTOCOL_COLOURS)] for i in range(len(protocols))]
    handles = [Line2D([], [], color=c, label=p) for c, p in zip(colours, protocols, strict=True)]
    handles += [
        Line2D([], [], color=QUIET, linestyle="--", label="train"),
        Line2D([], [], color=QUIET, linestyle="-", label="validation"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def time_bars(
    recipes: Sequence[str], series: Sequence[tuple[str, Mapping[str, float]]], *, xlabel: str
) -> Figure:
    """Plain bars of a duration, one a protocol.

    Args:
        recipes: From top to bottom.
        series: ``(protocol title, recipe → value)``.
        xlabel: With the unit.
    """
    height = 0.8 / len(series)
    figure = new_figure(0.85 + len(recipes) * max(LINE_IN, 0.13 * len(series) + 0.08),
                        width_in=0.8 * WIDTH_IN)  # fmt: skip
    ax = figure.add_subplot()
    for number, (name, values) in enumerate(series):
        shift = (number - (len(series) - 1) / 2) * height
        found = [(i + shift, values[r]) for i, r in enumerate(recipes) if r in values]
        bars = ax.barh([y for y, _ in found], [v for _, v in found], height=0.92 * height,
                       color=PROTOCOL_COLOURS[number % len(PROTOCOL_COLOURS)], label=name,
                       alpha=0.85)  # fmt: skip
        ax.bar_label(bars, [f" {v:.1f}" for _, v in found], fontsize=7)
    ax.set_yticks(range(len(recipes)), list(recipes))
    ax.set_ylim(len(recipes) - 0.5, -0.5)
    ax.margins(x=0.1)
    ax.set_xlabel(xlabel)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    figure.legend(loc="outside lower center", ncols=len(series))
    return figure
