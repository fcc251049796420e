"""From what a user names to cells by patient: an image, or a part of a large one, is a cell.

What a person decided on a sheet of cells is read, checked and put into the cells here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from leukoscope.core.errors import DataError, UsageError
from leukoscope.core.files import sha256_json
from leukoscope.core.records import Manifest
from leukoscope.core.tables import read_rows
from leukoscope.runtime.by_patient import (
    PatientOf,
    check_patients,
    patients_named,
    patients_of_folders,
)
from leukoscope.runtime.input_files import Inputs
from leukoscope.runtime.large_images import NO_LEUKOCYTE, Answered
from leukoscope.runtime.prediction import Decision, Failure, Prediction
from leukoscope.runtime.predictor import Predictor

ID_DIGITS = 12
Box = tuple[int, int, int, int]
Tell = Callable[[int, int], None]
REQUIRED = ("image_id", "given", "decision", "label", "by", "at", "queue_sha256")
"""Columns, as of the corrections that ``relabel`` saves; ``given`` is the predicted class."""
DECISIONS = ("keep", "other", "exclude", "unsure")
SHOWN = 10


@dataclass(frozen=True)
class Cell:
    """One cell and what was said of it.

    Attributes:
        cell_id: First digits of the image's SHA-256, with the box of a part after them.
        path: Of the image.
        box: x, y, width, height in the image; None where the image is the cell.
        predicted: The most probable class.
        probabilities: Of each class, in the bundle's order.
        decision: ``accept``, ``review`` or ``reject``; a rejected cell is not counted.
        corrected: Class that a person gave it; empty where nobody looked, and for no cell.
        excluded: Whether a person said that it is no cell of these classes.
        truth: Class that the data set gives it; empty where unknown.
    """

    cell_id: str
    path: str
    box: Box | None
    predicted: str
    probabilities: tuple[float, ...]
    decision: Decision
    corrected: str = ""
    excluded: bool = False
    truth: str = ""

    @property
    def counts(self) -> bool:
        """Whether it is counted: a person named it, or the model did and did not reject it."""
        return bool(self.corrected) or not (self.excluded or self.decision == "reject")

    @property
    def named(self) -> str:
        """The class it is counted as."""
        return self.corrected or self.predicted


@dataclass
class PatientCells:
    """The cells of one patient or smear.

    Attributes:
        patient: Name.
        cells: In the order of the images.
        unreadable: Images that could not be read, with the reason.
        empty: Large images in which no leukocyte was found.
        truth: Classes that the data set gives the patient's cells, counted in whatever file.
        sha256: Of each image that the bundle answered.
    """

    patient: str
    cells: list[Cell] = field(default_factory=list)
    unreadable: list[Failure] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    truth: dict[str, int] = field(default_factory=dict)
    sha256: list[str] = field(default_factory=list)

    @property
    def sheet_sha256(self) -> str:
        """What corrections of these cells must name."""
        return sha256_json([[cell.cell_id, cell.predicted] for cell in self.cells])


@dataclass(frozen=True)
class Material:
    """What is to be counted.

    Attributes:
        inputs: The images.
        patient_of: Patient of an image.
        truth: Class of an image by its path, where a data set gives them; else None.
    """

    inputs: Inputs
    patient_of: PatientOf
    truth: Mapping[str, str] | None = None


def from_labelled(manifest: Manifest, patients: PatientOf | None = None) -> Material:
    """A data set whose labels are cell types: each image is one cell.

    Args:
        manifest: Of the data set.
        patients: Patient of an image; by default the data set's own.

    Raises:
        DataError: An image has no patient.
    """
    used = [record for record in manifest.images if record.status != "excluded"]
    own = {str(manifest.path_of(record)): record.patient_id for record in used}
    truth = {str(manifest.path_of(record)): record.label for record in used if record.label}
    found = patients or (lambda image: own.get(image, ""))
    _check(list(own), found)
    return Material(Inputs(list(own)), found, truth)


def from_images(items: Sequence[str], patients: Path | None = None) -> Material:
    """Files and folders: a folder below the one that is named is a patient or smear.

    Unless the layout of that folder names patients elsewhere, as in ``class/patient/image``.

    A folder without folders, or one of several that are named, is a smear of its own; so is a file.

    Args:
        items: What was named.
        patients: CSV with image and patient_id, or the folder that holds a folder for each.

    Raises:
        DataError: An image has no patient.
        UsageError: The folders below the one that is named are classes.
    """
    inputs = Inputs(items)
    if patients is not None:
        patient_of = patients_named(patients)
    elif len(items) == 1 and Path(items[0]).is_dir():
        patient_of = _of_one_folder(Path(items[0]))
    else:
        patient_of = _of_several(items)
    _check([str(item) for item in inputs if isinstance(item, Path)], patient_of)
    return Material(inputs, patient_of)


def _of_one_folder(root: Path) -> PatientOf:
    """Of the folders below it; of itself where it holds none."""
    holds_folders = any(p.is_dir() and not p.name.startswith(".") for p in root.iterdir())
    return patients_of_folders(root) if holds_folders else lambda _: root.resolve().name


def _of_several(items: Sequence[str]) -> PatientOf:
    """Each folder is a smear, and each file."""
    folders = [Path(item).absolute() for item in items if Path(item).is_dir()]

    def patient_of(image: str) -> str:
        place = Path(image).absolute()
        inside = [folder for folder in folders if place.is_relative_to(folder)]
        return max(inside, key=lambda folder: len(folder.parts)).name if inside else place.stem

    return patient_of


def _check(images: Sequence[str], patient_of: PatientOf) -> None:
    if not images:
        raise UsageError("there is no image to count", hint="name a folder of cells or smears")
    check_patients(
        images,
        patient_of,
        "put them below a folder of their patient, or name a CSV with --patients",
    )


def count_cells(predictor: Predictor, material: Material, tell: Tell) -> list[PatientCells]:
    """Predict every cell; patients in the order of their names.

    Args:
        predictor: A bundle at work.
        material: The images.
        tell: Told (done, total) of the images.
    """
    found: dict[str, PatientCells] = {}
    parts: Answered = []  # of the answer that comes next
    total = sum(1 for _ in material.inputs)
    stream = predictor.predict_stream(material.inputs, on_parts=parts.extend)
    for done, answer in enumerate(stream, start=1):
        name = answer.path if isinstance(answer, Failure) else answer.image
        patient = material.patient_of(name) or "unknown"
        one = found.setdefault(patient, PatientCells(patient))
        truth = (material.truth or {}).get(name, "")
        if truth:
            one.truth[truth] = one.truth.get(truth, 0) + 1
        if isinstance(answer, Failure):
            one.unreadable.append(answer)
        else:
            one.sha256.append(answer.sha256)
            if parts:
                one.cells += [_cell(said, name, answer.sha256, part.box) for part, said in parts]
            elif NO_LEUKOCYTE in answer.reasons:
                one.empty.append(name)
            else:
                one.cells.append(replace(_cell(answer, name, answer.sha256, None), truth=truth))
        parts.clear()
        tell(done, total)
    return [found[patient] for patient in sorted(found)]


def _cell(said: Prediction, path: str, sha256: str, box: Box | None) -> Cell:
    place = "" if box is None else "-" + "-".join(map(str, box))
    return Cell(
        cell_id=sha256[:ID_DIGITS] + place,
        path=path,
        box=box,
        predicted=said.predicted,
        probabilities=tuple(said.probabilities.values()),
        decision=said.decision,
    )


def check_corrections(files: Iterable[Path]) -> None:
    """Refuse files that are no corrections before anything is counted.

    Raises:
        DataError: A file is missing, cannot be read or lacks a column.
    """
    for path in files:
        if not path.is_file():
            raise DataError(
                f"{path}: expected corrections that a sheet of cells saved, found no such file",
                hint="nothing was counted; name the file that the sheet's button downloaded",
            )
        read_rows(path, REQUIRED)


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
        for line, row in read_rows(path, REQUIRED):
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
