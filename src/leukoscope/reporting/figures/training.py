"""How training and tuning went: learning curves, regularisation paths, trials and values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.tuning_results import Label, TrialRecord
from leukoscope.config.tuning_space import Choice, Range, Space
from leukoscope.reporting.figures.style import INK, QUIET, SERIES, new_figure, panel_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

Columns = Mapping[str, NDArray[np.float64]]
TRAIN, VAL = "#5a6675", "#0072B2"
BEST, PRUNED = SERIES[1], "#9aa5b1"
MOST_LINES = 200  # more would be a grey surface


def learning_curves(panels: Sequence[tuple[str, Sequence[Columns]]]) -> Figure:
    """Loss and accuracy by epoch, one thin line per fold.

    ``panels`` are ``(protocol title, histories of its folds)`` with the columns ``epoch``,
    ``train_loss``, ``val_loss``, ``train_accuracy``, ``val_accuracy``.
    """
    figure = new_figure(0.3 + 1.75 * len(panels))
    axes = figure.subplots(len(panels), 2, squeeze=False)
    for row, (title, folds) in zip(axes, panels, strict=True):
        for ax, what, scale in ((row[0], "loss", 1.0), (row[1], "accuracy", 100.0)):
            for number, columns in enumerate(folds):
                for part, colour, style in (("train", TRAIN, "--"), ("val", VAL, "-")):
                    values = columns.get(f"{part}_{what}")
                    if values is not None and np.isfinite(values).any():
                        ax.plot(
                            columns["epoch"],
                            scale * values,
                            style,
                            color=colour,
                            linewidth=1.2,
                            label=part if number == 0 else None,
                        )
            ax.set_ylabel(what if scale == 1 else f"{what}, %")
            ax.grid()
            ax.xaxis.get_major_locator().set_params(integer=True)
        row[0].set_title(title)
        row[0].legend(loc="upper right", ncols=2, borderaxespad=0.2)
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
    return figure


def regularisation_path(panels: Sequence[tuple[str, Sequence[Columns]]], *, title: str) -> Figure:
    """Validation loss and accuracy over the inverse penalty C; mean and range of the folds.

    ``panels`` are ``(protocol title, histories of its folds)`` with the columns ``c``,
    ``val_loss``, ``val_accuracy``.
    """
    figure = new_figure(3.2)
    left, right = figure.subplots(1, 2)
    for number, (label, folds) in enumerate(panels):
        colour = SERIES[number % len(SERIES)]
        _band(left, folds, "val_loss", 1.0, colour, label)
        _band(right, folds, "val_accuracy", 100.0, colour, label)
    for ax, name in ((left, "validation loss"), (right, "validation accuracy, %")):
        ax.set_xscale("log")
        ticks = sorted({c for _, folds in panels for h in folds for c in h["c"].tolist()})
        ax.set_xticks(ticks, [f"{c:g}" for c in ticks])
        ax.minorticks_off()
        ax.set_xlabel("C (larger means weaker penalty)")
        ax.set_ylabel(name)
        ax.grid()
    figure.suptitle(title, x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(2, len(labels)))
    return figure


def _band(
    ax: Axes, folds: Sequence[Columns], name: str, scale: float, colour: str, label: str
) -> None:
    grids = [columns for columns in folds if name in columns and "c" in columns]
    shared = sorted(set.intersection(*(set(g["c"].tolist()) for g in grids))) if grids else []
    if not shared:
        return
    values = scale * np.array(
        [[g[name][np.flatnonzero(g["c"] == c)[0]] for c in shared] for g in grids]
    )
    ax.plot(shared, values.mean(axis=0), "-o", color=colour, label=label, markersize=4.5)
    if len(grids) > 1:
        ax.fill_between(
            shared, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.1, linewidth=0
        )


def optimisation_history(rows: Sequence[TrialRecord], *, minimise: bool, criterion: str) -> Figure:
    """The value of each trial, and the best so far.

    ``rows`` are those of ``tune.json`` (``trial``, ``state``, ``value``); ``criterion`` names the
    values.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(3.0)
    ax = figure.subplots()
    complete = _in_state(rows, "complete")
    pruned = [row for row in _in_state(rows, "pruned") if row.value is not None]
    best = np.minimum if minimise else np.maximum
    x = [row.trial for row in complete]
    so_far = best.accumulate([row.score for row in complete])
    ax.step(x, so_far, where="post", color=BEST, label="best so far")
    ax.plot(x, [row.score for row in complete], "o", color=INK, label="complete")
    if pruned:
        ax.plot([row.trial for row in pruned], [row.score for row in pruned], "o",
                color=PRUNED, fillstyle="none", label="pruned, last value")  # fmt: skip
    failed = _in_state(rows, "failed")
    if failed:
        ax.plot([row.trial for row in failed], [0.02] * len(failed), "x", color=BEST,
                transform=ax.get_xaxis_transform(), label="failed")  # fmt: skip
    ax.set_xlabel("trial")
    ax.set_ylabel(criterion)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid()
    figure.legend(loc="outside upper left", ncols=4)
    return figure


