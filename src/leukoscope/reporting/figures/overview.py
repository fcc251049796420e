"""The figures that carry the verdict: protocols against probes, and the cluster curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leukoscope.reporting.figures.style import (
    INPUT_STYLES,
    OTHER_INPUT,
    QUIET,
    SERIES,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Mark:
    """One line of the chart.

    Attributes:
        label: What the classifier sees (and which recipe, where there are several).
        input: Decides colour and marker.
        value: Accuracy, 0–1.
        low: Lower end of the interval, or None.
        high: Upper end, or None.
        text: Value and interval as written in the tables.
    """

    label: str
    input: str
    value: float
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True)
class MarkGroup:
    """The lines of one protocol.

    Attributes:
        title: Protocol and its sample size.
        marks: Model first, then probes.
    """

    title: str
    marks: tuple[Mark, ...]


def protocol_probe_chart(groups: Sequence[MarkGroup], chance: float, *, xlabel: str) -> Figure:
    """Accuracy with intervals of the model and of every probe, protocol by protocol.

    Args:
        groups: From the mildest protocol to the harshest.
        chance: Accuracy of always naming the largest class, drawn as a line.
        xlabel: Label of the axis.
    """
    lines = sum(1.25 + len(group.marks) for group in groups)
    figure = new_figure(0.95 + 0.235 * lines)
    ax = figure.add_subplot()
    y = 0.0
    ticks: list[float] = []
    labels: list[str] = []
    for number, group in enumerate(groups):
        if number:
            ax.axhline(y - 0.55, color="#c8d0d9", linewidth=0.8, zorder=0)
        ax.text(
            -0.005,
            y,
            group.title,
            transform=ax.get_yaxis_transform(),
            ha="right",
            va="center",
            fontweight="bold",
        )
        y += 1.0
        for mark in group.marks:
            _draw_mark(ax, mark, y)
            ticks.append(y)
            labels.append(mark.label)
            y += 1.0
        y += 0.25
    lowest = min(m.value if m.low is None else m.low for g in groups for m in g.marks)
    ax.set_xlim(max(0.0, 10 * int(10 * (min(lowest, chance) - 0.03))), 101)
    ax.set_ylim(y - 0.4, -0.75)
    ax.set_yticks(ticks, labels)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")
    ax.axvline(100 * chance, color=QUIET, linestyle=(0, (4, 2)), linewidth=1.1, zorder=1)
    ax.text(
        100 * chance,
        1.0,
        f" always the largest class: {100 * chance:.1f} %",
        color=QUIET,
        transform=ax.get_xaxis_transform(),
        va="bottom",
        ha="left" if chance < 0.75 else "right",
    )
    ax.set_xlabel(xlabel)
    return figure


def _draw_mark(ax: Axes, mark: Mark, y: float) -> None:
    colour, marker = INPUT_STYLES.get(mark.input, OTHER_INPUT)
    if mark.low is not None and mark.high is not None:
        ax.plot(
            [100 * mark.low, 100 * mark.high],
            [y, y],
            color=colour,
            linewidth=2.2,
            solid_capstyle="butt",
            alpha=0.55,
        )
    ax.plot(
        [100 * mark.value],
        [y],
        marker=marker,
        color=colour,
        linestyle="none",
        markersize=6.0,
        markeredgecolor="white",
        markeredgewidth=0.6,
    )
    ax.text(
        1.015,
        y,
        mark.text,
        transform=ax.get_yaxis_transform(),
        va="center",
        color=colour,
        fontweight="bold" if mark.input == "image" else "normal",
    )


@dataclass(frozen=True)
class CurveLine:
    """Accuracy of one recipe over the number of clusters.

    Attributes:
        label: Recipe name.
        clusters: Numbers of clusters, ascending.
        value: Accuracy at each, 0–1.
        low: Lower ends; None where unknown.
        high: Upper ends.
    """

    label: str
    clusters: tuple[int, ...]
    value: tuple[float, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


def cluster_curve(
    lines: Sequence[CurveLine], references: Sequence[tuple[str, float]], *, title: str
) -> Figure:
    """Accuracy with whole acquisition clusters held out, over their number.

    Args:
        lines: One per recipe.
        references: Results of other protocols as ``(label, accuracy)``, drawn as level lines.
        title: With the sample size.
    """
    figure = new_figure(3.1)
    ax = figure.add_subplot()
    for number, line in enumerate(lines):
        colour = SERIES[number % len(SERIES)]
        ax.plot(line.clusters, [100 * v for v in line.value], "-o", color=colour, label=line.label)
        known = [
            (k, 100 * low, 100 * high)
            for k, low, high in zip(line.clusters, line.low, line.high, strict=True)
            if low is not None and high is not None
        ]
        if known:
            k, low, high = zip(*known, strict=True)
            ax.fill_between(k, low, high, color=colour, alpha=0.13, linewidth=0)
    for label, value in references:
        ax.axhline(100 * value, color=QUIET, linestyle=(0, (4, 2)), linewidth=1.0)
        ax.text(
            1.01, 100 * value, label, transform=ax.get_yaxis_transform(), va="center", color=QUIET
        )
    ticks = sorted({k for line in lines for k in line.clusters})
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [str(k) for k in ticks])
    ax.minorticks_off()
    ax.set_xlabel("number of acquisition clusters (fewer means larger, harder groups)")
    ax.set_ylabel("accuracy, %")
    ax.set_title(title)
    ax.grid(axis="y")
    if len(lines) > 1:
        ax.legend(loc="lower right")
    return figure
