"""The figures that carry the verdict: protocols against probes, and the cluster curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leukoscope.reporting.figures.style import (
    BAND,
    INPUT_STYLES,
    OTHER_INPUT,
    QUIET,
    SERIES,
    WIDTH_IN,
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
        short: The same where space is scarce.
        input: Decides colour and marker.
        value: Accuracy, 0–1.
        low: Lower end of the interval, or None.
        high: Upper end, or None.
        text: Value and interval as written in the tables.
    """

    label: str
    short: str
    input: str
    value: float
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True)
class MarkGroup:
    """The lines of one protocol.

    Attributes:
        title: Protocol.
        sample: Its sample size.
        marks: Model first, then probes.
    """

    title: str
    sample: str
    marks: tuple[Mark, ...]


def protocol_probe_chart(
    groups: Sequence[MarkGroup], chance: float, *, xlabel: str, narrow: bool = False
) -> Figure:
    """Accuracy with intervals of the model and of every probe, protocol by protocol.

    Args:
        groups: From the mildest protocol to the harshest.
        chance: Accuracy of always naming the largest class, drawn as a line.
        xlabel: Label of the axis.
        narrow: Whether it is made for a small screen.
    """
    lines = sum(1.35 + (0.8 if narrow else 0) + len(group.marks) for group in groups)
    figure = new_figure(0.9 + 0.245 * lines, width_in=3.7 if narrow else WIDTH_IN)
    ax = figure.add_subplot()
    y, labels = 0.0, {}
    for group in groups:
        y = _draw_header(ax, group, y, narrow=narrow)
        for mark in group.marks:
            _draw_mark(ax, mark, y, narrow=narrow)
            labels[y] = mark.short if narrow else mark.label
            y += 1.0
        y += 0.25
    lowest = min(m.value if m.low is None else m.low for g in groups for m in g.marks)
    ax.set_xlim(max(0.0, 10 * int(10 * (min(lowest, chance) - 0.03))), 101)
    ax.set_ylim(y - 0.5, -0.6)
    ax.set_yticks(list(labels), list(labels.values()))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")
    ax.axvline(100 * chance, color=QUIET, linestyle=(0, (4, 2)), linewidth=1.1, zorder=1)
    ax.text(
        100 * chance, 1.0, f"{'' if narrow else 'always the '}largest class: {100 * chance:.1f} %",
        color=QUIET, transform=ax.get_xaxis_transform(), va="bottom", ha="center",
    )  # fmt: skip
    ax.set_xlabel(xlabel)
    return figure


def _draw_header(ax: Axes, group: MarkGroup, y: float, *, narrow: bool) -> float:
    """A band over the whole width with protocol and sample size; returns the next line's place."""
    from matplotlib.patches import Rectangle
    from matplotlib.transforms import blended_transform_factory

    across = blended_transform_factory(ax.figure.transFigure, ax.transData)
    height = 1.75 if narrow else 0.95
    band = Rectangle((0.0, y - 0.48), 1.0, height, transform=across, color=BAND, zorder=1.5)
    band.set_clip_on(False)
    band.set_in_layout(False)
    ax.add_patch(band)
    below = y + 0.8 if narrow else y
    title = ax.text(
        0.012, y, group.title, transform=across, va="center", zorder=2, fontweight="bold"
    )
    x, side = (0.012, "left") if narrow else (0.988, "right")
    sample = ax.text(
        x, below, group.sample, transform=across, va="center", ha=side, zorder=2, color=QUIET
    )
    title.set_in_layout(False)
    sample.set_in_layout(False)
    return below + 1.05


def _draw_mark(ax: Axes, mark: Mark, y: float, *, narrow: bool) -> None:
    colour, marker = INPUT_STYLES.get(mark.input, OTHER_INPUT)
    if mark.low is not None and mark.high is not None:
        ax.plot([100 * mark.low, 100 * mark.high], [y, y], color=colour, linewidth=2.2,
                solid_capstyle="butt", alpha=0.55)  # fmt: skip
    ax.plot([100 * mark.value], [y], marker=marker, color=colour, linestyle="none",
            markersize=6.0, markeredgecolor="white", markeredgewidth=0.6)  # fmt: skip
    text = mark.text.partition(" (")[0] if narrow else mark.text
    weight = "bold" if mark.input == "image" else "normal"
    ax.text(1.02, y, text, transform=ax.get_yaxis_transform(), va="center", color=colour,
            fontweight=weight)  # fmt: skip


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
