"""Read data sets as published: recognise the layout, name the classes, read the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TypedDict

from leukoscope.core.errors import LayoutError, UnknownNameError
from leukoscope.core.known_classes import Role
from leukoscope.core.labels import check_roles, open_name
from leukoscope.core.records import Manifest
from leukoscope.core.tables import MANIFESTS, has_columns
from leukoscope.datasets.layouts.folder_levels import is_pattern, parse_pattern, read_folders
from leukoscope.datasets.layouts.image_records import (
    clean_class_map,
    column_roles,
    name_classes,
    read_records,
    unused_note,
)
from leukoscope.datasets.layouts.published import (
    find_annotations,
    has_signed_slides,
    is_all_idb,
    is_barcelona,
    is_wbcbench,
    join_patients,
    place_all_idb,
    place_annotations,
    place_barcelona,
    place_signed_slides,
    place_wbcbench,
)
from leukoscope.datasets.layouts.readers import (
    MANIFEST_NAME,
    find_preliminary,
    place_by_folders,
    place_by_pattern,
    place_manifest,
    place_preliminary,
)
from leukoscope.datasets.layouts.rules import (
    Listing,
    PathMeaning,
    Placement,
    cnmc_name,
    is_image_name,
    list_files,
    read_path,
)
from leukoscope.datasets.layouts.unpacked import (
    NPZ,
    cut_points,
    has_points,
    inspect_npz,
    inspect_points,
    unpack_npz,
)

CHULA = "chula"
MOST_NAMED = 20
TARGETS = ("diagnosis", "cell_type")
"""Columns that can stand for a missing label (``target``)."""

ClassMap = Mapping[str, str]


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
    if MANIFEST_NAME not in listing.files:
        return ""
    labelled = any(has_columns(path, ("path", name)) for name in ("label", *TARGETS))
    return f"{MANIFEST_NAME} lists the images" if labelled else ""


def _is_preliminary(listing: Listing, class_map: ClassMap) -> str:
    if any(read_path(name).label for name in listing.files):
        return ""
    table = find_preliminary(listing)
    return f"{table} has the columns Patient_ID, new_names, labels" if table else ""


def _is_annotated(listing: Listing, class_map: ClassMap) -> str:
    table = find_annotations(listing)
    return f"{table} lists images and their class codes" if table else ""


def _is_all_idb(listing: Listing, class_map: ClassMap) -> str:
    in_classes = any(read_path(name, class_map).label for name in listing.files)
    return "" if in_classes else is_all_idb(listing)


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
    steps = _steps(listing, class_map)
    if not any(s.given_part for s in steps):
        return ""
    if not any(s.label for s in steps):  # folders of unknown names
        steps = _all_steps(listing, class_map)
    parts = sorted({s.given_part for s in steps if s.label} - {""})
    return f"class folders below {', '.join(parts)}" if parts else ""


def _has_classes(listing: Listing, class_map: ClassMap) -> str:
    steps = _all_steps(listing, class_map)
    names = sorted({s.class_folder for s in steps if s.label})
    if not names and place_by_folders(listing, class_map).root_label:
        return f"the folder {listing.root.resolve().name} itself names a class"
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    shown = ", ".join(names[:MOST_NAMED]) + more
    return f"the folders {shown} name classes" if names else ""


def _steps(listing: Listing, class_map: ClassMap) -> list[PathMeaning]:
    """The meaning of each folder that holds images, by known names."""
    folders = {name.rpartition("/")[0] for name in listing.files if is_image_name(name)}
    return [read_path(f"{folder}/x" if folder else "x", class_map) for folder in sorted(folders)]


def _all_steps(listing: Listing, class_map: ClassMap) -> list[PathMeaning]:
    """The meaning of each image's folders, whatever their names."""
    found = read_folders(listing, class_map)
    return [steps for name, steps in found.items() if is_image_name(name)]


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "csv-manifest": Layout(
            f"a {MANIFEST_NAME} with the columns path and label",
            _has_manifest,
            lambda listing, class_map: place_manifest(listing.root / MANIFEST_NAME),
        ),
        "deepapl": Layout(
            "folders Patient_<number> with Signed slides, and class folders below them",
            lambda listing, class_map: has_signed_slides(listing),
            lambda listing, class_map: place_signed_slides(listing),
        ),
        "annotations": Layout(
            "annotations.dat, whose lines name an image and the code of its class",
            _is_annotated,
            lambda listing, class_map: place_annotations(listing),
        ),
        CHULA: Layout(
            "fields in Dataset, and in Label a file of lines x y type for each",
            lambda listing, class_map: (
                "Label names the cells of the fields in Dataset by points"
                if has_points(listing.root)
                else ""
            ),
            lambda listing, class_map: inspect_points(listing.root),
        ),
        "wbcbench": Layout(
            "phase1_label.csv or phase2_train.csv with the columns ID, labels",
            lambda listing, class_map: is_wbcbench(listing),
            lambda listing, class_map: place_wbcbench(listing),
        ),
        "pbc": Layout(
            "the eight class folders of PBC, with images named BNE_<number>, SNE_<number> …",
            lambda listing, class_map: is_barcelona(listing),
            place_barcelona,
        ),
        "cnmc-preliminary": Layout(
            "a CSV with the columns Patient_ID, new_names, labels beside the images",
            _is_preliminary,
            lambda listing, class_map: place_preliminary(listing),
        ),
        "all-idb": Layout(
            "images named Im<number>_1 and Im<number>_0, in no class folders",
            _is_all_idb,
            lambda listing, class_map: place_all_idb(listing),
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


class HowRead(TypedDict, total=False):
    """What a user may say of how a data set is read; see :func:`load_dataset`."""

    layout: str
    class_map: ClassMap | None
    target: str


def load_dataset(
    path: Path | str,
    *,
    layout: str = "auto",
    class_map: ClassMap | None = None,
    target: str = "",
    progress: Callable[[int, int], None] | None = None,
    threads: int = 2,
) -> Manifest:
    """Read every image of a data set once: hash, size, class, patient, part.

    A broken file becomes ``quarantined`` with the reason ``code: detail``; an image without a
    class, or a segmented twin, becomes ``excluded``. Both stay in the manifest.

    Args:
        path: Folder, CSV manifest, or MedMNIST ``.npz``, whose images are written once, as
            lossless PNG, to a folder beside it; so are the cells of Chula's fields.
        layout: A key of :data:`LAYOUTS`, ``auto``, or a pattern such as ``{class}/{patient}``.
        class_map: Folder name or column value → class.
        target: Column that is the label (``diagnosis``, ``cell_type``, …) in place of the one that
            the layout gives; that one becomes the further column ``given_label``.
        progress: Called with (images done, images in all).
        threads: Files read at the same time.

    Raises:
        LayoutError: The folder has no known layout, or two; a class looks misspelt; no image has
            the column ``target``. Says what was found and what to do.
        UnknownNameError: ``layout`` is unknown, or a class of ``class_map`` looks misspelt.
    """
    path, packed = Path(path), ""
    if _is_npz(path):
        path, packed = unpack_npz(path, progress), "npz"
    elif layout in ("auto", CHULA) and has_points(path):
        path, packed, layout = cut_points(path, progress), CHULA, "auto"
    root, name, _, placement = place(path, layout, class_map, target)
    name = packed or name
    records = read_records(root, placement.placed, threads=threads, progress=progress)
    return Manifest(root, tuple(records), name, tuple(placement.warnings))


def stated_roles(
    path: Path | str,
    *,
    layout: str = "auto",
    class_map: ClassMap | None = None,
    target: str = "",
) -> dict[str, Role]:
    """Class → role, as the column ``role`` of a CSV manifest says; empty without such a column.

    Raises:
        LayoutError: The manifest cannot be read, or gives one class two roles.
        UnknownNameError: A role is none.
    """
    path = Path(path)
    table = path / MANIFEST_NAME if path.is_dir() else path
    if not has_columns(table, ("path", "role")):
        return {}
    placement = place(path, layout, class_map, target)[-1]
    roles = column_roles(placement, table)
    return check_roles(roles, roles)


def _is_npz(path: Path) -> bool:
    return path.suffix.lower() == NPZ and not path.is_dir()


def place(
    path: Path, layout: str, class_map: ClassMap | None, target: str
) -> tuple[Path, str, str, Placement]:
    """Root, layout, why, and what each file is, with its class."""
    mapping = clean_class_map(class_map)
    target = target.strip().lower()
    target = "" if target == "label" else target
    root, name, why, placement = _read_layout(path, layout, mapping, target)
    return root, name, why, name_classes(placement, mapping, target, path)


def _read_layout(
    path: Path, layout: str, mapping: ClassMap, target: str
) -> tuple[Path, str, str, Placement]:
    """Root, layout, why, and what each file is, before its class is named."""
    pattern = parse_pattern(layout) if is_pattern(layout) else None
    if layout != "auto" and layout not in LAYOUTS and pattern is None:
        raise UnknownNameError("layout", layout, ["auto", *LAYOUTS, "{class}/{patient}"])
    if path.suffix.lower() in (*MANIFESTS, NPZ) and not path.is_dir():
        if layout not in ("auto", "csv-manifest"):
            kind = f"an {NPZ} file" if _is_npz(path) else "a table"
            raise LayoutError(
                f"{path}: layout {layout!r} needs a folder, but this is {kind}",
                hint="give the folder, or leave the layout to auto",
            )
        if _is_npz(path):
            placement = inspect_npz(path)
            return path.parent, "npz", f"{path.name} holds images and labels", placement
        placement = place_manifest(path, target)
        return path.parent, "csv-manifest", f"{path.name} is a CSV manifest", placement
    listing = list_files(path)
    if pattern is not None:
        placement = join_patients(listing, place_by_pattern(listing, pattern))
        return path, layout, "the layout that you gave", placement
    if target and layout == "auto" and has_columns(path / MANIFEST_NAME, ("path", target)):
        layout = "csv-manifest"
    name, why = _recognise(listing, layout, mapping)
    if name == "csv-manifest":
        return path, name, why, place_manifest(path / MANIFEST_NAME, target)
    return path, name, why, join_patients(listing, LAYOUTS[name].place(listing, mapping))


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
    found = _only_folder(listing) or f"no known layout; found {_found(listing)}"
    folders = {open_name(step) for name in listing.files for step in name.split("/")[:-1]}
    lost = [given for given in class_map if open_name(given) not in folders]
    found += "".join(f"; {unused_note(given)}" for given in lost)
    raise LayoutError(
        f"{listing.root}: {found}",
        hint=(
            "put the images of each class into a folder of its name; or say which folder is what "
            f"with --layout '{{class}}/{{patient}}'; or write a {MANIFEST_NAME} with the columns "
            "path,label"
        ),
    )


def _only_folder(listing: Listing) -> str:
    """What is missing where all images lie in one folder, of no known name."""
    folders = Counter(n.rpartition("/")[0] for n in listing.files if is_image_name(n))
    ((name, n), *others) = [*folders.items(), ("", 0)]
    if len(others) > 1 or not name or "/" in name:
        return ""
    images = "1 image" if n == 1 else f"{n:,} images"
    return f"only one class folder, {name} ({images}): a study needs two or more"


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
