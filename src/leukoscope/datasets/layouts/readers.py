"""Readers of the layouts: classes in folders and file names, or in a CSV file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

from leukoscope.core.errors import LayoutError
from leukoscope.core.files import (
    LeftOut,
    is_table_or_text,
    leaves_folder,
    read_json,
    sha256_file,
)
from leukoscope.core.known_classes import CLASSES
from leukoscope.core.labels import class_title, open_name, resolve_class
from leukoscope.core.records import DESCRIBING_COLUMNS, MANIFEST_COLUMNS
from leukoscope.core.tables import TableRow, has_columns, header_of, read_rows
from leukoscope.core.views import is_or_are, plural
from leukoscope.datasets.layouts.column_names import near_columns, near_notes
from leukoscope.datasets.layouts.folder_levels import (
    FIELDS,
    PathPattern,
    common_folders,
    read_folders,
)
from leukoscope.datasets.layouts.rules import (
    Listing,
    PathMeaning,
    Placed,
    Placement,
    cnmc_name,
    is_image_name,
    part_of,
    provenance_path,
    twin_key,
    why_class,
)

MANIFEST_NAME = "manifest.csv"
PRELIMINARY_COLUMNS = ("patient_id", "new_names", "labels")
_PRELIMINARY_LABELS = {"1": "all", "0": "healthy", "all": "all", "hem": "healthy"}


def place_by_folders(
    listing: Listing,
    class_map: Mapping[str, str] | None = None,
    *,
    use: Literal["original", "segmented"] = "original",
) -> Placement:
    """Say what each file is by the folders it lies in.

    The deepest folder that names a class counts. Tables and texts are left out, and outside class
    folders whatever is no image; other files in a class folder are kept, so that the audit names
    them as unreadable. Where both original and segmented pictures are
    there, only those of ``use`` are used; the others stay in the manifest as ``excluded``.
    """
    steps = read_folders(listing, class_map)
    root_name = listing.root.resolve().name
    root_label = ""
    if not any(s.label for s in steps.values()):
        root_label = resolve_class(root_name, class_map) or ""
    placed, left_out = [], LeftOut()
    for name, found in steps.items():
        if root_label and "/" not in name:
            found = PathMeaning(root_name, "", root_label)
            steps[name] = found
        if is_image_name(name) or (found.label and not is_table_or_text(name)):
            placed.append(_place_file(name, found))
        else:
            left_out.add(name)
    placed = _set_twins_aside(placed, steps, use)
    placed = _name_part_folders(placed, steps)
    warnings = [
        *_walk_warnings(listing),
        *_class_warnings(listing, placed, steps, class_map),
        *_id_warnings(placed),
    ]
    if left_out.count:
        warnings.append(left_out.words)
    return Placement(placed, warnings, root_label)


def _place_file(name: str, steps: PathMeaning) -> Placed:
    named = cnmc_name(name)
    patient, name_label = named or ("", "")
    if named and steps.label == open_name(steps.class_folder) and steps.label not in CLASSES:
        steps = replace(steps, class_folder="", label="")  # a published name says more
    excluded = no_class = ""
    if not steps.label and not name_label:
        folder = steps.other_folder
        no_class = f"no class folder: {folder!r}" if folder else "in no class folder"
    elif named and steps.label and name_label != steps.label:
        excluded = f"the folder says {steps.label}, the file name {name_label}"
    found = steps.class_folder or ("UID_…" if name_label else "")
    columns: dict[str, str] = {**dict(steps.named), **({"patient_id": patient} if patient else {})}
    return Placed(
        name, found, "" if steps.label else name_label, given_part=steps.given_part,
        excluded=excluded, no_class=no_class, further=(), **columns,
    )  # fmt: skip


def _name_part_folders(placed: list[Placed], steps: Mapping[str, PathMeaning]) -> list[Placed]:
    """Where two folders name the same part (TestA and TestB), a column that tells them apart."""
    folders: dict[str, set[str]] = defaultdict(set)
    for item in placed:
        folders[item.given_part].add(steps[item.path].part_folder)
    if all(len(names) < 2 for part, names in folders.items() if part):
        return placed
    return [
        replace(item, further=(*item.further, ("part_folder", steps[item.path].part_folder)))
        for item in placed
    ]


def _id_warnings(placed: list[Placed]) -> list[str]:
    """Warn of folders that were taken for patients, where that can be wrong."""
    classes: dict[str, set[str]] = defaultdict(set)
    for item in placed:
        if item.patient_id and item.found and not cnmc_name(item.path):
            classes[item.patient_id].add(item.found)
    shared = sorted(name for name, found in classes.items() if len(found) > 1)
    bare = [name for name in shared if name.isdigit()]
    if not bare:
        return []
    return [
        "folders of patients with the same number in several classes: "
        f"{len(bare)}, e.g. {bare[0]}; taken for one patient; if each class "
        "counts anew, write a manifest with patient_id"
    ]


def _set_twins_aside(
    placed: list[Placed], steps: Mapping[str, PathMeaning], use: Literal["original", "segmented"]
) -> list[Placed]:
    """Exclude the pictures of the sister folder that is not used."""
    labelled = [item for item in placed if item.found]
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
        if variant and variant != use and item.found and not item.excluded:
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
            f"{plural(len(listing.links), 'link')} to folders already read "
            f"{'was' if len(listing.links) == 1 else 'were'} not followed, "
            f"e.g. {listing.links[0]}"
        )
    if listing.closed:
        warnings.append(
            f"{plural(len(listing.closed), 'folder')} could not be opened, e.g. "
            f"{listing.closed[0]}: what lies below is missing here"
        )
    return warnings


def _class_warnings(
    listing: Listing,
    placed: list[Placed],
    steps: Mapping[str, PathMeaning],
    class_map: Mapping[str, str] | None,
) -> list[str]:
    warnings = []
    others = Counter(
        steps[i.path].other_folder for i in placed if i.no_class and is_image_name(i.path)
    )
    for folder, n in sorted(others.items()):
        if folder:
            why = why_class(folder, "", class_map)
            warnings.append(
                f"{plural(n, 'image')} of folder {folder!r} {is_or_are(n)} excluded: it {why}"
            )
        else:
            warnings.append(f"{plural(n, 'image')} in no class folder {is_or_are(n)} excluded")
    conflicts = sum(item.excluded.startswith("the folder says") for item in placed)
    if conflicts:
        warnings.append(
            f"{plural(conflicts, 'image')} {is_or_are(conflicts)} excluded: folder and file name "
            "disagree on class"
        )
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
        if label is not None and not below and not _hides(folder, listing.closed):
            warnings.append(f"the folder {folder} ({class_title(label)}) holds no image")
    return warnings


def _hides(folder: str, closed: Iterable[str]) -> bool:
    """Whether a folder, or one below it, could not be opened."""
    return any(name == folder or name.startswith(f"{folder}/") for name in closed)


def _several_sets(placed: list[Placed], steps: Mapping[str, PathMeaning]) -> list[str]:
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


def place_manifest(path: Path, target: str = "") -> Placement:
    """Read a CSV manifest with the columns ``path`` and ``label``.

    Optional columns: ``patient_id``, ``group_id``, ``split``, ``acquisition_id``, ``cohort``,
    ``site``, ``session``, ``cell_type``, ``diagnosis``, and any of the user's own. Paths are
    relative to the CSV file's folder. ``label`` may be missing where ``target`` names the column
    that takes its place.

    Raises:
        LayoutError: Names the line.
    """
    rows = _manifest_rows(path, target)
    further = _further_columns(rows[0][1])
    lines: dict[str, int] = {}
    first: dict[str, int] = {}
    placed: list[Placed] = []
    for line, row in rows:
        below = _clean(path, line, row["path"])
        if below in lines:
            raise LayoutError(
                f"{path}, line {line}: {below} is already listed in line {lines[below]}",
                hint="an image has one row; delete one of the two",
            )
        lines[below] = line
        named = row.get(target or "label", "")
        first.setdefault(named, line)
        split = row.get("split", "")
        if split and not part_of(split):
            raise LayoutError(
                f"{path}, line {line}: expected a split of train, val, test or fold_<number>, "
                f"found {split!r}"
            )
        describing: dict[str, str] = {name: row.get(name, "") for name in DESCRIBING_COLUMNS}
        placed.append(
            Placed(
                below, row.get("label", ""), "", row.get("patient_id", ""),
                row.get("group_id", ""), row.get("acquisition_id", ""), part_of(split),
                no_class="no label",
                further=tuple((name, row[name]) for name in further if row[name]),
                **describing,
            )
        )  # fmt: skip
    warnings = []
    if "" in first:
        warnings.append(f"line {first['']}: no {target or 'label'}; its images are excluded")
    warnings += near_notes(header_of(path), target) + _corrected(path) + _leads_out(placed)
    warnings += _missing_files(path, placed, lines)
    return Placement(placed, warnings, lines=first, columns=tuple(rows[0][1]))


def _missing_files(path: Path, placed: Sequence[Placed], lines: Mapping[str, int]) -> list[str]:
    """Say of a table how many of its files are not there.

    Raises:
        LayoutError: None is.
    """
    lost = [item.path for item in placed if not (path.parent / item.path).exists()]
    if len(lost) == len(placed):
        raise LayoutError(
            f"{path}: none of the {len(placed)} listed files exists, e.g. {placed[0].path}",
            hint=f"paths are relative to the folder of the CSV file, {path.parent}",
        )
    if not lost:
        return []
    verb = "is" if len(lost) == 1 else "are"
    return [
        f"{len(lost)} of the {len(placed)} listed files {verb} missing: {lost[0]} "
        f"(line {lines[lost[0]]})" + (" …" if len(lost) > 1 else "")
    ]


def _leads_out(placed: Sequence[Placed]) -> list[str]:
    """Say of a table that it names files elsewhere; those who wrote it may be others."""
    out = [item.path for item in placed if leaves_folder(item.path)]
    what = "paths that lead out of the folder of the table"
    return [f"{what}: {len(out)}, such as {out[0]}"] if out else []


_OWN_COLUMNS = {*MANIFEST_COLUMNS, "label", "split", "given_label", "source_sha256"}
"""Columns that this program reads or writes itself; all others of a manifest are the user's."""


