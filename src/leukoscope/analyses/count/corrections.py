"""What a person decided on a sheet of cells: read, checked and put into the cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from leukoscope.analyses.count.cells import Cell, PatientCells
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_csv

REQUIRED = ("image_id", "given", "decision", "label", "by", "at", "queue_sha256")
"""Columns, as of the corrections that ``relabel`` saves; ``given`` is the predicted class."""
DECISIONS = ("keep", "other", "exclude", "unsure")
SHOWN = 10


def apply_corrections(
    patients: Iterable[PatientCells], files: Sequence[Path], class_names: Sequence[str]
) -> int:
    """Put the decisions of one or more files into the cells; ``unsure`` changes nothing.

    Of several decisions on one cell the latest holds.

    Args:
        patients: Their cells are replaced by corrected ones.
        files: ``corrections.csv`` of the sheets, or of the page of predictions, whose rows name
            no sheet and hold for an image on any of them.
        class_names: Of the bundle.

    Returns:
        Number of cells that a person decided on.

    Raises:
        DataError: Names the wrong rows (the first ten) of a file; no cell is changed then.
    """
    sheets = {one.sheet_sha256: one for one in patients}
    cells = {(sheet, cell.cell_id): cell for sheet, one in sheets.items() for cell in one.cells}
    sheet_of = {image_id: sheet for sheet, image_id in cells}
    decided: dict[tuple[str, str], tuple[str, str, str]] = {}
    for path in files:
        wrong = []
        for line, row in enumerate(read_csv(path, required=REQUIRED), start=2):
            row["queue_sha256"] = row["queue_sha256"] or sheet_of.get(row["image_id"], "")
            key = (row["queue_sha256"], row["image_id"])
            problem = _problem(row, row["queue_sha256"] in sheets, cells.get(key), class_names)
            if problem:
                wrong.append(f"line {line}: {problem}")
            else:
                made = (row["at"], row["decision"], row["label"])
                decided[key] = max(made, decided.get(key, made))
        if wrong:
            more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
            raise DataError(
                f"{path}: {'; '.join(wrong[:SHOWN])}{more}",
                hint="nothing was counted; use the sheets of these images and this bundle",
            )
    for sheet, one in sheets.items():
        one.cells = [
            _corrected(cell, *decided.get((sheet, cell.cell_id), ("", "", ""))[1:])
            for cell in one.cells
        ]
    return sum(decision != "unsure" for _, decision, _ in decided.values())


def _problem(
    row: dict[str, str], known_sheet: bool, cell: Cell | None, class_names: Sequence[str]
) -> str:
    """What is wrong with a row, or empty."""
    if not known_sheet:
        if not row["queue_sha256"]:
            return f"no sheet has an image {row['image_id']!r}"
        return f"it belongs to another sheet ({row['queue_sha256'][:12]})"
    if cell is None:
        return f"the sheet has no cell {row['image_id']!r}"
    if row["given"] != cell.predicted:
        return f"the bundle says {cell.predicted}, the row {row['given']!r}"
    if row["decision"] not in DECISIONS:
        return f"expected a decision of {', '.join(DECISIONS)}, found {row['decision']!r}"
    if row["decision"] == "other" and row["label"] not in class_names:
        return f"expected a class of {', '.join(class_names)}, found {row['label']!r}"
    if row["decision"] == "keep" and row["label"] != cell.predicted:
        return f"keep means {cell.predicted}, the row says {row['label']!r}"
    if not row["by"] or not row["at"]:
        return "expected who decided (by) and when (at), one is empty"
    return ""


def _corrected(cell: Cell, decision: str, label: str) -> Cell:
    if decision in ("keep", "other"):
        return replace(cell, corrected=label)
    return replace(cell, excluded=True) if decision == "exclude" else cell
