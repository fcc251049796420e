"""Layouts in which folders (and, for C-NMC, file names) say what each image is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Literal

from leukoscope.core.labels import CLASSES, resolve_class
from leukoscope.datasets.layout_rules import (
    Placed,
    Placement,
    Steps,
    cnmc_name,
    is_image_name,
    read_steps,
    twin_key,
    why_class,
)
from leukoscope.datasets.walking import Listing


def place_by_folders(
    listing: Listing,
    class_map: Mapping[str, str] | None = None,
    *,
    use: Literal["original", "segmented"] = "original",
) -> Placement:
    """Say what each file is by the folders it lies in.

    The deepest folder that names a class counts. Where both original and segmented pictures are
    there, only those of ``use`` are used; the others stay in the manifest as ``excluded``.
    """
    steps = {name: read_steps(name, class_map) for name in listing.files}
    root_name = listing.root.resolve().name
    root_label = ""
    if not any(s.label for s in steps.values()):
        root_label = resolve_class(root_name, class_map) or ""
    placed, ignored = [], []
    for name, found in steps.items():
        if root_label and "/" not in name:
            found = Steps(root_name, "", root_label)
            steps[name] = found
        if is_image_name(name) or found.label:
            placed.append(_place_file(name, found))
        else:
            ignored.append(name)
    placed = _set_twins_aside(placed, steps, use)
    warnings = [
        *_walk_warnings(listing),
        *_class_warnings(listing, placed, steps, class_map),
    ]
    if ignored:
        warnings.append(
            f"{len(ignored)} files that are no images, outside class folders, were left out, "
            f"e.g. {ignored[0]}"
        )
    return Placement(placed, warnings, root_label)


def _place_file(name: str, steps: Steps) -> Placed:
    told = cnmc_name(name)
    patient, name_label = told or ("", "")
    label = steps.label or name_label
    excluded = ""
    if not label:
        folder = steps.other_folder
        excluded = f"unknown class {folder!r}" if folder else "in no class folder"
    elif told and name_label != label:
        excluded = f"the folder says {label}, the file name {name_label}"
    found = steps.class_folder or (steps.other_folder if not name_label else "UID_…")
    return Placed(name, found, label, patient, given_part=steps.given_part, excluded=excluded)


def _set_twins_aside(
    placed: list[Placed], steps: Mapping[str, Steps], use: Literal["original", "segmented"]
) -> list[Placed]:
    """Exclude the pictures of the sister folder that is not used."""
    labelled = [item for item in placed if item.label]
    if {"original", "segmented"} - {steps[item.path].variant for item in labelled}:
        return placed
    used = {
        twin_key(item.path, steps[item.path]): item.path
        for item in reversed(labelled)
        if steps[item.path].variant == use
    }
    result = []
    for item in placed:
        variant = steps[item.path].variant
        if variant and variant != use and item.label and not item.excluded:
            twin = used.get(twin_key(item.path, steps[item.path]))
            reason = f"{variant} twin of {twin}" if twin else f"{variant} picture without its twin"
            item = replace(item, excluded=reason)
        result.append(item)
    return result


def _walk_warnings(listing: Listing) -> list[str]:
    warnings = []
    for folder, files in listing.hidden.items():
        what = f"the hidden folders {folder}" if folder else "hidden files"
        warnings.append(f"{what} were skipped (files: {files})")
    if listing.links:
        warnings.append(
            f"{len(listing.links)} links lead to folders already read and were not followed, "
            f"e.g. {listing.links[0]}"
        )
    if listing.closed:
        warnings.append(
            f"{len(listing.closed)} folders could not be opened, e.g. {listing.closed[0]}: their "
            "images are missing here"
        )
    return warnings


def _class_warnings(
    listing: Listing,
    placed: list[Placed],
    steps: Mapping[str, Steps],
    class_map: Mapping[str, str] | None,
) -> list[str]:
    warnings = []
    unknown = Counter(i.found for i in placed if not i.label and is_image_name(i.path))
    for found, n in sorted(unknown.items()):
        if found:
            warnings.append(
                f"{n} images of folder {found!r} are excluded: {why_class(found, '', class_map)}"
            )
        else:
            warnings.append(f"{n} images lie in no class folder and are excluded")
    conflicts = sum(item.excluded.startswith("the folder says") for item in placed)
    if conflicts:
        warnings.append(f"{conflicts} images are excluded: folder and file name disagree on class")
    warnings += _empty_classes(listing, placed, class_map)
    nested = sorted({str(PurePosixPath(p).parent) for p, s in steps.items() if s.nested})
    if nested:
        warnings.append(f"class folders inside class folders, e.g. {nested[0]}: the deepest counts")
    return warnings + _several_sets(placed, steps)


def _empty_classes(
    listing: Listing, placed: list[Placed], class_map: Mapping[str, str] | None
) -> list[str]:
    filled = {item.path.rpartition("/")[0] for item in placed if is_image_name(item.path)}
    warnings = []
    for folder in listing.folders:
        label = resolve_class(PurePosixPath(folder).name, class_map)
        below = any(name == folder or name.startswith(f"{folder}/") for name in filled)
        if label is not None and not below:
            warnings.append(f"the folder {folder} ({CLASSES[label].title}) holds no image")
    return warnings


def _several_sets(placed: list[Placed], steps: Mapping[str, Steps]) -> list[str]:
    """Warn of a data set inside a data set, a common fault of unpacked archives."""
    homes: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for item in placed:
        step = steps[item.path]
        if step.label:
            homes[step.label, step.given_part, step.variant].add(step.set_folder)
    most = max(homes.values(), key=len, default=set())
    if len(most) < 2:
        return []
    names = ", ".join(sorted(name or "(top)" for name in most)[:4])
    return [
        f"the same classes stand below several folders ({names}): a data set inside another, or "
        "two sets; copies are found by the audit, but check that you mean to pool them"
    ]