def _manifest_rows(path: Path, target: str) -> list[TableRow]:
    try:
        rows = read_rows(path, ("path", target or "label"))
    except LayoutError as error:
        if target and "missing, found" in error.message:
            hint = f"--target {target} names no column of this table"
            raise LayoutError(error.message, hint=hint) from None
        known = [name for name in ("diagnosis", "cell_type") if has_columns(path, ("path", name))]
        near = near_columns(header_of(path)) if "missing, found" in error.message else {}
        if near and not known:
            names = "; ".join(f"{given!r} looks like {name}" for given, name in near.items())
            raise LayoutError(error.message, hint=f"rename columns: {names}") from None
        if target or not known or error.hint:
            raise
        hint = f"--target {known[0]} takes the column {known[0]} for the label"
        raise LayoutError(error.message, hint=hint) from None
    if not rows:
        raise LayoutError(f"{path}: expected a row for each image, found only the header")
    return rows


def _further_columns(row: Mapping[str, str]) -> tuple[str, ...]:
    """The user's own columns; a table's row numbers, which pandas leaves unnamed, are none."""
    return tuple(
        name
        for name in row
        if name and name not in _OWN_COLUMNS and not name.startswith("unnamed:")
    )


def place_by_pattern(listing: Listing, pattern: PathPattern) -> Placement:
    """Say what each file is by a layout that the user wrote.

    Raises:
        LayoutError: No image fits.
    """
    images = [name for name in listing.files if is_image_name(name)]
    wrapper = common_folders(images)
    pattern = _without_file_part(pattern, images, wrapper)
    placed, left = [], []
    for name in images:
        found = pattern.fields(name, wrapper)
        if found is None:
            left.append(name)
            placed.append(Placed(name, excluded=f"does not fit the layout {pattern.text}"))
            continue
        split = found.pop("split", "")
        if split and not part_of(split):
            raise LayoutError(
                f"{listing.root / name}: {{split}} expects train, val, test or fold_<number>, "
                f"found {split!r}",
                hint="write * in its place in --layout",
            )
        columns: dict[str, str] = {FIELDS[key]: value for key, value in found.items()}
        above = map(part_of, PurePosixPath(name).parts[:-1])
        columns["given_part"] = part_of(split) or next(filter(None, above), "")
        placed.append(Placed(name, no_class="in no class folder", further=(), **columns))
    if len(left) == len(images):
        shown = f", e.g. {left[0]}" if left else ""
        raise LayoutError(
            f"{listing.root}: none of its {len(images)} images fits the layout {pattern.text}"
            f"{shown}",
            hint="write one part for each folder and none for the file, * for a folder that tells "
            "nothing: '{class}/{patient}' fits aml/patient_01/x.jpg",
        )
    warnings = _walk_warnings(listing)
    if left:
        warnings.append(
            f"{plural(len(left), 'image')} that the layout {pattern.text} does not fit "
            f"{is_or_are(len(left))} excluded, e.g. "
            f"{left[0]}"
        )
    return Placement(placed, warnings)


