"""How the models of an ensemble were combined, and what that was worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leukoscope.core.files import read_json
from leukoscope.reporting.content import Block, Column, Paragraph, Section, Table
from leukoscope.reporting.formats import count, difference, metric_title, number
from leukoscope.reporting.result_tables import marked
from leukoscope.reporting.source import Study
from leukoscope.reporting.wording import protocol_title


def ensembles(study: Study) -> list[Section]:
    """Members, weights and paired tests; nothing for a study that is no ensemble."""
    path = study.run.ensemble
    if not path.is_file():
        return []
    record = read_json(path)
    blocks: list[Block] = [
        Paragraph(
            "Members were combined image by image, fold by fold, from their calibrated "
            "probabilities; all stand in the same parts of the same folds, and the result was "
            "calibrated again on the calibration images. Weights were fitted on the validation "
            "images. No test image took part."
        ),
        _members(record),
    ]
    if record.get("weights"):
        blocks.append(_weights(record))
    if record.get("tests"):
        blocks.append(_tests(study, record))
    return [Section("ensemble", "How the models were combined", blocks)]


def _members(record: Mapping[str, Any]) -> Table:
    columns = (
        Column("Member", code=True, narrow=True),
        Column("Recipe", code=True, narrow=True),
        Column("Run", code=True),
        Column("SHA-256 of its predictions", code=True),
    )
    rows = tuple(
        (m["name"], m["recipe"], m["run"], m["predictions_sha256"][:16] + "…")
        for m in record["members"]
    )
    return Table(f"The {len(rows)} members", columns, rows)


def _weights(record: Mapping[str, Any]) -> Table:
    names = [member["name"] for member in record["members"]]
    rows = []
    for method, protocols in record["weights"].items():
        for protocol, folds in protocols.items():
            cells = []
            for column in zip(*folds, strict=True):
                mean = number(sum(column) / len(column), "share")
                cells.append(f"{mean} ({100 * min(column):.1f}–{100 * max(column):.1f})")
            rows.append((method, protocol_title(protocol), *cells))
    columns = (
        Column("Weights", code=True, narrow=True),
        Column("Protocol"),
        *(Column(name, numeric=True) for name in names),
    )
    caption = "Weights of the members: mean of the folds (smallest–largest)"
    return Table(caption, columns, tuple(rows), grouped=True)


def _tests(study: Study, record: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            protocol_title(test["protocol"]),
            test["a"],
            test["b"],
            metric_title(test["metric"]),
            difference(test["difference"], test["metric"]),
            str(test["verdict"]),
            count(test["n"]),
        )
        for test in record["tests"]
    )
    columns = (
        Column("Protocol"),
        Column("A", code=True, narrow=True),
        Column("B", code=True, narrow=True),
        Column("Metric"),
        Column("A − B", numeric=True),
        Column("A is"),
        Column("n images", numeric=True),
    )
    best = ", ".join(
        f"{name} ({protocol_title(protocol).lower()})"
        for protocol, name in record["best_member"].items()
    )
    note = f"The best member by log loss on validation images, not on test images: {best}."
    caption = (
        "Ensembles against their best member and against plain averaging, paired "
        f"({100 * study.confidence:g} % intervals)"
    )
    return marked(Table(caption, columns, rows, note, grouped=True))
