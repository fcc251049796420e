"""Fold by fold: what each fitted model reached on validation and on test images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from leukoscope.evaluation.metrics import compute_metrics
from leukoscope.reporting.content import Column, Folded, Paragraph, Section, Table
from leukoscope.reporting.formats import DASH, count, metric_title, number
from leukoscope.reporting.source import History, Study
from leukoscope.reporting.wording import protocol_title

MOST_RECIPES = 8
TEST = ("accuracy", "weighted_f1")
VAL = ("val_loss", "val_accuracy", "val_f1")
VAL_TITLES = ("Validation loss", "Validation accuracy", "Validation weighted F1")


class _Row(NamedTuple):
    """One fold: its number, its test images, what was chosen, and its values."""

    fold: int
    n: int
    chosen: str
    values: dict[str, float]


def folds(study: Study) -> Section:
    """Tables of all folds with mean and standard deviation; empty where there is one fold only."""
    tables = [
        table
        for recipe in study.recipes[:MOST_RECIPES]
        if (table := _recipe_table(study, recipe)) is not None
    ]
    if not tables:
        return Section("folds", "Fold by fold")
    text = (
        "Each fold is a model of its own. The validation values are those of the epoch, or "
        "penalty, that was chosen on these same images, and so flatter it. The spread over the "
        "folds is no confidence interval: their training images overlap."
    )
    return Section("folds", "Fold by fold", [Paragraph(text), Folded("Every fold", tuple(tables))])


def _recipe_table(study: Study, recipe: str) -> Table | None:
    rows: list[tuple[str, ...]] = []
    for protocol in study.protocols:
        found = _rows(study, recipe, protocol)
        if len(found) < 2:
            continue
        title = protocol_title(protocol)
        rows += [_cells(title, row) for row in found]
        rows.append(_summary(title, found))
    if not rows:
        return None
    columns = (
        Column("Protocol"),
        Column("Fold"),
        Column("n test images", numeric=True),
        *(Column(metric_title(name), numeric=True) for name in TEST),
        Column("Chosen"),
        *(Column(title, numeric=True) for title in VAL_TITLES),
    )
    caption = f"Every fold, recipe {recipe}; last line of each protocol: mean ± standard deviation"
    return Table(caption, columns, tuple(rows), grouped=True)


def _rows(study: Study, recipe: str, protocol: str) -> list[_Row]:
    scores = study.scores(recipe, protocol)
    if scores is None:
        return []
    histories = {h.fold: h for h in study.histories if (h.recipe, h.protocol) == (recipe, protocol)}
    rows = []
    for fold in np.unique(scores.fold).tolist():
        inside = scores.fold == fold
        metrics = compute_metrics(scores.y_true[inside], scores.probs[inside], study.class_names)
        chosen, values = _chosen(study, recipe, histories.get(fold))
        values |= {name: metrics[name] for name in TEST}
        rows.append(_Row(fold, int(inside.sum()), chosen, values))
    return rows


def _chosen(study: Study, recipe: str, history: History | None) -> tuple[str, dict[str, float]]:
    """The line of the history that selection took, and its values."""
    training = next(r.training for r in study.config.recipes if r.name == recipe)
    criterion = getattr(training, "keep_best", "val_loss")
    if history is None or criterion not in history.columns:
        return DASH, {}
    values = history.columns[criterion]
    if not np.isfinite(values[history.head :]).any():
        return DASH, {}
    last = values[history.head :]  # of two trainings only the second chose what serves
    best = np.nanargmin if criterion == "val_loss" else np.nanargmax
    place = history.head + int(best(last))
    found = {name: float(history.columns[name][place]) for name in VAL if name in history.columns}
    if "epoch" in history.columns:
        return f"epoch {place + 1} of {len(values)}", found
    return (f"C {history.columns['c'][place]:g}" if "c" in history.columns else DASH), found


def _cells(title: str, row: _Row) -> tuple[str, ...]:
    return (
        title,
        str(row.fold),
        count(row.n),
        *(number(row.values.get(name), name) for name in TEST),
        row.chosen,
        *(number(row.values.get(name), _plain(name)) for name in VAL),
    )


def _plain(name: str) -> str:
    """The metric behind a column of a history, which decides on per cent or decimals."""
    return {"val_loss": "log_loss", "val_accuracy": "accuracy", "val_f1": "weighted_f1"}[name]


def _summary(title: str, rows: list[_Row]) -> tuple[str, ...]:
    def spread(name: str, metric: str) -> str:
        values = np.array([row.values.get(name, np.nan) for row in rows])
        if not np.isfinite(values).all():
            return DASH
        mean, sd = number(values.mean(), metric), number(values.std(ddof=1), metric)
        return f"{mean.removesuffix(' %')} ± {sd}"

    return (
        title,
        "all",
        count(sum(row.n for row in rows)),
        *(spread(name, name) for name in TEST),
        "",
        *(spread(name, _plain(name)) for name in VAL),
    )
