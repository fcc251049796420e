"""Forecast, internal and external result of each other data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leukoscope.reporting.figures.style import QUIET, WIDTH_IN, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOUR = "#0072B2"
BAND = "#d5dde7"  # darker than the house's, for nothing else stands on it
ROW_IN = 0.62


@dataclass(frozen=True)
class ForecastRow:
    """One data set.

    Attributes:
        name: Of the data.
        values: Metric → internal result, forecast, external result; each with ``value``, ``low``
            and ``high``.
    """

    name: str
    values: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]]


def forecast_chart(
    rows: Sequence[ForecastRow], titles: Mapping[str, str], *, narrow: bool = False
) -> Figure:
    """A panel a metric, a row a data set.

    Args:
        rows: From top to bottom.
        titles: Metric → heading of its panel.
        narrow: Whether it is made for a small screen: panels below one another.
    """
    names = [name for name in titles if any(name in row.values for row in rows)]
    down, across = (len(names), 1) if narrow else (1, len(names))
    height = down * (0.65 + ROW_IN * len(rows)) + 0.3
    figure = new_figure(height, width_in=4.2 if narrow else WIDTH_IN)
    axes = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
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
    internal: Mapping[str, Any],
    forecast: Mapping[str, Any],
    found: Mapping[str, Any],
) -> None:
    width = forecast["high"] - forecast["low"]
    ax.barh(y, width, left=forecast["low"], height=0.72, color=BAND, zorder=1)
    for entry, offset, colour, face in (
        (internal, -0.16, QUIET, "white"), (found, 0.16, COLOUR, COLOUR)
    ):  # fmt: skip
        if entry.get("low") is not None:
            ax.plot([entry["low"], entry["high"]], [y + offset] * 2, color=colour, linewidth=1.6)
        ax.plot(entry["value"], y + offset, "o", color=colour, markerfacecolor=face, zorder=3)
