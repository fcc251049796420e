"""What a report of a double transfer says beside the comparison of its arms."""

from __future__ import annotations

from pathlib import Path

from leukoscope.reporting.arm_charts import draw_curves
from leukoscope.reporting.content import Block, Paragraph, Section
from leukoscope.reporting.formats import count, interval, metric_title, plural
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.source import Study
from leukoscope.reporting.tables import Record, code, table_of, text, value
from leukoscope.reporting.wording import protocol_title


def taken_over(result: Record) -> Section:
    """Which tensors phase 2 has of phase 1, and which are new."""
    taken = result["taken_over"]
    classes = ", ".join(result["phase1"]["class_names"])
    tensors = [("new in phase 2", tensor) for tensor in taken["new"]]
    tensors += [("left behind", tensor) for tensor in taken["left_behind"]]
    words = (
        f"All {plural(taken['taken_over'], 'tensor')} of the backbone ({count(taken['values'])} "
        f"numbers) were taken over from phase 1 and compared one by one. Its head told {classes} "
        "apart and was left behind; phase 2 has a new one, drawn from the same seed in both arms."
    )
    table = table_of(
        "Tensors that are not of the backbone", tensors,
        text("what", lambda row: row[0]),
        code("tensor", lambda row: row[1]["name"], narrow=False),
        value("shape", lambda row: _shape(row[1]["shape"])),
        grouped=True,
    )  # fmt: skip
    return Section("taken-over", "What phase 2 took over", [Paragraph(words), table])


def _shape(shape: list[int]) -> str:
    return " × ".join(map(str, shape)) or "one number"


def overlap(result: Record) -> Section:
    """What the two data sets share."""
    found = result["overlap"]
    kinds = ", ".join(f"{n} × {kind}" for kind, n in found["by_kind"].items())
    words = (
        f"All {count(found['source_images'])} images of the source were compared with the "
        f"{count(found['target_images'])} of the target: by their bytes, their pixels, as near "
        "duplicates (also flipped or turned), as overlapping fields and as cut-out twins. "
    )
    if not found["pairs_in_all"]:
        return Section("overlap", "Do the two data sets overlap?", [Paragraph(words + "None.")])
    words += (
        f"Found: {kinds}. {plural(found['purged'], 'source image')} were left out of phase 1, "
        "those of the same patients and groups among them."
    )
    table = table_of(
        "Shared images", found["pairs"][:20],
        code("source", "source", narrow=False), code("target", "target", narrow=False),
        text("kind", "kind"),
        note=f"{min(20, len(found['pairs']))} of {plural(found['pairs_in_all'], 'pair')}.",
    )  # fmt: skip
    return Section("overlap", "Do the two data sets overlap?", [Paragraph(words), table])


def first_phase(result: Record, study: Study, gallery: Gallery) -> Section:
    """How well phase 1 learned the source."""
    phase1 = result["phase1"]
    scores = "; ".join(
        f"{metric_title(name)} {interval(found, name)}" for name, found in phase1["metrics"].items()
    )
    words = (
        f"Phase 1 learned {', '.join(phase1['class_names'])} on "
        f"{Path(result['source']).name}. On its own test images "
        f"({protocol_title(phase1['protocol']).lower()}, n = {plural(phase1['n'], 'image')}, "
        f"{plural(phase1['n_groups'], phase1['group_unit'])}): {scores}."
    )
    blocks: list[Block] = [Paragraph(words)]
    chart = draw_curves("phase1", {"Phase 1": study}, result["recipe"], gallery)
    return Section("phase1", "Phase 1", [*blocks, *([chart] if chart else [])])
