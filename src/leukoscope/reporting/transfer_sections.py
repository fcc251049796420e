"""What a report of a double transfer says beside the comparison of its arms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leukoscope.reporting.arm_charts import draw_curves
from leukoscope.reporting.content import Block, Column, Paragraph, Section, Table
from leukoscope.reporting.formats import count, interval, metric_title, plural
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.source import Study
from leukoscope.reporting.wording import protocol_title

Record = Mapping[str, Any]


def taken_over(result: Record) -> Section:
    """Which tensors phase 2 has of phase 1, and which are new."""
    taken = result["taken_over"]
    classes = ", ".join(result["phase1"]["class_names"])
    rows = [("new in phase 2", t["name"], _shape(t["shape"])) for t in taken["new"]]
    rows += [("left behind", t["name"], _shape(t["shape"])) for t in taken["left_behind"]]
    text = (
        f"All {plural(taken['taken_over'], 'tensor')} of the backbone ({count(taken['values'])} "
        f"numbers) were taken over from phase 1 and compared one by one. Its head told {classes} "
        "apart and was left behind; phase 2 has a new one, drawn from the same seed in both arms."
    )
    table = Table(
        caption="Tensors that are not of the backbone",
        columns=(Column("what"), Column("tensor", code=True), Column("shape", numeric=True)),
        rows=tuple(rows),
        grouped=True,
    )
    return Section("taken-over", "What phase 2 took over", [Paragraph(text), table])


def _shape(shape: list[int]) -> str:
    return " × ".join(map(str, shape)) or "one number"


def overlap(result: Record) -> Section:
    """What the two data sets share."""
    found = result["overlap"]
    kinds = ", ".join(f"{n} × {kind}" for kind, n in found["by_kind"].items())
    text = (
        f"All {count(found['source_images'])} images of the source were compared with the "
        f"{count(found['target_images'])} of the target: by their bytes, their pixels, as near "
        "duplicates (also flipped or turned), as overlapping fields and as cut-out twins. "
    )
    if not found["pairs_in_all"]:
        return Section("overlap", "Do the two data sets overlap?", [Paragraph(text + "None.")])
    text += (
        f"Found: {kinds}. {plural(found['purged'], 'source image')} were left out of phase 1, "
        "those of the same patients and groups among them."
    )
    table = Table(
        caption="Shared images",
        columns=(Column("source", code=True), Column("target", code=True), Column("kind")),
        rows=tuple((p["source"], p["target"], p["kind"]) for p in found["pairs"][:20]),
        note=f"{min(20, len(found['pairs']))} of {plural(found['pairs_in_all'], 'pair')}.",
    )
    return Section("overlap", "Do the two data sets overlap?", [Paragraph(text), table])


def first_phase(result: Record, study: Study, gallery: Gallery) -> Section:
    """How well phase 1 learned the source."""
    phase1 = result["phase1"]
    scores = "; ".join(
        f"{metric_title(name)} {interval(value, name)}" for name, value in phase1["metrics"].items()
    )
    text = (
        f"Phase 1 learned {', '.join(phase1['class_names'])} on "
        f"{Path(result['source']).name}. On its own test images "
        f"({protocol_title(phase1['protocol']).lower()}, n = {plural(phase1['n'], 'image')}, "
        f"{plural(phase1['n_groups'], phase1['group_unit'])}): {scores}."
    )
    blocks: list[Block] = [Paragraph(text)]
    chart = draw_curves("phase1", {"Phase 1": study}, result["recipe"], gallery)
    return Section("phase1", "Phase 1", [*blocks, *([chart] if chart else [])])
