"""Shares of cell types with their intervals, blasts by patient, and agreement with a count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from leukoscope.config.counts import BlastAgreement, BlastShare, ClassShare, ComparedPatient, Share
from leukoscope.reporting.figures.style import INK, QUIET, WIDTH_IN, new_figure, short_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ADJUSTED = "#0072B2"
COUNTED = "#D55E00"
CALL_COLOURS = {"above": "#D55E00", "below": "#0072B2", "cannot be told": QUIET}
MOST_NAMED = 80


def share_bars(classes: Sequence[ClassShare]) -> Figure:
    """A bar a class: adjusted share with its interval, and the counted share as a dot."""
    figure = new_figure(0.55 + 0.24 * len(classes), width_in=WIDTH_IN / 2)
    ax = figure.add_subplot()
    for y, one in enumerate(classes):
        best, low, high = _percent(one)
        ax.barh(y, best, height=0.62, color=ADJUSTED, alpha=0.75)
        ax.plot([low, high], [y, y], color=INK, linewidth=1.4)
        if one.adjusted is not None and one.counted is not None:
            ax.plot(100 * one.counted, y, "o", color=COUNTED, markersize=4.5, clip_on=False,
                    markeredgecolor="white", markeredgewidth=0.5)  # fmt: skip
    ax.set_yticks(range(len(classes)), [short_title(one.class_name) for one in classes], fontsize=8)
    ax.set_ylim(len(classes) - 0.5, -0.5)
    ax.set_xlim(0, max(10.0, min(100.0, 105 * max(one.high or 0.0 for one in classes))))
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=8)
    ax.grid(axis="x")
    ax.set_xlabel("% of cells", fontsize=8)
    return figure


def _percent(share: Share) -> tuple[float, float, float]:
    """Share and limits in per cent; NaN where nothing was counted."""
    best, low, high = (
        math.nan if x is None else 100 * x for x in (share.best, share.low, share.high)
    )
    return best, low, high


def blast_chart(patients: Sequence[tuple[str, BlastShare]], threshold: float) -> Figure:
    """Blast share of each patient with its interval, beside the threshold.

    Args:
        patients: What to call each, and the share; all have cells.
        threshold: From 0 to 1.
    """
    named = len(patients) <= MOST_NAMED
    figure = new_figure(1.0 + (0.2 * len(patients) if named else 9.0))
    ax = figure.add_subplot()
    ax.axvline(100 * threshold, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    for y, (_, blasts) in enumerate(patients):
        best, low, high = _percent(blasts)
        colour = CALL_COLOURS[blasts.call]
        ax.plot([low, high], [y, y], color=colour, alpha=0.6)
        ax.plot(best, y, "o", color=colour, clip_on=False)
    for call, colour in CALL_COLOURS.items():
        n = sum(blasts.call == call for _, blasts in patients)
        ax.plot([], [], "o-", color=colour, label=f"{call} ({n})")
    labels = [label for label, _ in patients] if named else []
    ax.set_yticks(range(len(patients)) if named else [], labels, fontsize=8)
    ax.set_ylim(len(patients) - 0.4, -0.6)
    ax.set_xlim(0, 100)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.set_xlabel(f"blasts, % of cells; the line is the threshold of {100 * threshold:g} %")
    ax.set_ylabel("patient (cells)" if named else f"{len(patients)} patients")
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def agreement_chart(entry: BlastAgreement) -> Figure:
    """Predicted over counted share, and their difference over their mean (Bland & Altman 1986)."""
    figure = new_figure(3.4)
    left, right = figure.subplots(1, 2)
    _identity(left, entry.points)
    _differences(right, entry)
    return figure


def _identity(ax: Axes, points: Sequence[ComparedPatient]) -> None:
    ax.plot([0, 100], [0, 100], color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    for p in points:
        x = 100 * p.truth
        held = p.low <= p.truth <= p.high
        colour = ADJUSTED if held else COUNTED
        ax.plot([x, x], [100 * p.low, 100 * p.high], color=colour, alpha=0.4, linewidth=1.1)
        ax.plot(x, 100 * p.value, "o" if held else "X", color=colour, markersize=4.5)
    ax.set(xlim=(-2, 102), ylim=(-2, 102), xlabel="counted by experts, % blasts",
           ylabel="adjusted, % blasts")  # fmt: skip
    ax.set_aspect("equal")
    ax.grid()


def _differences(ax: Axes, entry: BlastAgreement) -> None:
    points = entry.points
    mean = [50 * (p.value + p.truth) for p in points]
    difference = [100 * (p.value - p.truth) for p in points]
    ax.axhline(0, color=QUIET, linewidth=1)
    dashes = (0, (5, 3))
    for share, style in ((entry.bias, "-"), (entry.loa_low, dashes), (entry.loa_high, dashes)):
        if share is None:
            continue
        level = 100 * share
        ax.axhline(level, color=COUNTED, linewidth=1.2, linestyle=style)
        ax.annotate(f"{level:+.1f}", (1, level), xycoords=("axes fraction", "data"), fontsize=8,
                    ha="right", va="bottom", color=COUNTED)  # fmt: skip
    ax.plot(mean, difference, "o", color=ADJUSTED, markersize=4.5)
    ax.set_xlabel("mean of both, % blasts")
    ax.set_ylabel("adjusted − counted, points")
    ax.grid()
