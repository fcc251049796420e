"""Read data sets as published: recognise the layout, name the classes, hash the files."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from leukoscope.core.errors import ImageError, LayoutError, UnknownNameError
from leukoscope.core.files import sha256_bytes
from leukoscope.core.labels import CLASSES
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.datasets.layout_readers import (
    MANIFEST_NAME,
    find_preliminary,
    has_columns,
    place_by_folders,
    place_manifest,
    place_preliminary,
)
from leukoscope.datasets.layout_rules import (
    Listing,
    PathMeaning,
    Placed,
    Placement,
    cnmc_name,
    is_image_name,
    list_files,
    read_path,
    why_class,
)
from leukoscope.imaging.decode import MAX_BYTES, decode_image

__all__ = ["LAYOUTS", "FolderRow", "Inspection", "inspect_dataset", "load_dataset"]
ID_DIGITS = 12
ClassMap = Mapping[str, str]


def read_records(
    root: Path,
    placed: Sequence[Placed],
    *,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> list[ImageRecord]:
    """The records of a data set, in the order of their paths."""
    ordered = sorted(placed, key=lambda item: item.path)
    records: list[ImageRecord] = []
    copies: Counter[str] = Counter()
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for record in pool.map(partial(_read, root), ordered):
            copies[record.image_id] += 1
            copy = copies[record.image_id]
            suffix = f"-{copy}" if copy > 1 else ""
            values = {**vars(record), "image_id": record.image_id + suffix}
            records.append(ImageRecord(**values))
            if progress is not None:
                progress(len(records), len(ordered))
    return records


def _read(root: Path, item: Placed) -> ImageRecord:
    path = root / item.path
    sha256, reason, size = "", "", (0, 0)
    try:
        data = _bytes_of(path)
        source = path if data is None else data
        if data is not None:
            sha256 = sha256_bytes(data)
        height, width = decode_image(source, name=item.path).image.shape[:2]
        size = (width, height)
    except ImageError as error:
        reason = f"{error.reason}: {error.detail}"
    status = "quarantined" if reason else "excluded" if item.excluded else "ok"
    # Without content the path has to make the id; it cannot collide with a true hash by accident.
    digest = sha256 or sha256_bytes(item.path.encode("utf-8", "surrogateescape"))
    return ImageRecord(
        image_id=digest[:ID_DIGITS],
        path=item.path,
        sha256=sha256,
        label=item.label,
        patient_id=item.patient_id,
        group_id=item.group_id,
        acquisition_id=item.acquisition_id,
        width=size[0],
        height=size[1],
        status=status,
        reason=reason or item.excluded,
        given_part=item.given_part,
        cohort=item.cohort,
    )


def _bytes_of(path: Path) -> bytes | None:
    """The file's bytes, or None where only the decoder can say what is wrong."""
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES:
            return path.read_bytes()
    except (OSError, ValueError):
        pass
    return None


@dataclass(frozen=True)
class Layout:
    """One way to lay out a data set.

    Attributes:
        expects: What must be there, for messages.
        recognise: Says by what the layout is recognised; empty where it does not fit.
        place: Says what each file is.
        automatic: Whether ``auto`` may choose it.
    """

    expects: str
    recognise: Callable[[Listing, ClassMap], str]
    place: Callable[[Listing, ClassMap], Placement]
    automatic: bool = True


def _has_manifest(listing: Listing, class_map: ClassMap) -> str:
    path = listing.root / MANIFEST_NAME
    if MANIFEST_NAME in listing.files and has_columns(path, ("path", "label")):
        return f"{MANIFEST_NAME} lists the images"
    return ""


def _is_preliminary(listing: Listing, class_map: ClassMap) -> str:
    if any(read_path(name).label for name in listing.files):
        return ""
    table = find_preliminary(listing)
    return f"{table} has the columns Patient_ID, new_names, labels" if table else ""


def _has_twins(listing: Listing, class_map: ClassMap) -> str:
    found = {s.variant for s in _steps(listing, class_map) if s.label}
    if {"original", "segmented"} <= found:
        return "class folders below Original and below Segmented"
    return ""


def _has_segmented(listing: Listing, class_map: ClassMap) -> str:
    found = any(s.variant == "segmented" for s in _steps(listing, class_map) if s.label)
    return "class folders below Segmented" if found else ""


def _is_cnmc(listing: Listing, class_map: ClassMap) -> str:
    images = [name for name in listing.files if is_image_name(name)]
    named = sum(cnmc_name(name) is not None for name in images)
    if images and named >= 0.5 * len(images):
        return f"{named} of {len(images)} images are named UID_<patient>_<image>_<cell>_<class>"
    return ""


def _has_parts(listing: Listing, class_map: ClassMap) -> str:
    parts = sorted({s.given_part for s in _steps(listing, class_map) if s.label} - {""})
    return f"class folders below {', '.join(parts)}" if parts else ""


def _has_classes(listing: Listing, class_map: ClassMap) -> str:
    names = {s.class_folder: s.label for s in _steps(listing, class_map) if s.label}
    if not names and place_by_folders(listing, class_map).root_label:
        return f"the folder {listing.root.resolve().name} itself names a class"
    return "the folders " + ", ".join(sorted(names)) + " name classes" if names else ""


def _steps(listing: Listing, class_map: ClassMap) -> list[PathMeaning]:
    return [read_path(name, class_map) for name in listing.files if is_image_name(name)]


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "csv-manifest": Layout(
            f"a {MANIFEST_NAME} with the columns path and label",
            _has_manifest,
            lambda listing, class_map: place_manifest(listing.root / MANIFEST_NAME, class_map),
        ),
        "cnmc-preliminary": Layout(
            "a CSV with the columns Patient_ID, new_names, labels beside the images",
            _is_preliminary,
            lambda listing, class_map: place_preliminary(listing),
        ),
        "original-segmented": Layout(
            "class folders below Original and below Segmented", _has_twins, place_by_folders
        ),
        "segmented": Layout(
            "class folders below Segmented",
            _has_segmented,
            partial(place_by_folders, use="segmented"),
            automatic=False,
        ),
        "cnmc": Layout(
            "images named UID_<patient>_<image>_<cell>_<class>", _is_cnmc, place_by_folders
        ),
        "parts": Layout(
            "class folders below train, val, test or fold_<number>", _has_parts, place_by_folders
        ),
        "class-folders": Layout("folders that name classes", _has_classes, place_by_folders),
    }
)
"""Every layout in the order in which ``auto`` tries them."""


@dataclass(frozen=True)
class FolderRow:
    """What one folder name or column value stands for."""

    found: str
    label: str  # canonical class, or empty where its images are excluded
    why: str  # which rule says so, or how to map it
    images: int  # number of image files (by suffix)


@dataclass(frozen=True)
class Inspection:
    """How a folder would be read, before any image is opened."""

    layout: str  # A key of LAYOUTS
    why: str  # what it was recognised by
    folders: tuple[FolderRow, ...]  # what each folder name or column value stands for
    parts: dict[str, int]  # the data's own parts or folds → images
    patients: int  # number of distinct patient ids
    images: int  # images that would be used
    excluded: dict[str, int]
    warnings: tuple[str, ...]  # what is odd, in sentences


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
    """Say how a folder would be read, and why, without opening an image."""
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
