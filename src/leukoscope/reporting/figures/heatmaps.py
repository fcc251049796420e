"""Heat maps beside the original, the audit of heat maps in one figure, and maps of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.explanations import BASELINES, AuditFile, MapSummary
from leukoscope.core.program import DISCLAIMER
from leukoscope.evaluation.explanation_scores import SAME, STEPS
from leukoscope.reporting.figures.style import (
    GRID,
    INK,
    QUIET,
    SERIES,
    WIDTH_IN,
    class_styles,
    legend_columns,
    new_figure,
    short_title,
)
from leukoscope.runtime.heatmap import overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


METHOD_TITLES: Mapping[str, str] = {
    "grad-cam": "Grad-CAM",
    "grad-cam++": "Grad-CAM++",
    "occlusion": "occlusion",
    "integrated-gradients": "integrated gradients",
}
SIDE_IN = 2.1
TOP_IN = 0.54
BOTTOM_IN = 0.42
SCALE_IN = 0.62
GAP_IN = 0.07
_METHOD_COLOURS = SERIES[1:]
Dashes: TypeAlias = tuple[int, tuple[float, ...]]
_BASELINE_DASHES: Sequence[Dashes] = ((0, (1, 1.2)), (0, (4, 1.5)), (0, (6, 1.5, 1, 1.5)))


@dataclass(frozen=True)
class HeatColumn:
    """One picture of a panel.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        title: One or two short lines above it.
        heat: (h, w) in [0, 1] of any size to overlay, or None for the picture alone.
    """

    image: NDArray[np.uint8]
    title: str
    heat: NDArray[np.floating] | None = None


def heat_panel(columns: Sequence[HeatColumn], *, title: str, note: str) -> Figure:
    """Pictures from left to right; heat maps are overlaid in colours that a scale explains.

    ``title`` is the line above all, ``note`` the one below, before the disclaimer.
    """
    width = len(columns) * (SIDE_IN + GAP_IN) + SCALE_IN
    height = TOP_IN + SIDE_IN + BOTTOM_IN
    figure = new_figure(height, width_in=width)
    figure.set_layout_engine("none")
    for number, column in enumerate(columns):
        left = number * (SIDE_IN + GAP_IN)
        ax = figure.add_axes((left / width, BOTTOM_IN / height, SIDE_IN / width, SIDE_IN / height))
        ax.axis("off")
        empty = column.heat is not None and not np.any(column.heat)
        shown = column.image if column.heat is None else overlay(column.image, column.heat)
        ax.imshow(shown, interpolation="antialiased")
        text = f"{column.title}: nothing" if empty else column.title
        above = (BOTTOM_IN + SIDE_IN + 0.04) / height
        figure.text(left / width, above, text, va="bottom", fontsize=7.5, linespacing=1.15)
    figure.text(0, 1 - 0.03 / height, title, va="top", fontsize=9, fontweight="bold")
    if any(column.heat is not None for column in columns):
        _scale(figure, width, height)
    _note(figure, note, width, height)
    return figure


def _scale(figure: Figure, width: float, height: float) -> None:
    from matplotlib.cm import ScalarMappable

    left = width - SCALE_IN + 0.04
    ax = figure.add_axes((left / width, BOTTOM_IN / height, 0.12 / width, SIDE_IN / height))
    bar = figure.colorbar(ScalarMappable(cmap="cividis"), cax=ax)
    bar.set_ticks([0, 1], labels=["0", "max"])
    bar.ax.tick_params(labelsize=7.5, length=2)
    bar.outline.set_visible(False)
    ax.text(2.2, 0.5, "evidence", rotation=90, va="center", fontsize=7.5, transform=ax.transAxes)


def _note(figure: Figure, note: str, width: float, height: float) -> None:
    """Two lines, smaller where the panel is narrow."""
    for line, text in enumerate((note, DISCLAIMER)):
        y = (BOTTOM_IN - 0.07 - 0.16 * line) / height
        size = min(7.5, 7.5 * width / (0.058 * max(1, len(text))))
        figure.text(0, y, text, va="top", fontsize=size, color=QUIET)


def audit_figure(audit: AuditFile) -> Figure:
    """Insertion and deletion curves, heat in leukocytes, similarity of randomised maps."""
    figure = new_figure(5.9)
    (insertion, deletion), (place, forgets) = figure.subplots(2, 2)
    names = list(audit.summary)
    for ax, title, curves in (
        (insertion, "Insertion", {n: [i.maps[n].insertion for i in audit.images] for n in names}),
        (deletion, "Deletion", {n: [i.maps[n].deletion for i in audit.images] for n in names}),
    ):
        for number, (name, rows) in enumerate(curves.items()):
            label = METHOD_TITLES.get(name, name)
            ax.plot(STEPS, np.mean(rows, axis=0), label=label, **_style(name, number))
        ax.set(title=f"{title}, hottest first", xlabel="share of the image")
        ax.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="probability of the class")
        ax.grid(axis="y")
    _bars(place, audit.summary, names)
    _stages(forgets, audit, [name for name in names if name not in BASELINES])
    handles, labels = insertion.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, handlelength=2.4)
    return figure


class LineStyle(TypedDict, total=False):
    """How a map's line is drawn."""

    color: str
    linestyle: Dashes
    lw: float


