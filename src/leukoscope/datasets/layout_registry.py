"""The known layouts, and what each is recognised by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from leukoscope.datasets.layout_folders import place_by_folders
from leukoscope.datasets.layout_rules import Placement, Steps, cnmc_name, is_image_name, read_steps
from leukoscope.datasets.layout_tables import (
    MANIFEST_NAME,
    find_preliminary,
    has_columns,
    place_manifest,
    place_preliminary,
)
from leukoscope.datasets.walking import Listing

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
    if MANIFEST_NAME in listing.files and has_columns(path, ("path", "label")):
        return f"{MANIFEST_NAME} lists the images"
    return ""


def _is_preliminary(listing: Listing, class_map: ClassMap) -> str:
    if any(read_steps(name).label for name in listing.files):
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


def _steps(listing: Listing, class_map: ClassMap) -> list[Steps]:
    return [read_steps(name, class_map) for name in listing.files if is_image_name(name)]


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
