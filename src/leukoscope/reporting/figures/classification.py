"""Confusion, ROC and reliability; risk over coverage, prediction sets and decision curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.metrics.decisions import Limits
from leukoscope.evaluation.statistics.thresholds import Reliability
from leukoscope.evaluation.statistics.thresholds import roc_curves as roc_points
from leukoscope.reporting.figures.style import (
    MANY_CLASSES,
    QUIET,
    SERIES,
    WIDTH_IN,
    class_styles,
    class_ticks,
    crowded,
    fitting_size,
    ink_on,
    new_figure,
    panel_grid,
    shades,
    short_title,
    tick_height,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


BEFORE, AFTER = "#D55E00", "#0072B2"
_DASHES = ("-", (0, (6, 1.5)), (0, (3, 1.2)), (0, (5, 1.2, 1, 1.2)), (0, (1, 1)), "-")
_BAND = "#c9d3de"
_MOST_POINTS = 400


def confusion_matrices(
    panels: Sequence[tuple[str, NDArray[np.float64]]], class_names: Sequence[str]
) -> Figure:
    """Counts and, below each, the share of its row; the colour shows the share.

    ``panels`` are ``(title with sample size, (K, K) counts)``, rows true, columns predicted, in the
    order of ``class_names``.
    """
    row_in = 0.44 if len(class_names) < MANY_CLASSES else 0.3
    height_in = 0.97 + row_in * len(class_names) + tick_height(class_names)
    wide = crowded(class_names)
    figure, axes = panel_grid(
        len(panels), height_in, columns=1 if wide else 2, one_in=WIDTH_IN if wide else 4.4
    )
    for ax, (title, matrix) in zip(axes, panels, strict=False):
        _draw_matrix(ax, np.asarray(matrix, dtype=np.float64), class_names)
        ax.set_title(title)
    return figure


def _draw_matrix(ax: Axes, matrix: NDArray[np.float64], class_names: Sequence[str]) -> None:
    """Draw a (K, K) confusion matrix, rows true: counts and the share of each row.

    With many classes the colour alone shows the share.
    """
    totals = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
    colours = shades()
    ax.imshow(share, cmap=colours, vmin=0, vmax=1, aspect="auto")
    many = len(class_names) >= MANY_CLASSES
    size = fitting_size(ax, len(class_names), len(f"{int(matrix.max()):,}"))
    for i, j in np.ndindex(*matrix.shape):
        ink = "#9aa5b1" if matrix[i, j] == 0 else ink_on(colours, share[i, j])
        if many:
            if matrix[i, j] or i == j:
                ax.text(
                    j, i, f"{int(matrix[i, j]):,}", ha="center", va="center", color=ink,
                    fontweight="bold" if i == j else "normal", fontsize=size,
                )  # fmt: skip
            continue
        text = f"{100 * share[i, j]:.1f} %" if totals[i, 0] else "—"
        ax.text(
            j, i - 0.16, f"{int(matrix[i, j]):,}", ha="center", va="center", color=ink,
            fontweight="bold" if i == j else "normal", fontsize=9.5,
        )  # fmt: skip
        ax.text(j, i + 0.22, text, ha="center", va="center", color=ink, fontsize=9)
    class_ticks(ax, class_names)
    rows = list(map(short_title, class_names))
    ax.set_yticks(range(len(rows)), rows, fontsize=fitting_size(ax, len(rows), 2) if many else 9)
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")


def roc_curves(
    panels: Sequence[tuple[str, NDArray[np.int64], NDArray[np.float64]]],
    class_names: Sequence[str],
) -> Figure:
    """One-vs-rest ROC curves, each with its area in the legend.

    ``panels`` are ``(title with sample size, y_true (n,), probs (n, K))``.
    """
    if not crowded(class_names):
        figure, axes = panel_grid(len(panels), 2.75, one_in=4.2)
    else:  # the legend needs room
        height_in = max(3.2, 0.9 + 0.19 * len(class_names))
        figure, axes = panel_grid(len(panels), height_in, columns=1, one_in=WIDTH_IN)
    for ax, (title, y_true, probs) in zip(axes, panels, strict=False):
        _draw_roc(ax, y_true, probs, class_names)
        ax.set_title(title)
    return figure


def _draw_roc(
    ax: Axes,
    y_true: NDArray[np.int64],
    probs: NDArray[np.float64],
    class_names: Sequence[str],
) -> None:
    """Draw the one-vs-rest ROC curve of each class from ``y_true`` (n,) and ``probs`` (n, K)."""
    curves = roc_points(y_true, probs, class_names)
    # Of two classes the curves mirror each other; the second class is the positive one.
    shown = class_names[1:] if len(class_names) == 2 else class_names
    styles, between = class_styles(class_names), "\n" if len(class_names) < MANY_CLASSES else "  "
    ax.plot([0, 1], [0, 1], color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)))
    for name in shown:
        curve = curves.get(name)
        if curve is None:
            continue
        area = float(np.trapezoid(curve.y, curve.x))
        ax.plot(
            *_thin(curve.x, curve.y),
            color=styles[name].colour,
            label=f"{short_title(name)}{between}{area:.3f}",
            linestyle=styles[name].dashes,
        )
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    ax.set_aspect("equal")
    ax.set_xlabel("false positive rate")
    ax.set_ylabel("true positive rate")
    ax.grid()
    ax.legend(
        loc="center left", bbox_to_anchor=(1.0, 0.5), title="area", title_fontsize=9,
        handlelength=1.6, alignment="left", handletextpad=0.5,
        fontsize=9 if len(shown) < MANY_CLASSES else 8,
    )  # fmt: skip


def _thin(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most :data:`_MOST_POINTS` of a curve with both ends, as more cannot be seen."""
    if len(x) <= _MOST_POINTS:
        return x, y
    keep = np.unique(np.linspace(0, len(x) - 1, _MOST_POINTS).round().astype(np.int64))
    return x[keep], y[keep]


