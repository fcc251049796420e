"""Predictions of new images put together by patient: which image is whose, and the answer."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import BundleRecord
from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.core.errors import DataError, UsageError
from leukoscope.core.files import sha256_bytes, write_bytes, write_csv
from leukoscope.core.labels import class_title, resolve_class
from leukoscope.core.tables import read_rows
from leukoscope.core.views import is_or_are, plural
from leukoscope.evaluation.calibration.conformal import prediction_sets
from leukoscope.evaluation.calibration.scaling import apply_calibration
from leukoscope.evaluation.combining import DEFAULT, patient_result
from leukoscope.evaluation.gate import PatientGate
from leukoscope.evaluation.patient_heads import PatientHead, head_result
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.runtime.cell_sheet import cell_sheet, deciding_cells
from leukoscope.runtime.heatmap import encode_png
from leukoscope.runtime.prediction import Failure, Prediction, decide, malignant_probability
from leukoscope.runtime.predictor import Predictor

PatientOf = Callable[[str], str]
NUMBER_COLUMNS = ("low", "high", "stability", "agreement", "n_images", "n_rejected", "n_unreadable")
_NAMED = 3  # in a message
DECIDED = ("prediction_set", "decision", "reasons", "distance")
"""Columns of bundles that answer for patients."""


def patients_of_table(path: Path) -> PatientOf:
    """Read patient ids from a CSV with the columns ``image`` (or ``path``) and ``patient_id``.

    An image is found by its path (relative to the CSV's folder or to the working folder), else by
    its file name if only one row has that name.

    Raises:
        DataError: A column is missing, a row has no image or no patient, or two rows disagree.
    """
    rows = read_rows(path, ("patient_id",))
    column = next((name for name in ("image", "path") if rows and name in rows[0][1]), None)
    if column is None:
        raise DataError(f"{path}: expected rows with the columns image (or path) and patient_id")
    places: dict[str, str] = {}
    names: dict[str, set[str]] = {}
    for line, row in rows:
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
    """The patients of a folder: those that ``data inspect`` finds, else the folders below it.

    The folder directly below ``root`` in which an image lies is its patient, unless its layout says
    that the patients lie elsewhere, as in ``class/patient/image``.

    Raises:
        UsageError: There is no such folder, or the folders below it are classes, and no patients
            are named.
    """
    from leukoscope.datasets.layouts.inspection import patients_in

    if not root.is_dir():
        raise UsageError(f"{root}: expected a folder whose subfolders are named after patients")
    top = Path(_place(root))
    of_layout = patients_in(root)
    if not any(of_layout.values()):
        _refuse_classes(root, of_layout)
    by_folders = _same_patients(of_layout)
    of_folder = _patients_by_folder(of_layout)

    def patient_of(image: str) -> str:
        place = Path(_place(Path(image)))
        if not place.is_relative_to(top):
            return ""
        below = place.relative_to(top)
        if not by_folders:
            name = below.as_posix()
            return of_layout.get(name) or of_folder.get(below.parent.as_posix(), "")
        return below.parts[0] if len(below.parts) > 1 else ""

    return patient_of


def _same_patients(of_layout: Mapping[str, str]) -> bool:
    """Whether the folders at the top are the layout's patients, and not classes of one each."""
    pairs = {(path.partition("/")[0], name) for path, name in of_layout.items() if name}
    folders, names = {folder for folder, _ in pairs}, {name for _, name in pairs}
    alike = len(pairs) == len(folders) == len(names)
    return alike and all(folder in names or resolve_class(folder) is None for folder in folders)


def _patients_by_folder(of_layout: Mapping[str, str]) -> dict[str, str]:
    """Folder → the patient of all its images, for files that the layout does not list."""
    found: dict[str, set[str]] = {}
    for path, name in of_layout.items():
        found.setdefault(path.rpartition("/")[0] or ".", set()).add(name)
    return {folder: names.pop() for folder, names in found.items() if len(names) == 1}


def _refuse_classes(root: Path, of_layout: Mapping[str, str]) -> None:
    """Refuse folders that are named after classes, of which none can be a patient."""
    folders = sorted({path.partition("/")[0] for path in of_layout if "/" in path})
    classes = [name for name in folders if resolve_class(name) is not None]
    if len(classes) > 1 and 2 * len(classes) > len(folders):
        more = " …" if len(classes) > _NAMED else ""
        raise UsageError(
            f"{root}: its folders are named after classes ({', '.join(classes[:_NAMED])}{more}), "
            "not after patients, and nothing in it names patients",
            hint="name a CSV with the columns image and patient_id: --by-patient of `predict`, "
            "--patients of `count`",
        )


def patients_named(place: Path) -> PatientOf:
    """The patient of an image: by a CSV with image and patient_id, or by the folder it lies in.

    Raises:
        UsageError: There is no such file or folder, or the CSV lacks a column.
    """
    return patients_of_folders(place) if place.is_dir() else patients_of_table(place)


def check_patients(
    images: Iterable[str | Path | Failure],
    patient_of: PatientOf,
    hint: str = "add them to the CSV, put them below a folder of their patient, or leave them out",
) -> None:
    """Refuse images without a patient before the first prediction.

    Raises:
        DataError: Names some of them.
    """
    names = (str(item) for item in images if not isinstance(item, Failure))
    lost = [name for name in names if not patient_of(name)]
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise DataError(
            f"no patient is known for {len(lost)} of the images: {', '.join(lost[:3])}{more}",
            hint=hint,
        )


@dataclass(frozen=True, eq=False)
class UsedImage:
    """What is kept of an answer for an image.

    Attributes:
        name: Of the image.
        probs: Calibrated probabilities, one a class.
        features: (D,) in bundles that answer for patients, else None.
    """

    name: str
    probs: tuple[float, ...]
    features: NDArray[np.float32] | None


@dataclass
class PatientCollector:
    """Collects predictions by patient; only what the answer needs is kept of an image.

    Rejected images are counted but not aggregated, because the model does not know what they show.
    A bundle whose study had patients as its unit answers with its own head, calibrated for
    patients; another one aggregates the answers for the images.

    Attributes:
        record: The bundle's record: classes and way to aggregate.
        model: Name of the bundle, repeated in each row.
        patient_of: Maps an image to its patient.
        head: What answers for a patient; None aggregates probabilities.
        gate: Whom a patient as a whole is compared with; None where the bundle has no limits.
    """

    record: BundleRecord
    model: str
    patient_of: PatientOf
    head: PatientHead | None = None
    gate: PatientGate | None = None
    _images: dict[str, list[UsedImage]] = field(default_factory=dict)
    _left_out: Counter[tuple[str, str]] = field(default_factory=Counter)

    @classmethod
    def of(cls, predictor: Predictor, patient_of: PatientOf) -> PatientCollector:
        """For the answers of a bundle at work."""
        return cls(
            predictor.record, predictor.model, patient_of, predictor.patient_head,
            predictor.patient_gate,
        )  # fmt: skip

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of :meth:`rows`, in order."""
        of_classes = (f"p_{name}" for name in self.record.class_names)
        decided = () if self.head is None else DECIDED
        return (
            "patient",
            "predicted",
            *of_classes,
            "p_malignant",
            *NUMBER_COLUMNS,
            *decided,
            "method",
            "model",
        )

    def add(self, answer: Prediction | Failure) -> None:
        """Add one answer; a failure that has no file belongs to no patient."""
        name = answer.path if isinstance(answer, Failure) else answer.image
        patient = self.patient_of(name)
        if not patient:
            return
        images = self._images.setdefault(patient, [])
        if isinstance(answer, Failure):
            self._left_out[patient, "unreadable"] += 1
        elif answer.decision == "reject":
            self._left_out[patient, "rejected"] += 1
        else:
            probs = tuple(answer.probabilities.values())
            images.append(UsedImage(answer.image, probs, answer.features))

    def rows(self) -> list[dict[str, Any]]:
        """One row per patient, sorted by name; without a class if no image could be used."""
        method: str = self.record.subject_method or DEFAULT
        if self.record.patient is not None:
            method = self.record.patient.pooling
        rows = []
        for patient, images in sorted(self._images.items()):
            row: dict[str, Any] = dict.fromkeys(self.columns)
            row |= {"patient": patient, "n_images": len(images), "method": method}
            for why in ("rejected", "unreadable"):
                row[f"n_{why}"] = self._left_out[patient, why]
            if images:
                row |= self._answered(patient, images, method)
            elif self.head is not None:
                row |= {"decision": "reject", "reasons": "No image could be used."}
            rows.append(row | {"model": self.model})
        return rows

    def _answered(self, patient: str, images: list[UsedImage], method: str) -> dict[str, Any]:
        """What is said of a patient with images that can be used."""
        if self.head is None:
            probs = np.array([image.probs for image in images])
            found = patient_result(patient, probs, method)
        else:
            features = features_of(images)
            found = head_result(patient, features, self.head, self._calibrated)
        row = found.to_json(self.record.class_names)
        p = dict(zip(self.record.class_names, found.probs.tolist(), strict=True))
        malignant = malignant_probability(p, self.record.roles)
        row["p_malignant"] = None if malignant is None else round(malignant, 6)
        return row if self.head is None else row | self._decided(patient, p, images)

    def _calibrated(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        return apply_calibration(logits, self.record.calibration)

    def _decided(
        self, patient: str, p: Mapping[str, float], images: list[UsedImage]
    ) -> dict[str, object]:
        """Prediction set, decision, reasons and distance of a patient."""
        probs = np.array([list(p.values())])
        inside = prediction_sets(probs, self.record.conformal)[0]
        chosen = tuple(name for name, is_in in zip(p, inside, strict=True) if is_in)
        by_answer = self.record.model_copy(update={"quality": None, "ood": None})
        decision, reasons = decide(
            by_answer, chosen, None, {}, probabilities=p, unsure=not chosen,
            beyond=self._about_images(patient, len(images)),
        )  # fmt: skip
        distance, far = self._distance(images)
        if far:
            decision, reasons = "reject", (far, *reasons)
        best = max(p, key=lambda name: p[name])
        return {
            "prediction_set": " ".join(chosen or (best,)),
            "decision": decision,
            "reasons": " ".join(reasons),
            "distance": distance,
        }

    def _distance(self, images: list[UsedImage]) -> tuple[float | None, str]:
        """How far a patient as a whole is from those of the study, and what to say if too far."""
        limits = self.record.patient.limits if self.record.patient else None
        if self.gate is None or limits is None:
            return None, ""
        found, limit = self.gate.distance(features_of(images)), limits.distance(len(images))
        if found <= limit:
            return round(found, 6), ""
        return round(found, 6), (
            f"The images together are unlike those of the study's patients (distance {found:.4g}, "
            f"accepted up to {limit:.4g})."
        )

    def _about_images(self, patient: str, used: int) -> list[str]:
        """What a reader must know of the images that the answer rests on, in sentences."""
        found, model = [], self.record.patient
        if model is not None and used < model.images[0]:
            found.append(
                f"{plural(used, 'usable image')}; the patients of the study had "
                f"{model.images[0]} or more."
            )
        lost = self._left_out[patient, "rejected"]
        limits = None if model is None else model.limits
        if lost / (used + lost) > (0.5 if limits is None else limits.rejected):
            usual = "" if limits is None else (
                f"; of the study's patients {limits.accept:.0%} had at most {limits.rejected:.0%}"
            )  # fmt: skip
            found.append(
                f"{lost} of {plural(used + lost, 'image')} {is_or_are(lost)} unlike the training "
                f"images{usual}."
            )
        return found

    def save(self, path: Path) -> None:
        """Write the rows as CSV."""
        write_csv(path, self.columns, self.rows())

    def save_sheets(self, folder: Path) -> list[Path]:
        """Draw for each patient the cells that decided, from the files named in the answers.

        Returns:
            The sheets; none where the bundle aggregates answers for images.
        """
        found = []
        for patient, images in sorted(self._images.items()):
            if self.head is None or not images:
                continue
            X = features_of(images)
            probs = self._calibrated(self.head.logits(X)[None])[0]
            best = int(probs.argmax())
            name = self.record.class_names[best]
            title = (
                f"{patient}: {class_title(name)}, p {probs[best]:.2f}; "
                f"{plural(len(images), 'image')}"
            )
            names = [image.name for image in images]
            picture = partial(_shown, names, self.record.preprocess)
            sheet = cell_sheet(title, name, deciding_cells(self.head, X, best), picture)
            path = folder / f"{sheet_name(patient)}.png"
            write_bytes(path, encode_png(sheet))
            found.append(path)
        return found


def features_of(images: Sequence[UsedImage | Prediction]) -> NDArray[np.float32]:
    """(n, D) features of the images of a patient, by a bundle that answers for patients.

    Raises:
        DataError: An answer holds none.
    """
    found = [image.features for image in images if image.features is not None]
    if len(found) < len(images):
        raise DataError("an answer without features cannot be pooled by patient")
    return np.stack(found)


def sheet_name(patient: str) -> str:
    """Stem of the file of a patient's sheet: the name, and digits that keep alike ones apart."""
    plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in patient)[:60]
    return f"patient-{plain}-{sha256_bytes(patient.encode())[:8]}"


def _shown(names: Sequence[str], spec: PreprocessSpec, row: int) -> NDArray[np.uint8]:
    """An image as the model saw it."""
    return apply_preprocess(decode_image(Path(names[row])).image, spec)


def _place(path: Path) -> str:
    return os.path.normpath(path.absolute())
