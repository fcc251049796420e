"""Results of a study: overview, scope, by protocol, by class, by fold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from leukoscope.config.metrics.evidence import Rejection
from leukoscope.config.metrics.results import CurvePoint, Result
from leukoscope.core.protocols import PROTOCOLS, WORDS, by_column, protocol_title
from leukoscope.evaluation.statistics.intervals import MIN_GROUPS
from leukoscope.evaluation.statistics.metrics import HISTORY_METRICS, compute_metrics
from leukoscope.reporting import result_tables as tables
from leukoscope.reporting.content import (
    Block,
    Bullets,
    Column,
    Folded,
    Heading,
    Paragraph,
    Picture,
    Section,
    Table,
    present,
)
from leukoscope.reporting.figures.classification import confusion_matrices, roc_curves
from leukoscope.reporting.figures.data import CurveLine, cluster_curve
from leukoscope.reporting.formats import DASH, count, metric_title, number, plural, sizes
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.result_tables import sample, subgroup_blocks
from leukoscope.reporting.study_files import History, Study

MOST_RECIPES = 3  # with figures of their own; tables name all
MOST_RECIPES_BY_FOLD = 8
TEST = ("accuracy", "weighted_f1")
BY_PATIENT = (
    "What is said of patients, not of cells: a row of every result is one patient, answered by all "
    "of its images together. The passport of the data counts images."
)
VAL = ("val_loss", "val_accuracy", "val_f1")
VAL_TITLES = ("Validation loss", "Validation accuracy", "Validation weighted F1")


def can_show(study: Study) -> tuple[str, ...]:
    """Questions that the study's protocols and probes answer."""
    first = study.recipes[0]
    items = [BY_PATIENT] if study.row == "patient" else []
    items += [
        protocol.shows.format(sample(entry))
        for name, protocol in WORDS.items()
        if (entry := study.result(first, name)) is not None
    ]
    others = study.metrics.external
    if others:  # without their names: this text goes into the bundle's card too
        rows = sum(entry.n for entry in others)
        items.append(
            f"Whether {plural(len(others), 'other data set')} ({plural(rows, study.row)}) came out "
            "as this study forecast."
        )
    probes = list(dict.fromkeys(entry.probe for entry in study.metrics.probes))
    if probes:
        items.append(
            f"How far a classifier comes that sees only part of the image, by "
            f"{plural(len(probes), 'probe')}: "
            f"{', '.join(probes)}."
        )
    if study.metrics.decisions and study.metrics.decisions.coverage:
        items.append("Whether probabilities and prediction sets keep their promise on this data.")
    return tuple(items)


def cannot_show(study: Study) -> tuple[str, ...]:
    """Questions that must stay open."""
    items = []
    reasons = {entry.protocol: entry.reason for entry in study.metrics.inapplicable}
    if "grouped" not in study.protocols:
        reason = reasons.get("grouped", "that protocol was not run").rstrip(".")
        items.append(
            f"How the model does on a new patient: patients could not be held out ({reason})."
        )
    if study.metrics.external:
        items.append(
            "How the model does in laboratories beyond those of this study and of the other data "
            "that it was measured on."
        )
    elif study.row == "patient" and not any(
        name in PROTOCOLS and by_column(PROTOCOLS[name]) for name in study.protocols
    ):
        items.append(
            "How the model does on patients of another hospital, of other years, with another "
            "stain or microscope: all patients come from one source, and the intervals count only "
            "these. A score on patients of the same source, however high, is no promise there."
        )
    elif "external" not in study.protocols:
        items.append(
            "How the model does in another laboratory, with another stain, microscope or camera: "
            "all images come from one data set."
        )
    share = _trained_share(study)
    if share is not None:
        items.append(
            "How good the packed model itself is: the figures are those of models that were "
            f"trained on {100 * share:.0f} % of the {study.row}s, it on nearly all, so it is "
            "probably a little better than they say."
        )
    if not study.metrics.probes:
        items.append("Whether a shortcut is at work: no probe was measured.")
    items.append(
        "That the model reads morphology. Probes can expose a shortcut, they cannot exclude one; "
        "heat maps show where a model looks, not why."
    )
    if "benign" in study.class_names and "healthy" not in study.class_names:
        items.append(
            "Anything about healthy blood: the class Benign holds hematogones (benign precursors "
            "of B cells), and no healthy smear is among the classes."
        )
    shaky = [
        entry
        for entry in study.results
        if not all(found.reliable for found in entry.metrics.values())
        and entry.n_groups < MIN_GROUPS
    ]
    if shaky:
        items.append(
            f"A reliable interval where fewer than {MIN_GROUPS} groups could be held out; such "
            "results are marked † (few groups)."
        )
    items.append("Any use on patients. This is research software, not a medical device.")
    return tuple(items)


