"""From the cells of patients to counts, shares and intervals, as files hold them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leukoscope.analyses.count.cells import PatientCells
from leukoscope.config.bundle import BundleRecord
from leukoscope.core.errors import UnknownNameError
from leukoscope.core.files import write_csv, write_json
from leukoscope.evaluation.prevalence import PrevalenceModel, Shares
from leukoscope.evaluation.statistics.intervals import proportion_interval

BLASTS = (
    "blast", "myeloblast", "lymphoblast", "monoblast", "promonocyte",
    "all", "early_pre_b", "pre_b", "pro_b",
)  # fmt: skip
"""Known classes of cells that count as blasts; those of the public ALL sets are lymphoblasts."""
CONFIDENCE = 0.95
COUNT_COLUMNS = (
    "patient", "class", "cells", "counted_percent", "adjusted_percent", "low_percent",
    "high_percent",
)  # fmt: skip
PATIENT_COLUMNS = (
    "patient", "images", "cells", "rejected", "excluded", "unreadable", "without_cells",
    "corrected", "blasts", "blasts_counted_percent", "blasts_adjusted_percent",
    "blasts_low_percent", "blasts_high_percent", "blasts_against_threshold",
)  # fmt: skip
CELL_COLUMNS = (
    "patient", "cell_id", "path", "box", "predicted", "p", "decision", "corrected", "counted_as",
    "truth",
)  # fmt: skip
SAMPLE_ONLY = (
    "This bundle does not know how its model errs on new patients: shares are as counted, and the "
    "intervals hold the error of the sample alone. Export it again to have them adjusted."
)
NO_PATIENTS = (
    "The confusions were measured on images of patients that the models had seen: how much they "
    "differ between patients is not known, and was taken to be anything from none to strong."
)
HELD_OUT = (
    "Each patient was counted by the models of the fold that held it out, and adjusted by the "
    "confusions of the patients of the other folds. No cell was rejected: the gate is the bundle's."
)
FIELDS = (
    "This bundle names fields of view or tiles of them, not single cells: shares are shares of "
    "images, not a differential of cells."
)
_OF_FIELDS = frozenset(("healthy", "benign", "early_pre_b", "pre_b", "pro_b", "all"))


@dataclass(frozen=True)
class Question:
    """What is asked of the counts.

    Attributes:
        class_names: Of the bundle.
        blasts: Classes that count as blasts; empty asks nothing of them.
        threshold: Share of blasts, 0 to 1, that matters.
    """

    class_names: tuple[str, ...]
    blasts: tuple[str, ...]
    threshold: float

    @property
    def blast_places(self) -> list[int]:
        """Their numbers in the order of the classes."""
        return [self.class_names.index(name) for name in self.blasts]


def blast_classes(class_names: Sequence[str], chosen: Sequence[str] | None) -> tuple[str, ...]:
    """Classes that count as blasts: those chosen, else the known ones.

    Raises:
        UnknownNameError: A chosen class is none of the bundle's.

    >>> blast_classes(["blast", "monocyte"], None), blast_classes(["aml", "apl"], None)
    (('blast',), ())
    """
    for name in chosen or ():
        if name not in class_names:
            raise UnknownNameError("class of the bundle", name, class_names)
    wanted = BLASTS if chosen is None else chosen
    return tuple(name for name in class_names if name in wanted)


def patient_shares(one: PatientCells, model: PrevalenceModel, question: Question) -> Shares | None:
    """Adjusted shares of one patient; None without a cell that counts."""
    names = question.class_names
    open_cells = [c.probabilities for c in one.cells if c.counts and not c.corrected]
    known = Counter(cell.corrected for cell in one.cells if cell.corrected)
    if not open_cells and not known:
        return None
    return model.shares(
        np.array(open_cells).reshape(-1, len(names)), [known[name] for name in names]
    )


def patient_entry(
    one: PatientCells, shares: Shares | None, question: Question
) -> dict[str, object]:
    """What ``counts.json`` holds of one patient.

    Args:
        one: Their cells.
        shares: Adjusted; None where they cannot be.
        question: What is asked.
    """
    counted = [cell for cell in one.cells if cell.counts]
    number = Counter(cell.named for cell in counted)
    n, names = len(counted), question.class_names

    def entry(classes: Sequence[str]) -> dict[str, object]:
        cells = sum(number[name] for name in classes)
        return {"cells": cells, **_share(cells, n, [names.index(c) for c in classes], shares)}

    found: dict[str, object] = {
        "patient": one.patient,
        "images": len({cell.path for cell in one.cells}) + len(one.unreadable) + len(one.empty),
        "cells": n,
        "rejected": sum(c.decision == "reject" and not c.corrected and not c.excluded
                        for c in one.cells),
        "excluded": sum(cell.excluded for cell in one.cells),
        "unreadable": [{"path": lost.path, "reason": lost.reason} for lost in one.unreadable],
        "without_cells": list(one.empty),
        "corrected": sum(bool(cell.corrected) or cell.excluded for cell in one.cells),
        "changed": sum(
            cell.excluded or (bool(cell.corrected) and cell.corrected != cell.predicted)
            for cell in one.cells
        ),
        "classes": [{"class": name, **entry([name])} for name in names],
        "blasts": None,
    }  # fmt: skip
    if question.blasts:
        blasts = entry(question.blasts)
        above = None
        if shares is not None:
            above = round(shares.probability_above(question.blast_places, question.threshold), 4)
        found["blasts"] = blasts | {"call": _call(blasts, question.threshold), "p_above": above}
    return found


def _share(cells: int, n: int, places: Sequence[int], shares: Shares | None) -> dict[str, object]:
    """Shares from 0 to 1; without adjusted ones the interval is that of the sample."""
    if n == 0:
        return dict.fromkeys(("counted", "adjusted", "low", "high"))
    if shares is None:
        found = proportion_interval(cells, n)
        limits = {"adjusted": None, "low": found[0], "high": found[1]}
    else:
        low, high = shares.interval(places, CONFIDENCE)
        limits = {"adjusted": float(shares.value[places].sum()), "low": low, "high": high}
    rounded = {name: None if x is None else round(x, 5) for name, x in limits.items()}
    return {"counted": round(cells / n, 5), **rounded}


def _call(blasts: dict[str, Any], threshold: float) -> str:
    """On which side of the threshold the whole interval lies."""
    if blasts["low"] is None:
        return "no cells"
    if blasts["low"] >= threshold:
        return "above"
    return "below" if blasts["high"] < threshold else "cannot be told"


def counts_fields(record: BundleRecord, patients: Sequence[PatientCells]) -> bool:
    """Whether what is counted are fields of view or tiles, not cells.

    A single cell that is not cut out on black looks like a field: the classes tell, and whether
    large images were cut into tiles.
    """
    if record.field is None or record.field.shows == "cell":
        return False
    tiles = any(cell.box is not None for one in patients for cell in one.cells)
    return tiles or seen_as_fields(record.class_names)


def seen_as_fields(class_names: Sequence[str]) -> bool:
    """Whether all classes are such as a whole field of view is given.

    >>> seen_as_fields(["benign", "pre_b"]), seen_as_fields(["blast", "monocyte"])
    (True, False)
    """
    return _OF_FIELDS.issuperset(class_names)


def notes_of(record: BundleRecord | None, *, adjusted: bool, fields: bool) -> list[str]:
    """What limits these counts, in sentences; ``record`` is None where no bundle counted."""
    notes = []
    if fields:
        notes.append(FIELDS)
    if not adjusted:
        notes.append(SAMPLE_ONLY)
    elif record and record.confusions is not None and record.confusions.unit == "image":
        notes.append(NO_PATIENTS)
    return notes


def save_counts(out: Path, result: dict[str, Any], patients: Sequence[PatientCells]) -> None:
    """Write ``counts.json``, ``counts.csv``, ``patients.csv`` and ``cells.csv``."""
    write_json(out / "counts.json", result)
    write_csv(out / "counts.csv", COUNT_COLUMNS, _count_rows(result))
    write_csv(out / "patients.csv", PATIENT_COLUMNS, map(_patient_row, result["patients"]))
    write_csv(out / "cells.csv", CELL_COLUMNS, _cell_rows(patients))


def _percent(entry: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    names = ("counted", "adjusted", "low", "high")
    return {
        f"{prefix}{name}_percent": "" if entry[name] is None else round(100 * entry[name], 2)
        for name in names
    }


def _count_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"patient": one["patient"], "class": e["class"], "cells": e["cells"], **_percent(e)}
        for one in result["patients"]
        for e in one["classes"]
    ]


def _patient_row(one: dict[str, Any]) -> dict[str, Any]:
    row = {name: one[name] for name in (*PATIENT_COLUMNS[:3], "rejected", "excluded", "corrected")}
    row |= {name: len(one[name]) for name in ("unreadable", "without_cells")}
    if one["blasts"]:
        row |= {"blasts": one["blasts"]["cells"], **_percent(one["blasts"], "blasts_")}
        row["blasts_against_threshold"] = one["blasts"]["call"]
    return row


def _cell_rows(patients: Sequence[PatientCells]) -> list[dict[str, object]]:
    return [
        {
            "patient": one.patient,
            "cell_id": cell.cell_id,
            "path": cell.path,
            "box": "" if cell.box is None else " ".join(map(str, cell.box)),
            "predicted": cell.predicted,
            "p": round(max(cell.probabilities), 6),
            "decision": cell.decision,
            "corrected": cell.corrected or ("(excluded)" if cell.excluded else ""),
            "counted_as": cell.named if cell.counts else "",
            "truth": cell.truth,
        }
        for one in patients
        for cell in one.cells
    ]
