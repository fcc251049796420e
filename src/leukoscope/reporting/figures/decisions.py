"""Risk over coverage, where prediction sets keep their promise, and decision curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.metrics.decisions import Limits
from leukoscope.reporting.figures.style import (
    QUIET,
    SERIES,
    WIDTH_IN,
    class_styles,
    crowded,
    new_figure,
    panel_grid,
    short_title,
    tick_height,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = ("-", (0, (6, 1.5)), (0, (3, 1.2)), (0, (5, 1.2, 1, 1.2)), (0, (1, 1)), "-")
_BAND = "#c9d3de"


@dataclass(frozen=True)
class RiskLine:
    """The risk–coverage curve of one protocol.

    Attributes:
        label: Name and area.
        coverage: (n,) share of the images answered.
        risk: (n,) share of wrong answers among them.
    """

    label: str
    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]


def risk_coverage_chart(lines: Sequence[RiskLine]) -> Figure:
    """Error rate among the answered images, the most confident first."""
    figure = new_figure(3.3)
    ax = figure.add_subplot()
    for number, line in enumerate(lines):
        kept = line.coverage >= 0.02  # a handful of images says nothing
        ax.plot(
            100 * line.coverage[kept], 100 * line.risk[kept], label=line.label,
            color=SERIES[number % len(SERIES)], linestyle=_DASHES[number % len(_DASHES)],
        )  # fmt: skip
    ax.set(xlim=(0, 100), xlabel="images answered, the surest first, %")
    ax.set_ylabel("wrong among them, %")
    highest = max(float(line.risk[line.coverage >= 0.02].max()) for line in lines)
    ax.set_ylim(0, 100 * highest * (1.08 + 0.11 * len(lines)) + 0.1)  # room for the legend
    ax.grid()
    ax.legend(loc="upper left")
    return figure


@dataclass(frozen=True)
class CoverageMark:
    """Coverage of the prediction sets for one class, patient or cluster.

    Attributes:
        coverage: Measured coverage, 0–1.
        low: Lower end of the range expected if the images were like the calibration images; None if
            unknown.
        high: Upper end.
        class_name: The class; empty for a patient or cluster.
    """

    coverage: float
    low: float | None
    high: float | None
    class_name: str = ""


@dataclass(frozen=True)
class CoveragePanel:
    """Coverage under one protocol.

    Attributes:
        title: With the sample size.
        nominal: The coverage that the sets aim at.
        classes: One mark per class.
        groups: One mark per patient or cluster, the worst covered first.
        unit: What the groups are, in the plural; empty without groups.
    """

    title: str
    nominal: float
    classes: Sequence[CoverageMark]
    groups: Sequence[CoverageMark]
    unit: str


def coverage_chart(panels: Sequence[CoveragePanel]) -> Figure:
    """Coverage of each class and group against the nominal coverage, by protocol."""
    names = list(dict.fromkeys(mark.class_name for panel in panels for mark in panel.classes))
    wide = crowded(names)
    columns = 1 if wide else 2
    figure, axes = panel_grid(
        len(panels), 2.75 + tick_height(names), columns=columns,
        one_in=WIDTH_IN if wide else 4.6, sharey=True,
    )  # fmt: skip
    for ax, panel in zip(axes, panels, strict=False):
        _draw(ax, panel)
    for ax in axes[:: min(columns, len(panels))]:
        ax.set_ylabel("coverage, %")
    return figure


@dataclass(frozen=True)
class BenefitPanel:
    """Decision curves of one protocol.

    Attributes:
        title: Title of the panel.
        thresholds: (T,) probabilities from which one acts.
        model: Net benefit of the model with its limits, each (T,).
        treat_all: (T,) net benefit of acting on every image.
    """

    title: str
    thresholds: Sequence[float]
    model: Limits
    treat_all: Sequence[float]


def net_benefit_chart(panels: Sequence[BenefitPanel]) -> Figure:
    """Net benefit of the model with its band, of acting on all, and on none."""
    figure, axes = panel_grid(len(panels), 2.75, one_in=4.6, sharey=True)
    for ax, panel in zip(axes, panels, strict=False):
        at = 100 * np.asarray(panel.thresholds)
        low, value, high = (
            np.asarray(line, np.float64)
            for line in (panel.model.low, panel.model.value, panel.model.high)
        )
        ax.fill_between(at, low, high, color=_BAND, linewidth=0)
        ax.plot(at, value, color=SERIES[0], label="the model")
        ax.plot(at, panel.treat_all, color=QUIET, linestyle=_DASHES[1], label="act on all")
        ax.axhline(0, color=QUIET, linestyle=_DASHES[4], label="act on none")
        ax.set_title(panel.title)
        ax.set(xlim=(0, 100), xlabel="act from P(malignant), %")
        ax.grid()
    highest = max(np.nanmax(np.asarray(panel.model.high, np.float64)) for panel in panels)
    axes[0].set_ylim(-0.25 * highest, 1.15 * highest)
    axes[0].legend(loc="lower left")
    for ax in axes[:: min(2, len(panels))]:
        ax.set_ylabel("net benefit")
    return figure


def _draw(ax: Axes, panel: CoveragePanel) -> None:
    step = max(1.0, len(panel.groups) / 10)  # so that the classes' names stand apart
    start = step * len(panel.classes)
    marks = [
        *((step * i, mark) for i, mark in enumerate(panel.classes)),
        *((start + i, mark) for i, mark in enumerate(panel.groups)),
    ]
    styles = class_styles(mark.class_name for mark in panel.classes)
    for x, mark in marks:
        style = styles.get(mark.class_name)
        if mark.low is not None and mark.high is not None:
            ax.plot([x, x], [100 * mark.low, 100 * mark.high], color=_BAND, linewidth=4.5,
                    solid_capstyle="butt", zorder=1)  # fmt: skip
        ax.plot([x], [100 * mark.coverage], linestyle="none", zorder=3,
                marker=style.marker if style else "o", markersize=6.5 if style else 4.2,
                color=style.colour if style else "#111111")  # fmt: skip
    ax.axhline(100 * panel.nominal, color=QUIET, linestyle=(0, (4, 2)), linewidth=1.1, zorder=2)
    names = [short_title(mark.class_name) for mark in panel.classes]
    ax.set_xticks(
        [step * i for i in range(len(names))],
        names,
        rotation=38,
        ha="right",
        rotation_mode="anchor",
    )
    if panel.groups:
        middle = start + (len(panel.groups) - 1) / 2
        ax.text(middle, -0.06, f"{len(panel.groups)} {panel.unit}", ha="center", va="top",
                transform=ax.get_xaxis_transform(), color=QUIET)  # fmt: skip
    ax.set_ylim(-4, 104)
    ax.set_xlim(-0.8, max(x for x, _ in marks) + 0.8)
    ax.set_title(panel.title)
    ax.grid(axis="y")
