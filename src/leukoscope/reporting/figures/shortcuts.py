"""The shortcut audit and its cluster curve: model, probes, perturbed images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

LINE_IN = 0.23
LABELS_IN = 2.1  # room of the rows' names
WIDE_PANELS = 3  # with more, a title takes two lines


@dataclass(frozen=True)
class Mark:
    """One mark of the chart.

    Attributes:
        label: The classifier's input, and the recipe if there are several.
        short: The label where space is scarce.
        input: Kind of input; decides colour and marker.
        value: Accuracy, 0–1.
        low: Lower limit of the interval, or None.
        high: Upper limit, or None.
        text: Value and interval as in the tables.
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
    """The marks of one protocol.

    Attributes:
        title: Name of the protocol.
        sample: Sample size.
        marks: The model first, then the probes.
    """

    title: str
    sample: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class CurveLine:
    """Accuracy of one recipe by the number of clusters.

    Attributes:
        label: Name of the recipe.
        clusters: Numbers of clusters, ascending.
        value: Accuracy at each, 0–1.
        low: Lower limits; None if unknown.
        high: Upper limits.
    """

    label: str
    clusters: tuple[int, ...]
    value: tuple[float, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


def cluster_curve(
    lines: Sequence[CurveLine], references: Sequence[tuple[str, float]], *, title: str
) -> Figure:
    """Accuracy with whole acquisition clusters held out, by their number.

    ``lines`` has one entry per recipe; ``references`` are results of other protocols, ``(label,
    accuracy)``, drawn as horizontal lines.
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


@dataclass(frozen=True)
class ChartRow:
    """One row of the chart, the same in every panel.

    Attributes:
        key: Key of the row's mark in each panel.
        label: The classifier's input; without mark and input it is a heading.
        input: Kind of input; decides colour and marker; empty for a heading.
        hollow: Whether the model is applied to inputs that it was not trained on.
    """

    key: str
    label: str
    input: str = ""
    hollow: bool = False


@dataclass(frozen=True)
class ProtocolPanel:
    """The panel of one protocol.

    Attributes:
        title: Short name of the protocol.
        note: How far a random split is above it, or its sample size.
        marks: Row key → mark.
    """

    title: str
    note: str
    marks: Mapping[str, Mark]


def shortcut_chart(
    rows: Sequence[ChartRow],
    panels: Sequence[ProtocolPanel],
    chance: float,
    *,
    narrow: bool = False,
) -> Figure:
    """Accuracy with intervals, one panel per protocol.

    Args:
        rows: From top to bottom.
        panels: From the mildest protocol to the harshest.
        chance: Accuracy of always predicting the largest class, drawn as a dashed line.
        narrow: Stack the panels for a small screen.
    """
    own = LINE_IN * (len(rows) + 1)
    down, across = (len(panels), 1) if narrow else (1, len(panels))
    width = 4.2 if narrow else min(WIDTH_IN, LABELS_IN + 1.75 * across)
    figure = new_figure(down * (own + 0.45) + 0.35, width_in=width)
    axes = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    marks = [mark for panel in panels for mark in panel.marks.values()]
    lowest = min(m.value if m.low is None else m.low for m in marks)
    for ax, panel in zip(axes, panels, strict=True):
        _draw_panel(ax, rows, panel, chance, broken=across > WIDE_PANELS)
        ax.set_xlim(max(0.0, 10 * int(10 * (min(lowest, chance) - 0.03))), 104)
    axes[0].set_ylim(len(rows) - 0.5, -0.6)
    axes[0].set_yticks(range(len(rows)), [row.label for row in rows])
    for ax in axes if narrow else axes[:1]:
        for text, row in zip(ax.get_yticklabels(), rows, strict=True):
            text.set_fontweight("normal" if row.input else "bold")
    figure.supxlabel(f"accuracy on test images, % (dashed: largest class, {100 * chance:.1f} %)",
                     fontsize=9)  # fmt: skip
    return figure


def _draw_panel(
    ax: Axes, rows: Sequence[ChartRow], panel: ProtocolPanel, chance: float, *, broken: bool
) -> None:
    title, note = (t.replace(" ", "\n", 1) if broken else t for t in (panel.title, panel.note))
    room = "\n" * (2 if broken else 1)
    ax.set_title(f"{title}{room}", loc="left", fontsize=8)
    ax.text(0, 1.01, note, transform=ax.transAxes, color=QUIET, fontsize=7.5, va="bottom")
    ax.set_xticks([0, 25, 50, 75, 100], ["0", "", "50", "", "100"])
    ax.axvline(100 * chance, color=QUIET, linestyle=(0, (4, 2)), linewidth=1.1, zorder=1)
    for y, row in enumerate(rows):
        if not row.input:
            ax.axhspan(y - 0.48, y + 0.48, color=BAND, zorder=0.5, linewidth=0)
        mark = panel.marks.get(row.key)
        if mark is not None:
            _draw_mark(ax, row, mark, y)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")


def _draw_mark(ax: Axes, row: ChartRow, mark: Mark, y: float) -> None:
    colour, marker = INPUT_STYLES.get(row.input, OTHER_INPUT)
    if mark.low is not None and mark.high is not None:
        ax.plot([100 * mark.low, 100 * mark.high], [y, y], color=colour, linewidth=2.2,
                solid_capstyle="butt", alpha=0.55)  # fmt: skip
    face, edge = ("white", colour) if row.hollow else (colour, "white")
    ax.plot([100 * mark.value], [y], marker=marker, color=face, linestyle="none", markersize=6.0,
            markeredgecolor=edge, markeredgewidth=1.2 if row.hollow else 0.6)  # fmt: skip
