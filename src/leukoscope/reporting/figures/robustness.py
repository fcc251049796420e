"""What damage does to a model, and what the damage looks like."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.corruption import CORRUPTIONS, corrupt
from leukoscope.reporting.figures.style import QUIET, SERIES, new_figure, panel_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vP"
_COLUMNS = 4
_THUMB_PX = 150


def damage_curves(result: Mapping[str, Any], metric: str, label: str) -> Figure:
    """One panel a corruption: a metric over severities, one line a recipe.

    Args:
        result: As in ``robustness.json``.
        metric: ``accuracy``, ``ece``, ``review`` or ``reject``; all are shown in %.
        label: Of the vertical axis.
    """
    names = list(result["corruptions"])
    figure, axes = panel_grid(len(names), 1.55, columns=_COLUMNS, extra_in=0.75, sharey=True)
    for ax, name in zip(axes, names, strict=False):
        _panel(ax, result, name, metric)
    for ax in axes[:: min(_COLUMNS, len(names))]:
        ax.set_ylabel(label)
    own_axis = ", for study S1 the level" if any(n.startswith("s1-") for n in names) else ""
    figure.supxlabel(f"severity{own_axis}", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside upper left", ncols=min(3, len(labels)))
    return figure


def _panel(ax: Axes, result: Mapping[str, Any], name: str, metric: str) -> None:
    kind = result["corruptions"][name]
    for number, model in enumerate(result["recipes"]):
        rows = [row for row in model["conditions"] if row["corruption"] == name]
        graded = not name.startswith("s1-")  # their levels are an axis of their own
        points = [(row["severity"] if graded else row["level"], row[metric]) for row in rows]
        clean = model["clean"][metric]
        if graded:
            points.insert(0, (0, clean))
        x = [place for place, _ in points]
        value, low, high = (
            [math.nan if e[key] is None else 100 * e[key] for _, e in points]
            for key in ("value", "low", "high")
        )
        colour = SERIES[number % len(SERIES)]
        ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        ax.plot(x, value, color=colour, marker=_MARKERS[number % len(_MARKERS)], markersize=3.5,
                label=model["recipe"])  # fmt: skip
        if metric == "accuracy" and clean["value"] is not None:
            floor = 100 * (clean["value"] - result["bound"])
            ax.axhline(floor, color=colour, linewidth=0.8, linestyle=(0, (4, 2)))
    ax.set_title(kind["title"], fontsize=8.5)
    ax.grid(axis="y")
    if graded:
        ax.set_xticks(range(6))


def damage_sheet(
    image: NDArray[np.uint8],
    names: Sequence[str],
    severities: Sequence[int],
    *,
    key: str,
    seed: int,
) -> Figure:
    """One image under each corruption (rows) at each severity (columns).

    Args:
        image: (H, W, 3) uint8 RGB.
        names: Corruptions.
        severities: 1 to 5.
        key: Of the image, as in the measurement.
        seed: Likewise.
    """
    columns = len(severities) + 1
    figure = new_figure(1.05 * len(names) + 0.4, width_in=0.95 * columns + 1.0)
    grid = figure.subplots(len(names), columns, squeeze=False)
    for row, name in zip(grid, names, strict=True):
        levels = CORRUPTIONS[name].levels
        pictures = [image, *(corrupt(image, name, levels[s - 1], key=key, seed=seed)
                             for s in severities)]  # fmt: skip
        for ax, picture in zip(row, pictures, strict=True):
            ax.imshow(_thumb(picture))
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
        for ax, severity in zip(row[1:], severities, strict=True):
            ax.set_xlabel(f"{levels[severity - 1]:g}", fontsize=7, labelpad=1, color=QUIET)
        title = CORRUPTIONS[name].title.replace(" (", "\n(").replace("even ", "even\n")
        row[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)
    for ax, title in zip(grid[0], ["undamaged", *map(str, severities)], strict=True):
        ax.set_title(title, fontsize=8, loc="center")
    return figure


def _thumb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    scale = _THUMB_PX / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