def _trained_share(study: Study) -> float | None:
    """Mean share of the images that the models behind the figures were trained or selected on."""
    tested = [fold for fold in study.folds if fold.protocol in study.protocols]
    if not tested or not any(fold.protocol == "final" for fold in study.folds):
        return None
    parts = [Counter(fold.parts.values()) for fold in tested]
    return sum((n["train"] + n["val"]) / n.total() for n in parts) / len(parts)


def class_results(study: Study, gallery: Gallery) -> Section:
    """Confusion matrices, per-class figures and ROC curves."""
    blocks: list[Block] = []
    for recipe in study.recipes[:MOST_RECIPES]:
        entries = [entry for entry in study.results if entry.recipe == recipe]
        if not entries:
            continue
        if len(study.recipes) > 1:
            blocks.append(Heading(f"Recipe {recipe}"))
        blocks.append(_confusion_chart(study, gallery, recipe, entries))
        numbers = tuple(tables.confusion(study, entry) for entry in entries)
        blocks.append(Folded("The confusion matrices as tables", numbers))
        blocks += present(tables.per_class(study, recipe))
        blocks += _roc_chart(study, gallery, recipe, entries)
    if len(study.recipes) > MOST_RECIPES:
        blocks += present(*(tables.per_class(study, r) for r in study.recipes[MOST_RECIPES:]))
        blocks.append(
            Paragraph(f"Figures are drawn for the first {MOST_RECIPES} recipes.", note=True)
        )
    return Section("classes", "Class by class", blocks)


def panel_title(entry: Result | Rejection) -> str:
    """Title of a protocol's panel, with the sample size."""
    return f"{protocol_title(entry.protocol)}\nn = {count(entry.n)}"


def _confusion_chart(
    study: Study, gallery: Gallery, recipe: str, entries: Sequence[Result]
) -> Picture:
    panels = [(panel_title(e), np.asarray(e.confusion, dtype=np.float64)) for e in entries]
    ns = sizes(e.n for e in entries)
    return gallery.draw(
        f"confusion-{recipe}",
        lambda: confusion_matrices(panels, study.class_names),
        caption=(
            f"Confusion matrices, recipe {recipe}: number of {study.row}s and share of the true "
            f"class (n = {ns} test {study.row}s; all folds pooled)."
        ),
        alt=f"Confusion matrices of {recipe}; the same numbers stand in the tables below.",
    )


def _roc_chart(
    study: Study, gallery: Gallery, recipe: str, entries: Sequence[Result]
) -> list[Block]:
    panels = []
    for entry in entries:
        scores = study.scores(recipe, entry.protocol)
        if scores is not None:
            panels.append((panel_title(entry), scores.y_true, scores.probs))
    if not panels:
        known = any("log_loss" in entry.metrics for entry in entries)
        why = (
            f"No test predictions of {recipe}, so no ROC curves."
            if known
            else f"Of {recipe} only the predicted classes are known; ROC curves need probabilities."
        )
        return [Paragraph(why, note=True)]
    ns = sizes(len(y) for _, y, _ in panels)
    return [
        gallery.draw(
            f"roc-{recipe}",
            lambda: roc_curves(panels, study.class_names),
            caption=(
                f"ROC curves, each class against the rest, recipe {recipe} (n = {ns} test "
                f"{study.row}s; all folds pooled)."
            ),
            alt=f"ROC curves of {recipe}; the areas stand in the table of classes.",
        )
    ]


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
        for recipe in study.recipes[:MOST_RECIPES_BY_FOLD]
        if (table := _recipe_table(study, recipe)) is not None
    ]
    if not tables:
        return Section("folds", "Fold by fold")
    text = (
        "Each fold is a model of its own. The validation values are those of the epoch, or "
        f"penalty, that was chosen on these same {study.row}s, and so flatter it. The spread over "
        f"the folds is no confidence interval: their training {study.row}s overlap."
    )
    return Section("folds", "Fold by fold", [Paragraph(text), Folded("Every fold", tables)])


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
        Column(f"n test {study.row}s", numeric=True),
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
        *(number(row.values.get(name), HISTORY_METRICS[name]) for name in VAL),
    )


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
        *(spread(name, HISTORY_METRICS[name]) for name in VAL),
    )


