"""The label of each image: which column it is, and what class its name stands for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from leukoscope.core.errors import LayoutError, UnknownNameError
from leukoscope.core.known_classes import CLASSES
from leukoscope.core.labels import near_miss, open_name, resolve_class, resolve_classes
from leukoscope.core.records import DESCRIBING_COLUMNS
from leukoscope.datasets.layouts.rules import Placed, Placement

GIVEN_LABEL = "given_label"
"""Further column with the label that the data itself gives, where ``target`` is another column."""

_MOST_CHECKED = 200  # unknown names that are compared with the known ones


def clean_class_map(class_map: Mapping[str, str] | None) -> dict[str, str]:
    """The user's classes by their canonical names; a name that is mapped to itself stays.

    >>> clean_class_map({"Blasts A": "HEM", "hcl": "Hairy cell", "eosinofil": "eosinofil"})
    {'Blasts A': 'healthy', 'hcl': 'hairy_cell', 'eosinofil': 'eosinofil'}

    Raises:
        UnknownNameError: A class is empty, or looks like a misspelling of a known one.
    """
    result = {}
    for given, text in (class_map or {}).items():
        name = open_name(text)
        if not name:
            raise UnknownNameError("class", text, CLASSES)
        if name != open_name(given) and name not in CLASSES:
            if resolve_class(text) is None and near_miss(text):
                raise UnknownNameError("class", text, CLASSES)
            name = resolve_class(text) or name
        result[given] = name
    return result


def name_classes(
    placement: Placement, class_map: Mapping[str, str], target: str, source: Path
) -> Placement:
    """The same files with the class of each.

    Args:
        placement: What a reader says; ``found`` holds the names of classes as the data has them.
        class_map: The user's own mapping, see :func:`clean_class_map`.
        target: Column that is the label, or empty for the one that the layout gives.
        source: Folder or file, for messages.

    Raises:
        LayoutError: No image has the column ``target``, or a name looks like a misspelling of a
            known class.
    """
    placed = _take_target(placement, target, source) if target else placement.placed
    names = Counter(item.found for item in placed if item.found and not item.label)
    _ask_about_misspellings(placement, names, class_map, source)
    classes = resolve_classes(names, class_map)
    reason = f"no {target}" if target else ""
    named = []
    for item in placed:
        label = item.label or classes.get(item.found, "")
        excluded = item.excluded
        if not label and not excluded:
            excluded = reason or item.no_class or "no label"
        named.append(replace(item, label=label, excluded=excluded))
    warnings = [*placement.warnings, *_unused(class_map, names, placement)]
    if target:
        left = sum(item.excluded == reason for item in named)
        if left and not placement.lines:
            warnings.append(f"{left} images have {reason} and are excluded")
    return replace(placement, placed=named, warnings=warnings)


def _take_target(placement: Placement, target: str, source: Path) -> list[Placed]:
    """Put a column in the place of the label, which becomes a further column."""
    taken = []
    for item in placement.placed:
        value = item.column(target)
        given = item.found if item.found else item.label
        further = tuple(pair for pair in item.further if pair[0] != target)
        if given and given != value:
            further = (*further, (GIVEN_LABEL, given))
        cleared = {target: ""} if target in DESCRIBING_COLUMNS else {}
        taken.append(replace(item, found=value, label="", further=further, **cleared))
    if not any(item.found for item in taken):
        have = [n for n in DESCRIBING_COLUMNS if any(i.column(n) for i in placement.placed)]
        have += [n for n in placement.columns if n and n not in have]
        have += dict.fromkeys(
            name for item in placement.placed for name, _ in item.further if name not in have
        )
        raise LayoutError(
            f"{source}: expected a column {target} with the labels, found "
            f"{', '.join(have) or 'no column'}",
            hint="--target names a column of the manifest, or one that the layout gives",
        )
    return taken


def _ask_about_misspellings(
    placement: Placement, names: Mapping[str, int], class_map: Mapping[str, str], source: Path
) -> None:
    chosen = {open_name(given) for given in class_map}
    unknown = [n for n in names if resolve_class(n) is None and open_name(n) not in chosen]
    close = {name: known for name in unknown[:_MOST_CHECKED] if (known := near_miss(name))}
    if not close:
        return
    first, known = next(iter(close.items()))
    line = f", line {placement.lines[first]}" if first in placement.lines else ""
    shown = ", ".join(f"{name!r} ({one}?)" for name, one in close.items())
    mapped = " ".join(f"--class '{name}={one}'" for name, one in close.items())
    raise LayoutError(
        f"{source}{line}: {shown} looks like a known class, misspelt",
        hint=f"{mapped} takes it for that class, --class '{first}={first}' keeps it as a class of "
        "its own",
    )


def _unused(
    class_map: Mapping[str, str], names: Mapping[str, int], placement: Placement
) -> list[str]:
    there = {open_name(name) for name in names}
    there |= {open_name(item.found) for item in placement.placed}
    lost = [given for given in class_map if open_name(given) not in there]
    return [f"--class names {given!r}, which is no class name of this data" for given in lost]


def column_roles(placement: Placement, source: Path) -> dict[str, str]:
    """Class → role, as the user's own column ``role`` says; empty without one.

    Raises:
        LayoutError: Two images of one class have different roles.
    """
    found: dict[str, str] = {}
    for item in placement.placed:
        role = item.column("role")
        if role and item.label and found.setdefault(item.label, role) != role:
            raise LayoutError(
                f"{source}: the column role gives the class {item.label} two roles, "
                f"{found[item.label]} and {role}, e.g. for {item.path}",
                hint="give every image of a class the same role",
            )
    return found


def few_groups(items: Sequence[Placed]) -> list[str]:
    """Warnings of classes that cannot stand on two sides of a split."""
    groups: dict[str, set[str]] = {}
    for item in items:
        if item.label and not item.excluded:
            groups.setdefault(item.label, set()).add(item.patient_id or item.path)
    by_patient = any(item.patient_id for item in items)
    what = "patient" if by_patient else "image"
    return [
        f"class {name} has only one {what}: it can be trained on or tested, not both"
        for name, found in sorted(groups.items())
        if len(found) < 2
    ]
