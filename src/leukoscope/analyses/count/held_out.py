"""Counts of a study's own patients, each by the models that had not seen it.

A bundle was fitted on all patients of its study, so that its counts of these flatter it. The models
of the folds held each patient out once; what their shares are adjusted by comes from the patients
of the other folds, calibration included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukoscope.analyses.count.cells import Cell, PatientCells
from leukoscope.config.bundle import ConfusionsFile
from leukoscope.core.errors import UsageError
from leukoscope.core.records import ImageRecord
from leukoscope.evaluation.calibration.scaling import apply_calibration
from leukoscope.evaluation.prevalence import Confusions, PrevalenceModel
from leukoscope.evaluation.run_files import RunFiles
from leukoscope.pipeline.results.out_of_fold import UnseenImages
from leukoscope.runtime.prediction import Failure


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
