"""The section class by class: confusion and ROC curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from leukoscope.reporting import result_tables as tables
from leukoscope.reporting.content import (
    Block,
    Folded,
    Heading,
    Paragraph,
    Picture,
    Section,
    present,
)
from leukoscope.reporting.figures.classification import confusion_matrices, roc_curves
from leukoscope.reporting.formats import count, sizes
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.source import Study
from leukoscope.reporting.wording import protocol_title

MOST_RECIPES = 3  # with figures of their own; tables name all


def class_results(study: Study, gallery: Gallery) -> Section:
    """Confusion matrices, per-class figures and ROC curves."""
    blocks: list[Block] = []
    for recipe in study.recipes[:MOST_RECIPES]:
        entries = [entry for entry in study.results if entry["recipe"] == recipe]
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


def panel_title(entry: Mapping[str, Any]) -> str:
    """Title of a protocol's panel, with the sample size."""
    short = {
        "deduplicated": "Duplicates, overlaps together",
        "acquisition": "Acquisition clusters held out",
        "acquisition-merged": "Clusters joined with overlaps",
    }
    title = short.get(entry["protocol"]) or protocol_title(entry["protocol"])
    return f"{title}\nn = {count(entry['n'])}"


def _confusion_chart(
    study: Study, gallery: Gallery, recipe: str, entries: Sequence[Mapping[str, Any]]
) -> Picture:
    panels = [(panel_title(e), np.asarray(e["confusion"], dtype=np.float64)) for e in entries]
    ns = sizes(e["n"] for e in entries)
    return gallery.draw(
        f"confusion-{recipe}",
        lambda: confusion_matrices(panels, study.class_names),
        caption=(
            f"Confusion matrices, recipe {recipe}: number of images and share of the true class "
            f"(n = {ns} test images; all folds pooled)."
        ),
        alt=f"Confusion matrices of {recipe}; the same numbers stand in the tables below.",
    )


def _roc_chart(
    study: Study, gallery: Gallery, recipe: str, entries: Sequence[Mapping[str, Any]]
) -> list[Block]:
    panels = []
    for entry in entries:
        scores = study.scores(recipe, entry["protocol"])
        if scores is not None:
            panels.append((panel_title(entry), scores.y_true, scores.probs))
    if not panels:
        return [Paragraph(f"No test predictions of {recipe}, so no ROC curves.", note=True)]
    ns = sizes(len(y) for _, y, _ in panels)
    return [
        gallery.draw(
            f"roc-{recipe}",
            lambda: roc_curves(panels, study.class_names),
            caption=(
                f"ROC curves, each class against the rest, recipe {recipe} (n = {ns} test images; "
                "all folds pooled)."
            ),
            alt=f"ROC curves of {recipe}; the areas stand in the table of classes.",
        )
    ]
