"""One line a patient: the aggregated probability with its interval, right or wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leukoscope.reporting.figures.style import (
    QUIET,
    class_styles,
    legend_columns,
    new_figure,
    short_title,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NAMED = 60


@dataclass(frozen=True)
class PatientLine:
    """The result of one patient.

    Attributes:
        name: Patient id.
        true: True class.
        value: Aggregated probability, 0–1.
        low: Lower limit, or None.
        high: Upper limit, or None.
        right: Whether the predicted class is right.
        n_images: Number of images.
    """

    name: str
    true: str
    value: float
    low: float | None
    high: float | None
    right: bool
    n_images: int


def patient_chart(
    lines: Sequence[PatientLine],
    *,
    class_names: Sequence[str] = (),
    xlabel: str,
    threshold: float | None,
) -> Figure:
    """Patients by true class and probability, from top to bottom; a cross marks a wrong prediction.

    ``class_names`` are all of the data set (else those of the lines), ``xlabel`` names the
    probability; ``threshold`` is that of the decision, or None.
    """
    named = len(lines) <= MOST_NAMED
    figure = new_figure(1.0 + (0.17 * len(lines) if named else 8.0))
    ax = figure.add_subplot()
    styles = class_styles(class_names or [line.true for line in lines])
    if threshold is not None:
        ax.axvline(threshold, color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    for y, line in enumerate(lines):
        colour = styles[line.true].colour
        if line.low is not None and line.high is not None:
            ax.plot([line.low, line.high], [y, y], color=colour, linewidth=1.6, alpha=0.55)
        marker = styles[line.true].marker if line.right else "X"
        ax.plot(
            line.value, y, marker, color=colour, markersize=6 if line.right else 8,
            markeredgecolor="white" if line.right else "black",
            markeredgewidth=0.4 if line.right else 0.8, clip_on=False,
        )  # fmt: skip
    for name in dict.fromkeys(line.true for line in lines):
        style = styles[name]
        ax.plot([], [], style.marker, color=style.colour, label=f"truth: {short_title(name)}")
    ax.plot([], [], "X", color="white", markeredgecolor="black", markersize=8, label="wrong")
    ax.set_xlim(0, 1)
    ax.set_ylim(len(lines) - 0.4, -0.6)
    labels = [f"{line.name} ({line.n_images})" for line in lines] if named else []
    ax.set_yticks(range(len(lines)) if named else [], labels, fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.set_xlabel(xlabel)
    ax.set_ylabel("patient (images)" if named else f"{len(lines)} patients")
    _, titles = ax.get_legend_handles_labels()
    figure.legend(loc="outside upper left", ncols=legend_columns(titles, 5))
    return figure
