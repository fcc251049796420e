"""The section that shows a study on one page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial

import numpy as np

from leukoscope.config.metrics.results import Result
from leukoscope.core.labels import order_classes
from leukoscope.core.protocols import protocol_title
from leukoscope.reporting.content import Folded, Section
from leukoscope.reporting.figures import dashboard as figures
from leukoscope.reporting.figures.classification import draw_matrix
from leukoscope.reporting.figures.dashboard import Panel
from leukoscope.reporting.formats import count, plural
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.study.decisions import reliability_panel
from leukoscope.reporting.study.shortcuts import mark_groups
from leukoscope.reporting.study_files import PooledScores, Study

COLUMNS = 3
MOST_RECIPES = 8  # rows of the F1 panel that can still be read


def dashboard(study: Study, gallery: Gallery) -> Section:
    """Nine small panels: data, protocols, and the first recipe under the harshest protocol."""
    recipe = study.recipes[0]
    protocol, scores = study.harshest(recipe)
    panels = [*_of_study(study), *_of_protocol(study, recipe, protocol, scores)]
    if not study.results or not panels:
        return Section("dashboard", "On one page")
    protocol = protocol or study.results[-1].protocol
    n = max(entry.n for entry in study.results)
    where = f"recipe {recipe}, {protocol_title(protocol).lower()}"
    title, k = f"{study.name}: {where}", len(study.class_names)
    picture = gallery.draw(
        "dashboard",
        lambda: figures.dashboard(panels, columns=COLUMNS, title=title, num_classes=k),
        caption=(
            f"The study on one page (n = {count(n)} test images). Where a panel is about one "
            f"protocol, it is the harshest that was run: {where}."
        ),
        alt="; ".join(panel.title.replace("\n", " ") for panel in panels)
        + ". The numbers stand in the tables of this report.",
    )
    return Section("dashboard", "On one page", [Folded("Nine panels for a slide", [picture])])


def _of_study(study: Study) -> Iterator[Panel]:
    found = Counter(record.label for record in study.manifest.usable)
    counts = {name: found[name] for name in order_classes(found)}
    yield Panel(
        f"Classes of {plural(sum(counts.values()), 'image')}",
        partial(figures.draw_class_ring, counts=counts),
    )
    first = study.recipes[0]
    groups = []
    for group, name in zip(mark_groups(study), study.protocols, strict=False):
        marks = [m for m in group.marks if m.input != "image" or m.short in ("image", first)]
        groups.append((name.replace("-", "-\n"), marks))
    if groups:
        yield Panel("Model and probes", partial(figures.draw_accuracies, groups=groups))


def _of_protocol(
    study: Study, recipe: str, protocol: str, scores: PooledScores | None
) -> Iterator[Panel]:
    protocol = protocol or (study.results[-1].protocol if study.results else "")
    entry = study.result(recipe, protocol)
    if entry is None:
        return
    matrix = np.asarray(entry.confusion, dtype=np.float64)
    yield Panel("Confusion", partial(draw_matrix, matrix=matrix, class_names=study.class_names))
    if scores is not None:
        yield Panel(
            "ROC, each class against the rest",
            partial(
                figures.draw_small_roc,
                y_true=scores.y_true,
                probs=scores.probs,
                class_names=study.class_names,
            ),
        )
    yield _f1_panel(study, protocol)
    values = [
        (name, found.value, found.low, found.high)
        for name in study.class_names
        if (found := entry.metrics.get(f"recall_{name}")) and found.value is not None
    ]
    if values:
        yield Panel("Recall of each class", partial(figures.draw_recalls, values=values))
    folds = [h.columns for h in study.histories if (h.recipe, h.protocol) == (recipe, protocol)]
    if folds:
        yield Panel("Training, one line a fold", partial(figures.draw_training, folds=folds))
    panel = reliability_panel(study, recipe, protocol)
    if panel is not None:
        yield Panel("Reliability", partial(figures.draw_small_reliability, panel=panel))
    if scores is not None:
        right = scores.y_pred == scores.y_true
        yield Panel(
            "Confidence",
            partial(figures.draw_confidences, confidence=scores.probs.max(axis=1), right=right),
        )


def _f1_panel(study: Study, protocol: str) -> Panel:
    entries = [entry for entry in study.results if entry.protocol == protocol][:MOST_RECIPES]
    values = np.array(
        [[_value(entry, f"f1_{name}") for name in study.class_names] for entry in entries],
        dtype=np.float64,
    )
    rows = [entry.recipe for entry in entries]
    return Panel(
        "F1 of each class",
        partial(figures.draw_f1_heat_map, values=values, rows=rows, class_names=study.class_names),
    )


def _value(entry: Result, metric: str) -> float | None:
    found = entry.metrics.get(metric)
    return None if found is None else found.value