def parameter_importances(importances: Mapping[str, float]) -> Figure:
    """Share of the criterion's variance that each recipe key explains (0–1), largest first."""
    ordered = sorted(importances.items(), key=lambda item: item[1])
    figure = new_figure(0.9 + 0.3 * len(ordered))
    ax = figure.subplots()
    bars = ax.barh(
        [key for key, _ in ordered], [100 * share for _, share in ordered], color=SERIES[2]
    )
    ax.bar_label(bars, fmt="%.0f %%", padding=3)
    ax.set_xlim(0, max(10.0, 115 * max(importances.values())))
    ax.set_xlabel("share of the variance between trials, %")
    ax.grid(axis="x")
    return figure


def parallel_coordinates(
    rows: Sequence[TrialRecord], space: Space, *, minimise: bool, criterion: str
) -> Figure:
    """One line per complete trial through its values, the best in front.

    ``rows`` (``labels``, ``value``) and ``space`` (recipe key → parameter) are those of
    ``tune.json``; ``criterion`` names the values.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure = new_figure(3.9)
    ax = figure.subplots()
    keys = list(space)
    done = sorted(_in_state(rows, "complete"), key=lambda r: r.score, reverse=minimise)
    done = done[-MOST_LINES:]
    colours = _colours().reversed() if minimise else _colours()
    values = [row.score for row in done]
    norm = Normalize(min(values), max(values) + 1e-12)
    for row in done:
        y = [_place(space[key], row.labels[key]) for key in keys]
        if len(keys) == 1:  # a line needs two places
            ax.plot([0], y, "o", color=colours(norm(row.score)))
        else:
            last = row is done[-1]
            ax.plot(range(len(keys)), y, color=BEST if last else colours(norm(row.score)),
                    linewidth=2.6 if last else 1.0, alpha=1.0 if last else 0.7)  # fmt: skip
    for x, key in enumerate(keys):
        ax.axvline(x, color=QUIET, linewidth=0.8, zorder=0)
        for place, text in _ticks(space[key]):
            ax.annotate(text, (x, place), xytext=(3, 0), textcoords="offset points", fontsize=7.5,
                        va="center", bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0,
                                           "pad": 0.6})  # fmt: skip
    size = 8.5 if len(keys) < 6 else 7.5
    ax.set_xticks(
        range(len(keys)), [_broken(key, short=len(keys) > 5) for key in keys], fontsize=size
    )
    ax.tick_params(axis="x", length=0)
    ax.set_xlim(-0.3, len(keys) - 0.5)
    ax.set_yticks([])
    ax.spines[["left", "bottom"]].set_visible(False)
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=ax, fraction=0.04, pad=0.02)
    bar.set_label(f"{criterion}; the best trial is orange")
    return figure


def slices(rows: Sequence[TrialRecord], space: Space, *, criterion: str) -> Figure:
    """The value by each key alone; later trials are darker.

    ``rows`` and ``space`` (recipe key → parameter) are those of ``tune.json``; ``criterion`` names
    the values.
    """
    done = _in_state(rows, "complete")
    figure, axes = panel_grid(len(space), 2.1, columns=3, extra_in=0.4, sharey=True)
    for ax, (key, parameter) in zip(axes, space.items(), strict=False):
        categories = isinstance(parameter, Choice)
        labels = [row.labels[key] for row in done]
        x = [_place(parameter, label) for label in labels] if categories else labels
        ax.scatter(x, [row.score for row in done], c=[row.trial for row in done],
                   cmap=_colours(), s=22, linewidths=0)  # fmt: skip
        if categories:
            places = [place for place, _ in _ticks(parameter)]
            texts = [text for _, text in _ticks(parameter)]
            ax.set_xticks(places, texts, rotation=30 if max(map(len, texts)) > 5 else 0)
            ax.set_xlim(-0.15, 1.15)
        elif parameter.kind == "log":
            ax.set_xscale("log")
        ax.set_xlabel(key)
        ax.grid()
    for ax in axes[:: min(3, len(space))]:
        ax.set_ylabel(criterion)
    return figure


def intermediate_values(
    rows: Sequence[TrialRecord], *, best: int, unit: str, criterion: str
) -> Figure:
    """The values that each trial reported, by step; pruned trials end early.

    ``rows`` are those of ``tune.json``, with ``reported`` as pairs (step, value); ``best`` is the
    number of the best trial, ``unit`` that of a step; ``criterion`` names the values.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(3.2)
    ax = figure.subplots()
    seen: set[str] = set()
    shown = sorted(rows, key=lambda row: (row.trial == best, row.state == "complete"))
    for row in shown:
        if not row.reported or row.state not in ("complete", "pruned"):
            continue
        kind = "best" if row.trial == best else row.state
        colour = {"best": BEST, "complete": SERIES[2], "pruned": PRUNED}[kind]
        steps, values = zip(*row.reported, strict=True)
        ax.plot(steps, values, "-" if kind != "pruned" else "--", color=colour,
                linewidth=2.4 if kind == "best" else 1.1, alpha=1 if kind == "best" else 0.75,
                marker="o" if len(steps) == 1 else None, markersize=3.5,
                label=kind if kind not in seen else None)  # fmt: skip
        seen.add(kind)
    ax.set_xlabel(unit)
    ax.set_ylabel(criterion)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid()
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def short(label: object) -> str:
    """A label where space is scarce; for a table its kind.

    >>> short('{"kind":"cosine","floor":0.0}'), short(0.0001), short(True)
    ('cosine', '0.0001', 'yes')
    """
    if isinstance(label, bool):
        return "yes" if label else "no"
    if isinstance(label, (int, float)):
        return f"{label:.3g}"
    if str(label).startswith(("{", "[")):
        value = json.loads(str(label))
        if isinstance(value, dict) and "kind" in value:
            return str(value["kind"])
    return str(label)


