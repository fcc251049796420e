"""The audit of heat maps: its table, its words, its place in the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leukoscope.core.errors import DataError
from leukoscope.core.files import read_json
from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting.content import Block, Bullets, Column, Heading, Paragraph, Table
from leukoscope.reporting.figures.explanation_audit import audit_figure
from leukoscope.reporting.figures.heatmaps import METHOD_TITLES
from leukoscope.reporting.formats import DASH, UNRELIABLE_NOTE, interval, plural
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.source import Study
from leukoscope.reporting.wording import protocol_title

MASKS: Mapping[str, str] = {
    "segmented": "leukocytes found by our own segmentation (Dice .967 with whole cells drawn by "
    "hand, 300 images of single cells of Zheng et al. 2018)",
    "exact": "exact masks of drawn phantoms",
    "given": "masks that the user gave",
}
_COLUMNS = (
    ("Pointing game", "hit", "share"),
    ("Heat in leukocytes", "share", "share"),
    ("Insertion", "insertion", ""),
    ("Deletion", "deletion", ""),
    ("ROAD", "road", ""),
    ("Head randomised", 0, ""),
    ("All randomised", -1, ""),
    ("Under noise", "noise", ""),
    ("Max-sensitivity", "sensitivity", ""),
)


def audit_blocks(study: Study, gallery: Gallery) -> list[Block]:
    """The audit in the report; nothing where none was made, a note where models changed since."""
    path = study.run.explanations / "audit.json"
    if not path.is_file():
        return []
    audit = read_json(path)
    title = Heading("May the heat maps be believed?")
    if not isinstance(audit, dict) or "verdicts" not in audit:
        return [
            title,
            Paragraph("The audit of the heat maps was stopped; run it again.", note=True),
        ]
    if not _current(study.run, audit["settings"]):
        text = "The models were trained again since the heat maps were audited; run it again."
        return [title, Paragraph(text, note=True)]
    table, words = audit_table(audit)
    picture = gallery.draw(
        "explanation-audit",
        lambda: audit_figure(audit),
        caption=(
            "Insertion and deletion curves, share of the heat in leukocytes with its interval "
            "beside the share of the area, and rank correlation of the maps before and after "
            f"layers were randomised (n = {plural(len(audit['images']), 'image')})."
        ),
        alt="Heat maps scored beside maps that know no model.",
    )
    return [title, Bullets(tuple(words)), table, picture]


def _current(run: RunFolder, settings: Mapping[str, Any]) -> bool:
    """Whether the models that were audited are those of the run."""
    try:
        return all(
            read_json(run.model(settings["recipe"], settings["protocol"], int(fold))
                      / "checkpoint.json")["sha256"] == sha256
            for fold, sha256 in settings["checkpoints"].items()
        )  # fmt: skip
    except DataError:
        return False


def finished_audit(study: Study) -> Mapping[str, Any] | None:
    """``audit.json``, where it is complete and of the models that are there."""
    path = study.run.explanations / "audit.json"
    audit = read_json(path) if path.is_file() else None
    if not isinstance(audit, dict) or "verdicts" not in audit:
        return None
    return audit if _current(study.run, audit["settings"]) else None


def audit_table(audit: Mapping[str, Any]) -> tuple[Table, list[str]]:
    """One row a map, methods first, and what may be said of each method.

    Args:
        audit: What ``audit.json`` holds.
    """
    settings, summary = audit["settings"], audit["summary"]
    rows = []
    for name, scores in summary.items():
        cells = []
        for _, key, metric in _COLUMNS:
            entry = scores[key] if isinstance(key, str) else scores["randomised"][key]
            cells.append(DASH if entry is None else interval(entry, metric))
        rows.append((_title(name), *cells))
    area = next((s["area"] for s in summary.values() if s["area"]), None)
    n, groups = len(audit["images"]), len({image["group"] for image in audit["images"]})
    table = Table(
        caption=(
            f"Heat maps of {settings['recipe']} ({protocol_title(settings['protocol']).lower()}): "
            f"{plural(n, 'test image')} of {plural(groups, settings['unit'])}"
        ),
        columns=(Column("Map"), *(Column(title, numeric=True) for title, _, _ in _COLUMNS)),
        rows=tuple(rows),
        note=(
            f"Masks: {MASKS[settings['masks']]}; leukocytes cover {interval(area, 'share')} of the "
            "image, which is what the pointing game gives by chance and heat if spread evenly. "
            "Insertion, ROAD: more is better; deletion: less. Randomised: similarity with the map "
            "of the trained model, less is better; under noise: more is better, of "
            f"max-sensitivity less. Intervals resample groups ({settings['unit']}s). "
            + UNRELIABLE_NOTE
        ),
    )
    words = []
    for name, verdict in audit["verdicts"].items():
        words.append(f"{_title(name)}: {verdict['text']}. {_capital(verdict['place'])}.")
    return table, words


def _title(name: str) -> str:
    return _capital(METHOD_TITLES.get(name, name))


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"
