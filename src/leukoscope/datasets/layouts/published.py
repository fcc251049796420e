"""Published data sets whose classes or patients stand in a table or in file names.

DeepAPL (Sidhom et al. 2021), AML-Cytomorphology_LMU (Matek et al. 2019), WBCBench 2026 (Tian et
al. 2026), PBC (Acevedo et al. 2020), ALL-IDB (Labati et al. 2011). Sets that are plain class
folders need nothing of this.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from leukoscope.core.errors import LayoutError
from leukoscope.core.labels import open_name, resolve_class
from leukoscope.core.patients import patient_spelling
from leukoscope.core.records import DESCRIBING_COLUMNS
from leukoscope.core.tables import has_columns, read_rows
from leukoscope.core.views import is_or_are, plural
from leukoscope.datasets.layouts.readers import place_by_folders
from leukoscope.datasets.layouts.rules import Listing, Placed, Placement, is_image_name

SIGNED, UNSIGNED = "signed slides", "unsigned slides"
PATIENT_TABLES = ("patients.csv", "master.csv")
ANNOTATIONS = "annotations.dat"
_WBCBENCH = {
    "phase1_label.csv": ("phase1", "train"),
    "phase2_train.csv": ("phase2/train", "train"),
    "phase2_eval.csv": ("phase2/eval", "val"),
    "phase2_test.csv": ("phase2/test", "test"),
}
_PBC_FOLDERS = frozenset(
    {"basophil", "eosinophil", "erythroblast", "ig", "lymphocyte", "monocyte", "neutrophil"}
    | {"platelet"}
)
_PBC_FILE = re.compile(r"(?:^|_)([A-Z]{2,})_\d+")
_PBC_CODES = {"ERB": "erythroblast"}  # beside the codes that resolve_class knows
_ALL_IDB_FILE = re.compile(r"^Im\d{3}_([01])\.\w+$", re.IGNORECASE)
_ALL_IDB_CLASSES = {"1": "all", "0": "healthy"}


def has_signed_slides(listing: Listing) -> str:
    """By what DeepAPL's folders are recognised, or empty."""
    for name in listing.files:
        folders = [part.casefold() for part in PurePosixPath(name).parts[:-1]]
        if SIGNED in folders[1:] and is_image_name(name):
            return "folders of patients hold Signed slides, and those class folders"
    return ""


def place_signed_slides(listing: Listing) -> Placement:
    """DeepAPL: ``<patient>/Signed slides/<cell type>/*.jpg``, patients in ``master.csv``.

    Cells of ``Unsigned slides`` have no cell type that an expert confirmed, and are excluded.
    """
    placed, unsigned = [], 0
    for name in listing.files:
        parts = PurePosixPath(name).parts
        plain = [part.casefold() for part in parts[:-1]]
        if not is_image_name(name):
            continue
        at = next((k for k, part in enumerate(plain) if part in (SIGNED, UNSIGNED)), 0)
        if not at:
            placed.append(Placed(name, no_class="in no class folder"))
        elif plain[at] == UNSIGNED:
            unsigned += 1
            placed.append(
                Placed(
                    name, patient_id=parts[at - 1], excluded="unsigned: not confirmed by experts"
                )
            )
        else:
            kind = parts[at + 1] if at + 2 < len(parts) else ""
            placed.append(
                Placed(
                    name, kind, patient_id=parts[at - 1], no_class="in no class folder",
                    cell_type=open_name(kind),
                )
            )  # fmt: skip
    warnings = []
    if unsigned:
        warnings.append(
            f"{plural(unsigned, 'image')} of Unsigned slides {is_or_are(unsigned)} excluded"
        )
    return Placement(placed, warnings)


