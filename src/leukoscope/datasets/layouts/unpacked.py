"""Images that a data set holds in another form, written once as PNG beside it.

* Images and labels in one ``.npz`` file, as MedMNIST publishes them (Yang et al. 2023).
* Fields of red cells whose cells are named by points, as Chula RBC-12 is published
  (Naruenatthanaset et al. 2021, arXiv 2012.01321): ``Dataset/<number>.jpg`` are fields of
  640 × 480 px, and each line of ``Label/<number>.txt`` is ``x y type``: the middle of a cell, and
  its number in :data:`RED_CELLS`. A field has cells of several types, so that each is cut out, and
  the field is what its cells have in common (``group_id``).
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import DataError, ImageError, LayoutError
from leukoscope.core.files import read_json, sha256_bytes, sha256_file, write_csv, write_json
from leukoscope.datasets.layouts.rules import Placed, Placement
from leukoscope.imaging.decode import decode_image

MANIFEST = "manifest.csv"
_RECORD = "unpacked.json"
NPZ = ".npz"
FETCHED_PARTS = ("train", "val", "test")
BLOOD_CELLS = (
    "basophil",
    "eosinophil",
    "erythroblast",
    "immature_granulocyte",
    "lymphocyte",
    "monocyte",
    "neutrophil",
    "platelet",
)
"""The published names of BloodMNIST's labels, 0 to 7."""
MOST_IMAGES, MOST_SIDE_PX, MOST_MB = 1_000_000, 1024, 16_000
_MB = 1_000_000
Progress = Callable[[int, int], None]
RED_CELLS: Final = (
    "normal red cell", "macrocyte", "microcyte", "spherocyte", "target cell", "stomatocyte",
    "ovalocyte", "teardrop", "burr cell", "sickle cell", "schistocyte", "uncategorised",
    "hypochromia", "polychromasia", "keratocyte", "acanthocyte",
)  # fmt: skip
"""The published names of the types, 0 to 15."""
SIDE_PX: Final = 80
"""Of a cell that is cut out: about a normal red cell of these fields and its surroundings."""
_COLUMNS = ("path", "label", "group_id")


def write_once(out: Path, source: str, write: Callable[[Path], Mapping[str, object]]) -> None:
    """Fill a folder that is complete or absent.

    Args:
        out: The folder; it must not be there.
        source: Name of what it is made of, for messages.
        write: Writes the images and their manifest into the folder that it is given, and returns
            by what the source is known again.

    Raises:
        DataError: It cannot be written.
    """
    part = out.with_name(f"{out.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
        part.mkdir()
        write_json(part / _RECORD, write(part))
        part.rename(out)
    except OSError as error:
        raise DataError(
            f"{out}: the images of {source} cannot be written beside it "
            f"({error.strerror or error})",
            hint="copy the data to a folder that can be written to, with room for its images",
        ) from None


def recorded(out: Path) -> dict[str, object]:
    """By what the source of a folder was known; empty where it does not say."""
    path = out / _RECORD
    return dict(read_json(path)) if path.is_file() else {}


def write_png(file: Path, image: NDArray[np.uint8]) -> None:
    """Write an image, (H, W, 3) RGB or (H, W) grey uint8, as PNG."""
    file.parent.mkdir(parents=True, exist_ok=True)
    done, encoded = cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)
    if not done:
        raise DataError(f"{file}: the image cannot be written as PNG")
    file.write_bytes(encoded.tobytes())


def images_folder(path: Path) -> Path:
    """Where the images of a ``.npz`` file are written: beside it.

    >>> images_folder(Path("data/bloodmnist_64.npz")).as_posix()
    'data/bloodmnist_64.images'
    """
    return Path(path).with_suffix(".images")


@dataclass(frozen=True)
class _Array:
    """An array in the file, by its header."""

    part: str
    shape: tuple[int, ...]
    labels: tuple[int, ...]


def inspect_npz(path: Path) -> Placement:
    """What the file holds, without writing an image.

    Raises:
        LayoutError: It is damaged, or holds other arrays.
    """
    placed = []
    for array in _arrays(path):
        for number, label in enumerate(array.labels):
            name = label_name(path, label)
            placed.append(Placed(_file_name(array.part, name, number), name, given_part=array.part))
    return Placement(placed, [])


def unpack_npz(path: Path, progress: Progress | None = None) -> Path:
    """Write the images once as lossless PNG, with a ``manifest.csv``; return its path.

    What is there already of the same file is used.

    Raises:
        LayoutError: The file is damaged, holds other arrays, or has changed since.
        DataError: The images cannot be written.
    """
    out = images_folder(path)
    if out.exists():
        _check_unchanged(path, out)
        return out / MANIFEST
    arrays = list(_arrays(path))

    def write(folder: Path) -> dict[str, object]:
        _check_space(folder, arrays)
        _write(path, arrays, folder, progress)
        return _record(path, sha256_file(path))

    write_once(out, path.name, write)
    return out / MANIFEST


def label_name(path: Path, label: int) -> str:
    """The class of a number: the published name for BloodMNIST, else ``label <number>``.

    >>> label_name(Path("bloodmnist_64.npz"), 3), label_name(Path("own.npz"), 3)
    ('immature_granulocyte', 'label 3')
    """
    known = path.name.lower().startswith("bloodmnist") and 0 <= label < len(BLOOD_CELLS)
    return BLOOD_CELLS[label] if known else f"label {label}"


