"""By patient: what the images of each one say together, and how often that is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from leukoscope.reporting.content import Block, Column, Folded, Paragraph, Picture, Section, Table
from leukoscope.reporting.figures.subjects import PatientLine, patient_chart
from leukoscope.reporting.formats import interval, metric_title, number, plural, sizes
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.result_tables import marked
from leukoscope.reporting.source import Study, class_title

METHOD_TITLES: Mapping[str, str] = {
    "mean-logit": "mean logit",
    "median-probability": "median probability",
    "vote": "vote of the images",
}
METRICS = ("accuracy", "recall_malignant", "specificity_malignant", "roc_auc", "log_loss")


def subjects(study: Study, gallery: Gallery) -> Section:
    """Results by patient; empty for a study from before these were computed."""
    text, table = patient_results(study)
    blocks: list[Block] = [Paragraph(text)] if text else []
    if table is not None:
        first = _entries(study)[0]
        blocks += [table, _chart(study, gallery, first), _listed(study, first)]
    return Section("patients", "By patient", blocks)


def patient_results(study: Study) -> tuple[str, Table | None]:
    """How patients were judged, or why they were not, and their results; empty if unknown."""
    entries = _entries(study)
    if entries:
        return _meaning(study, entries[0]), _results(study, entries)
    reason = (study.metrics.get("subjects") or {}).get("inapplicable", "").rstrip(".")
    return f"Results by patient do not apply: {reason}." if reason else "", None


def _entries(study: Study) -> list[Mapping[str, Any]]:
    found = study.metrics.get("subjects") or {}
    return [entry for entry in found.get("results", ()) if entry["n"]]


def _meaning(study: Study, entry: Mapping[str, Any]) -> str:
    by_class = ", ".join(f"{class_title(name)} {n}" for name, n in entry["by_class"].items())
    text = (
        f"The images of each patient were aggregated to one answer: {plural(entry['n'], 'patient')}"
        f" ({by_class}) with {plural(entry['n_images'], 'image')}, each tested once by a model "
        "that saw none of that patient. How to aggregate was chosen in each fold by log loss on "
        f"its validation patients, never on the tested ones: {_choice(entry)}."
    )
    if entry["mixed"]:
        text += f" Left out: {plural(len(entry['mixed']), 'patient')} with images of two classes."
    joined = sum("+" in row["patient"] for row in entry["patients"])
    if joined:
        ids = sum(row["patient"].count("+") + 1 for row in entry["patients"])
        text += (
            f" The data names {ids} ids; {plural(joined, 'patient')} here "
            f"{'stands' if joined == 1 else 'stand'} for ids that share the same cells."
        )
    return text


def _choice(entry: Mapping[str, Any]) -> str:
    """The chosen methods, and how many patients each choice rests on."""
    chosen = Counter(METHOD_TITLES[fold["method"]] for fold in entry["folds"])
    n = [fold["n_val"] for fold in entry["folds"]]
    folds = ", ".join(f"{name} in {plural(k, 'fold')}" for name, k in chosen.items())
    return f"{folds} ({sizes(sorted(n))} validation patients)"


def _results(study: Study, entries: Sequence[Mapping[str, Any]]) -> Table:
    names = [name for name in METRICS if name in entries[0]["metrics"]]
    columns = (
        Column("Recipe", code=True, narrow=True),
        *(Column(metric_title(name), numeric=True) for name in names),
        Column("n patients", numeric=True),
    )
    rows = tuple(
        (
            entry["recipe"],
            *(interval(entry["metrics"].get(name), name) for name in names),
            str(entry["n"]),
        )
        for entry in entries
    )
    note = (
        "Intervals count patients: exact (Clopper–Pearson) for proportions, a bootstrap over "
        "patients for the others, none where the ranking is perfect. Below ten patients of a "
        "class they are marked unreliable."
    )
    caption = f"Results by patient ({100 * study.confidence:g} % intervals)"
    return marked(Table(caption, columns, rows, note))


def _chart(study: Study, gallery: Gallery, entry: Mapping[str, Any]) -> Picture:
    names = study.class_names
    two = len(names) == 2
    lines = [_line(row, names) for row in entry["patients"]]
    lines.sort(key=lambda line: (names.index(line.true), line.value))
    wrong = sum(not line.right for line in lines)
    of = class_title(names[-1]) if two else "the predicted class"
    return gallery.draw(
        "patients",
        lambda: patient_chart(
            lines, xlabel=f"aggregated probability of {of}", threshold=0.5 if two else None
        ),
        caption=f"Each patient’s aggregated probability of {of}, recipe {entry['recipe']} "
        f"(n = {len(lines)} patients; in brackets their images). Lines: "
        f"{100 * study.confidence:g} % bootstrap over the patient’s own images.",
        alt=f"{wrong} of {len(lines)} patients are predicted wrongly; the table lists all.",
    )


def _line(row: Mapping[str, Any], names: Sequence[str]) -> PatientLine:
    value, low, high = row[f"p_{row['predicted']}"], row["low"], row["high"]
    if len(names) == 2 and row["predicted"] != names[-1]:
        value = 1 - value
        low, high = (None, None) if low is None else (1 - high, 1 - low)
    right = row["predicted"] == row["true"]
    return PatientLine(row["patient"], row["true"], value, low, high, right, row["n_images"])


def _listed(study: Study, entry: Mapping[str, Any]) -> Table | Folded:
    columns = (
        Column("Truth"),
        Column("Patient", code=True, narrow=True),
        Column("Predicted"),
        Column("Probability", numeric=True),
        Column("Stable", numeric=True),
        Column("Images that agree", numeric=True),
        Column("n images", numeric=True),
    )
    rows = []
    for row in entry["patients"]:
        wrong = "" if row["predicted"] == row["true"] else " ✖"
        p = {"value": row[f"p_{row['predicted']}"], "low": row["low"], "high": row["high"]}
        rows.append(
            (
                class_title(row["true"]),
                row["patient"],
                class_title(row["predicted"]) + wrong,
                interval(p, "share"),
                number(row["stability"], "share"),
                number(row["agreement"], "share"),
                str(row["n_images"]),
            )
        )
    note = (
        "Probability: of the predicted class, with a bootstrap over the patient’s own images; it "
        "knows nothing of other patients, slides or models. Stable: share of the replicates with "
        "the same answer. ✖ wrong."
    )
    table = Table(f"The patients, recipe {entry['recipe']}", columns, tuple(rows), note, True)
    return table if len(rows) <= 40 else Folded(f"All {len(rows)} patients", (table,))
