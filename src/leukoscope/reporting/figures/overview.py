"""What the figures of a verdict are drawn from, and the cluster curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leukoscope.reporting.figures.style import QUIET, SERIES, new_figure

if TYPE_CHECKING:
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