def _without_file_part(pattern: PathPattern, images: Sequence[str], wrapper: int) -> PathPattern:
    """The pattern without a last ``*`` that can only mean the files, where all images fit so."""
    shorter = pattern.without_last()
    if shorter is None or any(pattern.fields(name, wrapper) for name in images):
        return pattern
    return shorter if all(shorter.fields(name, wrapper) for name in images) else pattern


def _corrected(path: Path) -> list[str]:
    """What a reader must know of a manifest whose labels were corrected."""
    beside = provenance_path(path)
    if not beside.is_file():
        return []
    record = read_json(beside)
    if record.get("manifest_sha256") != sha256_file(path):
        return [
            f"{path.name} was changed after {beside.name} was written: its labels have no source"
        ]
    changed = len(record.get("changes", ()))
    return [
        f"{plural(changed, 'label')} {'was' if changed == 1 else 'were'} corrected after "
        "a model had queued them "
        f"({beside.name}): scores of the same kind of model are flattered"
    ]


def _clean(path: Path, line: int, text: str) -> str:
    if not text:
        raise LayoutError(f"{path}, line {line}: expected the path of an image, found none")
    if "\0" in text:
        raise LayoutError(f"{path}, line {line}: the path holds a null character")
    below = text if (path.parent / text).exists() else text.replace("\\", "/")
    return str(PurePosixPath(below))


