"""Recipes or arms against each other: bars, ranks, ROC and learning curves, differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leukoscope.reporting.figures.style import (
    GRID,
    QUIET,
    SERIES,
    WIDTH_IN,
    class_ticks,
    crowded,
    ink_on,
    new_figure,
    panel_grid,
    shades,
    tick_height,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PROTOCOL_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINE_IN = 0.215  # height of one recipe's line
MOST_LINES = 6  # told apart by colour
TrainingCurve = Mapping[str, Sequence[float | None]]
Columns = Mapping[str, NDArray[np.float64]]
ARM_COLOURS = (SERIES[1], SERIES[2], *SERIES[3:])


@dataclass(frozen=True)
class PlottedEstimate:
    """A value with its interval, on the scale of the axis; the limits may be None."""

    value: float
    low: float | None = None
    high: float | None = None


Estimates = Mapping[str, PlottedEstimate]  # recipe → estimate


def metric_bars(
    recipes: Sequence[str], panels: Sequence[tuple[str, Sequence[tuple[str, Estimates]]]]
) -> Figure:
    """Horizontal bars with intervals: one panel per metric, one bar per protocol.

    ``recipes`` are listed from top to bottom; ``panels`` are
    ``(metric title, [(protocol title, recipe → estimate)])``.
    """
    series = len(panels[0][1])
    figure = new_figure(0.95 + len(recipes) * max(LINE_IN, 0.13 * series + 0.08))
    axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    height = 0.8 / series
    for ax, (title, protocols) in zip(axes, panels, strict=True):
        for number, (name, estimates) in enumerate(protocols):
            shift = (number - (series - 1) / 2) * height
            colour = PROTOCOL_COLOURS[number % len(PROTOCOL_COLOURS)]
            found = [(i + shift, estimates[r]) for i, r in enumerate(recipes) if r in estimates]
            ax.barh([y for y, _ in found], [e.value for _, e in found], height=0.92 * height,
                    color=colour, label=name, alpha=0.85)  # fmt: skip
            for y, e in found:
                text = f"{e.value:.1f}" if e.value > 1.5 else f"{e.value:.3f}"
                ax.text(0, y, f" {text}", color="white", va="center", fontsize=6.5)
                if e.low is not None and e.high is not None:
                    ax.plot([e.low, e.high], [y, y], color="#111111", linewidth=0.9)
        ax.set_xlim(left=0)
        ax.set_title(title)
        ax.grid(axis="x")
    axes[0].set_yticks(range(len(recipes)), list(recipes))
    axes[0].set_ylim(len(recipes) - 0.5, -0.5)
    for ax in axes:
        ax.tick_params(axis="y", length=0)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
    return figure


def radar(
    axes_titles: Sequence[str],
    panels: Sequence[tuple[str, Mapping[str, Sequence[float]]]],
) -> Figure:
    """Several metrics of several recipes as closed lines, one panel per protocol.

    ``axes_titles`` are M names, larger is better on each; ``panels`` are
    ``(title, recipe → M values in [0, 1])``.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(3.3 * rows + 0.35)
    angles = np.linspace(0, 2 * np.pi, len(axes_titles), endpoint=False)
    closed = np.append(angles, angles[0])
    seen: dict[str, Line2D] = {}
    recipes = list(dict.fromkeys(name for _, lines in panels for name in lines))
    for number, (title, lines) in enumerate(panels, start=1):
        ax = figure.add_subplot(rows, columns, number, projection="polar")
        values = np.array([v for line in lines.values() for v in line])
        low = float(np.floor(10 * max(0.0, np.nanmin(values) - 0.03)) / 10)
        for name, line in lines.items():
            colour = SERIES[recipes.index(name) % len(SERIES)]
            (seen[name],) = ax.plot(closed, [*line, line[0]], "-o", color=colour, markersize=3)
        ax.set_ylim(low, 1)
        ax.set_xticks(angles, list(axes_titles))
        for angle, label in zip(angles, ax.get_xticklabels(), strict=True):
            side = np.sin(angle)  # clockwise from the top
            label.set_horizontalalignment(
                "center" if abs(side) < 0.1 else "left" if side > 0 else "right"
            )
        ax.set_theta_offset(np.pi / 2)  # type: ignore[attr-defined]
        ax.set_theta_direction(-1)  # type: ignore[attr-defined]
        ticks = np.linspace(low, 1, 4)[1:]
        ax.set_yticks(ticks, [f"{t:.2f}" for t in ticks], fontsize=7, color=QUIET)
        ax.set_title(title, loc="center", pad=14)
    figure.legend(list(seen.values()), list(seen), loc="outside lower center", ncols=2)
    return figure


