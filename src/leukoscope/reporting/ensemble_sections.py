"""How the models of an ensemble were combined, and what that was worth."""

from __future__ import annotations

from collections.abc import Sequence

from leukoscope.core.files import read_json
from leukoscope.reporting.content import Block, Paragraph, Section, Table
from leukoscope.reporting.formats import difference, metric_title, number, p_value
from leukoscope.reporting.source import Study
from leukoscope.reporting.tables import (
    N_IMAGES,
    PROTOCOL,
    RECIPE,
    Record,
    code,
    each,
    table_of,
    text,
    value,
)
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


def _members(record: Record) -> Table:
    members = record["members"]
    return table_of(
        f"The {len(members)} members", members,
        code("Member", "name"), RECIPE, code("Run", "run", narrow=False),
        code("SHA-256 of its predictions", lambda m: m["predictions_sha256"][:16] + "…",
             narrow=False),
    )  # fmt: skip


def _weights(record: Record) -> Table:
    names = [member["name"] for member in record["members"]]
    rows = [
        {"method": method, "protocol": protocol, "weights": list(zip(*folds, strict=True))}
        for method, protocols in record["weights"].items()
        for protocol, folds in protocols.items()
    ]

    def weight(folds: Sequence[float]) -> str:
        mean = number(sum(folds) / len(folds), "share")
        return f"{mean} ({100 * min(folds):.1f}–{100 * max(folds):.1f})"

    return table_of(
        "Weights of the members: mean of the folds (smallest–largest)", rows,
        code("Weights", "method"), PROTOCOL,
        *each(
            range(len(names)), lambda k: names[k], lambda e, k: weight(e["weights"][k])
        ),
        grouped=True,
    )  # fmt: skip


def _tests(study: Study, record: Record) -> Table:
    best = ", ".join(
        f"{name} ({protocol_title(protocol).lower()})"
        for protocol, name in record["best_member"].items()
    )
    return table_of(
        "Ensembles against their best member and against plain averaging, paired "
        f"({study.level} intervals)",
        record["tests"],
        PROTOCOL, code("A", "a"), code("B", "b"),
        text("Metric", lambda e: metric_title(e["metric"])),
        value("A − B", lambda e: difference(e["difference"], e["metric"])),
        value("p, Holm", lambda e: p_value(e["p_holm"])), text("A is", "verdict"), N_IMAGES,
        note="A is better or worse where the interval is reliable and leaves 0 out and the "
        "exchange test over groups is significant after Holm's correction for all rows of one "
        "protocol. "
        f"The best member by log loss on validation images, not on test images: {best}.",
        grouped=True,
    )  # fmt: skip
