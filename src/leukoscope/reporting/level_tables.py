"""The two levels of the hierarchy in one table."""

from __future__ import annotations

from leukoscope.reporting.content import Column, Table
from leukoscope.reporting.formats import count, interval
from leukoscope.reporting.result_tables import marked, protocol_cell
from leukoscope.reporting.source import Study


def levels(study: Study) -> Table | None:
    """Malignant or not, and which subtype if malignant; None where there is one level only."""
    known = {(e["recipe"], e["protocol"]): e for e in study.metrics.get("hierarchy", ())}
    entries = [
        (result, known[key])
        for result in study.results
        if (key := (result["recipe"], result["protocol"])) in known
    ]
    if not any("subtype" in entry for _, entry in entries):
        return None
    rows = []
    for result, entry in entries:
        binary, subtype = entry["binary"]["metrics"], entry.get("subtype", {"metrics": {}})
        rows.append(
            (
                protocol_cell(study, result),
                interval(binary.get("accuracy"), "accuracy"),
                interval(binary.get("log_loss"), "log_loss"),
                interval(subtype["metrics"].get("accuracy"), "accuracy"),
                interval(subtype["metrics"].get("macro_f1"), "macro_f1"),
                interval(entry.get("two_step_accuracy"), "accuracy"),
                count(entry["binary"]["n"]),
                count(subtype.get("n")),
            )
        )
    columns = (
        Column("Protocol"),
        Column("Malignant or not: accuracy", numeric=True),
        Column("Its log loss", numeric=True),
        Column("Subtype if malignant: accuracy", numeric=True),
        Column("Its macro F1", numeric=True),
        Column("Both steps right", numeric=True),
        Column("n images", numeric=True),
        Column("n malignant", numeric=True),
    )
    note = (
        "P(malignant) is the sum over the malignant classes; P(subtype | malignant) is measured on "
        "the truly malignant images. Both steps right: first malignant or not at 0.5, then the "
        "most probable subtype."
    )
    caption = f"The two levels of the hierarchy ({100 * study.confidence:g} % intervals)"
    return marked(Table(caption, columns, tuple(rows), note))