def find_preliminary(listing: Listing) -> str:
    """The CSV of the C-NMC preliminary phase below a folder, or empty."""
    for name in listing.files:
        if name.lower().endswith(".csv") and has_columns(listing.root / name, PRELIMINARY_COLUMNS):
            return name
    return ""


def place_preliminary(listing: Listing) -> Placement:
    """Images of the C-NMC preliminary phase, named by its CSV.

    ``new_names`` are matched to files by name without suffix, anywhere below the CSV's folder;
    ``Patient_ID`` may hold the subject or the image's old ``UID_…`` name.

    Raises:
        LayoutError: A line has an unknown label or a name that is listed twice.
    """
    table = find_preliminary(listing)
    path = listing.root / table
    base = str(PurePosixPath(table).parent)
    below = "" if base == "." else f"{base}/"
    files = {
        PurePosixPath(name).stem.lower(): name
        for name in reversed(listing.files)
        if name.startswith(below) and is_image_name(name)
    }
    placed: list[Placed] = []
    listed: dict[str, int] = {}
    for line, row in read_rows(path, PRELIMINARY_COLUMNS):
        stem = PurePosixPath(row["new_names"]).stem.lower()
        label = _PRELIMINARY_LABELS.get(row["labels"].lower())
        if label is None:
            raise LayoutError(
                f"{path}, line {line}: expected a label of 1 (all) or 0 (hem), "
                f"found {row['labels']!r}"
            )
        if stem in listed:
            raise LayoutError(
                f"{path}, line {line}: {row['new_names']} is already listed in line {listed[stem]}"
            )
        listed[stem] = line
        old = cnmc_name(row["patient_id"])
        patient = old[0] if old else row["patient_id"]
        name = files.get(stem, f"{below}{row['new_names']}")
        placed.append(Placed(name, row["labels"], label, patient))
    if not any(stem in files for stem in listed):
        raise LayoutError(
            f"{path}: none of the {len(listed)} listed images lies below {listing.root / base}",
            hint="put the CSV file beside the folder of images",
        )
    used = {item.path for item in placed}
    placed += [
        Placed(name, excluded=f"not listed in {PurePosixPath(table).name}")
        for name in listing.files
        if is_image_name(name) and name not in used
    ]
    left = sum(bool(item.excluded) for item in placed)
    note = f"{plural(left, 'image')} not listed in {table} {is_or_are(left)} excluded"
    warnings = [note] if left else []
    return Placement(placed, warnings)
