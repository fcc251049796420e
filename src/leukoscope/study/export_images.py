"""Preprocessed images as files, for other programs: what a model sees, one PNG an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.recipe import Recipe
from leukoscope.core.errors import DataError, ImageError, UnknownNameError, UsageError
from leukoscope.core.files import atomic_path, sha256_file, write_csv, write_text
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.study.inputs import INPUTS, load_input, stream

# A manifest that `study` and `data inspect` read, and what each file was made of.
COLUMNS = (
    "path", "label", "patient_id", "group_id", "acquisition_id", "split", "cohort", "sha256",
    "source", "source_sha256",
)  # fmt: skip
SPEC_FILE = "preprocess.toml"
SOURCE_KEY = "source_sha256"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Where.
        written: Images written now.
        kept: Images that an earlier, stopped export had written.
        unreadable: Path and reason of each image that could not be read.
    """

    folder: Path
    written: int
    kept: int
    unreadable: tuple[tuple[str, str], ...]


def export_images(
    manifest: Manifest,
    recipe: Recipe,
    out: Path,
    *,
    variant: str = "image",
    progress: Progress | None = None,
) -> Exported:
    """Write every usable image as a recipe's models see it, but for mean and deviation.

    Files are ``[part/]class/name.png``; a name that comes twice in one folder gets its image id.
    ``manifest.csv`` holds both hashes, ``preprocess.toml`` the specification. An export that was
    stopped goes on: an image that is there for the same source and specification is kept.

    ``variant`` is a key of :data:`~leukoscope.imaging.probe_inputs.PROBE_INPUTS`.

    Raises:
        UnknownNameError: No such variant.
        UsageError: ``out`` lies in the data set or around it.
        DataError: ``out`` holds something else.
    """
    records = manifest.usable
    if not records:
        raise DataError(f"{manifest.root}: expected images to export, found none that is usable")
    _prepare(manifest.root, out, recipe, variant)
    names = _names(records)

    def write(item: tuple[ImageRecord, str]) -> tuple[dict[str, str], bool] | ImageError:
        return _write(manifest.path_of(item[0]), *item, recipe, variant, out)

    rows: list[dict[str, str]] = []
    unreadable: list[tuple[str, str]] = []
    kept = 0
    items = list(zip(records, names, strict=True))
    for record, found in zip(records, stream(write, items), strict=True):
        if isinstance(found, ImageError):
            unreadable.append((record.path, f"{found.reason}: {found.detail}"))
        else:
            row, was_there = found
            rows.append(row)
            kept += was_there
        if progress is not None:
            progress(len(rows) + len(unreadable), len(records))
    write_csv(out / "manifest.csv", COLUMNS, rows)
    _sweep(out, set(names))
    return Exported(out, len(rows) - kept, kept, tuple(unreadable))


def _prepare(data: Path, out: Path, recipe: Recipe, variant: str) -> None:
    """Refuse what must not be, then write the specification."""
    import tomli_w

    if variant not in INPUTS:
        raise UnknownNameError("variant", variant, INPUTS)
    here, there = data.resolve(), out.resolve()
    if there == here or here in there.parents or there in here.parents:
        raise UsageError(
            f"{out} lies in the data set {data} or around it: the data stay as they are",
            hint="give an --out elsewhere",
        )
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: expected a folder, but it is a file", hint="give another --out")
    file = out / SPEC_FILE
    values = {"variant": variant, "preprocess": recipe.preprocess.model_dump(mode="json")}
    text = (
        f"# Written by `leukoscope data export`, recipe {recipe.name}. Mean and standard deviation"
        "\n# are not applied to the files: they belong to the model.\n"
        f"{tomli_w.dumps(values)}"
    )
    if file.is_file():
        if file.read_text(encoding="utf-8") != text:
            raise DataError(
                f"{file}: this folder holds an export with another preprocessing or variant",
                hint="give another --out, or delete the folder",
            )
    elif out.is_dir() and any(out.iterdir()):
        raise DataError(
            f"{out}: expected an empty or new folder, found other files", hint="give another --out"
        )
    else:
        write_text(file, text)


def _names(records: Sequence[ImageRecord]) -> list[str]:
    """A path for each image; the same whatever was written before."""
    plain = [_plain_name(record) for record in records]
    counts = Counter(name.lower() for name in plain)  # some file systems ignore case
    return [
        f"{name}.png" if counts[name.lower()] == 1 else f"{name}-{record.image_id}.png"
        for name, record in zip(plain, records, strict=True)
    ]


def _plain_name(record: ImageRecord) -> str:
    parts = (record.given_part, record.label, PurePosixPath(record.path).stem)
    return "/".join(part for part in parts if part)


def _write(
    path: Path, record: ImageRecord, name: str, recipe: Recipe, variant: str, out: Path
) -> tuple[dict[str, str], bool] | ImageError:
    """The row of one image and whether its file was there, or why it cannot be read."""
    file = out / name
    was_there = _source_of(file) == record.sha256
    if not was_there:
        try:
            image = load_input(path, variant, recipe.preprocess)
        except ImageError as error:
            return error
        _save_png(file, image, record.sha256)
    row = {
        "path": name,
        "label": record.label,
        "patient_id": record.patient_id,
        "group_id": record.group_id,
        "acquisition_id": record.acquisition_id,
        "split": record.given_part,
        "cohort": record.cohort,
        "sha256": sha256_file(file),
        "source": record.path,
        "source_sha256": record.sha256,
    }
    return row, was_there


def _sweep(out: Path, names: set[str]) -> None:
    """Remove the temporary files that an export left when it was killed."""
    for path in out.rglob(".*.png"):
        whole = path.with_name(path.name[1:].rsplit(".", 2)[0])
        if whole.relative_to(out).as_posix() in names:
            path.unlink()


def _save_png(file: Path, image: NDArray[np.uint8], source_sha256: str) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(SOURCE_KEY, source_sha256)
    with atomic_path(file) as temporary:
        Image.fromarray(image).save(temporary, format="PNG", pnginfo=info, compress_level=6)


def _source_of(file: Path) -> str:
    """Hash of the image that an exported file was made of; empty where it is none of ours."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as picture:
            return str(getattr(picture, "text", {}).get(SOURCE_KEY, ""))
    except (OSError, UnidentifiedImageError, SyntaxError):
        return ""
