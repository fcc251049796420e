"""A study on one page: small panels, each drawn by a function of its axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leukoscope.reporting.figures.classification import ReliabilityPanel, draw_reliability, draw_roc
from leukoscope.reporting.figures.shortcuts import Mark
from leukoscope.reporting.figures.style import (
    BAND,
    INPUT_STYLES,
    MANY_CLASSES,
    OTHER_INPUT,
    class_styles,
    class_ticks,
    crowded,
    fitting_size,
    ink_on,
    new_figure,
    shades,
    short_title,
)
from leukoscope.reporting.figures.training import TRAIN, VAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_WIDTH_IN = 3.7
PANEL_HEIGHT_IN = 3.1
RIGHT, WRONG = "#0072B2", "#D55E00"


@dataclass(frozen=True)
class Panel:
    """One panel of the dashboard.

    Attributes:
        title: With the sample size if it differs from that of the page.
        draw: Draws the panel into axes.
    """

    title: str
    draw: Callable[[Axes], None]


def dashboard(
    panels: Sequence[Panel], *, columns: int, title: str = "", num_classes: int = 2
) -> Figure:
    """All panels in reading order, ``columns`` in a row."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    height_in = PANEL_HEIGHT_IN + 0.1 * max(0, num_classes + 1 - MANY_CLASSES)
    figure = new_figure(height_in * rows + 0.3, width_in=PANEL_WIDTH_IN * columns)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, panel in zip(axes, panels, strict=False):
        panel.draw(ax)
        ax.set_title(panel.title)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    return figure


def draw_class_ring(ax: Axes, counts: Mapping[str, int]) -> None:
    """Draw the share of each class as a ring (many, or long names, as bars) and the counts."""
    total, styles = max(1, sum(counts.values())), class_styles(counts)
    if crowded(list(counts)):
        size = _row_size(len(counts))
        ax.barh(range(len(counts)), list(counts.values()), height=0.7,
                color=[styles[name].colour for name in counts])  # fmt: skip
        for y, n in enumerate(counts.values()):
            ax.text(n, y, f" {n:,} ({100 * n / total:.0f} %)", va="center", fontsize=size)
        ax.set_yticks(range(len(counts)), [short_title(name) for name in counts], fontsize=size)
        ax.set_xlim(0, 1.35 * max(1, *counts.values()))
        ax.invert_yaxis()
        ax.tick_params(axis="y", length=0)
        return
    ax.pie(
        list(counts.values()),
        labels=[
            f"{short_title(name)}\n{n:,} ({100 * n / total:.0f} %)" for name, n in counts.items()
        ],
        colors=[styles[name].colour for name in counts],
        startangle=90,
        counterclock=False,
        labeldistance=1.12,
        radius=0.95,
        wedgeprops={"width": 0.4, "edgecolor": "white", "linewidth": 1.5},
        textprops={"fontsize": 8.5},
    )


def _row_size(rows: int) -> float:
    """Size in points of type with which a row for each class fits into a panel."""
    return 9.0 if rows < MANY_CLASSES else float(np.clip(130 / rows, 6.0, 9.0))


def draw_accuracies(ax: Axes, groups: Sequence[tuple[str, Sequence[Mark]]]) -> None:
    """Draw the accuracy of the model and of its probes under each protocol, with intervals.

    ``groups`` are ``(protocol, marks)`` from the mildest protocol on; marks of one kind of input
    share colour and marker.
    """
    kinds = list(dict.fromkeys(mark.input for _, marks in groups for mark in marks))
    step = 0.7 / max(1, len(kinds) - 1) if len(kinds) > 1 else 0.0
    for row, (_, marks) in enumerate(groups):
        if row % 2 == 0:
            ax.axhspan(row - 0.5, row + 0.5, color=BAND, linewidth=0)
        for mark in marks:
            colour, marker = INPUT_STYLES.get(mark.input, OTHER_INPUT)
            y = row - 0.35 * (len(kinds) > 1) + step * kinds.index(mark.input)
            if mark.low is not None and mark.high is not None:
                ax.plot([100 * mark.low, 100 * mark.high], [y, y], color=colour, alpha=0.5)
            label = mark.input if row == 0 else None
            ax.plot([100 * mark.value], [y], marker, color=colour, label=label, markersize=4.5)
    ax.set_yticks(range(len(groups)), [name for name, _ in groups])
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.set_xlim(right=101)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("accuracy, %")
    ax.grid(axis="x")
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.35, -0.22), ncols=2, fontsize=8, handlelength=0.8
    )


