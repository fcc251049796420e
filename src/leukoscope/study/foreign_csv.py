"""Predictions of a model that was not made here, from a CSV file of any reasonable shape."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import DataError
from leukoscope.core.labels import resolve_class
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.datasets.layout_rules import part_of
from leukoscope.datasets.layout_tables import Row, read_rows

IMAGE_COLUMNS = ("sha256", "path", "file", "filename", "file_name", "image", "name", "image_id")
CLASS_COLUMNS = ("predicted", "prediction", "predicted_class", "y_pred", "pred")
SPLIT_COLUMNS = ("split", "part", "set", "subset")
PREFIXES = ("p_", "prob_", "probability_", "")
SHOWN = 5  # wrong rows that a message names
_TOLERANCE = 0.02  # probabilities were written with two digits


@dataclass(frozen=True)
class ForeignTable:
    """What the file says of the images of a data set.

    Attributes:
        image_id: One per row that was found in the data.
        probs: (n, K) float64; one where the class was named and no probability given.
        parts: Image id → ``train``, ``val``, ``test``; empty without such a column.
        has_probabilities: Whether the file gives them.
        notes: What was left out, in sentences.
    """

    image_id: tuple[str, ...]
    probs: NDArray[np.float64]
    parts: Mapping[str, str]
    has_probabilities: bool
    notes: tuple[str, ...]


def read_foreign_csv(
    path: Path, manifest: Manifest, class_map: Mapping[str, str] | None = None
) -> ForeignTable:
    """Read predictions, one row an image.

    The image stands in a column ``sha256``, ``path``, ``file``, ``filename``, ``image`` or
    ``name``: a SHA-256, a path, the end of a path, or a file name that is unique in the data. Its
    class stands in ``predicted``, ``prediction``, ``y_pred`` …, or follows from probabilities in
    ``p_<class>``, ``prob_<class>`` or ``<class>`` (all classes of the data, each row summing to
    1). ``split`` (``train``, ``val``, ``test`` and their usual synonyms) is optional.

    Raises:
        LayoutError: The file cannot be read.
        DataError: A column is missing, or rows are wrong: names them.
    """
    rows = read_rows(path, ())
    if not rows:
        raise DataError(f"{path}: expected a row for each image, found only the header")
    columns = list(rows[0][1])
    key = _one_of(path, columns, IMAGE_COLUMNS, "the image")
    names = manifest.class_names
    of_class = _probability_columns(columns, names, class_map)
    named = next((name for name in CLASS_COLUMNS if name in columns), None)
    if named is None and len(of_class) < len(names):
        raise DataError(
            f"{path}: expected the predicted class ({', '.join(CLASS_COLUMNS)}) or a probability "
            f"of each class ({', '.join('p_' + name for name in names)}), found "
            f"{', '.join(columns)}"
        )
    complete = len(of_class) == len(names)
    split = next((name for name in SPLIT_COLUMNS if name in columns), None)
    reader = _Reader(path, manifest, names, class_map)
    for row in rows:
        reader.add(row, key, of_class if complete else {}, named, split)
    return reader.table(complete)


def _one_of(path: Path, columns: Sequence[str], known: Sequence[str], what: str) -> str:
    found = next((name for name in known if name in columns), None)
    if found is None:
        raise DataError(
            f"{path}: expected a column that names {what} ({', '.join(known)}), found "
            f"{', '.join(columns)}"
        )
    return found


def _probability_columns(
    columns: Sequence[str], names: Sequence[str], class_map: Mapping[str, str] | None
) -> dict[str, str]:
    """Class → column."""
    found: dict[str, str] = {}
    taken = {*IMAGE_COLUMNS, *CLASS_COLUMNS, *SPLIT_COLUMNS}
    for prefix in PREFIXES:
        for column in columns:
            if column in taken or not column.startswith(prefix):
                continue
            name = resolve_class(column.removeprefix(prefix), class_map)
            if name is not None and name in names:
                found.setdefault(name, column)
    return found


class _Reader:
    """Collects good rows and the wrong ones, so that one message names several."""

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        names: Sequence[str],
        class_map: Mapping[str, str] | None,
    ) -> None:
        self.path, self.names, self.class_map = path, list(names), class_map
        self.by_key: dict[str, list[ImageRecord]] = {}
        for record in manifest.usable:
            for key in _keys(record):
                self.by_key.setdefault(key, []).append(record)
        self.total = len(manifest.usable)
        self.found: dict[str, tuple[int, list[float]]] = {}
        self.parts: dict[str, str] = {}
        self.wrong: list[str] = []
        self.unknown: list[str] = []

    def add(
        self,
        row: Row,
        key: str,
        of_class: Mapping[str, str],
        named: str | None,
        split: str | None,
    ) -> None:
        line, values = row
        record = self._image(line, values[key])
        if record is None:
            return
        if record.image_id in self.found:
            first = self.found[record.image_id][0]
            self.wrong.append(f"line {line}: {record.path} stands in line {first} already")
            return
        probs = (
            self._probs(line, values, of_class) if of_class else self._named(line, values, named)
        )
        if probs is not None:
            self.found[record.image_id] = (line, probs)
        if split is not None:
            part = part_of(values[split])
            if part not in ("train", "val", "test"):
                self.wrong.append(
                    f"line {line}: {split} {values[split]!r} is none of train, val, test"
                )
            else:
                self.parts[record.image_id] = part

    def _image(self, line: int, text: str) -> ImageRecord | None:
        wanted = text.replace("\\", "/").strip().lower()
        while wanted:
            found = self.by_key.get(wanted, ())
            if len(found) == 1 or len({record.sha256 for record in found}) == 1:
                free = [r for r in found if r.image_id not in self.found]
                return (free or list(found))[0]
            if found:
                self.wrong.append(
                    f"line {line}: {text!r} could be {found[0].path} or {found[1].path}"
                )
                return None
            _, _, wanted = wanted.partition("/")  # a path that begins elsewhere
        self.unknown.append(text)
        return None

    def _probs(
        self, line: int, values: Mapping[str, str], of_class: Mapping[str, str]
    ) -> list[float] | None:
        try:
            probs = [float(values[of_class[name]]) for name in self.names]
        except ValueError:
            shown = ", ".join(values[of_class[name]] or "nothing" for name in self.names)
            self.wrong.append(f"line {line}: expected numbers, found {shown}")
            return None
        total = math.fsum(probs)
        if not all(0 <= p <= 1 for p in probs) or abs(total - 1) > _TOLERANCE:
            self.wrong.append(
                f"line {line}: expected probabilities that sum to 1, found a sum of {total:.3g}"
            )
            return None
        return [p / total for p in probs]

    def _named(self, line: int, values: Mapping[str, str], named: str | None) -> list[float] | None:
        text = values[named or ""]
        name = resolve_class(text, self.class_map)
        if name not in self.names:
            self.wrong.append(f"line {line}: class {text!r} is none of {', '.join(self.names)}")
            return None
        return [float(other == name) for other in self.names]

    def table(self, complete: bool) -> ForeignTable:
        if self.wrong:
            more = f" and {len(self.wrong) - SHOWN} more" if len(self.wrong) > SHOWN else ""
            raise DataError(
                f"{self.path}: {len(self.wrong)} wrong rows: {'; '.join(self.wrong[:SHOWN])}{more}",
                hint="correct them; classes of other names are mapped with --class NAME=CLASS",
            )
        if not self.found:
            raise DataError(
                f"{self.path}: none of its rows names an image of the data, e.g. "
                f"{self.unknown[0]!r}",
                hint="give the path below the data's folder, the file name, or the SHA-256",
            )
        notes = []
        if self.unknown:
            notes.append(
                f"{len(self.unknown)} rows name no image of the data and were left out, e.g. "
                f"{self.unknown[0]}."
            )
        if len(self.found) < self.total:
            notes.append(
                f"{self.total - len(self.found)} of {self.total} images have no prediction and "
                "were left out of the score."
            )
        return ForeignTable(
            tuple(self.found),
            np.array([probs for _, probs in self.found.values()]),
            self.parts,
            complete,
            tuple(notes),
        )


def _keys(record: ImageRecord) -> set[str]:
    """How a row may name an image: its hash, its path, or any end of its path."""
    parts = PurePosixPath(record.path.lower()).parts
    ends = {"/".join(parts[i:]) for i in range(len(parts))}
    return {record.sha256, record.image_id, *ends, PurePosixPath(parts[-1]).stem}
