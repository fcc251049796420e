"""Audits and splits of public data sets, made once and shipped: keys, no pixels."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from leukoscope.config.passport import Passport
from leukoscope.core.errors import DataError, SplitError, UnknownNameError
from leukoscope.core.files import read_csv, sha256_bytes, sha256_json, write_bytes, write_json
from leukoscope.core.records import PARTS, Fold, ImageRecord, Manifest
from leukoscope.datasets.audit.measurements import pixel_hash
from leukoscope.imaging.decode import decode_image

_REQUIRED = ("image_id", "sha256", "protocol", "fold", "part")  # group and unit may be missing
LETTERS: Mapping[str, str] = {"train": "t", "val": "v", "cal": "c", "test": "s", "purged": "p"}
"""One letter a fold says where an image stands; ``-`` is nowhere."""
PIXEL_DIGITS = 32
_COLUMNS = ("sha256", "pixels", "label", "patient", "component", "cluster")
_PARTS = {letter: part for part, letter in LETTERS.items()}
_LISTS = {"groups", "pairs", "quarantined", "label_conflicts", "leaking_components"}


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


@dataclass(frozen=True)
class FrozenPassport:
    """One data set, audited once and for all."""

    header: Mapping[str, Any]  # content of ``NAME.json``
    table: bytes  # content of ``NAME.csv``, UTF-8

    @property
    def name(self) -> str:
        """Name by which it is loaded."""
        return str(self.header["name"])

    @property
    def title(self) -> str:
        """The data set's name."""
        return str(self.header["title"])

    @property
    def doi(self) -> str:
        """Of the data set."""
        return str(self.header["doi"])

    @property
    def sha256(self) -> str:
        """Of header and table: what a paper cites."""
        return str(self.header["sha256"])

    @property
    def protocols(self) -> tuple[str, ...]:
        """Protocols with splits."""
        return tuple(self.header["protocols"])

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        """One row an image."""
        return list(csv.DictReader(io.StringIO(self.table.decode())))

    def split_rows(self, protocols: Sequence[str]) -> Iterator[dict[str, str]]:
        """The rows of a ``splits.csv``."""
        copies: dict[str, int] = {}
        for row in self.rows:
            copy = copies[row["sha256"]] = copies.get(row["sha256"], 0) + 1
            image_id = row["sha256"][:12] + (f"-{copy}" if copy > 1 else "")
            for protocol in protocols:
                for fold, letter in enumerate(row[protocol]):
                    if letter != "-":
                        yield {
                            "image_id": image_id,
                            "sha256": row["sha256"],
                            "protocol": protocol,
                            "fold": str(fold),
                            "part": _PARTS[letter],
                            "group": row[f"{protocol} unit"] or image_id,
                        }


@dataclass(frozen=True)
class FrozenSplits:
    """What a frozen passport says of one's own copy.

    Attributes:
        splits: The folds; missing and unassigned image ids.
        by_pixels: How many images were found by their pixels alone.
        relabelled: Image ids of this copy whose class is another than in the passport.
    """

    splits: SavedSplits
    by_pixels: int
    relabelled: tuple[str, ...]


def list_frozen() -> tuple[str, ...]:
    """Names of the frozen passports, sorted."""
    return tuple(sorted(p.name[:-5] for p in _folder().iterdir() if p.name.endswith(".json")))


def load_frozen(name: str) -> FrozenPassport:
    """A frozen passport by name.

    Raises:
        DataError: Its files do not fit its hash.
    """
    if name not in list_frozen():
        raise UnknownNameError("frozen passport", name, list_frozen())
    header = json.loads((_folder() / f"{name}.json").read_text(encoding="utf-8"))
    table = gzip.decompress((_folder() / f"{name}.csv.gz").read_bytes())
    rest = {key: value for key, value in header.items() if key != "sha256"}
    if header["sha256"] != sha256_json(rest) or header["table_sha256"] != sha256_bytes(table):
        raise DataError(
            f"frozen passport {name}: its files do not fit its hash",
            hint="install the package anew",
        )
    return FrozenPassport(header, table)


def recognise(manifest: Manifest) -> tuple[FrozenPassport, int] | None:
    """The frozen passport that knows most of these files by their bytes, and how many."""
    mine = [record.sha256 for record in manifest.images if record.sha256]
    best: tuple[FrozenPassport, int] | None = None
    for name in list_frozen():
        passport = load_frozen(name)
        known = {row["sha256"] for row in passport.rows}
        found = sum(sha256 in known for sha256 in mine)
        if found > (best[1] if best else 0):
            best = (passport, found)
    return best


