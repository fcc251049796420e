"""Which level of folders names the class, which the patient; and layouts written as a pattern."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import NoReturn

from leukoscope.core.errors import LayoutError, UnknownNameError
from leukoscope.core.labels import open_name
from leukoscope.datasets.layouts.rules import (
    Listing,
    PathMeaning,
    id_column,
    is_image_name,
    is_structural,
    read_path,
)

COMPANIONS = frozenset(
    {"mask", "masks", "truth", "ground_truth", "gt", "annotation", "annotations", "labels"}
    | {"thumbnails", "docs", "figures", "unlabeled", "unlabelled", "unsorted", "unannotated"}
)
"""Folders beside class folders that hold something else than a class."""

_MOST_SHOWN = 4
_MANY_PARENTS = 3  # folders with class folders, from which each beside them is one
_MOST_CLASSES = 10  # that may hold one image each
Names = tuple[str, ...]


def read_folders(
    listing: Listing, class_map: Mapping[str, str] | None = None
) -> dict[str, PathMeaning]:
    """What the folders on the way to each file mean; known class names decide first.

    Beside folders of known classes any other folder is a class too, unless it looks like an
    identifier or is one of :data:`COMPANIONS`. Where no folder has a known name, the
    class level is found by :func:`_open_levels`.

    Raises:
        LayoutError: No folder has a known name, and the others can be read in two ways.
    """
    of_folder = {
        folder: read_path(f"{folder}/x" if folder else "x", class_map)
        for folder in dict.fromkeys(name.rpartition("/")[0] for name in listing.files)
    }
    images = Counter(name.rpartition("/")[0] for name in listing.files if is_image_name(name))
    if any(found.label for found in of_folder.values()):
        of_folder = _with_siblings(of_folder)
    else:
        levels = _open_levels(listing, images)
        if levels is not None:
            of_folder = {f: levels.read(f, found) for f, found in of_folder.items()}
    of_folder = _without_constants(of_folder, images)
    return {name: of_folder[name.rpartition("/")[0]] for name in listing.files}


def _levels_of(folder: str) -> Names:
    """The folders of a path that are neither parts nor originals and segmented pictures."""
    return tuple(name for name in PurePosixPath(folder).parts if not is_structural(name))


def _with_siblings(of_folder: Mapping[str, PathMeaning]) -> dict[str, PathMeaning]:
    """Folders of unknown names beside class folders, as classes.

    Beside means in the same folder, or in another patient's (session's, site's) at the same depth.
    """
    parents: set[Names] = set()
    holders: set[Names] = set()  # folders with class folders below them
    for folder, found in of_folder.items():
        if found.label:
            names = _levels_of(folder)
            at = len(names) - 1 - names[::-1].index(found.class_folder)
            parents.add(_place_of(names[:at]))
            holders.update(names[:k] for k in range(1, at + 1))
    siblings = Counter(place[:-1] for place in parents if place)
    result = {}
    for folder, found in of_folder.items():
        names = _levels_of(folder)
        for at in () if found.label else range(len(names)):
            place = _place_of(names[:at])
            beside = place in parents or (at and siblings[place[:-1]] >= _MANY_PARENTS)
            if beside and names[: at + 1] not in holders and _can_be_class(names[at]):
                above = tuple(name for name in names[:at] if not id_column(name))
                found = replace(
                    found, class_folder=names[at], label=open_name(names[at]),
                    set_folder="/".join(above),
                )  # fmt: skip
                break
        result[folder] = found
    return result


def _place_of(names: Names) -> Names:
    """Where class folders lie: the folders above, whichever patient they name."""
    return tuple((id_column(name) and "<id>") or name for name in names)


def _can_be_class(name: str) -> bool:
    plain = open_name(name)
    return bool(plain) and plain not in COMPANIONS and not id_column(name)


def _without_constants(
    of_folder: Mapping[str, PathMeaning], images: Mapping[str, int]
) -> dict[str, PathMeaning]:
    """Without ids that all images share: such a folder holds the data set, and tells nothing."""
    values: dict[str, set[str]] = defaultdict(set)
    for folder in images:
        named = dict(of_folder[folder].named)
        for column in ("patient_id", "session", "site", "cohort"):
            values[column].add(named.get(column, ""))
    kept = {column for column, found in values.items() if len(found) > 1}
    return {
        folder: replace(found, named=tuple(pair for pair in found.named if pair[0] in kept))
        for folder, found in of_folder.items()
    }


@dataclass(frozen=True)
class _Levels:
    """What each level of folders is, parts and what lies above left out."""

    wrapper: Names  # folders above, the same for all images
    columns: tuple[str, ...]  # ``class``, ``patient_id``, … or ``*`` for each level below

    def read(self, folder: str, found: PathMeaning) -> PathMeaning:
        """A folder's meaning; without a class where the folder is not deep enough."""
        names = _levels_of(folder)
        if names[: len(self.wrapper)] != self.wrapper:
            return found
        own = names[len(self.wrapper) :]
        at = self.columns.index("class")
        if at >= len(own) or not open_name(own[at]) or open_name(own[at]) in COMPANIONS:
            return found
        named = {c: n for c, n in zip(self.columns, own, strict=False) if c not in ("class", "*")}
        return replace(
            found, class_folder=own[at], label=open_name(own[at]), other_folder="",
            set_folder="/".join(self.wrapper), named=tuple(named.items()),
        )  # fmt: skip

    @property
    def pattern(self) -> str:
        """As ``--layout`` takes it."""
        shown = (c if c == "*" else f"{{{c.removesuffix('_id')}}}" for c in self.columns)
        return "/".join(shown)