def draw_f1_heat_map(
    ax: Axes, values: NDArray[np.float64], rows: Sequence[str], class_names: Sequence[str]
) -> None:
    """Draw the F1 score of each class and recipe: (R, K) in [0, 1], NaN if undefined."""
    colours = shades()
    few = len(class_names) < MANY_CLASSES
    size = 9.0 if few else fitting_size(ax, len(class_names), len(" 0.00"))
    ax.imshow(np.nan_to_num(values), cmap=colours, vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        known = bool(np.isfinite(value))
        ink = ink_on(colours, value) if known else "black"
        text = f"{value:.2f}" if known else "—"
        ax.text(j, i, text, ha="center", va="center", color=ink, fontsize=size)
    class_ticks(ax, class_names)
    broken = [name if len(name) < 9 else name.replace("-", "-\n", 1) for name in rows]
    ax.set_yticks(range(len(rows)), broken)


def draw_recalls(ax: Axes, values: Sequence[tuple[str, float, float | None, float | None]]) -> None:
    """Draw the recall of each class: ``(class, recall, low, high)``, 0–1."""
    styles, size = class_styles(name for name, *_ in values), _row_size(len(values))
    for y, (name, value, low, high) in enumerate(values):
        ax.barh(y, 100 * value, color=styles[name].colour, height=0.62)
        if low is not None and high is not None:
            ax.plot([100 * low, 100 * high], [y, y], color="black", linewidth=1.2)
        ax.text(2, y, f"{100 * value:.1f} %", va="center", fontsize=size, bbox={
            "facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5
        })  # fmt: skip
    ax.set_yticks(range(len(values)), [short_title(name) for name, *_ in values], fontsize=size)
    ax.invert_yaxis()
    ax.set_xlim(0, 101)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("recall, %")


def draw_training(ax: Axes, folds: Sequence[Mapping[str, NDArray[np.float64]]]) -> None:
    """Draw the loss of each fold by epoch, or over the inverse penalty.

    ``folds`` are the columns of each ``history.csv``: ``epoch`` or ``c``, ``train_loss``,
    ``val_loss``.
    """
    axis = "epoch" if "epoch" in folds[0] else "c"
    for number, columns in enumerate(folds):
        for part, colour, style in (("train", TRAIN, "--"), ("val", VAL, "-")):
            values = columns.get(f"{part}_loss")
            if values is not None and np.isfinite(values).any():
                label = part if number == 0 else None
                ax.plot(columns[axis], values, style, color=colour, linewidth=1.2, label=label)
    if axis == "c":
        ax.set_xscale("log")
    else:
        ax.locator_params(axis="x", integer=True)
    ax.set_xlabel("epoch" if axis == "epoch" else "C (larger means weaker penalty)")
    ax.set_ylabel("loss")
    ax.grid()
    ax.legend(loc="best")


def draw_confidences(ax: Axes, confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> None:
    """Draw the confidence, (n,) highest probability, of right and of wrong predictions.

    ``right`` (n,) says whether each prediction was right.
    """
    bins = np.linspace(0, 1, 21).tolist()
    for chosen, colour, name in ((right, RIGHT, "right"), (~right, WRONG, "wrong")):
        ax.hist(
            confidence[chosen], bins=bins, color=colour, alpha=0.6,
            label=f"{name} ({int(chosen.sum()):,})",
        )  # fmt: skip
    ax.set_yscale("log")
    ax.set_ylim(0.7, 8 * max(2.0, ax.get_ylim()[1]))  # room for the legend
    ax.minorticks_off()
    ax.set_xlim(0, 1.01)
    ax.set_xlabel("highest probability")
    ax.set_ylabel("images")
    ax.grid(axis="y")
    ax.legend(loc="upper left", ncols=2)


def draw_small_roc(
    ax: Axes, y_true: NDArray[np.int64], probs: NDArray[np.float64], class_names: Sequence[str]
) -> None:
    """ROC curves with their legend inside; arguments as in :func:`draw_roc`.

    Many classes, or long names, have no legend: their colours are those of the other panels.
    """
    draw_roc(ax, y_true, probs, class_names)
    handles, labels = ax.get_legend_handles_labels()
    if not crowded(class_names):
        lines = [label.replace("\n", " ") for label in labels]
        ax.legend(handles, lines, loc="lower right", fontsize=8)
    elif (legend := ax.get_legend()) is not None:
        legend.remove()
    ax.set_aspect("auto")


def draw_small_reliability(ax: Axes, panel: ReliabilityPanel) -> None:
    """A reliability diagram without its histogram."""
    draw_reliability(ax, panel)
    ax.set_xlabel("confidence")
    ax.legend(loc="lower right", fontsize=8)