def apply_frozen(
    passport: FrozenPassport,
    manifest: Manifest,
    protocols: Sequence[str] = (),
    *,
    progress: Callable[[int, int], None] | None = None,
) -> FrozenSplits:
    """The recommended folds for one's own copy of the data; nothing is audited.

    Args:
        manifest: One's copy. Files whose bytes are unknown are decoded and sought by pixels.
        protocols: Which; empty means all that the passport has.
        progress: Called with (images sought by pixels, how many there are).

    Raises:
        UnknownNameError: The passport has no such protocol.
        SplitError: No image is the same.
    """
    for protocol in protocols:
        if protocol not in passport.protocols:
            raise UnknownNameError(
                f"protocol of the frozen passport {passport.name}", protocol, passport.protocols
            )
    named = {row["sha256"]: row["label"] for row in passport.rows}
    unknown = [record for record in manifest.usable if record.sha256 not in named]
    same = _by_pixels(passport, manifest, unknown, progress)
    images = [
        replace(record, sha256=same.get(record.image_id, record.sha256))
        for record in manifest.images
    ]
    splits = apply_saved_splits(
        manifest.with_images(images),
        passport.split_rows(protocols or passport.protocols),
        source=f"frozen passport {passport.name}",
    )
    relabelled = [r.image_id for r in images if r.status == "ok" and r.sha256 in named
                  and r.label != named[r.sha256]]  # fmt: skip
    return FrozenSplits(splits, len(same), tuple(sorted(relabelled)))


def _by_pixels(
    passport: FrozenPassport,
    manifest: Manifest,
    records: Sequence[ImageRecord],
    progress: Callable[[int, int], None] | None,
) -> dict[str, str]:
    """Image id → SHA-256 in the passport, of images whose pixels it knows."""
    sha256 = {row["pixels"]: row["sha256"] for row in passport.rows}
    found: dict[str, str] = {}
    with ThreadPoolExecutor(2) as pool:
        keys = pool.map(lambda record: pixel_key(manifest.path_of(record)), records)
        for done, (record, key) in enumerate(zip(records, keys, strict=True), start=1):
            if key in sha256:
                found[record.image_id] = sha256[key]
            if progress is not None:
                progress(done, len(records))
    return found


def pixel_key(path: Path) -> str:
    """First 32 digits of the SHA-256 of an image's size and decoded 8-bit RGB pixels.

    The hashed bytes are the text ``(H, W, 3)`` and the rows from the top, R, G, B.

    Raises:
        ImageError: The image cannot be read.
    """
    return pixel_hash(decode_image(path).image).tobytes().hex()[:PIXEL_DIGITS]


def freeze(
    folder: Path,
    manifest: Manifest,
    passport: Passport,
    folds: Sequence[Fold],
    about: Mapping[str, object],
) -> FrozenPassport:
    """Write a frozen passport: ``NAME.json`` and ``NAME.csv.gz``.

    Args:
        passport: Its passport; names of files and lists of pairs are left out.
        about: ``name``, ``title``, ``doi``, ``licence`` and further entries of the header.
    """
    records = sorted(manifest.usable, key=lambda r: (r.sha256, len(r.image_id), r.image_id))
    with ThreadPoolExecutor(2) as pool:
        pixels = list(pool.map(lambda record: pixel_key(manifest.path_of(record)), records))
    protocols = tuple(dict.fromkeys(fold.protocol for fold in folds))
    rows = [
        {**_row(record, key), **_places(record.image_id, protocols, folds)}
        for record, key in zip(records, pixels, strict=True)
    ]
    columns = (*_COLUMNS, *(name for p in protocols for name in (p, f"{p} unit")))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    table = text.getvalue().encode()
    header = {
        "schema": 1,
        **about,
        "images": len(rows),
        "protocols": list(protocols),
        "letters": {letter: part for part, letter in LETTERS.items()},
        "audit": _without_names(passport),
        "table_sha256": sha256_bytes(table),
    }
    header["sha256"] = sha256_json(header)
    write_json(folder / f"{about['name']}.json", header)
    write_bytes(folder / f"{about['name']}.csv.gz", gzip.compress(table, 9, mtime=0))
    return FrozenPassport(header, table)


def _row(record: ImageRecord, pixels: str) -> dict[str, str]:
    return {
        "sha256": record.sha256,
        "pixels": pixels,
        "label": record.label,
        "patient": record.patient_id,
        "component": "" if record.group_id == record.image_id else record.group_id,
        "cluster": record.acquisition_id,
    }


def _places(image_id: str, protocols: Sequence[str], folds: Sequence[Fold]) -> dict[str, str]:
    """Columns of each protocol: a letter a fold, and the unit that an interval resamples."""
    places = {}
    for protocol in protocols:
        own = sorted((f for f in folds if f.protocol == protocol), key=lambda fold: fold.fold)
        places[protocol] = "".join(LETTERS.get(fold.parts.get(image_id, ""), "-") for fold in own)
        unit = own[0].groups.get(image_id, image_id)
        places[f"{protocol} unit"] = "" if unit == image_id else unit
    return places


def _without_names(value: object) -> object:
    """A passport's entries without names of files and without lists of images."""
    if isinstance(value, Mapping):
        return {
            key: len(item) if isinstance(item, list) and key in _LISTS else _without_names(item)
            for key, item in value.items()
            if key not in {"sha256", "root_name"}
        }
    return value


def _folder() -> Traversable:
    return resources.files("leukoscope.datasets") / "frozen"