def _style(name: str, number: int) -> LineStyle:
    if name in BASELINES:
        return {"color": QUIET, "linestyle": _BASELINE_DASHES[BASELINES.index(name)], "lw": 1.2}
    return {"color": _METHOD_COLOURS[number % len(_METHOD_COLOURS)]}


def _bars(ax: Axes, summary: Mapping[str, MapSummary], names: Sequence[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    known = [(n, name, share) for n, name in enumerate(names) if (share := summary[name].share)]
    for row, (number, name, share) in enumerate(known):
        colour = _style(name, number)["color"]
        ax.barh(row, share.value or 0.0, color=colour, height=0.62)
        if share.low is not None and share.high is not None:
            ax.plot([share.low, share.high], [row, row], color=INK, lw=1.2)
    covered = next((summary[name].area for _, name, _ in known), None)
    if covered is not None and covered.value is not None:
        area = covered.value
        ax.axvline(area, color=INK, lw=1, linestyle=(0, (4, 2)))
        ax.text(area, -0.75, " area", fontsize=8, va="center", color=INK)
    ax.set_yticks(range(len(known)), [METHOD_TITLES.get(name, name) for _, name, _ in known])
    ax.set(title="Heat in leukocytes", xlabel="share of the heat", ylim=(len(known) - 0.4, -1.1))
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.set_xlim(left=0)
    ax.grid(axis="x")


def _stages(ax: Axes, audit: AuditFile, methods: Sequence[str]) -> None:
    places = np.arange(len(audit.stages) + 1)
    names = list(audit.summary)
    for number, method in enumerate(methods):
        entries = audit.summary[method].randomised
        aside = 0.05 * (number - (len(methods) - 1) / 2)
        style = _style(method, names.index(method))
        line = [(aside, 1.0)]
        for place, entry in enumerate(entries, start=1):
            if entry is None or entry.value is None:
                continue
            line.append((place + aside, entry.value))
            if entry.low is not None and entry.high is not None:
                ax.plot([place + aside] * 2, [entry.low, entry.high], color=style["color"], lw=1)
        ax.plot(*zip(*line, strict=True), marker="o", **style)
    ax.axhline(SAME, color=INK, lw=1, linestyle=(0, (4, 2)))
    ax.text(places[-1] + 0.15, SAME - 0.02, "the same above", fontsize=8, ha="right", va="top")
    ax.axhline(0, color=GRID, lw=1, zorder=0)
    labels = ["trained", *audit.stages]
    ax.set_xticks(places, labels, rotation=20, ha="right", rotation_mode="anchor")
    ax.set(title="Randomised from the head on", ylabel="rank correlation", ylim=(-0.6, 1.05))


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


def _by_class(ax: Axes, points: NDArray[np.float64], labels: NDArray[np.str_], size: float) -> None:
    for name, style in class_styles(set(labels.tolist()) - {""}).items():
        rows = labels == name
        ax.scatter(
            points[rows, 0], points[rows, 1], s=size, color=style.colour, alpha=0.75,
            marker=style.marker, linewidths=0, label=short_title(name),
        )  # fmt: skip


def _by_group(ax: Axes, points: NDArray[np.float64], labels: NDArray[np.str_], size: float) -> None:
    """Give groups forty colours in turn: neighbourhood matters, not which group it is."""
    import matplotlib

    names = sorted(set(labels.tolist()) - {""})
    wheel = [*matplotlib.colormaps["tab20"].colors, *matplotlib.colormaps["tab20b"].colors]  # type: ignore[attr-defined]
    colour = {name: wheel[number % len(wheel)] for number, name in enumerate(names)}
    colours = [colour.get(name, "#cccccc") for name in labels.tolist()]
    ax.scatter(points[:, 0], points[:, 1], s=size, c=colours, alpha=0.8, linewidths=0)