def _file_name(part: str, name: str, number: int) -> str:
    return f"{part}/{name}/{part}_{number:05d}.png"


def _arrays(path: Path) -> Iterator[_Array]:
    """The parts that the file holds, checked by their headers before anything is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {info.filename.removesuffix(".npy") for info in archive.infolist()}
            parts = [part for part in FETCHED_PARTS if f"{part}_images" in names]
            if not parts:
                shown = ", ".join(sorted(names)[:8]) or "nothing"
                raise LayoutError(
                    f"{path}: expected the arrays train_images and train_labels (val, test), found "
                    f"{shown}",
                    hint="a .npz file is read as MedMNIST publishes it",
                )
            for part in parts:
                with archive.open(f"{part}_images.npy") as file:
                    shape, kind = _header(file)
                _check_images(path, archive, part, shape, kind)
                yield _Array(part, shape, _labels(path, archive, part, shape[0]))
    except FileNotFoundError:
        raise LayoutError(f"{path}: this file is missing") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise LayoutError(
            f"{path}: expected a .npz file with train_images and train_labels, but {error}",
            hint="fetch it again",
        ) from None


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Shape and type of an array; nothing of it is read, and no object is made."""
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"version {version} of the array format is not known")
    shape, is_fortran, kind = read(file)
    if is_fortran and len(shape) > 1:
        raise ValueError("its array is stored by columns")
    return shape, kind


def _check_images(
    path: Path,
    archive: zipfile.ZipFile,
    part: str,
    shape: tuple[int, ...],
    kind: np.dtype[np.generic],
) -> None:
    is_rgb = len(shape) == 4 and shape[3] == 3
    if kind != np.uint8 or not (is_rgb or len(shape) == 3):
        raise LayoutError(
            f"{path}: {part}_images is {shape} {kind}; expected (N, H, W, 3) or (N, H, W) of uint8"
        )
    size = int(np.prod(shape, dtype=np.int64))
    held = archive.getinfo(f"{part}_images.npy").file_size
    too_large = shape[0] > MOST_IMAGES or max(shape[1:3]) > MOST_SIDE_PX or size > MOST_MB * _MB
    if too_large or min(shape) < 1 or not size <= held <= size + 65_536:
        raise LayoutError(
            f"{path}: {part}_images says it is {shape}, in {held:,} bytes; expected at most "
            f"{MOST_IMAGES:,} images of at most {MOST_SIDE_PX} px, {MOST_MB:,} MB in all, and as "
            "many bytes as that shape has"
        )


def _labels(path: Path, archive: zipfile.ZipFile, part: str, n: int) -> tuple[int, ...]:
    name = f"{part}_labels.npy"
    with archive.open(name) as file:
        shape, kind = _header(file)
        if shape not in ((n,), (n, 1)) or kind.kind not in "iu":
            raise LayoutError(
                f"{path}: {part}_labels is {shape} {kind}; expected a whole number for each of the "
                f"{n} images",
                hint="labels of several columns (multi-label sets) are not read",
            )
        data = file.read(n * kind.itemsize)
    return tuple(np.frombuffer(data, kind, n).astype(int).tolist())


def _check_space(folder: Path, arrays: list[_Array]) -> None:
    needed = sum(int(np.prod(array.shape, dtype=np.int64)) for array in arrays) // _MB
    free = shutil.disk_usage(folder).free // _MB
    if free < needed:
        raise DataError(
            f"{folder}: expected {needed:,} MB of free disk for the images, found {free:,}",
            hint="free some, or copy the file to another disk",
        )


def _write(path: Path, arrays: list[_Array], out: Path, progress: Progress | None) -> None:
    total = sum(len(array.labels) for array in arrays)
    rows: list[dict[str, str]] = []
    with zipfile.ZipFile(path) as archive:
        for array in arrays:
            images = _images(archive, array)
            for number, (image, label) in enumerate(zip(images, array.labels, strict=True)):
                name = label_name(path, label)
                below = _file_name(array.part, name, number)
                write_png(out / below, image)
                rows.append({"path": below, "label": name, "split": array.part})
                if progress is not None:
                    progress(len(rows), total)
    write_csv(out / MANIFEST, ("path", "label", "split"), rows)


def _images(archive: zipfile.ZipFile, array: _Array) -> Iterator[NDArray[np.uint8]]:
    """One image after the other, (H, W, 3) or (H, W) uint8; the array is never held whole."""
    size = int(np.prod(array.shape[1:], dtype=np.int64))
    with archive.open(f"{array.part}_images.npy") as file:
        _header(file)
        for _ in range(array.shape[0]):
            data = file.read(size)
            if len(data) != size:
                raise OSError(f"{array.part}_images ends early")
            yield np.frombuffer(data, np.uint8).reshape(array.shape[1:])


def _record(path: Path, sha256: str) -> dict[str, object]:
    status = path.stat()
    return {"source": path.name, "bytes": status.st_size, "sha256": sha256,
            "modified_ns": status.st_mtime_ns}  # fmt: skip


def _check_unchanged(path: Path, out: Path) -> None:
    """Refuse images of another file of the same name."""
    record = recorded(out)
    if not path.is_file() or record == _record(path, str(record.get("sha256"))):
        return
    if record.get("sha256") != sha256_file(path):
        raise LayoutError(
            f"{out}: expected the images of {path.name} as it is now, found others",
            hint="delete this folder; it is written again",
        )


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

    def write(folder: Path) -> Mapping[str, object]:
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


def _source(path: Path) -> dict[str, object]:
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
