"""The rows that travel between steps: images of a data set, and their places in splits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from sys import intern

from leukoscope.core.errors import DataError, UsageError
from leukoscope.core.files import iterate_csv, read_csv, write_csv
from leukoscope.core.labels import order_classes

PARTS = ("train", "val", "cal", "test")


@dataclass(frozen=True)
class ImageRecord:
    """One image file of a data set.

    Attributes:
        image_id: First 12 digits of the SHA-256, with ``-2``, ``-3`` … for further copies.
        path: Path below the data set's root, with forward slashes.
        sha256: SHA-256 of the file's bytes; empty where the file could not be read at all.
        label: Canonical class name; empty where unknown.
        patient_id: Patient or subject, where the layout or manifest names one.
        group_id: Connected component of duplicates, overlapping fields and twins; images that
            share it must stay on one side of a split. Filled by the audit.
        acquisition_id: Cluster of background appearance, a proxy for slide or session.
        width: Width in px after EXIF orientation, 0 where unreadable.
        height: Height in px, likewise.
        status: ``ok``, ``quarantined`` (cannot be read) or ``excluded`` (readable, not used).
        reason: Why the status is not ``ok``.
        given_part: The data's own part (``train``/``val``/``test``) or fold (``fold_0``).
        cohort: Where or when the patient was seen (hospital, years), where a manifest says so.
        site: Where the image was taken (hospital, laboratory), likewise.
        session: Smear, slide or session of imaging, likewise.
        cell_type: What cell the image shows, where that is not the label.
        diagnosis: Of the patient, where that is not the label.
        further: The user's own columns, as (name, value) in their order.
    """

    image_id: str
    path: str
    sha256: str = ""
    label: str = ""
    patient_id: str = ""
    group_id: str = ""
    acquisition_id: str = ""
    width: int = 0
    height: int = 0
    status: str = "ok"
    reason: str = ""
    given_part: str = ""
    cohort: str = ""
    site: str = ""
    session: str = ""
    cell_type: str = ""
    diagnosis: str = ""
    further: tuple[tuple[str, str], ...] = ()

    def column(self, name: str) -> str:
        """The value of a column of the manifest, known or the user's; empty where it has none.

        >>> ImageRecord("a", "a.png", site="north", further=(("age", "61"),)).column("age")
        '61'
        """
        if name in MANIFEST_COLUMNS:
            return str(getattr(self, name))
        return dict(self.further).get(name, "")

    @property
    def description(self) -> dict[str, str]:
        """The describing columns and the user's own, as a CSV manifest takes them."""
        return {name: getattr(self, name) for name in DESCRIBING_COLUMNS} | dict(self.further)


MANIFEST_COLUMNS = tuple(c.name for c in fields(ImageRecord) if c.name != "further")
"""The columns that every ``manifest.csv`` of a run has; the user's own come after them."""

DESCRIBING_COLUMNS = ("cohort", "site", "session", "cell_type", "diagnosis")
"""Columns that say something of an image beside its label, and that the user may name as label."""

_OF_CLASSES = "role"  # a column that says what a class is, not what an image or patient is
_NAMED = 3  # files in a message
_LATER_COLUMNS = set(DESCRIBING_COLUMNS)  # manifests of older runs lack them
_TEXTS = tuple(name for name in MANIFEST_COLUMNS if name not in ("width", "height"))


def columns_of(records: Iterable[ImageRecord]) -> tuple[str, ...]:
    """The columns that say something of these records beside their label.

    >>> columns_of([ImageRecord("a", "a.png", site="north", further=(("age", "61"),))])
    ('site', 'age')
    """
    found = tuple(records)
    known = [name for name in DESCRIBING_COLUMNS if any(getattr(r, name) for r in found)]
    own = dict.fromkeys(name for record in found for name, _ in record.further)
    return (*known, *(name for name in own if name != _OF_CLASSES))