def _in_state(rows: Sequence[TrialRecord], state: str) -> list[TrialRecord]:
    return [row for row in rows if row.state == state]


def _colours() -> Colormap:
    """A light-to-dark colour map without the lightest colours, which are invisible on white."""
    import matplotlib
    from matplotlib.colors import ListedColormap

    return ListedColormap(matplotlib.colormaps["Blues"](np.linspace(0.3, 1.0, 256)))


def _place(parameter: Range | Choice, label: Label) -> float:
    """Position of a label on its axis, 0–1."""
    if isinstance(parameter, Choice):
        return parameter.labels.index(label) / max(1, len(parameter.labels) - 1)
    low, high, at = parameter.low, parameter.high, float(label)
    if parameter.kind == "log":
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low)


def _ticks(parameter: Range | Choice) -> list[tuple[float, str]]:
    if isinstance(parameter, Choice):
        return [(_place(parameter, label), short(label)) for label in parameter.labels]
    return [(0.0, short(parameter.low)), (1.0, short(parameter.high))]


def _broken(key: str, *, short: bool) -> str:
    """A dotted key broken into lines, short ones where space is scarce.

    >>> _broken("training.weight_decay", short=True).splitlines()
    ['weight', 'decay', '(training)']
    """
    table, _, name = key.rpartition(".")
    words = name.replace("_", "\n" if short else " ")
    return f"{words}\n({table})" if table else words
