"""Read data sets as they were published: recognise the layout, name the classes, hash the files.

===================== ====================================================================
``csv-manifest``      a CSV with the columns ``path,label`` (``patient_id``, ``group_id``,
                      ``split``, ``acquisition_id``, ``cohort`` where known), or a folder with
                      such a ``manifest.csv``
``cnmc-preliminary``  C-NMC 2019, preliminary phase: a flat folder with its CSV
``original-segmented``  class folders below ``Original`` and below ``Segmented``: the same fields
                      twice. Originals are used, segmented twins are excluded
``segmented``         the same folders, but the segmented pictures are used (only on request)
``cnmc``              C-NMC 2019: ``UID_<patient>_<image>_<cell>_<class>`` in ``fold_<n>``
``parts``             class folders below ``train``, ``val``, ``test`` (or longer names)
``class-folders``     one folder per class, at any depth
===================== ====================================================================

Labels are names, so a missing, empty, hidden or unknown class shifts no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from leukoscope.core.errors import LayoutError, UnknownNameError
from leukoscope.core.labels import CLASSES
from leukoscope.core.records import Manifest
from leukoscope.datasets.layout_registry import LAYOUTS, ClassMap
from leukoscope.datasets.layout_rules import Placement, is_image_name, why_class
from leukoscope.datasets.layout_tables import MANIFEST_NAME, place_manifest
from leukoscope.datasets.reading import read_records
from leukoscope.datasets.walking import Listing, list_files

__all__ = ["LAYOUTS", "FolderRow", "Inspection", "inspect_dataset", "load_dataset"]


@dataclass(frozen=True)
class FolderRow:
    """What one folder name or column value stands for.

    Attributes:
        found: The name.
        label: Canonical class, or empty where its images are excluded.
        why: Which rule says so, or how to map it.
        images: Number of image files (by suffix).
    """

    found: str
    label: str
    why: str
    images: int


@dataclass(frozen=True)
class Inspection:
    """How a folder would be read, before any image is opened.

    Attributes:
        layout: A key of :data:`LAYOUTS`.
        why: What it was recognised by.
        folders: What each folder name or column value stands for.
        parts: The data's own parts or folds → images.
        patients: Number of distinct patient ids.
        images: Images that would be used.
        excluded: Reason → images.
        warnings: What is odd, in sentences.
    """

    layout: str
    why: str
    folders: tuple[FolderRow, ...]
    parts: dict[str, int]
    patients: int
    images: int
    excluded: dict[str, int]
    warnings: tuple[str, ...]


def load_dataset(
    path: Path | str,
    *,
    layout: str = "auto",
    class_map: ClassMap | None = None,
    progress: Callable[[int, int], None] | None = None,
    threads: int = 2,
) -> Manifest:
    """Read every image of a data set once: hash, size, class, patient, part.

    A broken file becomes ``quarantined`` with the reason ``code: detail``; an image without a
    known class, or a segmented twin, becomes ``excluded``. Both stay in the manifest.

    Args:
        path: Folder, or CSV manifest.
        layout: A key of :data:`LAYOUTS`, or ``auto``.
        class_map: Folder name or column value → canonical class, where no alias fits.
        progress: Called with (files read, files in all).
        threads: Number of files read at a time.

    Raises:
        LayoutError: The folder has no known layout; says what was found and what to do.
        UnknownNameError: ``layout`` or a class of ``class_map`` is unknown.
    """
    root, name, _, placement = _place(Path(path), layout, class_map)
    records = read_records(root, placement.placed, threads=threads, progress=progress)
    return Manifest(root, tuple(records), name, tuple(placement.warnings))


def inspect_dataset(
    path: Path | str, *, layout: str = "auto", class_map: ClassMap | None = None
) -> Inspection:
    """Say how a folder would be read, and why, without opening an image.

    Args:
        path: Folder, or CSV manifest.
        layout: A key of :data:`LAYOUTS`, or ``auto``.
        class_map: Folder name or column value → canonical class, where no alias fits.

    Raises:
        LayoutError: As :func:`load_dataset`.
        UnknownNameError: As :func:`load_dataset`.
    """
    _, name, why, placement = _place(Path(path), layout, class_map)
    images = [item for item in placement.placed if is_image_name(item.path)]
    used = [item for item in images if not item.excluded]
    counts = Counter((item.found, item.label) for item in images)
    return Inspection(
        name,
        why,
        tuple(
            FolderRow(found or "(no class folder)", label, why_class(found, label, class_map), n)
            for (found, label), n in sorted(counts.items())
        ),
        dict(sorted(Counter(item.given_part for item in used if item.given_part).items())),
        len({item.patient_id for item in used} - {""}),
        len(used),
        dict(Counter(_kind(item.excluded) for item in images if item.excluded)),
        tuple(placement.warnings),
    )


def _place(path: Path, layout: str, class_map: ClassMap | None) -> tuple[Path, str, str, Placement]:
    """Root, layout, why, and what each file is."""
    mapping = dict(class_map or {})
    for name in mapping.values():
        if name not in CLASSES:
            raise UnknownNameError("class", name, CLASSES)
    if layout != "auto" and layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, ["auto", *LAYOUTS])
    if path.suffix.lower() == ".csv" and not path.is_dir():
        if layout not in ("auto", "csv-manifest"):
            raise LayoutError(
                f"{path}: layout {layout!r} needs a folder, but this is a CSV file",
                hint="give the folder, or leave the layout to auto",
            )
        placement = place_manifest(path, mapping)
        return path.parent, "csv-manifest", f"{path.name} is a CSV manifest", placement
    listing = list_files(path)
    name, why = _recognise(listing, layout, mapping)
    return path, name, why, LAYOUTS[name].place(listing, mapping)


def _recognise(listing: Listing, layout: str, class_map: ClassMap) -> tuple[str, str]:
    if layout != "auto":
        why = LAYOUTS[layout].recognise(listing, class_map)
        if why:
            return layout, why
        raise LayoutError(
            f"{listing.root}: layout {layout!r} expects {LAYOUTS[layout].expects}; "
            f"found {_found(listing)}",
            hint="leave the layout to auto, or see `leukoscope data inspect`",
        )
    for name, candidate in LAYOUTS.items():
        if candidate.automatic and (why := candidate.recognise(listing, class_map)):
            return name, why
    raise LayoutError(
        f"{listing.root}: no known layout; found {_found(listing)}",
        hint=(
            "name what each folder stands for with --class 'FOLDER=CLASS' (class_map), CLASS one "
            f"of {', '.join(CLASSES)}; or write a {MANIFEST_NAME} with the columns path,label"
        ),
    )


def _found(listing: Listing) -> str:
    """What lies in a folder, for a message."""
    images = [name for name in listing.files if is_image_name(name)]
    if not images:
        others = f"{len(listing.files)} other files" if listing.files else "nothing else"
        hidden = sum(listing.hidden.values())
        return f"no image, {others}" + (f", {hidden} hidden files" if hidden else "")
    folders = Counter(name.rpartition("/")[0] or "(this folder)" for name in images)
    shown = ", ".join(f"{name} ({n})" for name, n in sorted(folders.items())[:8])
    more = f" and {len(folders) - 8} more folders" if len(folders) > 8 else ""
    return f"{len(images)} images in {shown}{more}"


def _kind(reason: str) -> str:
    return reason.partition(" of ")[0]