def class_heat_map(
    recipes: Sequence[str],
    class_names: Sequence[str],
    panels: Sequence[tuple[str, NDArray[np.float64]]],
) -> Figure:
    """A value in [0, 1] per recipe and class, one panel per protocol; darker is higher.

    ``panels`` are ``(title, (R, K) values)``, NaN if missing, in the order of ``recipes`` and
    ``class_names``.
    """
    wide = crowded(class_names)
    one_in = 0.75 + tick_height(class_names) + LINE_IN * 1.25 * len(recipes)
    figure = new_figure(one_in * (len(panels) if wide else 1))
    across = (len(panels), 1) if wide else (1, len(panels))
    axes = np.atleast_1d(figure.subplots(*across, sharey=True))
    known = np.concatenate([values[np.isfinite(values)] for _, values in panels])
    low = float(min(known.min(), 0.9)) if len(known) else 0.0
    colours = shades()
    for ax, (title, values) in zip(axes, panels, strict=True):
        scaled = (values - low) / max(1e-9, 1 - low)
        ax.imshow(np.ma.masked_invalid(scaled), cmap=colours, vmin=0, vmax=1, aspect="auto")
        for i, j in np.ndindex(*values.shape):
            if np.isfinite(values[i, j]):
                ax.text(j, i, f"{100 * values[i, j]:.1f}", ha="center", va="center", fontsize=8,
                        color=ink_on(colours, float(scaled[i, j])))  # fmt: skip
            else:
                ax.text(j, i, "—", ha="center", va="center", fontsize=8, color=QUIET)
        class_ticks(ax, class_names)
        ax.set_title(title)
    axes[0].set_yticks(range(len(recipes)), list(recipes))  # of every panel: they are shared
    return figure


def boxes(
    recipes: Sequence[str],
    panels: Sequence[tuple[str, Mapping[str, Sequence[float]]]],
    *,
    xlabel: str,
) -> Figure:
    """Spread over folds or groups: box (quartiles, median), whiskers to the ends, every point.

    ``panels`` are ``(title, recipe → values)``; ``recipes`` are listed from top to bottom.
    """
    figure = new_figure(0.85 + 1.15 * LINE_IN * len(recipes))
    axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for ax, (title, values) in zip(axes, panels, strict=True):
        shown = [(i, values[r]) for i, r in enumerate(recipes) if r in values]
        ax.boxplot(
            [v for _, v in shown],
            positions=[i for i, _ in shown],
            orientation="horizontal",
            whis=(0, 100),
            widths=0.6,
            showfliers=False,
            medianprops={"color": "#D55E00", "linewidth": 1.6},
            boxprops={"color": QUIET},
            whiskerprops={"color": QUIET},
            capprops={"color": QUIET},
            manage_ticks=False,
        )
        for i, v in shown:
            ax.plot(v, np.full(len(v), i), "o", color="#0072B2", markersize=2.6, alpha=0.6)
        ax.set_title(title)
        ax.set_xlabel(xlabel)
        ax.grid(axis="x")
    axes[0].set_yticks(range(len(recipes)), list(recipes))
    axes[0].set_ylim(len(recipes) - 0.4, -0.6)
    axes[0].tick_params(axis="y", length=0)
    return figure


def rank_chart(panels: Sequence[tuple[str, Sequence[tuple[str, PlottedEstimate]]]]) -> Figure:
    """Rank of each recipe with its interval, one panel per protocol, the best on top.

    ``panels`` are ``(title, [(recipe, rank)])``, each in its own order.
    """
    most = max(len(lines) for _, lines in panels)
    figure = new_figure(0.85 + LINE_IN * most)
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    for ax, (title, lines) in zip(axes, panels, strict=True):
        for y, (_, e) in enumerate(lines):
            ax.plot([e.low, e.high], [y, y], color="#0072B2", linewidth=3.2, alpha=0.4,
                    solid_capstyle="round")  # fmt: skip
            ax.plot([e.value], [y], "o", color="#0072B2", markersize=5)
        ax.set_yticks(range(len(lines)), [name for name, _ in lines])
        ax.set_ylim(most - 0.5, -0.5)
        ax.set_xlim(0.5, max(2, len(lines)) + 0.5)
        step = 1 if len(lines) < 8 else 3
        ax.set_xticks(range(1, len(lines) + 1, step))
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel("place (1 is the best)")
        ax.set_title(title)
        ax.grid(axis="x")
    return figure


def roc_overlay(
    panels: Sequence[
        tuple[str, Mapping[str, tuple[Sequence[float], Sequence[float], float | None]]]
    ],
) -> Figure:
    """One-vs-rest ROC curves of all recipes, one panel per class; the first six in colour.

    ``panels`` are ``(class title, recipe → (false positive rates, true positive rates, area))``.
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


def training_curves(
    panels: Sequence[tuple[str, Sequence[tuple[str, Sequence[TrainingCurve]]]]], what: str
) -> Figure:
    """Loss or accuracy by epoch, one panel per recipe; training dashed, validation solid.

    ``panels`` are ``(recipe, [(protocol title, curves of its folds)])``; ``what`` is ``loss`` or
    ``accuracy``.
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
    lines: Sequence[tuple[str, Sequence[TrainingCurve]]],
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
    """Bars of a duration, one per recipe and protocol.

    ``series`` are ``(protocol title, recipe → value)``; ``xlabel`` names the unit; ``recipes`` are
    listed from top to bottom.
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


def arm_curves(panels: Sequence[tuple[str, Mapping[str, Sequence[Columns]]]]) -> Figure:
    """Validation (solid) and training (dashed) loss and accuracy by epoch, one colour per arm.

    ``panels`` are ``(protocol title, arm title → histories of its folds)``.
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
    """Differences in accuracy with their intervals; to the right of zero the first arm is better.

    ``rows`` are ``(what, difference as text, value, low, high)``, in percentage points.
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
