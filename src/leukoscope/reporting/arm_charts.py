"""Figures of a comparison of arms, ready for its report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leukoscope.reporting.content import Picture
from leukoscope.reporting.figures.arms import arm_curves, difference_chart
from leukoscope.reporting.formats import difference, plural
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.source import History, Study
from leukoscope.reporting.wording import protocol_title

Record = Mapping[str, Any]


def arm_titles(result: Record) -> dict[str, str]:
    """Folder → title of each arm."""
    return {arm["name"]: arm["title"] for arm in result["arms"]}


def lower_first(text: str) -> str:
    """A title in the middle of a sentence."""
    return text[:1].lower() + text[1:]


def draw_differences(result: Record, gallery: Gallery) -> Picture | None:
    """The paired differences with their intervals; None where there is no comparison.

    Args:
        result: The content of ``transfer.json`` or ``ablation.json``.
        gallery: Where the figure goes.
    """
    rows = []
    several = len(result["arms"]) > 2
    for row in result["comparisons"]:
        entry = row["differences"]["accuracy"]
        if entry["value"] is None:
            continue
        what = protocol_title(row["protocol"])
        if several:
            what = f"{arm_titles(result)[row['second']]}\n{what}"
        low, high = (None if entry[k] is None else 100 * entry[k] for k in ("low", "high"))
        rows.append((what, difference(entry, "accuracy"), 100 * entry["value"], low, high))
    if not rows:
        return None
    first = arm_titles(result)[result["comparisons"][0]["first"]]
    sizes = ", ".join(str(n) for n in sorted({row["n"] for row in result["comparisons"]}))
    return gallery.draw(
        "differences",
        lambda: difference_chart(
            rows, xlabel=f"difference in accuracy, points (right: {lower_first(first)} is better)"
        ),
        caption=(
            "Paired difference in accuracy on the same test images, with its interval over "
            f"resampled groups (n = {sizes} test images)."
        ),
        alt="Differences in accuracy with intervals; the numbers stand in the table below.",
    )


def draw_curves(
    name: str, studies: Mapping[str, Study], recipe: str, gallery: Gallery
) -> Picture | None:
    """Learning curves side by side; None where no arm was trained by epochs.

    Args:
        name: Stem of the file.
        studies: Title → study of each arm.
        recipe: Which recipe.
        gallery: Where the figure goes.
    """
    panels = []
    trainings = 0
    for protocol in next(iter(studies.values())).protocols:
        arms = {title: _histories(study, recipe, protocol) for title, study in studies.items()}
        if any(arms.values()):
            trainings += sum(len(folds) for folds in arms.values())
            panels.append(
                (protocol_title(protocol), {k: [h.columns for h in v] for k, v in arms.items()})
            )
    if not panels:
        return None
    return gallery.draw(
        name,
        lambda: arm_curves(panels),
        caption=(
            f"Loss and accuracy by epoch (n = {plural(trainings, 'training')}; solid: validation, "
            "dashed: training)."
        ),
        alt="Learning curves of each arm; the numbers stand in each model's history.csv.",
    )


def _histories(study: Study, recipe: str, protocol: str) -> list[History]:
    """Those of gradient training; a linear head has no epochs."""
    return [
        h
        for h in study.histories
        if (h.recipe, h.protocol) == (recipe, protocol) and "epoch" in h.columns
    ]
