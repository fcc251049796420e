"""What the model declines: rejected test images, and outliers that it was never shown."""

from __future__ import annotations

import numpy as np

from leukoscope.core.files import read_csv, read_json
from leukoscope.core.protocols import protocol_title
from leukoscope.core.run_folder import OOD_COLUMNS, OOD_CSV, OOD_JSON
from leukoscope.reporting.content import (
    RECIPE,
    Block,
    Folded,
    Paragraph,
    Record,
    Section,
    Table,
    code,
    plain,
    table_of,
    text,
    value,
)
from leukoscope.reporting.figures.other_data import OodPanel, ood_histograms
from leukoscope.reporting.formats import count, interval, plural
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.study_files import Study

_HELD_OUT = text("Held out", lambda e: protocol_title(e["protocol"]))


def rejection(study: Study, gallery: Gallery) -> Section:
    """Table, figure and kinds of outliers; nothing for a study that measured no gate."""
    entries, table = _entries(study), rejection_table(study)
    blocks: list[Block] = []
    if table is not None:
        share = f"{100 * entries[0]['accept']:g} %"
        blocks = [
            Paragraph(
                "A model answers whatever it is shown. The gate asks first whether an image is "
                "like those it was trained on: several scores are scaled so that 0 is the median "
                "of the validation images and 1 what "
                f"{share} of them do not exceed, and the largest one decides. Its threshold "
                f"accepts {share} of the validation images; under a harsher protocol more test "
                "images are strange, and are declined. Which scores take part was chosen with "
                "synthetic outliers (shuffled, recoloured, doubled, pasted … images), none of "
                "them made of a test image."
            ),
            table,
        ]
        first = entries[0]["recipe"]
        blocks.append(_figure(study, gallery, [e for e in entries if e["recipe"] == first]))
        blocks.append(Folded("By kind of outlier", (_kinds(entries),)))
    return Section("rejection", "What the model declines", blocks)


def _entries(study: Study) -> list[Record]:
    return [e for e in study.metrics.get("ood", ()) if e["roc_auc"] is not None]


def rejection_table(study: Study) -> Table | None:
    """Test images declined, and outliers told from them; None where no gate was measured."""
    entries = _entries(study)
    if not entries:
        return None
    accept = entries[0]["accept"]
    fewest = min(entry["least_n_val"] for entry in entries)
    note = "The synthetic outliers are of the same kinds as those that chose the scores."
    if (fewest + 1) * (1 - accept) < 1 - 1e-9:
        note += (
            f" A fold has only {plural(fewest, 'validation image')}: its threshold is their "
            f"largest score, which cannot promise {100 * accept:g} %."
        )
    return table_of(
        "Test images that the gate declines, and how well it tells synthetic outliers from test "
        f"images ({study.level} intervals over groups; all folds pooled)",
        entries,
        _HELD_OUT, RECIPE,
        value("n images", lambda e: f"{count(e['n'])} ({plural(e['n_groups'], e['unit'])})"),
        value("Declined", lambda e: interval(e["rejected"], "accuracy")),
        value("Accuracy, accepted", lambda e: interval(e["accuracy"].get("accepted"), "accuracy")),
        value("Accuracy, declined", lambda e: interval(e["accuracy"].get("rejected"), "accuracy")),
        value("ROC AUC, outliers", lambda e: interval(e["roc_auc"], "roc_auc")),
        code("Scores", lambda e: ", ".join(k for k, folds in e["folds_using"].items() if folds)),
        note=note, grouped=True,
    )  # fmt: skip


def _kinds(entries: list[Record]) -> Table:
    return table_of(
        "Synthetic outliers made of test images, by kind",
        [{**e, **found, "kind": kind} for e in entries for kind, found in e["kinds"].items()],
        _HELD_OUT, RECIPE, text("Outliers", "kind"), value("n", "n"),
        plain("ROC AUC", "roc_auc", "roc_auc"),
        plain("Accepted", "false_accept", "share"),
        grouped=True,
    )  # fmt: skip


def _figure(study: Study, gallery: Gallery, entries: list[Record]) -> Block:
    panels = [_panel(study, entry) for entry in entries]
    return gallery.draw(
        "strangeness",
        lambda: ood_histograms(panels),
        caption=(
            f"Strangeness of validation images, test images and synthetic outliers, recipe "
            f"{entries[0]['recipe']} (all folds; what lies beyond an end is counted at it; "
            "threshold: mean of the folds)."
        ),
        alt="Histograms; how far outliers are from test images stands in the table above.",
    )


def _panel(study: Study, entry: Record) -> OodPanel:
    parent = study.run.model(entry["recipe"], entry["protocol"], 0).parent
    folders = sorted(path.parent for path in parent.glob(f"fold*/{OOD_CSV}"))
    rows = [row for folder in folders for row in read_csv(folder / OOD_CSV, OOD_COLUMNS)]
    scores = np.array([float(row["score"]) for row in rows])
    outlier = np.array([row["outlier"] != "" for row in rows])
    test = np.array([row["part"] == "test" for row in rows])
    return OodPanel(
        f"{protocol_title(entry['protocol'])}\n(n = {count(entry['n'])})",
        (scores[~test & ~outlier], scores[test & ~outlier], scores[test & outlier]),
        float(np.mean([read_json(folder / OOD_JSON)["threshold"] for folder in folders])),
    )
