"""The sections on the model: training, heat maps, mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.reporting import data_tables as tables
from leukoscope.reporting import rules
from leukoscope.reporting.content import Block, Panels, Paragraph, Picture, Section
from leukoscope.reporting.figures.style import short_title
from leukoscope.reporting.figures.thumbnails import Thumb, montage
from leukoscope.reporting.figures.training import learning_curves, regularisation_path
from leukoscope.reporting.formats import count, finite, number, plural
from leukoscope.reporting.gallery import Gallery, load_thumb
from leukoscope.reporting.source import History, Scores, Study, class_title, inside
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


def explanations(study: Study, gallery: Gallery) -> Section:
    """Heat maps of right and wrong predictions, beside the original."""
    if not study.explanations:
        return Section("heatmaps", "Where the model looks", [
            Paragraph("No heat maps were made in this study.", note=True)
        ])  # fmt: skip
    entry = study.explanations[0]
    protocol = protocol_title(str(entry.get("protocol", ""))).lower()
    blocks: list[Block] = [
        Paragraph(
            "Grad-CAM marks the regions that raise the score of the predicted class, on images "
            f"that the model had not seen (protocol: {protocol}). It shows where, not why: heat "
            "on a leukocyte does not prove that its morphology was read."
        )
    ]
    for kind, title in (("right", "Right predictions"), ("wrong", "Wrong predictions")):
        entries = [e for e in study.explanations if e.get("kind") == kind]
        pictures = tuple(p for e in entries if (p := _panel(study, gallery, e)) is not None)
        if pictures:
            blocks.append(Panels(f"{title} (n = {len(pictures)} shown)", pictures))
        if len(pictures) < len(entries):
            blocks.append(
                Paragraph(f"{plural(len(entries) - len(pictures), 'panel')} missing.", note=True)
            )
    shares = [
        (float(e["share_in_leukocytes"]), finite(e.get("area_of_leukocytes")))
        for e in study.explanations
        if finite(e.get("share_in_leukocytes")) is not None
    ]
    if shares:
        heat = number(np.mean([share for share, _ in shares]), "share")
        areas = [area for _, area in shares if area is not None]
        even = f"; heat spread evenly would give {number(np.mean(areas), 'share')}" if areas else ""
        blocks.append(
            Paragraph(
                f"On average {heat} of the heat lies within leukocytes{even} "
                f"(n = {plural(len(shares), 'panel')})."
            )
        )
    return Section("heatmaps", "Where the model looks", blocks)


def _panel(study: Study, gallery: Gallery, entry: Mapping[str, Any]) -> Picture | None:
    path = inside(study.run.path, str(entry.get("panel", "")))
    if path is None:
        return None
    true, predicted = str(entry.get("y_true", "")), str(entry.get("y_pred", ""))
    share = finite(entry.get("share_in_leukocytes"))
    within = (
        "no leukocyte was found"
        if share is None
        else f"{number(share, 'share')} of the heat within leukocytes"
    )
    text = (
        f"True {class_title(true)}, predicted {class_title(predicted)} "
        f"({number(entry.get('p'), 'share')}); {within}."
    )
    name = Path(str(entry.get("path", entry.get("image_id", "")))).name
    return gallery.stored(path, caption=f"{text} `{name}`", alt=f"Original and heat map. {text}")


def mistakes(study: Study, gallery: Gallery) -> Section:
    """The images that were wrong with the greatest confidence."""
    recipe = study.recipes[0]
    protocol, scores = _hardest(study, recipe)
    if scores is None:
        return Section("mistakes", "Mistakes", [
            Paragraph("There are no stored test predictions to look at.", note=True)
        ])  # fmt: skip
    wrong = np.flatnonzero(scores.y_pred != scores.y_true).astype(np.int64)
    total = len(scores.y_true)
    where = f"recipe {recipe}, {protocol_title(protocol).lower()}"
    if len(wrong) == 0:
        text = f"None among {plural(total, 'test image')} ({where})."
        return Section("mistakes", "Mistakes", [Paragraph(text)])
    confidence = scores.probs.max(axis=1)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")]
    thumbs, absent = _thumbs(study, scores, order)
    blocks: list[Block] = []
    if thumbs:
        blocks.append(
            gallery.draw(
                "mistakes",
                lambda: montage(thumbs),
                caption=(
                    f"{count(len(thumbs))} of {plural(len(wrong), 'mistake')} among "
                    f"n = {count(total)} test images, the most confident first ({where}). First "
                    "line: true class. Second line: predicted class with its probability."
                ),
                alt=f"Thumbnails of {len(thumbs)} images that were misclassified.",
                photo=True,
            )
        )
    else:
        blocks.append(
            Paragraph(
                f"{plural(len(wrong), 'mistake')} among {plural(total, 'test image')} ({where})."
            )
        )
    if absent:
        blocks.append(
            Paragraph(
                f"{plural(absent, 'thumbnail')} left out: the image is no longer where the "
                "configuration says, or cannot be read.",
                note=True,
            )
        )
    return Section("mistakes", "Mistakes", blocks)


def _hardest(study: Study, recipe: str) -> tuple[str, Scores | None]:
    for protocol in reversed(study.protocols):
        scores = study.scores(recipe, protocol)
        if scores is not None and len(scores.y_true):
            return protocol, scores
    return "", None


def _thumbs(study: Study, scores: Scores, order: NDArray[np.int64]) -> tuple[list[Thumb], int]:
    """Thumbnails in the given order until there are enough, and how many images were absent."""
    thumbs: list[Thumb] = []
    absent = 0
    confidence = scores.probs.max(axis=1)
    for row in order[: 2 * MOST_MISTAKES]:
        if len(thumbs) == MOST_MISTAKES:
            break
        image = load_thumb(study.image_path(scores.image_id[row]))
        if image is None:
            absent += 1
            continue
        true, predicted = (study.class_names[k] for k in (scores.y_true[row], scores.y_pred[row]))
        text = f"→ {short_title(predicted)} {confidence[row]:.2f}"
        thumbs.append(Thumb(image, ((short_title(true), "#1b2430"), (text, "#b23c00"))))
    return thumbs, absent
