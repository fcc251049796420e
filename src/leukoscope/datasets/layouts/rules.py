"""Files below a folder in a fixed order, and what their names mean: class, part, patient.

Folders of unknown names are read in :mod:`leukoscope.datasets.layouts.folder_levels`.
"""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from leukoscope.core.errors import LayoutError
from leukoscope.core.files import is_folder
from leukoscope.core.known_classes import CLASSES
from leukoscope.core.labels import class_title, open_name, resolve_class
from leukoscope.core.records import DESCRIBING_COLUMNS
from leukoscope.imaging.decode import IMAGE_SUFFIXES

HIDDEN_NAMES = frozenset(
    {"__macosx", "__pycache__", "$recycle.bin", "thumbs.db", "ehthumbs.db", "desktop.ini"}
)
Variant = Literal["", "original", "segmented"]
_PARTS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "testa", "testb"),  # Raabin-WBC has two test parts
}
_PART_OF = {alias: part for part, aliases in _PARTS.items() for alias in aliases}
_FOLD = re.compile(r"^fold[ _-]?(\d+)$", re.IGNORECASE)
_VARIANTS: Mapping[str, Variant] = {
    "original": "original",
    "originals": "original",
    "segmented": "segmented",
    "segmentation": "segmented",
}
# C-NMC 2019: UID_<patient>_<image>_<cell>_<class>; healthy subjects have an H before the number.
_CNMC = re.compile(r"^UID_(H?\d+)_(\d+)_(\d+)_(all|hem)$", re.IGNORECASE)


@dataclass(frozen=True)
class Listing:
    """What lies below a folder.

    Attributes:
        files: Paths below it with forward slashes, sorted.
        folders: Likewise, the folders that were entered.
        hidden: Name of a hidden folder (or ``""`` for single hidden files) → files skipped.
        links: Links to folders that were not followed, because they lead to a folder already seen.
        closed: Folders that could not be opened.
    """

    root: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]
    hidden: dict[str, int]
    links: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()


def list_files(root: Path) -> Listing:
    """Walk a folder.

    A link to a folder is followed once, and only after all true folders, so that a file keeps
    the path where it really lies.

    Raises:
        LayoutError: The folder does not exist, is a file, or cannot be opened.
    """
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        hint = "give the folder that holds the class folders"
        if root.exists() and root.suffix.lower() in (".txt", ".tab"):
            hint += ", or name the table .csv or .tsv"
        raise LayoutError(
            f"{root}: expected a folder of images or a CSV manifest, but it {state}",
            hint=hint,
        )
    walk = _Walk(root)
    walk.enter("")
    while walk.linked:
        path = walk.linked.popleft()
        if walk.identity(path) in walk.seen:
            walk.links.append(path)
        else:
            walk.folders.append(path)
            walk.enter(path)
    if walk.closed and walk.closed[0] == "":
        raise LayoutError(f"{root}: this folder cannot be opened", hint="check its permissions")
    return Listing(
        root,
        tuple(sorted(walk.files)),
        tuple(sorted(walk.folders)),
        dict(sorted(walk.hidden.items())),
        tuple(sorted(walk.links)),
        tuple(sorted(walk.closed)),
    )


def is_hidden(name: str) -> bool:
    """Whether a file or folder is the system's or a tool's, not part of the data.

    >>> is_hidden(".ipynb_checkpoints"), is_hidden("Thumbs.db"), is_hidden("Benign")
    (True, True, False)
    """
    return name.startswith(".") or name.lower() in HIDDEN_NAMES


