"""The sections on single images: where the model looks, what it gets right and wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from leukoscope.core.errors import DataError
from leukoscope.core.files import read_csv, read_json
from leukoscope.evaluation.examples import KINDS
from leukoscope.reporting.content import (
    Block,
    Folded,
    Heading,
    Panels,
    Paragraph,
    Picture,
    Section,
    Table,
)
from leukoscope.reporting.examples import ORDERS, TITLES, ExampleGrid, example_grids
from leukoscope.reporting.explanation_audit_sections import audit_blocks
from leukoscope.reporting.figures.feature_maps import feature_figure
from leukoscope.reporting.figures.thumbnails import class_grid
from leukoscope.reporting.formats import count, finite, number, plural
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.source import Study, class_title, inside
from leukoscope.reporting.tables import Field, plain, table_of, text, value
from leukoscope.reporting.wording import protocol_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def explanations(study: Study, gallery: Gallery) -> Section:
    """Heat maps of right and wrong predictions beside the original, and a map of the features."""
    title = "Where the model looks"
    blocks = [
        *_heat_maps(study, gallery),
        *audit_blocks(study, gallery),
        *_feature_map(study, gallery),
    ]
    return Section("heatmaps", title, blocks)


def _heat_maps(study: Study, gallery: Gallery) -> list[Block]:
    if not study.explanations:
        return [Paragraph("No heat maps were made in this study.", note=True)]
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
    return [*blocks, *_shares(study)]


def _shares(study: Study) -> list[Block]:
    """How much of the heat lies within leukocytes, against what even heat would give."""
    shares = [
        (float(e["share_in_leukocytes"]), finite(e.get("area_of_leukocytes")))
        for e in study.explanations
        if finite(e.get("share_in_leukocytes")) is not None
    ]
    if not shares:
        return []
    heat = number(np.mean([share for share, _ in shares]), "share")
    areas = [area for _, area in shares if area is not None]
    even = f"; heat spread evenly would give {number(np.mean(areas), 'share')}" if areas else ""
    return [
        Paragraph(
            f"On average {heat} of the heat lies within leukocytes{even} "
            f"(n = {plural(len(shares), 'panel')})."
        )
    ]


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
    what = (
        f"True {class_title(true)}, predicted {class_title(predicted)} "
        f"({number(entry.get('p'), 'share')}); {within}."
    )
    name = Path(str(entry.get("path", entry.get("image_id", "")))).name
    return gallery.stored(path, caption=f"{what} `{name}`", alt=f"Original and heat map. {what}")


def examples(study: Study, gallery: Gallery) -> Section:
    """Images that were right, wrong, least certain and most confidently wrong, class by class."""
    recipe = study.recipes[0]
    protocol, scores = study.harshest(recipe)
    title = "Right, wrong and uncertain images"
    if scores is None:
        return Section("examples", title, [
            Paragraph("There are no stored test predictions to look at.", note=True)
        ])  # fmt: skip
    wrong, total = int((scores.y_pred != scores.y_true).sum()), len(scores.y_true)
    where = f"recipe {recipe}, {protocol_title(protocol).lower()}"
    mistakes = plural(wrong, "mistake") if wrong else "No mistake"
    blocks: list[Block] = [Paragraph(f"{mistakes} among {plural(total, 'test image')} ({where}).")]
    absent = 0
    for grid in example_grids(
        KINDS, scores.y_true, scores.probs, study.class_names,
        lambda row: study.image_path(scores.image_id[row]),
    ):  # fmt: skip
        absent += grid.absent
        if grid.shown:
            blocks.append(_grid(grid, gallery, where))
    if absent:
        blocks.append(
            Paragraph(
                f"{plural(absent, 'thumbnail')} left out: the image is no longer where the "
                "configuration says, or cannot be read.",
                note=True,
            )
        )
    return Section("examples", title, blocks)


def _grid(grid: ExampleGrid, gallery: Gallery, where: str) -> Picture:
    title = TITLES[grid.kind]
    return gallery.draw(
        f"examples-{grid.kind}",
        lambda: class_grid(grid.rows),
        caption=(
            f"{title}, {ORDERS[grid.kind]}: {count(grid.shown)} of n = {count(grid.total)} "
            f"({where}). One row a true class; below each image the predicted class with its "
            "probability, and the class that came second."
        ),
        alt=f"{title}: {plural(grid.shown, 'thumbnail')} in rows by true class.",
        photo=True,
    )


def _feature_map(study: Study, gallery: Gallery) -> list[Block]:
    """What the features are arranged by, on one fold's test images."""
    folder = study.run.explanations
    if not (folder / "features.csv").is_file() or not (folder / "features.json").is_file():
        return []
    rows, found = read_csv(folder / "features.csv"), read_json(folder / "features.json")
    try:
        caption = (
            f"The two principal components of the {count(found['dimensions'])} features that the "
            f"last layer reads, recipe {found['recipe']}, "
            f"{protocol_title(found['protocol']).lower()}, test images of fold {found['fold']} "
            f"(n = {plural(found['n'], 'image')})."
        )
        table = _structures(found)
        figure = gallery.draw(
            "features",
            lambda: _drawn(rows, found["explained_variance"]),
            caption=caption,
            alt="Scatter plots of the features, coloured by class and by origin of the images.",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder}: features.csv and features.json are damaged or of another version ({error})",
            hint="delete both, or run the study's explanations again",
        ) from None
    return [
        Heading("What the features are arranged by"),
        figure,
        Paragraph(str(found["verdict"])),
        Folded("Numbers behind this", (table,)),
    ]


def _drawn(rows: list[dict[str, str]], shares: Sequence[float]) -> Figure:
    figure = feature_figure(rows, "pca", shares)
    if figure is None:
        raise ValueError("features.csv has no coordinates")
    return figure


def _structures(found: Mapping[str, Any]) -> Table:
    def purity(title: str, key: str) -> Field:
        return value(title, lambda row: number(row["purity"][key], "share"))

    return table_of(
        f"Share of the {found['neighbours']} nearest neighbours that agree", found["structures"],
        text("Labelling", "labelling"),
        text("Neighbours", lambda row: str(row["crossed"] or "any")),
        value("Groups", "groups"),
        value("Images", lambda row: count(row["purity"]["n"])),
        plain("Silhouette", "silhouette", "silhouette"),
        purity("Agreeing", "value"), purity("By chance", "chance"), purity("At best", "best"),
        plain("From chance to best", "above_chance", "share"),
        note="Images of the same component (duplicates, overlapping fields) are never neighbours. "
        "Other groups: neighbours from the image's own acquisition group left out. Same class: "
        "neighbours of other classes left out.",
    )  # fmt: skip
