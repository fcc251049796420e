"""Open each file of a data set once: hash, size, and why it cannot be read; then its label.

The label is a column, whose names stand for classes.
"""

from __future__ import annotations

import re
import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from leukoscope.core.errors import ImageError, LayoutError, UnknownNameError
from leukoscope.core.files import sha256_bytes
from leukoscope.core.known_classes import CLASSES
from leukoscope.core.labels import near_miss, open_name, resolve_class, resolve_classes
from leukoscope.core.records import DESCRIBING_COLUMNS, ImageRecord
from leukoscope.core.views import is_or_are, plural
from leukoscope.datasets.layouts.patient_notes import patient_notes
from leukoscope.datasets.layouts.rules import Placed, Placement
from leukoscope.imaging.decode import MAX_BYTES, decode_image

ID_DIGITS = 12
_SURROGATES = re.compile("[\ud800-\udfff]")  # how Python holds bytes that are no UTF-8
GIVEN_LABEL = "given_label"
"""Further column with the label that the data itself gives, where ``target`` is another column."""
_MOST_CHECKED = 200  # unknown names that are compared with the known ones


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
    if not _is_text(item):
        return _unnameable(item)
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
        site=item.site,
        session=item.session,
        cell_type=item.cell_type,
        diagnosis=item.diagnosis,
        further=item.further,
    )


def _is_text(item: Placed) -> bool:
    """Whether a file's name, and what was read of it, can be written to the files of a study."""
    texts = [value for value in vars(item).values() if isinstance(value, str)]
    texts += [text for pair in item.further for text in pair]
    return all(text.isascii() or not _SURROGATES.search(text) for text in texts)


def _unnameable(item: Placed) -> ImageRecord:
    """A file that no table could name so that it is found again; its name is spelled out."""
    spelled = {
        name: value.encode("utf-8", "backslashreplace").decode()
        for name, value in vars(item).items()
        if isinstance(value, str)
    }
    digest = sha256_bytes(item.path.encode("utf-8", "surrogateescape"))
    reason = "file-name: expected a name in UTF-8, found other bytes; rename the file or its folder"
    return ImageRecord(
        image_id=digest[:ID_DIGITS],
        path=spelled["path"],
        sha256="",
        label=spelled["label"],
        status="quarantined",
        reason=reason,
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
    unused = _unused(class_map, names, placement)
    warnings = [*placement.warnings, *map(unused_note, unused)]
    if target:
        left = sum(item.excluded == reason for item in named)
        if left and not placement.lines:
            warnings.append(f"{plural(left, 'image')} with {reason} {is_or_are(left)} excluded")
    placement = replace(placement, placed=named, unused=unused)
    return replace(placement, warnings=[*warnings, *patient_notes(placement)])


def unused_note(given: str) -> str:
    """The warning of a mapped name that a data set does not have."""
    return f"--class names {given!r}, which is no folder or value of this data"


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
    unused = "".join(f"; {unused_note(given)}" for given in _unused(class_map, names, placement))
    raise LayoutError(
        f"{source}{line}: {shown} looks like a known class, misspelt{unused}",
        hint=f"{mapped} takes it for that class, --class '{first}={first}' keeps it as a class of "
        "its own",
    )


def _unused(
    class_map: Mapping[str, str], names: Mapping[str, int], placement: Placement
) -> tuple[str, ...]:
    there = {open_name(name) for name in names}
    there |= {open_name(item.found) for item in placement.placed}
    return tuple(given for given in class_map if open_name(given) not in there)


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
