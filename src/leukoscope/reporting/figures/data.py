"""What the data set is: class balance and acquisition clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leukoscope.reporting.figures.style import (
    class_styles,
    ink_on,
    new_figure,
    shades,
    short_title,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
