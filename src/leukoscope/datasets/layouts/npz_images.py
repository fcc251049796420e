"""Images and labels in one ``.npz`` file, as MedMNIST publishes them (Yang et al. 2023)."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import DataError, LayoutError
from leukoscope.core.files import sha256_file, write_csv
from leukoscope.datasets.layouts.rules import Placed, Placement
from leukoscope.datasets.layouts.unpacked import MANIFEST, recorded, write_once, write_png

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

    def write(folder: Path) -> dict[str, Any]:
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


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
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


def _record(path: Path, sha256: str) -> dict[str, Any]:
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
