"""How training went: learning curves, and the regularisation path of linear heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leukoscope.reporting.figures.style import SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Columns = Mapping[str, NDArray[np.float64]]
TRAIN, VAL = "#5a6675", "#0072B2"


def learning_curves(panels: Sequence[tuple[str, Sequence[Columns]]]) -> Figure:
    """Loss and accuracy by epoch, one thin line a fold.

    Args:
        panels: ``(protocol title, histories of its folds)`` with the columns ``epoch``,
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

    Args:
        panels: ``(protocol title, histories of its folds)`` with the columns ``c``,
            ``val_loss``, ``val_accuracy``.
        title: With the sample size.
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
