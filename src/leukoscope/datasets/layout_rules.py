"""Files below a folder in a fixed order, and what their names mean: class, part, patient."""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from leukoscope.core.errors import LayoutError
from leukoscope.core.labels import CLASSES, resolve_class
from leukoscope.imaging.decode import IMAGE_SUFFIXES

HIDDEN_FOLDERS = frozenset({"__macosx", "__pycache__", "$recycle.bin"})
Variant = Literal["", "original", "segmented"]
_PARTS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
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
        raise LayoutError(
            f"{root}: expected a folder of images or a CSV manifest, but it {state}",
            hint="give the folder that holds the class folders",
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

    >>> is_hidden(".ipynb_checkpoints"), is_hidden("__MACOSX"), is_hidden("Benign")
    (True, True, False)
    """
    return name.startswith(".") or name.lower() in HIDDEN_FOLDERS


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
                elif not _is_folder(entry):
                    self.files.append(below)
                elif entry.is_symlink():
                    self.linked.append(below)
                else:
                    self.folders.append(below)
                    waiting.append(below)

    def hide(self, entry: os.DirEntry[str]) -> None:
        if not _is_folder(entry) or entry.is_symlink():
            self.hidden[""] += 1
            return
        inside = sum(len(files) for _, _, files in os.walk(entry.path))
        self.hidden[entry.name] += inside


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a link to itself is a (broken) file."""
    try:
        return entry.is_dir()
    except OSError:
        return False


@dataclass(frozen=True)
class Placed:
    """What is known of a file before it is opened."""

    path: str
    found: str = ""  # folder name or column value that gives the class
    label: str = ""  # canonical class, or empty
    patient_id: str = ""  # from the file name or column
    group_id: str = ""  # from the manifest
    acquisition_id: str = ""  # from the manifest
    given_part: str = ""  # ``train``, ``val``, ``test``, ``fold_0`` … or empty
    excluded: str = ""  # why the image is not used; empty where it is
    cohort: str = ""  # from the manifest


@dataclass(frozen=True)
class Placement:
    """What each file of a data set is, and what was odd."""

    placed: list[Placed]  # one entry a file
    warnings: list[str]
    root_label: str = ""  # class named by the root folder, where no folder below names one


@dataclass(frozen=True)
class PathMeaning:
    """What the folders on the way to a file mean."""

    class_folder: str = ""  # name of the deepest folder that names a class, or empty
    other_folder: str = ""  # else the deepest folder of unknown meaning, or empty
    label: str = ""  # canonical class of ``class_folder``
    given_part: str = ""  # part named by the deepest folder that names one
    variant: Variant = ""  # ``original``, ``segmented`` or empty
    set_folder: str = ""  # remaining folders above the class: where this data set lies
    nested: bool = False  # two folders on the way name different classes


def read_path(path: str, class_map: Mapping[str, str] | None = None) -> PathMeaning:
    """Interpret the folders of a path; the file's own name is not looked at.

    >>> steps = read_path("Original/[Malignant] early Pre-B/a.jpg")
    >>> steps.label, steps.variant, read_path("Training/ALL/a.jpg").given_part
    ('early_pre_b', 'original', 'train')
    """
    label = class_folder = other = part = ""
    variant: Variant = ""
    labels: set[str] = set()
    rest: list[str] = []
    for name in PurePosixPath(path).parts[:-1]:
        found = resolve_class(name, class_map)
        if found is not None:
            label, class_folder = found, name
            labels.add(found)
        elif name_part := part_of(name):
            part = name_part
        elif name.lower() in _VARIANTS:
            variant = _VARIANTS[name.lower()]
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
    )


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
    match = _CNMC.match(PurePosixPath(path).stem)
    if match is None:
        return None
    return match[1].upper(), "healthy" if match[4].lower() == "hem" else "all"


def is_image_name(path: str) -> bool:
    """Whether the suffix is that of an image format we read."""
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES


def twin_key(path: str, steps: PathMeaning) -> tuple[str, str, str, str]:
    """Equal for an original and its segmented twin: set, part, class, name without suffix."""
    stem = PurePosixPath(path).stem.lower()
    return steps.set_folder, steps.given_part, steps.label or steps.other_folder, stem


def why_class(found: str, label: str, class_map: Mapping[str, str] | None) -> str:
    """Why a folder or value stands for a class, or how to make it one."""
    if not label:
        return (
            f"no known class; map it with --class '{found}=CLASS' "
            f"(class_map), CLASS one of {', '.join(CLASSES)}"
        )
    if resolve_class(found) == label:
        return f"a known name of {CLASSES[label].title}"
    return "mapped by you (class_map)" if class_map else "said by the file names"
