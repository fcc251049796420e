"""How strange images look to a model: validation, test and synthetic outliers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leukoscope.reporting.figures.style import QUIET, panel_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EDGES = np.arange(-2.0, 6.01, 0.25)
STYLES = (("validation", "#0072B2", "--"), ("test", "#111111", "-"), ("outliers", "#D55E00", "-"))


@dataclass(frozen=True)
class StrangenessPanel:
    """One protocol.

    Attributes:
        title: With the sample size.
        scores: Scores of the validation images, the test images, the outliers.
        threshold: Largest accepted score, mean of the folds.
    """

    title: str
    scores: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
    threshold: float


def strangeness_histograms(panels: Sequence[StrangenessPanel]) -> Figure:
    """Share of images over the score; what lies beyond an end is counted at it."""
    columns = min(2, len(panels))
    figure, axes = panel_grid(
        len(panels), 2.35, extra_in=0.35, one_in=4.2, sharex=True, sharey=True
    )
    for ax, panel in zip(axes, panels, strict=False):
        _draw(ax, panel)
    for number, ax in enumerate(axes):
        ax.tick_params(labelbottom=number + columns >= len(panels))
        if number + columns >= len(panels):
            ax.set_xlabel("strangeness (0 median, 1 limit of one score)")
        if number % columns == 0:
            ax.set_ylabel("share of images")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4, handlelength=1.6)
    return figure


def _draw(ax: Axes, panel: StrangenessPanel) -> None:
    for (name, colour, dash), scores in zip(STYLES, panel.scores, strict=True):
        if len(scores) == 0:
            continue
        counts, _ = np.histogram(np.clip(scores, EDGES[0], EDGES[-1] - 1e-9), EDGES)
        share = counts / len(scores)
        ax.stairs(share, EDGES, color=colour, linestyle=dash, linewidth=1.4, label=name)
    ax.axvline(panel.threshold, color=QUIET, linestyle=":", linewidth=1.2, label="threshold")
    ax.set_xlim(EDGES[0], EDGES[-1])
    ax.set_xticks([0, 1, 2, 4, EDGES[-1] - 0.125], ["0", "1", "2", "4", "≥ 6"])
    ax.set_title(panel.title)
    ax.grid(axis="y")
