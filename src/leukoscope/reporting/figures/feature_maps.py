"""Maps of features: one point an image, coloured by what it might be arranged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leukoscope.reporting.figures.style import (
    WIDTH_IN,
    class_styles,
    legend_columns,
    new_figure,
    short_title,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Colouring:
    """What the colours of one panel show.

    Attributes:
        kind: ``class``, ``patient`` or ``acquisition``.
        labels: (n,) names; points with an empty one are grey.
    """

    kind: str
    labels: Sequence[str]

    @property
    def title(self) -> str:
        """Title of the panel."""
        groups = len({name for name in self.labels if name})
        return {
            "class": "coloured by class",
            "patient": f"by patient ({groups})",
            "acquisition": f"by acquisition group ({groups})",
        }[self.kind]


def feature_figure(
    rows: Sequence[Mapping[str, str]], kind: str, shares: Sequence[float]
) -> Figure | None:
    """The map of a table of features, coloured by each labelling in it; None if it has no such map.

    Args:
        rows: Lines of ``features.csv``.
        kind: ``pca`` or ``tsne``.
        shares: Share of the variance of each principal component.
    """
    if not rows or not all(row[f"{kind}_1"] and row[f"{kind}_2"] for row in rows):
        return None
    points = np.array([(float(row[f"{kind}_1"]), float(row[f"{kind}_2"])) for row in rows])
    colourings = [
        Colouring(name, labels)
        for name in ("class", "patient", "acquisition")
        if len({*(labels := [row[name] for row in rows])} - {""}) > 1
    ]
    axes = ("t-SNE 1", "t-SNE 2")
    if kind == "pca":
        first, second = (f"component {i + 1} ({share:.0%})" for i, share in enumerate(shares))
        axes = (first, second)
    return feature_map(points, colourings, axes=axes)


def feature_map(
    points: NDArray[np.float64], colourings: Sequence[Colouring], *, axes: tuple[str, str]
) -> Figure:
    """The same points once per colouring.

    Args:
        points: (n, 2) coordinates.
        colourings: From left to right; only ``class`` has a legend, other groups are too many.
        axes: Labels of the horizontal and the vertical axis.
    """
    side = WIDTH_IN / max(2, len(colourings))
    named = (set(one.labels) - {""} for one in colourings if one.kind == "class")
    titles = [short_title(name) for name in next(named, set())]
    columns = legend_columns(titles, 6, width_in=side * len(colourings))
    legend_in = 0.2 * max(0, -(-len(titles) // columns) - 1)
    figure = new_figure(side + 0.75 + legend_in, width_in=side * len(colourings))
    panels = figure.subplots(1, len(colourings), squeeze=False, sharex=True, sharey=True)[0]
    size = float(np.clip(5000 / max(1, len(points)), 4, 26))
    for ax, colouring in zip(panels, colourings, strict=True):
        draw = _by_class if colouring.kind == "class" else _by_group
        draw(ax, points, np.asarray(colouring.labels), size)
        ax.set_title(colouring.title)
        ax.set_xlabel(axes[0])
        ax.set_xticks([])
        ax.set_yticks([])
    panels[0].set_ylabel(axes[1])
    handles, names = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, names, loc="outside lower center", ncols=columns, handletextpad=0.2)
    return figure


def _by_class(
    ax: Axes, points: NDArray[np.float64], labels: NDArray[np.str_], size: float
) -> None:  # fmt: skip
    for name, style in class_styles(set(labels.tolist()) - {""}).items():
        rows = labels == name
        ax.scatter(
            points[rows, 0], points[rows, 1], s=size, color=style.colour, alpha=0.75,
            marker=style.marker, linewidths=0, label=short_title(name),
        )  # fmt: skip


def _by_group(
    ax: Axes, points: NDArray[np.float64], labels: NDArray[np.str_], size: float
) -> None:  # fmt: skip
    """Give groups forty colours in turn: neighbourhood matters, not which group it is."""
    import matplotlib

    names = sorted(set(labels.tolist()) - {""})
    wheel = [*matplotlib.colormaps["tab20"].colors, *matplotlib.colormaps["tab20b"].colors]  # type: ignore[attr-defined]
    colour = {name: wheel[number % len(wheel)] for number, name in enumerate(names)}
    colours = [colour.get(name, "#cccccc") for name in labels.tolist()]
    ax.scatter(points[:, 0], points[:, 1], s=size, c=colours, alpha=0.8, linewidths=0)
