"""The whole count: cells, corrections, shares, comparison with truth, files and pages.

A bundle was fitted on all patients of its study, so that its counts of these flatter it. A study's
own patients are counted by the models of the folds, which held each patient out once; what their
shares are adjusted by comes from the patients of the other folds, calibration included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leukoscope.analyses.count.cells import (
    Cell,
    Material,
    PatientCells,
    apply_corrections,
    count_cells,
)
from leukoscope.analyses.count.shares import (
    CONFIDENCE,
    HELD_OUT,
    Question,
    agreement_with_truth,
    counts_fields,
    notes_of,
    patient_entry,
    patient_shares,
    save_counts,
    seen_as_fields,
)
from leukoscope.config.bundle import ConfusionsFile
from leukoscope.config.counts import AppliedCorrections, CountsFile
from leukoscope.core.errors import DataError, UsageError
from leukoscope.core.files import file_part
from leukoscope.core.known_classes import DIAGNOSES
from leukoscope.core.records import ImageRecord
from leukoscope.core.run_folder import refuse_study
from leukoscope.evaluation.calibration.scaling import apply_calibration
from leukoscope.evaluation.confusions import Confusions
from leukoscope.evaluation.prevalence import PrevalenceModel
from leukoscope.evaluation.run_files import RunFiles
from leukoscope.pipeline.measured import seen_in_training
from leukoscope.pipeline.results.out_of_fold import UnseenImages
from leukoscope.runtime.prediction import Failure
from leukoscope.runtime.predictor import Predictor

if TYPE_CHECKING:
    from leukoscope.reporting.pages.relabel import Sheet

Show = Callable[[str, int, int], None]
OF_CELLS = "count with a bundle of a study whose labels are cell types"


@dataclass(frozen=True)
class Named:
    """Cells, who named them, and what their shares are adjusted by.

    Attributes:
        patients: Their cells.
        by: Bundle, or study and recipe.
        models: Patient → what adjusts its shares; empty where nothing does.
        confusions: What these rest on.
        fields: Whether what is counted are fields of view, not cells.
        notes: What limits the counts.
        labelled: Whether labels of the data are the truth.
    """

    patients: list[PatientCells]
    by: str
    models: Mapping[str, PrevalenceModel]
    confusions: ConfusionsFile | None
    fields: bool
    notes: tuple[str, ...]
    labelled: bool


@dataclass(frozen=True)
class Wanted:
    """What is asked of a count, and what is written.

    Attributes:
        question: Classes, blasts and their threshold.
        out: Gets ``counts.json``, ``counts.csv``, ``patients.csv``, ``cells.csv``,
            ``counts.html`` and ``sheets/``.
        method: How shares are adjusted, see :mod:`leukoscope.evaluation.prevalence`.
        corrections: Files that the sheets saved.
        sheets: Whether to write a sheet of cells for each patient.
        seed: Of the draws behind the intervals.
        show: Told (step, done, total).
    """

    question: Question
    out: Path
    method: str
    corrections: Sequence[Path]
    sheets: bool
    seed: int
    show: Show


Counted = tuple[CountsFile, list[PatientCells]]
"""The content of ``counts.json``, and the cells."""


def make_counts(predictor: Predictor, material: Material, wanted: Wanted) -> Counted:
    """Count what a bundle names, and write everything to a folder.

    Args:
        predictor: A bundle at work.
        material: Images, and their patients.
        wanted: What is asked.

    Raises:
        UsageError: The bundle answers for patients or names diagnoses, or the folder to write to
            holds a study.
    """
    refuse_study(wanted.out)
    record = predictor.record
    if record.patient is not None:
        raise UsageError(
            f"{predictor.bundle.folder}: this bundle answers for patients and does not know what "
            "a single cell is",
            hint=OF_CELLS,
        )
    _refuse_diagnoses("this bundle", record.class_names)
    patients = count_cells(predictor, material, lambda *at: wanted.show("counting", *at))
    known = predictor.bundle.load_confusions()
    models: dict[str, PrevalenceModel] = {}
    if known is not None:
        model = PrevalenceModel(known, method=wanted.method, seed=wanted.seed)
        models = {one.patient: model for one in patients}
    fields = counts_fields(record, patients)
    seen = seen_in_training(predictor, [digest for one in patients for digest in one.sha256])
    notes = [
        *(f"{note}, and counts of other patients will be further from the truth." for note in seen),
        *notes_of(record, adjusted=known is not None, fields=fields),
    ]
    labelled = material.truth is not None
    named = Named(
        patients, predictor.model, models, record.confusions, fields, tuple(notes), labelled
    )
    return _write(named, wanted)


def count_held_out(files: RunFiles, recipe: str, wanted: Wanted) -> Counted:
    """Count the patients of a study as the models of its folds name their cells.

    Args:
        files: Of the study.
        recipe: One of its recipes.
        wanted: What is asked.

    Raises:
        UsageError: The labels of the study are diagnoses, or the folder to write to holds a study.
    """
    refuse_study(wanted.out)
    by_target = files.config.data.target == "diagnosis"
    _refuse_diagnoses("this study", wanted.question.class_names, by_target)
    wanted.show("counting", 0, 1)
    held = HeldOut.of_run(files, recipe, method=wanted.method, seed=wanted.seed)
    wanted.show("counting", 1, 1)
    fields = seen_as_fields(wanted.question.class_names)
    notes = (*notes_of(None, adjusted=True, fields=fields), HELD_OUT)
    by = f"{files.run.path.resolve().name}/{recipe}"
    named = Named(held.patients, by, held.models, held.confusions, fields, notes, labelled=True)
    return _write(named, wanted)


def _refuse_diagnoses(who: str, names: Sequence[str], by_target: bool = False) -> None:
    """A cell has a type, a patient a diagnosis; names that mean both (those of ALL sets) count.

    Args:
        who: What has the classes.
        names: The classes.
        by_target: Whether the study took the column of diagnoses for its labels.

    Raises:
        UsageError: All classes are diagnoses.
    """
    if by_target or DIAGNOSES.issuperset(names):
        raise UsageError(
            f"the classes of {who} ({', '.join(names)}) are diagnoses, not cell types",
            hint=OF_CELLS,
        )


def _write(named: Named, wanted: Wanted) -> Counted:
    """Corrections, shares, files and pages."""
    from leukoscope.reporting.pages.counts import write_counts_page
    from leukoscope.reporting.pages.relabel import write_cell_sheet

    patients, out, classes = named.patients, wanted.out, wanted.question.class_names
    decided = apply_corrections(patients, wanted.corrections, classes)
    files = tuple(path.name for path in wanted.corrections)
    result = _counted(named, wanted.question, AppliedCorrections(files=files, cells=decided))
    save_counts(out, result, patients)
    names = _sheet_names(patients) if wanted.sheets else {}
    for done, one in enumerate(patients if wanted.sheets else (), start=1):
        write_cell_sheet(out / names[one.patient], _sheet(one, named.by, classes))
        wanted.show("sheets", done, len(patients))
    write_counts_page(out, result, names, lambda *at: wanted.show("figures", *at))
    return result, patients


def _counted(named: Named, question: Question, applied: AppliedCorrections) -> CountsFile:
    """The content of ``counts.json``."""
    models = named.models
    found = {
        one.patient: patient_shares(one, models[one.patient], question)
        if one.patient in models
        else None
        for one in named.patients
    }
    notes, truth = [*named.notes], None
    if named.labelled and models:
        truth = agreement_with_truth(named.patients, found, question)
    elif named.labelled:
        notes.append("Without adjusted shares there is no comparison with the labels.")
    used = list(dict.fromkeys(models.values()))  # one, or one a fold: then the means
    return CountsFile(
        schema=1,
        bundle=named.by,
        class_names=question.class_names,
        shows="field" if named.fields else "cell",
        method=used[0].method if used else None,
        step=sum(model.step for model in used) / len(used) if used else None,
        widening=sum(model.widening for model in used) / len(used) if used else None,
        confidence=CONFIDENCE,
        confusions=named.confusions,
        blast_classes=question.blasts,
        blast_threshold=question.threshold,
        notes=tuple(notes),
        patients=tuple(patient_entry(one, found[one.patient], question) for one in named.patients),
        truth=truth,
        corrections=applied,
    )


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


def _sheet(one: PatientCells, by: str, class_names: Sequence[str]) -> Sheet:
    """What the sheet of a patient holds."""
    return {
        "patient": one.patient,
        "sha256": one.sheet_sha256,
        "model": by,
        "class_names": list(class_names),
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


@dataclass(frozen=True)
class HeldOut:
    """The patients of a study as its folds answered them.

    Attributes:
        patients: Their cells, in the order of their names.
        models: Patient → what adjusts its shares; it knows nothing of the patients of its fold.
        confusions: What these rest on.
    """

    patients: list[PatientCells]
    models: dict[str, PrevalenceModel]
    confusions: ConfusionsFile

    @classmethod
    def of_run(cls, files: RunFiles, recipe: str, *, method: str, seed: int) -> HeldOut:
        """Read the answers of a finished study.

        Args:
            files: Of the study.
            recipe: One of its recipes.
            method: How shares are adjusted.
            seed: Of the draws behind the intervals.

        Raises:
            UsageError: Rows of the study are patients, or it held no patients out.
            DataError: A fold is not finished.
        """
        files.need_images("counting cells")
        unseen = UnseenImages.of_run(files, recipe)
        patients = _whole_patients(files, unseen)
        records = {record.image_id: record for record in files.manifest.images}
        found: dict[str, PatientCells] = {}
        models: dict[str, PrevalenceModel] = {}
        for fold in np.unique(unseen.table.fold):
            own = unseen.table.fold == fold
            others = unseen.take(~own)
            calibration, _, _ = others.decide(others.logits)
            known = apply_calibration(others.logits, calibration)
            model = PrevalenceModel(
                Confusions.of(others.table.y_true, known, others.units.tolist()),
                method=method,
                seed=seed,
            )
            probs = apply_calibration(unseen.logits[own], calibration)
            models |= dict.fromkeys(patients[own].tolist(), model)
            for image_id, patient, p in zip(
                unseen.table.image_id[own].tolist(), patients[own].tolist(), probs, strict=True
            ):
                one = found.setdefault(patient, PatientCells(patient))
                one.cells.append(_cell(files, records[image_id], unseen.table.class_names, p))
        _add_labels(files, found)
        confusions = ConfusionsFile(
            protocol=unseen.protocol,
            unit=unseen.unit,
            n_units=len(np.unique(unseen.units)),
            n=len(unseen.table),
        )
        return cls([found[name] for name in sorted(found)], models, confusions)


def _whole_patients(files: RunFiles, unseen: UnseenImages) -> NDArray[np.str_]:
    """(n,) patient of each tested image, each in one fold alone.

    Raises:
        UsageError: Some image names no patient, or a patient is tested in several folds.
    """
    hint = "run the study with -p grouped, on data that names the patient of every image"
    if unseen.patients is None:
        raise UsageError(f"{files.run.path}: not every image names its patient", hint=hint)
    pairs = set(zip(unseen.patients.tolist(), unseen.table.fold.tolist(), strict=True))
    if len(pairs) > len(set(unseen.patients.tolist())):
        raise UsageError(
            f"{files.run.path}: under the protocol {unseen.protocol} patients were not held out as "
            "a whole, so that the models know those whose cells would be counted",
            hint=hint,
        )
    return unseen.patients


def _cell(
    files: RunFiles, record: ImageRecord, class_names: tuple[str, ...], p: NDArray[np.float64]
) -> Cell:
    return Cell(
        cell_id=record.image_id,
        path=str(files.manifest.path_of(record)),
        box=None,
        predicted=class_names[int(p.argmax())],
        probabilities=tuple(p.tolist()),
        decision="accept",
        truth=record.label,
    )


def _add_labels(files: RunFiles, found: dict[str, PatientCells]) -> None:
    """What the data says of the cells of each patient, and which files could not be read."""
    for record in files.manifest.images:
        one = found.get(record.patient_id)
        if one is None or record.status == "excluded":
            continue
        if record.label:
            one.truth[record.label] = one.truth.get(record.label, 0) + 1
        if record.status == "quarantined":
            code, _, message = record.reason.partition(": ")
            one.unreadable.append(Failure(str(files.manifest.path_of(record)), code, message))
