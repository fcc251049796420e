"""What the data set is: class balance, acquisition clusters, accuracy by cluster, and patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leukoscope.reporting.figures.style import (
    QUIET,
    SERIES,
    class_styles,
    ink_on,
    legend_columns,
    new_figure,
    shades,
    short_title,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOST_NAMED = 60


def class_balance(counts: Mapping[str, int], *, title: str) -> Figure:
    """Number of usable images of each class."""
    figure = new_figure(0.75 + 0.3 * len(counts))
    ax = figure.add_subplot()
    names, styles = list(counts), class_styles(counts)
    total = max(1, sum(counts.values()))
    ax.barh(
        [short_title(n) for n in names],
        [counts[n] for n in names],
        color=[styles[n].colour for n in names],
        height=0.66,
    )
    for y, name in enumerate(names):
        ax.text(
            counts[name], y, f"  {counts[name]:,} ({100 * counts[name] / total:.1f} %)", va="center"
        )
    ax.set_xlim(0, 1.22 * max(1, *counts.values()))
    ax.invert_yaxis()
    ax.set_xlabel("images")
    ax.tick_params(axis="y", length=0)
    ax.set_title(title)
    return figure


def cluster_heat_map(
    counts: NDArray[np.int64], class_names: Sequence[str], clusters: Sequence[str], *, title: str
) -> Figure:
    """The classes in each acquisition cluster, from (K, C) counts of images."""
    share = counts / np.maximum(1, counts.sum(axis=0, keepdims=True))
    figure = new_figure(1.35 + 0.4 * len(class_names))
    ax = figure.add_subplot()
    colours = shades()
    image = ax.imshow(100 * share, cmap=colours, vmin=0, vmax=100, aspect="auto")
    if len(clusters) <= 26:
        for k, c in np.ndindex(*counts.shape):
            if counts[k, c]:
                ink = ink_on(colours, share[k, c])
                ax.text(c, k, str(counts[k, c]), ha="center", va="center", fontsize=7.5, color=ink)
    ax.set_yticks(range(len(class_names)), [short_title(name) for name in class_names])
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(f"{len(clusters)} acquisition clusters, ordered by their main class")
    ax.set_title(title)
    figure.colorbar(image, ax=ax, label="% of the cluster", pad=0.01, ticks=[0, 50, 100])
    return figure


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
