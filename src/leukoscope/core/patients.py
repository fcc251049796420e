"""Patients as the rows of a study: which images each one has, and the class of all of them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import DataError
from leukoscope.core.files import sha256_json, write_csv
from leukoscope.core.records import ImageRecord, Manifest

PATIENTS_LAYOUT = "patients"
"""Layout of a manifest whose rows are patients."""
_NAMED = 3
COLUMNS = ("patient_id", "label", "images", "group_id", "cohort", "given_part", "sha256")


@dataclass(frozen=True)
class Patients:
    """The patients of a data set, sorted by name.

    Attributes:
        records: One record a patient, of the form of an image's: ``image_id`` and ``patient_id``
            are the patient's name, ``label`` is the class of all its images, ``sha256`` the hash
            of theirs, ``group_id`` a component of patients whose images overlap; ``given_part``,
            ``cohort``, ``site`` … and the user's own columns are what all its images have.
        rows: (n_i,) int64 row numbers of each one's images among the usable ones.
        images: Number of usable images.
    """

    records: tuple[ImageRecord, ...]
    rows: tuple[NDArray[np.int64], ...]
    images: int

    @classmethod
    def of(cls, manifest: Manifest) -> Patients:
        """The patients of the usable images.

        Raises:
            DataError: An image names no patient, or a patient has images of two classes.
        """
        usable = manifest.usable
        _check_named(manifest.root, usable)
        members: dict[str, list[int]] = {}
        for row, record in enumerate(usable):
            members.setdefault(record.patient_id, []).append(row)
        members = dict(sorted(members.items()))
        own = {name: [usable[row] for row in rows] for name, rows in members.items()}
        _check_one_class(manifest.root, own)
        components = _components(own)
        records = tuple(_record(name, images, components[name]) for name, images in own.items())
        rows = tuple(np.array(found, np.int64) for found in members.values())
        return cls(records, rows, len(usable))

    def manifest(self, root: Path) -> Manifest:
        """The patients in the place of images, e.g. to divide them; they have no files."""
        return Manifest(root, self.records, layout=PATIENTS_LAYOUT)

    def of_images(self) -> NDArray[np.int64]:
        """(number of images,) the row of each image's patient."""
        found = np.empty(self.images, np.int64)
        for row, images in enumerate(self.rows):
            found[images] = row
        return found

    def save(self, path: Path) -> None:
        """Write ``patients.csv``: name, class, number of images."""
        write_csv(
            path,
            COLUMNS,
            (
                {name: getattr(record, name, "") for name in COLUMNS} | {"images": len(rows)}
                for record, rows in zip(self.records, self.rows, strict=True)
            ),
        )


def rows_of(manifest: Manifest, unit: str) -> Manifest:
    """What the rows of splits and predictions stand for: the images, or the patients."""
    return manifest if unit == "image" else Patients.of(manifest).manifest(manifest.root)


def _check_named(root: Path, usable: Sequence[ImageRecord]) -> None:
    """Refuse images that name no patient."""
    lost = [record.path for record in usable if not record.patient_id]
    if lost:
        more = " …" if len(lost) > _NAMED else ""
        raise DataError(
            f"{root}: with the patient as the unit every image must name its patient, but "
            f"{len(lost)} of {len(usable)} do not: {', '.join(lost[:_NAMED])}{more}",
            hint="add a manifest with the column patient_id, or leave --unit patient out",
        )


def _check_one_class(root: Path, own: Mapping[str, Sequence[ImageRecord]]) -> None:
    """Refuse patients whose images are of several classes."""
    classes = {name: sorted({r.label for r in images}) for name, images in own.items()}
    torn = [f"{name} ({', '.join(found)})" for name, found in classes.items() if len(found) > 1]
    if torn:
        more = " …" if len(torn) > _NAMED else ""
        raise DataError(
            f"{root}: with the patient as the unit all images of a patient must have its class, "
            f"but {len(torn)} of {len(own)} patients have images of several: "
            f"{'; '.join(torn[:_NAMED])}{more}",
            hint="name the column with the patient's class (--target diagnosis), correct the "
            "manifest, or leave --unit patient out",
        )


def _components(own: Mapping[str, Sequence[ImageRecord]]) -> dict[str, str]:
    """Patient → the first patient that it is connected with by overlapping images."""
    parent = {name: name for name in own}

    def root_of(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    first: dict[str, str] = {}
    for name, images in own.items():
        for group in {record.group_id for record in images} - {""}:
            a, b = sorted((root_of(first.setdefault(group, name)), root_of(name)))
            parent[b] = a
    return {name: root_of(name) for name in own}


def _record(name: str, images: Sequence[ImageRecord], component: str) -> ImageRecord:
    """The row of one patient."""

    def shared(column: str) -> str:
        found = {record.column(column) for record in images}
        return found.pop() if len(found) == 1 else ""

    own = dict.fromkeys(column for record in images for column, _ in record.further)

    return ImageRecord(
        image_id=name,
        path=f"{name}/",
        sha256=sha256_json(sorted(record.sha256 for record in images)),
        label=images[0].label,
        patient_id=name,
        group_id=component,
        given_part=shared("given_part"),
        cohort=shared("cohort"),
        site=shared("site"),
        session=shared("session"),
        cell_type=shared("cell_type"),
        diagnosis=shared("diagnosis"),
        further=tuple((column, value) for column in own if (value := shared(column))),
    )


def patient_spelling(name: str) -> str:
    """What a patient id says apart from case, outer spaces and the kind of separator.

    >>> patient_spelling("Patient_07") == patient_spelling(" patient-07 ")
    True
    >>> patient_spelling("P1-2") == patient_spelling("P12")
    False
    """
    plain = unicodedata.normalize("NFC", name).casefold().strip()
    return re.sub(r"[\s_-]+", "-", plain)
