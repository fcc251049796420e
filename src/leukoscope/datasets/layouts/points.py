"""Fields of red cells whose cells are named by points, as Chula RBC-12 is published.

Naruenatthanaset et al. 2021 (arXiv 2012.01321): ``Dataset/<number>.jpg`` are fields of 640 × 480
px, and each line of ``Label/<number>.txt`` is ``x y type``: the middle of a cell, and its number
in :data:`RED_CELLS`. A field has cells of several types, so that each is cut out, and the field is
what its cells have in common (``group_id``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import ImageError, LayoutError
from leukoscope.core.files import sha256_bytes, write_csv
from leukoscope.datasets.layouts.rules import Placed, Placement
from leukoscope.datasets.layouts.unpacked import MANIFEST, recorded, write_once, write_png
from leukoscope.imaging.decode import decode_image

RED_CELLS: Final = (
    "normal red cell", "macrocyte", "microcyte", "spherocyte", "target cell", "stomatocyte",
    "ovalocyte", "teardrop", "burr cell", "sickle cell", "schistocyte", "uncategorised",
    "hypochromia", "polychromasia", "keratocyte", "acanthocyte",
)  # fmt: skip
"""The published names of the types, 0 to 15."""

SIDE_PX: Final = 80
"""Of a cell that is cut out: about a normal red cell of these fields and its surroundings."""

_COLUMNS = ("path", "label", "group_id")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Point:
    """One named cell of a field."""

    field: str
    number: int  # of the line in the field's file, from 1
    x: int
    y: int
    name: str

    @property
    def path(self) -> str:
        """Where its image is written, below the folder of images."""
        return f"{self.name.replace(' ', '_')}/{self.field}_{self.number:03d}.png"


def has_points(path: Path) -> bool:
    """Whether a folder is laid out so."""
    fields, labels = path / "Dataset", path / "Label"
    return fields.is_dir() and labels.is_dir() and any(labels.glob("*.txt"))


def cells_folder(path: Path) -> Path:
    """Where the cells of a folder are written: beside it.

    >>> cells_folder(Path("data/Chula-RBC-12")).as_posix()
    'data/Chula-RBC-12.images'
    """
    whole = path.resolve() if path.name in ("", ".", "..") else path
    return whole.with_name(f"{whole.name}.images")


def inspect_points(path: Path) -> Placement:
    """What the folder holds, without opening an image.

    Raises:
        LayoutError: A line is not ``x y type``, or no labelled field is there.
    """
    points, warnings = _points(path)
    placed = [Placed(p.path, p.name, group_id=p.field) for p in points]
    return Placement(placed, warnings)


def cut_points(path: Path, progress: Progress | None = None) -> Path:
    """Write each cell once as PNG, with a ``manifest.csv``; return its path.

    A cell at the edge is cut out as far inside as it takes: nothing is made up around it.

    Raises:
        LayoutError: As :func:`inspect_points`; labels have changed since, or a point lies outside.
        DataError: The images cannot be written.
    """
    out, source = cells_folder(path), _source(path)
    if out.exists():
        if recorded(out) != source:
            raise LayoutError(
                f"{out}: expected the cells of {path.name} as its labels are now, found others",
                hint="delete this folder; it is written again",
            )
        return out / MANIFEST
    points, _ = _points(path)

    def write(folder: Path) -> Mapping[str, Any]:
        rows = []
        for point, image in _cut(path, points):
            write_png(folder / point.path, image)
            rows.append((point.path, point.name, point.field))
            if progress is not None:
                progress(len(rows), len(points))
        write_csv(
            folder / MANIFEST, _COLUMNS, (dict(zip(_COLUMNS, row, strict=True)) for row in rows)
        )
        return source

    write_once(out, path.name, write)
    return out / MANIFEST


def _source(path: Path) -> dict[str, Any]:
    """By what the labels are known again."""
    texts = b"".join(file.name.encode() + file.read_bytes() for file in _label_files(path))
    return {"source": path.resolve().name, "side_px": SIDE_PX, "sha256": sha256_bytes(texts)}


def _label_files(path: Path) -> list[Path]:
    return sorted((path / "Label").glob("*.txt"))


def _points(path: Path) -> tuple[list[_Point], list[str]]:
    """Every named cell of the fields that are there, and what is odd."""
    fields = {file.stem for file in (path / "Dataset").iterdir() if file.suffix.lower() == ".jpg"}
    labelled = {file.stem: file for file in _label_files(path)}
    points = [p for name, file in labelled.items() if name in fields for p in _lines(file)]
    if not points:
        raise LayoutError(
            f"{path}: none of the {len(labelled)} files of Label names a cell of a field in "
            "Dataset",
            hint="keep Dataset/<number>.jpg and Label/<number>.txt under one number",
        )
    warnings = []
    for words, lost in (
        ("files of Label have no field in Dataset", labelled.keys() - fields),
        ("fields of Dataset have no file in Label and are left out", fields - labelled.keys()),
    ):
        if lost:
            warnings.append(f"{len(lost)} {words}, e.g. {min(lost)}")
    return points, warnings


def _lines(file: Path) -> Iterator[_Point]:
    """The cells of one field.

    Raises:
        LayoutError: A line is not ``x y type``.
    """
    text = file.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        known = len(words) == 3 and all(word.isascii() and word.isdigit() for word in words)
        x, y, kind = map(int, words) if known else (0, 0, len(RED_CELLS))
        if kind >= len(RED_CELLS):
            raise LayoutError(
                f"{file}, line {number}: expected x, y and a type from 0 to {len(RED_CELLS) - 1}, "
                f"found {line.strip()[:60]!r}"
            )
        yield _Point(file.stem, number, x, y, RED_CELLS[kind])


def _cut(path: Path, points: list[_Point]) -> Iterator[tuple[_Point, NDArray[np.uint8]]]:
    """Each cell as a square; a field is decoded once. One that is broken is named."""
    last, field = "", np.zeros((0, 0, 3), np.uint8)
    for point in points:
        if point.field != last:
            last = point.field
            file = next(f for f in (path / "Dataset").glob(f"{last}.*") if f.stem == last)
            try:
                field = decode_image(file).image
            except ImageError as error:
                raise LayoutError(
                    f"{file}: this field cannot be read ({error.reason}: {error.detail})",
                    hint="fetch it again, or take it and its file of Label away",
                ) from None
        yield point, _window(field, point)


def _window(field: NDArray[np.uint8], point: _Point) -> NDArray[np.uint8]:
    """The square around a point, moved inside the field."""
    height, width = field.shape[:2]
    if point.x >= width or point.y >= height or min(height, width) < SIDE_PX:
        raise LayoutError(
            f"Label/{point.field}.txt, line {point.number}: the point {point.x} {point.y} lies "
            f"outside its field of {width} × {height} px, or that is smaller than a cell"
        )
    left = min(max(0, point.x - SIDE_PX // 2), width - SIDE_PX)
    top = min(max(0, point.y - SIDE_PX // 2), height - SIDE_PX)
    return field[top : top + SIDE_PX, left : left + SIDE_PX]