@dataclass(frozen=True)
class Manifest:
    """All images of a data set, usable and not, in the order of their paths.

    Attributes:
        root: The data set's folder (the paths of ``images`` are relative to it).
        images: One record per file.
        layout: How the folder was read; not part of ``manifest.csv`` (the passport keeps it).
        notes: What was odd about the folder, in sentences; likewise.
    """

    root: Path
    images: tuple[ImageRecord, ...]
    layout: str = ""
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        n, names = len(self.images), ", ".join(self.class_names) or "none"
        return f"<Manifest of {self.root}: {n} image{'' if n == 1 else 's'}, classes: {names}>"

    @property
    def usable(self) -> tuple[ImageRecord, ...]:
        """The records with status ``ok`` (readable and labelled)."""
        return tuple(record for record in self.images if record.status == "ok")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes of the usable images, in canonical order."""
        return order_classes(record.label for record in self.usable)

    def path_of(self, record: ImageRecord) -> Path:
        """Where the image's file lies."""
        return self.root / record.path

    @property
    def further_columns(self) -> tuple[str, ...]:
        """Names of the user's own columns, in the order in which they come."""
        return tuple(dict.fromkeys(name for r in self.images for name, _ in r.further))

    @property
    def describing_columns(self) -> tuple[str, ...]:
        """The columns of each image's :attr:`ImageRecord.description`."""
        return (*DESCRIBING_COLUMNS, *self.further_columns)

    def save(self, path: Path) -> None:
        """Write ``manifest.csv``."""
        write_csv(path, (*MANIFEST_COLUMNS, *self.further_columns), self.rows())

    def rows(self) -> Iterator[dict[str, object]]:
        """One row an image file, as ``manifest.csv`` holds it."""
        return ({**_columns(record), **dict(record.further)} for record in self.images)

    @classmethod
    def load(cls, path: Path, root: Path) -> Manifest:
        """Read a ``manifest.csv`` that :meth:`save` wrote, for the data at ``root``."""
        required = [name for name in MANIFEST_COLUMNS if name not in _LATER_COLUMNS]
        rows = read_csv(path, required=required)
        try:
            images = tuple(
                ImageRecord(
                    width=int(row["width"]),
                    height=int(row["height"]),
                    **{name: row[name] for name in _TEXTS if name in row},
                    further=tuple(
                        (name, value)
                        for name, value in row.items()
                        if name not in MANIFEST_COLUMNS and value
                    ),
                )
                for row in rows
            )
        except ValueError as error:
            raise DataError(f"{path}: a width or height is no number ({error})") from None
        return cls(Path(root), images)

    @property
    def unreadable(self) -> tuple[tuple[str, str], ...]:
        """Path and reason of each file that could not be read."""
        return tuple((r.path, r.reason) for r in self.images if r.status == "quarantined")

    def none_usable(self, place: Path | str | None = None) -> DataError:
        """The error of a data set without a usable image: its first files, with their reasons.

        Args:
            place: As the user named it; by default the folder.
        """
        lost = [f"{r.path} ({r.reason})" for r in self.images if r.status != "ok"]
        n, more = len(self.images), len(lost) - _NAMED
        what = "its one file cannot" if n == 1 else f"none of its {n:,} files can"
        named = ", ".join(lost[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
        return DataError(
            f"{self.root if place is None else place}: {what} be used: {named}",
            hint="put readable images there; `leukoscope data inspect` says what class each gets",
        )

    def with_images(self, images: Iterable[ImageRecord]) -> Manifest:
        """The same data set with other records."""
        return replace(self, images=tuple(images))


def check_manifest(found: object, call: str) -> None:
    """Refuse what is no manifest, as the argument of a function of the Python API.

    Args:
        call: How the function is called with it, with a place for the manifest.

    Raises:
        UsageError: It is something else, for example the data's path.

    >>> check_manifest("smears", "audit({})")
    Traceback (most recent call last):
    leukoscope.core.errors.UsageError: expected a manifest, got 'smears'
      → write audit(load_dataset('smears'))
    """
    if isinstance(found, Manifest):
        return
    path = isinstance(found, (str, Path))
    shown = repr(str(found)) if path else f"a value of type {type(found).__name__}"
    like = f"load_dataset({shown if path else 'DATA'})"
    if isinstance(getattr(found, "manifest", None), Manifest):
        like = "FOUND.manifest"  # of an audit
    raise UsageError(f"expected a manifest, got {shown}", hint=f"write {call.format(like)}")


def _columns(record: ImageRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in MANIFEST_COLUMNS}


@dataclass(frozen=True)
class Fold:
    """One fold of one protocol: which image stands in which part.

    Attributes:
        protocol: Name such as ``random``, ``grouped`` or ``acquisition-k48``.
        fold: Number from 0.
        parts: For each image id its part: ``train``, ``val``, ``cal``, ``test``, or ``purged``
            (kept out of training because it overlaps a test image).
        groups: For each image id the unit that an interval of this protocol resamples: patient,
            component of overlapping images, or acquisition cluster. May be empty.
        unit: What ``groups`` names, in words, where the data and not the protocol decides:
            ``patient``, or empty for the usual unit of the protocol.
    """

    protocol: str
    fold: int
    parts: dict[str, str]
    groups: dict[str, str] = field(default_factory=dict)
    unit: str = ""

    def ids(self, part: str) -> list[str]:
        """The image ids of one part, sorted."""
        return sorted(image_id for image_id, name in self.parts.items() if name == part)

    def units(self, image_ids: Iterable[str]) -> list[str]:
        """The unit of each image; an image without one is a unit of its own."""
        return [self.groups.get(image_id, image_id) for image_id in image_ids]


_PROTOCOL, _FOLD = re.compile(r"[a-z0-9][a-z0-9-]*"), re.compile(r"\d{1,6}", re.ASCII)
SPLIT_COLUMNS = ("image_id", "sha256", "protocol", "fold", "part", "group", "unit")


def save_folds(path: Path, folds: Sequence[Fold], manifest: Manifest) -> None:
    """Write ``splits.csv``; the SHA-256 column lets others rebuild the split on their copy."""
    sha256 = {record.image_id: record.sha256 for record in manifest.images}
    write_csv(
        path,
        SPLIT_COLUMNS,
        (
            {
                "image_id": image_id,
                "sha256": sha256[image_id],
                "protocol": fold.protocol,
                "fold": fold.fold,
                "part": fold.parts[image_id],
                "group": fold.groups.get(image_id, ""),
                "unit": fold.unit,
            }
            for fold in folds
            for image_id in sorted(fold.parts)
        ),
    )


def load_folds(path: Path) -> list[Fold]:
    """Read ``splits.csv``, in the order of its first rows.

    Raises:
        DataError: The file is missing or damaged; a protocol or a fold, which become the names of
            folders, is none.
    """
    folds: dict[tuple[str, int], Fold] = {}
    required = SPLIT_COLUMNS[:-1]  # splits of older runs lack the unit
    for row in iterate_csv(path, required):
        if not (_PROTOCOL.fullmatch(row["protocol"]) and _FOLD.fullmatch(row["fold"])):
            raise DataError(
                f"{path}: expected a protocol such as grouped and the number of a fold, found "
                f"{row['protocol']!r} and {row['fold']!r}",
                hint="delete the file and run the study again with --resume",
            )
        key = (row["protocol"], int(row["fold"]))
        fold = folds.setdefault(key, Fold(*key, parts={}, unit=row.get("unit", "")))
        image_id = intern(row["image_id"])  # each stands in every fold
        fold.parts[image_id] = intern(row["part"])
        if row["group"]:
            fold.groups[image_id] = intern(row["group"])
    return list(folds.values())
