"""Beyond the study's data: forecasts, external results, OOD scores, damaged images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.config.metrics.results import Estimate
from leukoscope.config.robustness import ConditionMetric, RobustnessFile
from leukoscope.imaging.corruption import CORRUPTIONS, corrupt
from leukoscope.reporting.figures.style import QUIET, SERIES, new_figure, panel_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOUR = "#0072B2"
BAND = "#d5dde7"  # darker than the house's, for nothing else stands on it
ROW_IN = 0.62
EDGES = np.arange(-2.0, 6.01, 0.25)
STYLES = (("validation", "#0072B2", "--"), ("test", "#111111", "-"), ("outliers", "#D55E00", "-"))
_MARKERS = "osD^vP"
_COLUMNS = 4
_THUMB_PX = 150
_NOTHING = Estimate(value=None, low=None, high=None)


@dataclass(frozen=True)
class ForecastRow:
    """The results on one data set.

    Attributes:
        name: Name of the data set.
        values: Metric → internal result, forecast, external result.
    """

    name: str
    values: Mapping[str, tuple[Estimate, Estimate, Estimate]]


def forecast_chart(rows: Sequence[ForecastRow], titles: Mapping[str, str]) -> Figure:
    """Forecast and result: one panel per metric, one row per data set.

    ``titles`` maps a metric to the heading of its panel.
    """
    names = [name for name in titles if any(name in row.values for row in rows)]
    figure = new_figure(0.95 + ROW_IN * len(rows))
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False).ravel()
    for ax, name in zip(axes, names, strict=True):
        for y, row in enumerate(rows):
            if name in row.values:
                _draw_row(ax, y, *row.values[name])
        ax.set_title(titles[name], loc="left", fontsize=9)
        ax.set_xlim(right=1.005)
        ax.grid(axis="x")
        ax.tick_params(axis="y", length=0)
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    axes[0].set_yticks(range(len(rows)), [row.name for row in rows])
    axes[0].plot([], [], linewidth=9, color=BAND, label="forecast")
    axes[0].plot([], [], "o", markerfacecolor="white", markeredgecolor=QUIET, color=QUIET,
                 label="this study")  # fmt: skip
    axes[0].plot([], [], "o", color=COLOUR, label="other data")
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def _draw_row(
    ax: Axes,
    y: float,
    internal: Estimate,
    forecast: Estimate,
    found: Estimate,
) -> None:
    if forecast.low is not None and forecast.high is not None:
        width = forecast.high - forecast.low
        ax.barh(y, width, left=forecast.low, height=0.72, color=BAND, zorder=1)
    for entry, offset, colour, face in (
        (internal, -0.16, QUIET, "white"), (found, 0.16, COLOUR, COLOUR)
    ):  # fmt: skip
        if entry.low is not None and entry.high is not None:
            ax.plot([entry.low, entry.high], [y + offset] * 2, color=colour, linewidth=1.6)
        if entry.value is not None:
            ax.plot(entry.value, y + offset, "o", color=colour, markerfacecolor=face, zorder=3)


@dataclass(frozen=True)
class OodPanel:
    """OOD scores under one protocol.

    Attributes:
        title: With the sample size.
        scores: Scores of the validation images, the test images and the outliers.
        threshold: Largest accepted score, mean over the folds.
    """

    title: str
    scores: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
    threshold: float


def ood_histograms(panels: Sequence[OodPanel]) -> Figure:
    """Share of images by OOD score; values beyond an end of the axis are counted there."""
    columns = min(2, len(panels))
    figure, axes = panel_grid(
        len(panels), 2.35, extra_in=0.35, one_in=4.2, sharex=True, sharey=True
    )
    for ax, panel in zip(axes, panels, strict=False):
        _draw(ax, panel)
    for number, ax in enumerate(axes):
        ax.tick_params(labelbottom=number + columns >= len(panels))
        if number + columns >= len(panels):
            ax.set_xlabel("OOD score (0 median, 1 limit of one score)")
        if number % columns == 0:
            ax.set_ylabel("share of images")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4, handlelength=1.6)
    return figure


def _draw(ax: Axes, panel: OodPanel) -> None:
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


def damage_curves(result: RobustnessFile, metric: ConditionMetric, label: str) -> Figure:
    """A metric by severity: one panel per corruption, one line per recipe.

    ``metric`` is shown in %; ``label`` is that of the vertical axis.
    """
    names = list(result.corruptions)
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


def _panel(ax: Axes, result: RobustnessFile, name: str, metric: ConditionMetric) -> None:
    graded = not name.startswith("s1-")  # their levels are an axis of their own
    for number, model in enumerate(result.recipes):
        rows = [row for row in model.conditions if row.corruption == name]
        rows = [model.clean, *rows] if graded else rows
        x = [row.severity if graded else row.level for row in rows]
        found = [row.metric(metric) or _NOTHING for row in rows]
        value, low, high = (
            [math.nan if share is None else 100 * share for share in shares]
            for shares in (
                [e.value for e in found], [e.low for e in found], [e.high for e in found],
            )
        )  # fmt: skip
        colour = SERIES[number % len(SERIES)]
        ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        ax.plot(x, value, color=colour, marker=_MARKERS[number % len(_MARKERS)], markersize=3.5,
                label=model.recipe)  # fmt: skip
        clean = model.clean.accuracy.value
        if metric == "accuracy" and clean is not None:
            floor = 100 * (clean - result.bound)
            ax.axhline(floor, color=colour, linewidth=0.8, linestyle=(0, (4, 2)))
    ax.set_title(result.corruptions[name].title, fontsize=8.5)
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
    """One (H, W, 3) uint8 RGB image by corruption (rows) and severity (columns, 1 to 5).

    ``key`` of the image and ``seed`` are those of the measurement.
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