def join_patients(listing: Listing, placement: Placement) -> Placement:
    """Add what a table of patients says of them: diagnosis, cohort, any other column.

    The table is ``patients.csv`` or ``master.csv`` with a column ``patient_id``, in the data's
    folder or the one above. Ids are compared as :func:`patient_spelling` has them, and without
    leading zeros.

    Raises:
        LayoutError: A patient is listed twice.
    """
    path = next(
        (
            folder / name
            for folder in (listing.root, listing.root.resolve().parent)
            for name in PATIENT_TABLES
            if has_columns(folder / name, ("patient_id",))
        ),
        None,
    )
    nested = [n for n in listing.files if PurePosixPath(n).name.lower() in PATIENT_TABLES]
    if path is None:
        path = next((listing.root / n for n in nested
                     if has_columns(listing.root / n, ("patient_id",))), None)  # fmt: skip
    if path is None or not any(item.patient_id for item in placement.placed):
        return placement
    rows: dict[str, dict[str, str]] = {}
    for line, row in read_rows(path, ("patient_id",)):
        key = patient_key(row["patient_id"])
        if key in rows:
            raise LayoutError(f"{path}, line {line}: {row['patient_id']} is listed twice")
        rows[key] = row
    joined = [
        _joined(item, rows.get(patient_key(item.patient_id), {})) for item in placement.placed
    ]
    lost = {i.patient_id for i in placement.placed if i.patient_id} - {
        i.patient_id for i in placement.placed if patient_key(i.patient_id) in rows
    }
    warnings = list(placement.warnings)
    if lost:
        warnings.append(
            f"{path.name} does not list {plural(len(lost), 'patient')}, e.g. {min(lost)}"
        )
    ignored = f"{path.relative_to(listing.root)}" if path.is_relative_to(listing.root) else ""
    if ignored and warnings:
        warnings = [text for text in warnings if not text.endswith(f"e.g. {ignored}")]
    return replace(placement, placed=joined, warnings=warnings)


def patient_key(text: str) -> str:
    """A patient's id for comparing.

    >>> patient_key("Patient_007") == patient_key("patient 7")
    True
    """
    return re.sub(r"\d+", lambda digits: digits[0].lstrip("0") or "0", patient_spelling(text))


def _joined(item: Placed, row: Mapping[str, str]) -> Placed:
    known: dict[str, str] = {
        name: row[name] for name in DESCRIBING_COLUMNS if row.get(name) and not getattr(item, name)
    }
    there = dict(item.further)
    further = tuple(
        (name, value)
        for name, value in row.items()
        if value and name and name not in (*DESCRIBING_COLUMNS, "patient_id", *there)
    )
    return replace(item, further=(*item.further, *further), **known)


def find_annotations(listing: Listing) -> str:
    """The table of AML-Cytomorphology_LMU below a folder, or empty."""
    for name in listing.files:
        if PurePosixPath(name).name == ANNOTATIONS and next(
            _annotations(listing.root / name), None
        ):
            return name
    return ""