def scope(study: Study) -> Section:
    """What the study can show and what it cannot."""
    blocks = (
        Heading("It can show"),
        Bullets(can_show(study)),
        Heading("It cannot show"),
        Bullets(cannot_show(study)),
    )
    return Section("scope", "What this can and cannot show", blocks)


def glance(study: Study) -> Section:
    """The main metrics, and further ones."""
    further = tables.further(study)
    blocks: list[Block] = [tables.headline(study), Folded(further.caption, [further])]
    blocks += present(tables.malignant(study), tables.levels(study))
    return Section("results", "Results at a glance", blocks)


def by_subgroup(study: Study) -> Section:
    """Results for the values of the manifest's further columns; empty where there are none."""
    found = study.metrics.subgroups
    return Section("subgroups", "By subgroup", subgroup_blocks(found) if found else ())


def protocols(study: Study, gallery: Gallery) -> Section:
    """What each protocol holds out, which do not apply, the cluster curve, comparisons."""
    blocks: list[Block] = [
        Paragraph(
            f"A protocol decides which {study.row}s may not appear in both training and test "
            "sets. The accuracy of one protocol alone says little; the fall from the mildest to "
            "the harshest says how much rests on having seen the slide before."
        ),
        tables.protocols(study),
        *present(tables.inapplicable(study)),
    ]
    chart = _curve_chart(study, gallery)
    if chart is not None:
        blocks += [Heading("Over the number of acquisition clusters"), chart]
    points = tables.curve(study)
    if points is not None:
        blocks.append(Folded("The curve as a table", (points,)))
    pairs = tables.comparisons(study)
    if pairs is not None:
        blocks.append(Folded(pairs.caption, (pairs,)))
    return Section("protocols", "Protocols", blocks)


def _curve_chart(study: Study, gallery: Gallery) -> Picture | None:
    points: dict[str, list[tuple[float, CurvePoint]]] = {}
    for entry in study.metrics.curve:
        if entry.accuracy.value is not None:
            points.setdefault(entry.recipe, []).append((entry.accuracy.value, entry))
    lines = []
    for recipe, found in points.items():
        found = sorted(found, key=lambda row: row[1].clusters)
        if len(found) > 1:
            lines.append(
                CurveLine(
                    label=recipe,
                    clusters=tuple(e.clusters for _, e in found),
                    value=tuple(value for value, _ in found),
                    low=tuple(e.accuracy.low for _, e in found),
                    high=tuple(e.accuracy.high for _, e in found),
                )
            )
    if not lines:
        return None
    n = max(e.n for found in points.values() for _, e in found)
    references = []
    for protocol in ("random", "acquisition-merged"):
        result = study.result(lines[0].label, protocol)
        known = None if result is None else result.metrics.get("accuracy")
        if known is not None and known.value is not None:
            references.append((PROTOCOLS[protocol].label, known.value))
    title = f"Acquisition clusters held out, n = {count(n)} images"
    return gallery.draw(
        "cluster-curve",
        lambda: cluster_curve(lines, references, title=title),
        caption=(
            f"Accuracy with whole acquisition clusters held out, over their number "
            f"(n = {count(n)} images; band: {study.level} interval). The number of "
            "clusters is a choice, so the curve is shown rather than one point of it."
        ),
        alt="; ".join(
            f"{line.label}: "
            + ", ".join(
                f"{k} clusters {100 * v:.1f} %"
                for k, v in zip(line.clusters, line.value, strict=True)
            )
            for line in lines
        ),
    )