class _Walk:
    """The state of one walk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[str] = []
        self.folders: list[str] = []
        self.links: list[str] = []
        self.closed: list[str] = []
        self.hidden: Counter[str] = Counter()
        self.linked: deque[str] = deque()
        self.seen: set[tuple[int, int]] = set()

    def identity(self, path: str) -> tuple[int, int]:
        status = (self.root / path).stat()
        return status.st_dev, status.st_ino

    def enter(self, path: str) -> None:
        waiting = [path]
        while waiting:
            folder = waiting.pop()
            try:
                self.seen.add(self.identity(folder))
                with os.scandir(self.root / folder) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError:
                self.closed.append(folder)
                continue
            for entry in entries:
                below = f"{folder}/{entry.name}" if folder else entry.name
                if is_hidden(entry.name):
                    self.hide(entry)
                elif not is_folder(entry):
                    self.files.append(below)
                elif entry.is_symlink():
                    self.linked.append(below)
                else:
                    self.folders.append(below)
                    waiting.append(below)

    def hide(self, entry: os.DirEntry[str]) -> None:
        if not is_folder(entry) or entry.is_symlink():
            self.hidden[""] += 1
            return
        inside = sum(len(files) for _, _, files in os.walk(entry.path))
        self.hidden[entry.name] += inside


@dataclass(frozen=True)
class Placed:
    """What is known of a file before it is opened."""

    path: str
    found: str = ""  # folder name or column value that gives the class
    label: str = ""  # class, or empty until all names of the data set are known
    patient_id: str = ""  # from a folder, the file name or a column
    group_id: str = ""  # from the manifest
    acquisition_id: str = ""  # from the manifest
    given_part: str = ""  # ``train``, ``val``, ``test``, ``fold_0`` … or empty
    excluded: str = ""  # why the image is not used; empty where it is
    no_class: str = ""  # why the image is not used if ``found`` and ``label`` stay empty
    cohort: str = ""
    site: str = ""
    session: str = ""
    cell_type: str = ""
    diagnosis: str = ""
    further: tuple[tuple[str, str], ...] = ()  # the user's own columns

    def column(self, name: str) -> str:
        """The value of a describing or further column, or empty."""
        own = getattr(self, name) if name in DESCRIBING_COLUMNS else ""
        return own or dict(self.further).get(name, "")


@dataclass(frozen=True)
class Placement:
    """What each file of a data set is, and what was odd."""

    placed: list[Placed]  # one entry a file
    warnings: list[str]
    root_label: str = ""  # class named by the root folder, where no folder below names one
    lines: Mapping[str, int] = field(default_factory=dict)  # class name → its first line in a CSV
    columns: tuple[str, ...] = ()  # further columns that the data has, for messages
    unused: tuple[str, ...] = ()  # names that the user mapped, and the data does not have


@dataclass(frozen=True)
class PathMeaning:
    """What the folders on the way to a file mean."""

    class_folder: str = ""  # name of the deepest folder that names a class, or empty
    other_folder: str = ""  # else the deepest folder of unknown meaning, or empty
    label: str = ""  # class of ``class_folder``
    given_part: str = ""  # part named by the deepest folder that names one
    variant: Variant = ""  # ``original``, ``segmented`` or empty
    set_folder: str = ""  # remaining folders above the class: where this data set lies
    nested: bool = False  # two folders on the way name different classes
    part_folder: str = ""  # the folder that names the part
    named: tuple[tuple[str, str], ...] = ()  # patient_id, session …: what other folders name


def read_path(path: str, class_map: Mapping[str, str] | None = None) -> PathMeaning:
    """Interpret the folders of a path by known names; the file's own name is not looked at.

    >>> steps = read_path("Original/[Malignant] early Pre-B/a.jpg")
    >>> steps.label, steps.variant, read_path("Training/ALL/a.jpg").given_part
    ('early_pre_b', 'original', 'train')
    >>> read_path("ALL/Patient_07/a.jpg").named
    (('patient_id', 'Patient_07'),)
    """
    label = class_folder = other = part = part_folder = ""
    variant: Variant = ""
    labels: set[str] = set()
    named: dict[str, str] = {}
    rest: list[str] = []
    for name in PurePosixPath(path).parts[:-1]:
        found = resolve_class(name, class_map)
        if found is not None:
            label, class_folder = found, name
            labels.add(found)
        elif name_part := part_of(name):
            part, part_folder = name_part, name
        elif name.lower() in _VARIANTS:
            variant = _VARIANTS[name.lower()]
        elif kind := id_column(name):
            if kind in named and kind == "patient_id":
                kind = "session"  # a code below a patient's folder
            named[kind] = name
        else:
            other = name
            if not label:
                rest.append(name)
    return PathMeaning(
        class_folder,
        "" if label else other,
        label,
        part,
        variant,
        "/".join(rest),
        len(labels) > 1,
        part_folder,
        tuple(named.items()),
    )


def is_structural(name: str) -> bool:
    """Whether a folder names a part or original and segmented pictures.

    >>> is_structural("train"), is_structural("Segmented"), is_structural("Benign")
    (True, True, False)
    """
    return bool(part_of(name)) or name.lower() in _VARIANTS


_SEPARATOR = r"[ _.#-]*"
_ID = r"[a-z]{0,3}[ _-]?\d+[a-z]?"
_ID_FOLDERS: Mapping[str, re.Pattern[str]] = {
    column: re.compile(rf"(?:{words}){_SEPARATOR}(?:{tail})", re.IGNORECASE)
    for column, words, tail in (
        ("patient_id", "patients?|pat|pt|subjects?|subj|sub|cases?|donors?|persons?|uid|id|pid",
         _ID),
        ("session", "slides?|smears?|sessions?|batch|scans?|runs?|days?|plates?", rf"{_ID}|[a-z]"),
        ("site", "sites?|cent(?:er|re)s?|hospitals?|clinics?|labs?", r"\d+|[a-z]"),
        ("cohort", "cohorts?", r"\d+|[a-z]"),
    )
}  # fmt: skip
_CODE = re.compile(r"[a-z]{0,4}[ _-]?\d{1,12}[a-z]?|(?=[a-f]*\d)[0-9a-f]{8,}", re.IGNORECASE)
_NO_CODE = re.compile(
    # FAB types of leukemia (L1 to L3, M0 to M7), and numbered folders that hold no patient
    r"[lm][0-7]|(?:set|part|data|dir|vol|ver|v|img|aug|exp|tile|crop|type|cls|cd)[ _-]?\d+",
    re.IGNORECASE,
)


def id_column(name: str) -> str:
    """The column that a folder which looks like an identifier stands for, or empty.

    >>> [id_column(name) for name in ("Patient_07", "P12", "0031", "smear 2", "site A", "L1")]
    ['patient_id', 'patient_id', 'patient_id', 'session', 'site', '']
    >>> id_column("Hairy cell"), id_column("session"), id_column("cohort_b")
    ('', '', 'cohort')
    """
    for column, pattern in _ID_FOLDERS.items():
        if pattern.fullmatch(name.strip()):
            return column
    is_code = _CODE.fullmatch(name.strip()) and not _NO_CODE.fullmatch(name.strip())
    return "patient_id" if is_code else ""


def part_of(name: str) -> str:
    """The part that a folder or column value names, or empty.

    >>> part_of("Validation"), part_of("fold_2"), part_of("images")
    ('val', 'fold_2', '')
    """
    if fold := _FOLD.match(name.strip()):
        return f"fold_{int(fold[1])}"
    return _PART_OF.get(name.strip().lower(), "")


def cnmc_name(path: str) -> tuple[str, str] | None:
    """Patient and class in a published C-NMC file name, or None.

    >>> cnmc_name("fold_0/hem/UID_H10_1_2_hem.bmp"), cnmc_name("Snap_031.jpg")
    (('H10', 'healthy'), None)
    """
    name = path.rpartition("/")[2]
    match = _CNMC.match(name.rpartition(".")[0] or name)  # pathlib is slow
    if match is None:
        return None
    return match[1].upper(), "healthy" if match[4].lower() == "hem" else "all"


def is_image_name(path: str) -> bool:
    """Whether the suffix is that of an image format we read.

    >>> is_image_name("a.b/x.JPG"), is_image_name("a.png/x"), is_image_name("a/.png")
    (True, False, False)
    """
    stem, _, suffix = path.rpartition("/")[2].rpartition(".")  # pathlib is slow
    return bool(stem) and f".{suffix}".lower() in IMAGE_SUFFIXES


def twin_key(path: str, steps: PathMeaning) -> tuple[str, ...]:
    """Equal for an original and its segmented twin: set, part, class, ids, name without suffix."""
    stem = PurePosixPath(path).stem.lower()
    label = steps.label or steps.other_folder
    return (steps.set_folder, steps.given_part, label, *map("=".join, steps.named), stem)


def why_class(found: str, label: str, class_map: Mapping[str, str] | None) -> str:
    """Why a folder or value stands for a class, or how to make it one."""
    if not found:
        return "nothing names a class"
    if not label:
        return f"names no class; map it with --class '{found}=CLASS' (in Python: class_map)"
    if any(open_name(given) == open_name(found) for given in class_map or {}):
        return "mapped by you"
    if label in CLASSES and label in (resolve_class(found), open_name(found)):
        return f"a known name of {class_title(label)}"
    if label == open_name(found):
        return "no known name: a class of its own"
    if label in CLASSES and open_name(found).rstrip("s") == label.rstrip("s"):
        return f"a known name of {class_title(label)}"
    return "said by the file names"


def provenance_path(path: Path) -> Path:
    """Where a corrected manifest says what was changed (``leukoscope relabel --apply``)."""
    return path.with_name(f"{path.stem}.provenance.json")