def _annotations(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Lines of ``image class [first re-annotation, second re-annotation]``."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if len(words) >= 2 and is_image_name(words[0]) and resolve_class(words[1]):
            yield number, words


def place_annotations(listing: Listing) -> Placement:
    """AML-Cytomorphology_LMU: ``annotations.dat`` names the class of each image.

    The images may lie in class folders (``BAS/BAS_0001.tiff``) or flat; they are found by name.
    What experts said when they saw a cell again becomes ``first_reannotation`` and
    ``second_reannotation``.

    Raises:
        LayoutError: None of the listed images is there.
    """
    path = listing.root / find_annotations(listing)
    by_name = {PurePosixPath(n).name.lower(): n for n in listing.files if is_image_name(n)}
    placed: dict[str, Placed] = {}
    missing = []
    for _, (image, label, *again) in _annotations(path):
        name = by_name.get(PurePosixPath(image).name.lower())
        if name is None:
            missing.append(image)
            continue
        further = tuple(
            (column, word)
            for column, word in zip(
                ("first_reannotation", "second_reannotation"), again, strict=False
            )
            if word.lower() != "nan"
        )
        placed[name] = Placed(name, label, further=further)
    if not placed:
        raise LayoutError(
            f"{path}: none of its {len(missing)} images lies below {listing.root}, e.g. "
            f"{missing[0]}",
            hint="put annotations.dat beside the folder of images",
        )
    left = [name for name in by_name.values() if name not in placed]
    warnings = []
    if missing:
        warnings.append(
            f"{plural(len(missing), 'image')} of {ANNOTATIONS} {is_or_are(len(missing))} not here, "
            f"e.g. {missing[0]}"
        )
    if left:
        warnings.append(
            f"{plural(len(left), 'image')} not listed in {ANNOTATIONS} "
            f"{is_or_are(len(left))} excluded"
        )
    rest = [Placed(name, excluded=f"not listed in {ANNOTATIONS}") for name in left]
    return Placement([*placed.values(), *rest], warnings)


def is_wbcbench(listing: Listing) -> str:
    """By what WBCBench 2026 is recognised, or empty."""
    tables = [name for name in ("phase1_label.csv", "phase2_train.csv") if name in listing.files]
    found = [name for name in tables if has_columns(listing.root / name, ("id", "labels"))]
    return f"{' and '.join(found)} with the columns ID, labels" if found else ""


def place_wbcbench(listing: Listing) -> Placement:
    """WBCBench 2026: ``phase1`` and ``phase2/<part>`` with a table of codes for each.

    Rows without a code (the test part) are excluded. The challenge keeps patients apart between
    its parts, but its tables do not name them.

    Raises:
        LayoutError: None of the listed images is there.
    """
    files = set(listing.files)
    placed: list[Placed] = []
    lost = 0
    for table, (folder, part) in _WBCBENCH.items():
        if table not in files:
            continue
        for _, row in read_rows(listing.root / table, ("id",)):
            name = f"{folder}/{row['id']}"
            if name not in files:
                lost += 1
                continue
            phase = folder.partition("/")[0]
            placed.append(
                Placed(
                    name, row.get("labels", ""), given_part=part, no_class="no label",
                    further=(("phase", phase),),
                )
            )  # fmt: skip
    if not placed:
        raise LayoutError(
            f"{listing.root}: none of the {lost} images of its tables is there",
            hint="keep the folders phase1 and phase2 beside the tables",
        )
    warnings = [f"{plural(lost, 'image')} of the tables {is_or_are(lost)} not here"] if lost else []
    return Placement(placed, warnings)


def is_barcelona(listing: Listing) -> str:
    """By what PBC (Barcelona) is recognised, or empty."""
    images = [name for name in listing.files if is_image_name(name)]
    folders = {PurePosixPath(f).name.lower() for f in {n.rpartition("/")[0] for n in images}}
    if folders != _PBC_FOLDERS:
        return ""
    coded = sum(bool(_PBC_FILE.search(PurePosixPath(name).name)) for name in images)
    if 2 * coded > len(images):
        return "the folders are the eight classes of PBC, and file names hold the code of the cell"
    return ""


def place_barcelona(listing: Listing, class_map: Mapping[str, str] | None = None) -> Placement:
    """PBC: eight class folders; the code in a file's name is the cell type (``cell_type``)."""
    placement = place_by_folders(listing, class_map)
    return replace(
        placement,
        placed=[replace(item, cell_type=barcelona_type(item.path)) for item in placement.placed],
    )


def barcelona_type(path: str) -> str:
    """The cell type in a file name of PBC, or empty.

    >>> barcelona_type("neutrophil/SNE_70096.jpg"), barcelona_type("ig/MMY_1.jpg")
    ('segmented_neutrophil', 'metamyelocyte')
    """
    match = _PBC_FILE.search(PurePosixPath(path).name)
    code = match[1] if match else ""
    return _PBC_CODES.get(code) or resolve_class(code) or open_name(code)


def is_all_idb(listing: Listing) -> str:
    """By what ALL-IDB1 and ALL-IDB2 are recognised, or empty."""
    images = [name for name in listing.files if is_image_name(name)]
    named = sum(bool(all_idb_class(name)) for name in images)
    if images and 2 * named > len(images):
        return f"{named} of {len(images)} images are named Im<number>_<0 or 1>"
    return ""


def place_all_idb(listing: Listing) -> Placement:
    """ALL-IDB: ``Im001_1.jpg`` (fields, ALL-IDB1) and ``Im001_1.tif`` (cells, ALL-IDB2).

    The last digit is 1 for a patient with ALL, or a lymphoblast, and 0 for a healthy one. The two
    sets are to be read one at a time, because the cells were cut out of the fields.
    """
    placed: list[Placed] = []
    folders: set[str] = set()
    left: list[str] = []
    for name in filter(is_image_name, listing.files):
        label = all_idb_class(name)
        if label:
            folders.add(name.rpartition("/")[0])
            placed.append(Placed(name, PurePosixPath(name).stem[-1], label))
        else:
            left.append(name)
            placed.append(Placed(name, excluded="not named as the images of ALL-IDB"))
    warnings = []
    if left:
        warnings.append(
            f"{plural(len(left), 'image')} not named Im<number>_<0 or 1> {is_or_are(len(left))} "
            f"excluded, e.g. {left[0]}"
        )
    if len(folders) > 1:
        warnings.append(
            f"images of ALL-IDB in {len(folders)} folders ({', '.join(sorted(folders))}): the "
            "cells of ALL-IDB2 were cut out of the fields of ALL-IDB1; read one set at a time"
        )
    return Placement(placed, warnings)


def all_idb_class(path: str) -> str:
    """The class in a file name of ALL-IDB, or empty.

    >>> all_idb_class("img/Im001_1.tif"), all_idb_class("Im260_0.tif"), all_idb_class("Im1.tif")
    ('all', 'healthy', '')
    """
    match = _ALL_IDB_FILE.match(PurePosixPath(path).name)
    return _ALL_IDB_CLASSES[match[1]] if match else ""
