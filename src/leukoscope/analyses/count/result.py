"""The whole count: cells, corrections, shares, comparison with truth, files and pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from leukoscope.analyses.count.cells import Material, PatientCells, count_cells
from leukoscope.analyses.count.corrections import apply_corrections
from leukoscope.analyses.count.shares import (
    CONFIDENCE,
    Question,
    counts_fields,
    notes_of,
    patient_entry,
    patient_shares,
    save_counts,
)
from leukoscope.analyses.count.truth import agreement_with_truth
from leukoscope.core.errors import DataError, UsageError
from leukoscope.core.files import file_part
from leukoscope.evaluation.prevalence import PrevalenceModel
from leukoscope.runtime.predictor import Predictor

Show = Callable[[str, int, int], None]


def make_counts(
    predictor: Predictor,
    material: Material,
    question: Question,
    out: Path,
    *,
    method: str,
    corrections: Sequence[Path] = (),
    sheets: bool = True,
    seed: int = 0,
    show: Show,
) -> tuple[dict[str, object], list[PatientCells]]:
    """Count, and write everything to a folder.

    Args:
        predictor: A bundle at work.
        material: Images, and their patients.
        question: Blast classes and their threshold.
        out: Gets ``counts.json``, ``counts.csv``, ``patients.csv``, ``cells.csv``,
            ``counts.html`` and ``sheets/``.
        method: How shares are adjusted, see :mod:`leukoscope.evaluation.prevalence`.
        corrections: Files that the sheets saved.
        sheets: Whether to write a sheet of cells for each patient.
        seed: Of the draws behind the intervals.
        show: Told (step, done, total).

    Returns:
        The content of ``counts.json``, and the cells.
    """
    from leukoscope.reporting.pages.cell_sheet import write_cell_sheet
    from leukoscope.reporting.pages.counts import write_counts_page

    if predictor.record.patient is not None:
        raise UsageError(
            f"{predictor.bundle.folder}: this bundle answers for patients and does not know what "
            "a single cell is",
            hint="count with a bundle of a study whose labels are cell types",
        )
    patients = count_cells(predictor, material, lambda *at: show("counting", *at))
    decided = apply_corrections(patients, corrections, predictor.class_names)
    confusions = predictor.bundle.load_confusions()
    model = None if confusions is None else PrevalenceModel(confusions, method=method, seed=seed)
    result = _counted(predictor, patients, model, question, labelled=material.truth is not None)
    result["corrections"] = {"files": [path.name for path in corrections], "cells": decided}
    save_counts(out, result, patients)
    names = _sheet_names(patients) if sheets else {}
    for done, one in enumerate(patients if sheets else (), start=1):
        write_cell_sheet(out / names[one.patient], _sheet(one, predictor))
        show("sheets", done, len(patients))
    write_counts_page(out, result, names, lambda *at: show("figures", *at))
    return result, patients


def _counted(
    predictor: Predictor,
    patients: Sequence[PatientCells],
    model: PrevalenceModel | None,
    question: Question,
    *,
    labelled: bool,
) -> dict[str, Any]:
    """The content of ``counts.json`` but for the corrections that were applied."""
    found = {
        one.patient: None if model is None else patient_shares(one, model, question)
        for one in patients
    }
    record = predictor.record
    fields = counts_fields(record, patients)
    notes = notes_of(record, adjusted=model is not None, fields=fields)
    truth = None
    if labelled and model is not None:
        truth = agreement_with_truth(patients, found, question)
    elif labelled:
        notes.append("Without adjusted shares there is no comparison with the labels.")
    return {
        "schema": 1,
        "bundle": predictor.model,
        "class_names": list(question.class_names),
        "shows": "field" if fields else "cell",
        "method": None if model is None else model.method,
        "step": None if model is None else model.step,
        "widening": None if model is None else model.widening,
        "confidence": CONFIDENCE,
        "confusions": None if record.confusions is None else record.confusions.model_dump(),
        "blast_classes": list(question.blasts),
        "blast_threshold": question.threshold,
        "notes": notes,
        "patients": [patient_entry(one, found[one.patient], question) for one in patients],
        "truth": truth,
    }


def _sheet_names(patients: Sequence[PatientCells]) -> dict[str, str]:
    """Patient → file of the sheet below the output folder.

    Raises:
        DataError: Two patients would share a file.
    """
    names = {one.patient: f"sheets/{file_part(one.patient)}.html" for one in patients}
    if len({name.casefold() for name in names.values()}) < len(names):
        raise DataError(
            "two patients would have sheets of one name", hint="rename one, or use --no-sheets"
        )
    return names


def _sheet(one: PatientCells, predictor: Predictor) -> dict[str, Any]:
    """What the sheet of a patient holds."""
    return {
        "patient": one.patient,
        "sha256": one.sheet_sha256,
        "model": predictor.model,
        "class_names": list(predictor.class_names),
        "unreadable": [{"path": lost.path, "reason": lost.message} for lost in one.unreadable],
        "cells": [
            {
                "image_id": cell.cell_id,
                "path": cell.path,
                "box": cell.box,
                "predicted": cell.predicted,
                "p": round(max(cell.probabilities), 4),
                "decision": cell.decision,
                "corrected": cell.corrected,
                "excluded": cell.excluded,
            }
            for cell in one.cells
        ],
    }