@dataclass(frozen=True)
class ReliabilityPanel:
    """The reliability diagram of one protocol.

    Attributes:
        title: With the sample size.
        after: Bins of the calibrated probabilities.
        before: Bins of the softmax of the logits, or None if the model gives no logits.
    """

    title: str
    after: Reliability
    before: Reliability | None


def reliability_diagrams(panels: Sequence[ReliabilityPanel], *, counted: str = "images") -> Figure:
    """Accuracy over confidence before and after calibration, with what is ``counted`` per bin."""
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
        bottom.set_ylabel(counted)
    return figure


def calibration_error(entry: Reliability) -> float:
    """Expected calibration error of a reliability diagram (Guo et al. 2017, eq. 3).

    >>> bins = Reliability(np.array([0, 1.0]), np.array([2]), np.array([0.8]), np.array([0.5]))
    >>> round(calibration_error(bins), 3)
    0.3
    """
    gap = np.nan_to_num(np.abs(entry.accuracy - entry.confidence))
    return float((entry.n * gap).sum() / max(1, entry.n.sum()))


def _draw_reliability(ax: Axes, panel: ReliabilityPanel) -> None:
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
    _draw_reliability(top, panel)
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
    bottom.set_xlabel("confidence")
    bottom.tick_params(labelbottom=True)
    bottom.grid(axis="y")


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


def risk_coverage_chart(lines: Sequence[RiskLine], *, counted: str = "images") -> Figure:
    """Error rate among what is ``counted`` and answered, the most confident first."""
    figure = new_figure(3.3)
    ax = figure.add_subplot()
    for number, line in enumerate(lines):
        kept = line.coverage >= 0.02  # a handful of images says nothing
        ax.plot(
            100 * line.coverage[kept], 100 * line.risk[kept], label=line.label,
            color=SERIES[number % len(SERIES)], linestyle=_DASHES[number % len(_DASHES)],
        )  # fmt: skip
    ax.set(xlim=(0, 100), xlabel=f"{counted} answered, the surest first, %")
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
        _draw_coverage(ax, panel)
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


def _draw_coverage(ax: Axes, panel: CoveragePanel) -> None:
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
