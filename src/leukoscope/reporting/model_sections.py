"""The section on the models: recipes, and how their training went."""

from __future__ import annotations

from collections.abc import Sequence

from leukoscope.reporting import data_tables as tables
from leukoscope.reporting import rules
from leukoscope.reporting.content import Block, Paragraph, Picture, Section
from leukoscope.reporting.figures.training import learning_curves, regularisation_path
from leukoscope.reporting.formats import count, plural
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.source import History, Study
from leukoscope.reporting.wording import protocol_title

MOST_RECIPES = 3
MOST_MISTAKES = 20


def training(study: Study, gallery: Gallery) -> Section:
    """Recipes, and how their training went."""
    blocks: list[Block] = [tables.recipes(study)]
    charts: list[Block] = []
    for recipe in study.recipes[:MOST_RECIPES]:
        panels = _by_protocol(study, recipe)
        if panels:
            charts.append(_training_chart(study, gallery, recipe, panels))
    selected = rules.selected_settings(study)
    if selected is not None:
        charts.append(selected)
    for recipe in study.recipes:
        charts += rules.rule_base(study, recipe)
    if not charts:
        charts.append(Paragraph("No training history was stored.", note=True))
    return Section("training", "How the models were trained", [*blocks, *charts])


def _by_protocol(study: Study, recipe: str) -> list[tuple[str, list[History]]]:
    panels = []
    for protocol in study.protocols:
        found = [h for h in study.histories if (h.recipe, h.protocol) == (recipe, protocol)]
        if found:
            panels.append((protocol, found))
    return panels


def _training_chart(
    study: Study, gallery: Gallery, recipe: str, panels: Sequence[tuple[str, list[History]]]
) -> Picture:
    titled = [(protocol_title(name), [h.columns for h in folds]) for name, folds in panels]
    n_folds = sum(len(folds) for _, folds in panels)
    n_train = _mean_train(study, panels[0][0])
    size = f"; about {count(n_train)} training images a fold" if n_train else ""
    path = "c" in panels[0][1][0].columns
    if path:
        title = f"Regularisation path, {plural(n_folds, 'fit')}{size}"
        return gallery.draw(
            f"training-{recipe}",
            lambda: regularisation_path(titled, title=title),
            caption=(
                f"Choice of the penalty, recipe {recipe}: mean of the folds, band from the "
                f"smallest to the largest (n = {plural(n_folds, 'fit')}{size})."
            ),
            alt=f"Validation loss and accuracy of {recipe} over the inverse penalty.",
        )
    return gallery.draw(
        f"training-{recipe}",
        lambda: learning_curves(titled),
        caption=(
            f"Learning curves, recipe {recipe}, one line a fold "
            f"(n = {plural(n_folds, 'training')}{size}; dashed: train, solid: validation)."
        ),
        alt=f"Loss and accuracy of {recipe} by epoch.",
    )


def _mean_train(study: Study, protocol: str) -> int:
    sizes = [len(fold.ids("train")) for fold in study.folds if fold.protocol == protocol]
    return round(sum(sizes) / len(sizes)) if sizes else 0