def _open_levels(listing: Listing, images: Mapping[str, int]) -> _Levels | None:
    """The levels of folders whose names are all unknown; None where there is only one folder.

    Levels whose names look like identifiers are patients (sessions, sites); the level that is left
    is the class. Of two levels left, the one whose names repeat under many parents is the class,
    or the upper one, where the names below never repeat.

    Raises:
        LayoutError: Neither rule decides.
    """
    rows = {names: n for names, n in _rows(images).items() if names}
    wrapper = _common(list(rows))
    below = {names[len(wrapper) :]: n for names, n in rows.items()}
    depth = Counter[int]()
    for names, n in below.items():
        depth[len(names)] += n
    if not any(depth[k] for k in depth if k):
        return None
    deep = max((k for k in depth if k), key=lambda k: (depth[k], k))
    table = [names for names in below if len(names) == deep]
    level = [sorted({names[k] for names in table}) for k in range(deep)]
    kinds = [_kind(names) for names in level]
    open_ones = [k for k in range(deep) if not kinds[k] and len(level[k]) > 1]
    if not open_ones:
        raise LayoutError(
            f"{listing.root}: its folders look like identifiers ({_shown(level[0])}), and none "
            "names a class",
            hint="write a manifest.csv with the columns path,label,patient_id; or, if these are "
            "classes, --layout '{class}'",
        )
    readings = [_columns(kinds, level, k) for k in open_ones]
    if len(open_ones) == 1:
        _check_plausible(listing, level[open_ones[0]], sum(below.values()))
        return _Levels(wrapper, readings[0])
    chosen = _repeating(table, open_ones) if len(open_ones) == 2 else None
    if chosen is None:
        _refuse(listing, level, open_ones, [_Levels(wrapper, columns) for columns in readings])
    return _Levels(wrapper, _columns(kinds, level, chosen, groups=True))


def _check_plausible(listing: Listing, names: Sequence[str], images: int) -> None:
    """Refuse class folders that hold an image or two each: those are patients or cells."""
    if len(names) > _MOST_CLASSES and 2 * len(names) > images:
        raise LayoutError(
            f"{listing.root}: {len(names)} folders of unknown names ({_shown(names)}) hold "
            f"{images} images: too few for classes",
            hint="write a manifest.csv with the columns path,label,patient_id; or, if these are "
            "classes, --layout '{class}'",
        )


def _rows(images: Mapping[str, int]) -> Counter[Names]:
    rows: Counter[Names] = Counter()
    for folder, n in images.items():
        rows[_levels_of(folder)] += n
    return rows


def _common(rows: Sequence[Names]) -> Names:
    """The folders that all rows begin with."""
    first, last = min(rows, default=()), max(rows, default=())
    same = 0
    while same < min(len(first), len(last)) and first[same] == last[same]:
        same += 1
    return first[:same]


def _kind(names: Sequence[str]) -> str:
    """The column that most names of a level look like, or empty."""
    found = Counter(id_column(name) for name in names)
    kind, n = found.most_common(1)[0]
    return kind if 2 * n > len(names) else ""


def _columns(
    kinds: Sequence[str], level: Sequence[Sequence[str]], at: int, groups: bool = False
) -> tuple[str, ...]:
    """The column of each level, if level ``at`` is the class."""
    result: list[str] = []
    for k, kind in enumerate(kinds):
        other = kind or ("patient_id" if groups or len(level[k]) > 1 else "*")
        if other in result:
            other = "session" if "session" not in result else "*"
        result.append("class" if k == at else other)
    return tuple(result)


def _repeating(table: Sequence[Names], levels: Sequence[int]) -> int | None:
    """Which of two levels is the class by the names that repeat, or None."""
    upper, lower = levels
    pairs = {(names[upper], names[lower]) for names in table}
    above, below = {a for a, _ in pairs}, {b for _, b in pairs}
    if len(below) == len(pairs) and len(pairs) >= 2 * len(above):
        return upper
    if len(pairs) >= 2 * len(below) and len(above) > len(below):
        return lower
    return None


