"""Predictions of new images put together by patient: which image is whose, and the answer."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from leukoscope.config.bundle import BundleRecord
from leukoscope.core.errors import DataError, UsageError
from leukoscope.core.files import read_csv, write_csv
from leukoscope.evaluation.combining import DEFAULT, patient_result
from leukoscope.runtime.prediction import Failure, Prediction, malignant_probability

PatientOf = Callable[[str], str]
NUMBER_COLUMNS = ("low", "high", "stability", "agreement", "n_images", "n_rejected", "n_unreadable")


def patients_of_table(path: Path) -> PatientOf:
    """Read patient ids from a CSV with the columns ``image`` (or ``path``) and ``patient_id``.

    An image is found by its path (relative to the CSV's folder or to the working folder), else by
    its file name if only one row has that name.

    Raises:
        DataError: A column is missing, a row has no image or no patient, or two rows disagree.
    """
    rows = read_csv(path, required=("patient_id",))
    column = next((name for name in ("image", "path") if rows and name in rows[0]), None)
    if column is None:
        raise DataError(f"{path}: expected rows with the columns image (or path) and patient_id")
    places: dict[str, str] = {}
    names: dict[str, set[str]] = {}
    for line, row in enumerate(rows, start=2):
        image, patient = row[column].strip(), row["patient_id"].strip()
        if not image or not patient:
            raise DataError(f"{path}:{line}: expected an image and a patient_id, one is empty")
        place = _place(path.parent / image)
        if places.setdefault(place, patient) != patient:
            raise DataError(f"{path}:{line}: {image} already belongs to patient {places[place]}")
        names.setdefault(Path(image).name, set()).add(patient)

    def patient_of(image: str) -> str:
        by_name = names.get(Path(image).name, set())
        found = places.get(_place(Path(image)))
        return found or (next(iter(by_name)) if len(by_name) == 1 else "")

    return patient_of


def patients_of_folders(root: Path) -> PatientOf:
    """Take the folder directly below ``root`` in which an image lies as its patient.

    Raises:
        UsageError: There is no such folder.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: expected a folder whose subfolders are named after patients")
    top = Path(_place(root))

    def patient_of(image: str) -> str:
        place = Path(_place(Path(image)))
        if not place.is_relative_to(top):
            return ""
        steps = place.relative_to(top).parts
        return steps[0] if len(steps) > 1 else ""

    return patient_of


def check_patients(images: Iterable[Path | Failure], patient_of: PatientOf) -> None:
    """Refuse images without a patient before the first prediction.

    Raises:
        DataError: Names some of them.
    """
    names = (str(item) for item in images if isinstance(item, Path))
    lost = [name for name in names if not patient_of(name)]
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise DataError(
            f"no patient is known for {len(lost)} of the images: {', '.join(lost[:3])}{more}",
            hint="add them to the CSV, put them below a folder of their patient, or leave them out",
        )


@dataclass
class PatientCollector:
    """Collects predictions by patient; only the probabilities of an image are kept.

    Rejected images are counted but not aggregated, because the model does not know what they show.

    Attributes:
        record: The bundle's record: classes and way to aggregate.
        model: Name of the bundle, repeated in each row.
        patient_of: Maps an image to its patient.
    """

    record: BundleRecord
    model: str
    patient_of: PatientOf
    _probs: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)
    _left_out: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of :meth:`rows`, in order."""
        of_classes = (f"p_{name}" for name in self.record.class_names)
        return (
            "patient",
            "predicted",
            *of_classes,
            "p_malignant",
            *NUMBER_COLUMNS,
            "method",
            "model",
        )

    def add(self, answer: Prediction | Failure) -> None:
        """Add one answer; a failure that has no file belongs to no patient."""
        name = answer.path if isinstance(answer, Failure) else answer.image
        patient = self.patient_of(name)
        if not patient:
            return
        probs = self._probs.setdefault(patient, [])
        if isinstance(answer, Failure):
            self._left_out[patient, "unreadable"] += 1
        elif answer.decision == "reject":
            self._left_out[patient, "rejected"] += 1
        else:
            probs.append(tuple(answer.probabilities.values()))

    def rows(self) -> list[dict[str, Any]]:
        """One row per patient, sorted by name; without a class if no image could be used."""
        method = self.record.subject_method or DEFAULT
        rows = []
        for patient, probs in sorted(self._probs.items()):
            row: dict[str, Any] = dict.fromkeys(self.columns)
            row |= {"patient": patient, "n_images": len(probs), "method": method}
            if probs:
                found = patient_result(patient, np.array(probs), method)
                row |= found.to_json(self.record.class_names)
                p = dict(zip(self.record.class_names, found.probs.tolist(), strict=True))
                malignant = malignant_probability(p, self.record.roles)
                row["p_malignant"] = None if malignant is None else round(malignant, 6)
            for why in ("rejected", "unreadable"):
                row[f"n_{why}"] = self._left_out[patient, why]
            rows.append(row | {"model": self.model})
        return rows

    def save(self, path: Path) -> None:
        """Write the rows as CSV."""
        write_csv(path, self.columns, self.rows())


def _place(path: Path) -> str:
    return os.path.normpath(path.absolute())
