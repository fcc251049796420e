"""Splits that were saved elsewhere, found again in one's own copy of the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from leukoscope.core.errors import SplitError
from leukoscope.core.files import read_csv
from leukoscope.core.records import PARTS, Fold, Manifest

_REQUIRED = ("image_id", "sha256", "protocol", "fold", "part")  # group and unit may be missing


@dataclass(frozen=True)
class SavedSplits:
    """What of a saved split this copy of the data holds.

    Attributes:
        folds: The folds, in the order of their first rows, with this manifest's image ids.
        missing: Image ids of the saved split whose contents this copy lacks, sorted.
        unassigned: Image ids of this copy that the saved split does not name, sorted.
    """

    folds: tuple[Fold, ...]
    missing: tuple[str, ...]
    unassigned: tuple[str, ...]


def load_saved_splits(path: Path, manifest: Manifest) -> SavedSplits:
    """Read a ``splits.csv`` and match it to ``manifest``.

    Raises:
        DataError: The file is missing or lacks a column.
        SplitError: A row is wrong, or no image is the same.
    """
    return apply_saved_splits(manifest, read_csv(path, required=_REQUIRED), source=str(path))


def apply_saved_splits(
    manifest: Manifest, rows: Iterable[Mapping[str, str]], *, source: str = "saved splits"
) -> SavedSplits:
    """Match the rows of a ``splits.csv`` to images with the same contents (SHA-256).

    Copies of one file are interchangeable: the first copy here takes the first row, and so on.

    Raises:
        SplitError: A row is wrong, or no image is the same.
    """
    copies: dict[str, list[str]] = {}
    for record in sorted(manifest.usable, key=lambda r: (len(r.image_id), r.image_id)):
        copies.setdefault(record.sha256, []).append(record.image_id)
    saved: dict[tuple[str, int], dict[str, list[tuple[str, str, str]]]] = {}
    units: dict[tuple[str, int], str] = {}
    for line, row in enumerate(rows, start=2):
        if not row["fold"].isdecimal() or row["part"] not in (*PARTS, "purged"):
            raise SplitError(
                f"{source}:{line}: expected a fold number and one of {', '.join(PARTS)} or "
                f"purged, got {row['fold']!r} and {row['part']!r}"
            )
        key = (row["protocol"], int(row["fold"]))
        contents = saved.setdefault(key, {})
        units.setdefault(key, row.get("unit", ""))
        contents.setdefault(row["sha256"], []).append(
            (row["image_id"], row["part"], row.get("group", ""))
        )
    folds: list[Fold] = []
    missing: set[str] = set()
    named: set[str] = set()
    for (protocol, number), contents in saved.items():
        fold = Fold(protocol, number, {}, unit=units[protocol, number])
        for sha256, members in contents.items():
            here = copies.get(sha256, [])
            members = sorted(members, key=lambda member: (len(member[0]), member[0]))
            for image_id, (_, part, group) in zip(here, members, strict=False):
                fold.parts[image_id] = part
                if group:
                    fold.groups[image_id] = group
            missing |= {member[0] for member in members[len(here) :]}
        named |= fold.parts.keys()
        folds.append(fold)
    if not named:
        raise SplitError(
            f"{source}: none of its images is in {manifest.root}",
            hint="These splits belong to other data, or to files that were converted.",
        )
    unassigned = {record.image_id for record in manifest.usable} - named
    return SavedSplits(tuple(folds), tuple(sorted(missing)), tuple(sorted(unassigned)))