def _refuse(
    listing: Listing,
    level: Sequence[Sequence[str]],
    open_ones: Sequence[int],
    readings: Sequence[_Levels],
) -> NoReturn:
    shown = "; or ".join(
        f"'{one.pattern}', where {_shown(level[k])} are the classes"
        for k, one in zip(open_ones, readings, strict=True)
    )
    choices = " or ".join(f"--layout '{one.pattern}'" for one in readings)
    raise LayoutError(
        f"{listing.root}: no folder has the name of a known class, and its levels can be read in "
        f"{len(readings)} ways: {shown}",
        hint=f"choose with {choices}",
    )


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return ", ".join(names[:_MOST_SHOWN]) + more


FIELDS: Mapping[str, str] = {
    "class": "found",
    "patient": "patient_id",
    "split": "given_part",
    "cohort": "cohort",
    "site": "site",
    "session": "session",
    "cell_type": "cell_type",
    "diagnosis": "diagnosis",
}
"""Names in a pattern → what they fill."""

_TOKEN = re.compile(r"\{([^{}]*)\}|(\*\*/?)|(\*)")


def is_pattern(layout: str) -> bool:
    """Whether a layout is a pattern and not a name.

    >>> is_pattern("{class}/{patient}"), is_pattern("class-folders")
    (True, False)
    """
    return any(sign in layout for sign in "{}*/")


@dataclass(frozen=True)
class PathPattern:
    """A layout as the user wrote it, e.g. ``{class}/{patient}``.

    Attributes:
        text: As it was written.
        expression: What it stands for.
        names: Its fields, keys of :data:`FIELDS`.
        whole: Whether its last part describes the file and not a folder.
    """

    text: str
    expression: re.Pattern[str]
    names: tuple[str, ...]
    whole: bool

    def without_last(self) -> PathPattern | None:
        """The pattern without its last part, where that is ``*``; else None.

        >>> parse_pattern("{class}/{patient}/*").without_last().text
        '{class}/{patient}'
        """
        above, _, last = self.text.rstrip("/").rpartition("/")
        return parse_pattern(above) if above and last == "*" else None

    def fields(self, path: str, wrapper: int = 0) -> dict[str, str] | None:
        """The value of each field of a file, or None where it does not fit.

        The pattern fits all folders of the path; or those that name no part (``train``), where it
        has no ``{split}``; or those below the first ``wrapper``.
        """
        parts = PurePosixPath(path).parts
        folders, own = parts[:-1], parts[-1:] if self.whole else ()
        tries = [folders, folders[wrapper:]]
        if "split" not in self.names:
            tries += [tuple(n for n in one if not is_structural(n)) for one in tries]
        for names in tries:
            if match := self.expression.fullmatch("/".join((*names, *own))):
                return {name: value.strip() for name, value in match.groupdict().items()}
        return None


def parse_pattern(text: str) -> PathPattern:
    """Read a pattern of folders, and of the file where its last part has a suffix.

    ``*`` stands for anything in one name, ``**`` for any number of folders.

    Raises:
        UnknownNameError: It has a field that is none of :data:`FIELDS`.
        LayoutError: It has no field that can be a label, or one of them twice.

    >>> parse_pattern("{class}/{patient}_*.png").fields("aml/p7_001.png")
    {'class': 'aml', 'patient': 'p7'}
    >>> parse_pattern("{patient}/{class}").fields("data/train/p7/blast/1.png", wrapper=1)
    {'patient': 'p7', 'class': 'blast'}
    """
    names: list[str] = []
    expression, end = "", 0
    for token in _TOKEN.finditer(text.strip("/")):
        expression += re.escape(text.strip("/")[end : token.start()])
        end = token.end()
        if token[2]:
            expression += "(?:.*/)?" if token[2].endswith("/") else ".*"
        elif token[3]:
            expression += "[^/]*"
        elif token[1] not in FIELDS:
            raise UnknownNameError("field of a layout", token[1], FIELDS)
        else:
            names.append(token[1])
            expression += f"(?P<{token[1]}>[^/]+?)"
    expression += re.escape(text.strip("/")[end:])
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice or not {"class", "cell_type", "diagnosis", "cohort", "site", "session"} & set(names):
        found = f"{{{twice[0]}}} twice" if twice else "none"
        raise LayoutError(
            f"layout {text!r}: expected each field once, and one that can be the label, found "
            f"{found}",
            hint="e.g. --layout '{class}/{patient}'",
        )
    last = text.rpartition("/")[2]
    whole = bool(PurePosixPath(re.sub(r"[{}]", "", last)).suffix)
    return PathPattern(text, re.compile(expression, re.IGNORECASE), tuple(names), whole)


def common_folders(paths: Sequence[str]) -> int:
    """How many folders all paths have in common.

    >>> common_folders(["data/a/1.png", "data/b/2.png"])
    1
    """
    return len(_common([PurePosixPath(path).parts[:-1] for path in paths]))
