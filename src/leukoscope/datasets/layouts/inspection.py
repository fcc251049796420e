"""How a data set would be read, before any image is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leukoscope.core.errors import LayoutError
from leukoscope.core.known_classes import Role
from leukoscope.core.labels import check_roles, class_title, order_classes, role_of
from leukoscope.core.records import DESCRIBING_COLUMNS
from leukoscope.datasets.layouts.image_records import (
    clean_class_map,
    column_roles,
    few_groups,
    unused_note,
)
from leukoscope.datasets.layouts.load import ClassMap, place
from leukoscope.datasets.layouts.rules import Placed, is_image_name, why_class


@dataclass(frozen=True)
class FolderRow:
    """What one folder name or column value stands for."""

    found: str
    label: str  # class, or empty where its images are excluded
    why: str  # which rule says so, or how to map it
    images: int  # number of image files (by suffix)


@dataclass(frozen=True)
class ClassRow:
    """One class of a data set."""

    name: str
    title: str
    role: Role | None  # None where it is not known
    images: int  # images that would be used
    patients: int  # number of distinct patient ids


@dataclass(frozen=True)
class Inspection:
    """How a folder would be read, before any image is opened."""

    layout: str  # A key of LAYOUTS, or the user's pattern
    why: str  # what it was recognised by
    folders: tuple[FolderRow, ...]  # what each folder name or column value stands for
    parts: dict[str, int]  # the data's own parts or folds → images
    patients: int  # number of distinct patient ids
    images: int  # images that would be used
    excluded: dict[str, int]
    warnings: tuple[str, ...]  # what is odd, in sentences
    classes: tuple[ClassRow, ...] = ()
    columns: tuple[str, ...] = ()  # describing and further columns that the data has


def inspect_dataset(
    path: Path | str,
    *,
    layout: str = "auto",
    class_map: ClassMap | None = None,
    target: str = "",
    roles: Mapping[str, str] | None = None,
) -> Inspection:
    """Say how a folder would be read, and why, without opening an image.

    Args:
        path: Folder, CSV manifest or ``.npz`` file, of which nothing is written.
        layout: As there.
        class_map: As there.
        target: As there.
        roles: Class → role, where the user states one.
    """
    mapping = clean_class_map(class_map)
    _, name, why, placement = place(Path(path), layout, class_map, target)
    known = {**column_roles(placement, Path(path)), **(roles or {})}
    images = [item for item in placement.placed if is_image_name(item.path)]
    used = [item for item in images if not item.excluded]
    counts = Counter((item.found, item.label) for item in images)
    return Inspection(
        name,
        why,
        tuple(
            FolderRow(found or "(no class folder)", label, why_class(found, label, mapping), n)
            for (found, label), n in sorted(counts.items())
        ),
        dict(sorted(Counter(item.given_part for item in used if item.given_part).items())),
        len({item.patient_id for item in used} - {""}),
        len(used),
        dict(Counter(_kind(item.excluded) for item in images if item.excluded)),
        (*placement.warnings, *few_groups(images)),
        _class_rows(used, check_roles(known, {item.label for item in used})),
        _columns(used),
    )


@dataclass(frozen=True)
class ReadingNotes:
    """What is odd about how a data set is read, before any image is opened.

    Attributes:
        warnings: In sentences, as of :class:`Inspection`; without those of ``unused``.
        unused: Keys of the class map that are no name of this data.
        names: The names that it has: folders, or values of the label's column.
    """

    warnings: tuple[str, ...]
    unused: tuple[str, ...]
    names: tuple[str, ...]


def reading_notes(
    path: Path | str,
    *,
    layout: str = "auto",
    class_map: ClassMap | None = None,
    target: str = "",
) -> ReadingNotes:
    """What a user must hear before a data set is worked on; see :func:`inspect_dataset`."""
    placement = place(Path(path), layout, class_map, target)[-1]
    images = [item for item in placement.placed if is_image_name(item.path)]
    told = set(map(unused_note, placement.unused))
    warnings = (note for note in placement.warnings if note not in told)
    names = sorted({item.found for item in images} - {""})
    return ReadingNotes((*warnings, *few_groups(images)), placement.unused, tuple(names))


def patients_in(root: Path) -> dict[str, str]:
    """Path of a file below a folder → its patient, as :func:`inspect_dataset` reads the folder.

    Files without a patient have an empty one. Nothing where the folder has no known layout.
    """
    try:
        placed = place(root, "auto", None, "")[-1].placed
    except LayoutError:
        return {}
    return {item.path: item.patient_id for item in placed}


def _class_rows(used: Sequence[Placed], roles: Mapping[str, Role]) -> tuple[ClassRow, ...]:
    images = Counter(item.label for item in used)
    patients: dict[str, set[str]] = {}
    for item in used:
        patients.setdefault(item.label, set()).add(item.patient_id)
    return tuple(
        ClassRow(
            name, class_title(name), role_of(name, roles), images[name],
            len(patients[name] - {""}),
        )
        for name in order_classes(images)
    )  # fmt: skip


def _columns(used: Sequence[Placed]) -> tuple[str, ...]:
    own = [name for name in DESCRIBING_COLUMNS if any(getattr(item, name) for item in used)]
    return (*own, *dict.fromkeys(name for item in used for name, _ in item.further))


def _kind(reason: str) -> str:
    return reason.partition(" of ")[0]
