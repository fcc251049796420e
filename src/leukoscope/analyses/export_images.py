"""Images as files: preprocessed ones for other programs, and a labelled sheet of samples."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.recipe import Recipe
from leukoscope.core.errors import DataError, ImageError, UnknownNameError, UsageError
from leukoscope.core.files import (
    atomic_path,
    file_part,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_csv,
    write_text,
)
from leukoscope.core.labels import class_title
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.core.threads import ordered_map
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.observation import PROBE_INPUTS
from leukoscope.pipeline.features.inputs import load_input
from leukoscope.reporting.figures.style import figure_png, house_style, new_figure

# A manifest that `study` and `data inspect` read, and what each file was made of.
COLUMNS = (
    "path", "label", "patient_id", "group_id", "acquisition_id", "split", "sha256",
    "source", "source_sha256",
)  # fmt: skip
SPEC_FILE = "preprocess.toml"
SOURCE_KEY = "source_sha256"
Tell = Callable[[int, int], None]
CELL_IN = 1.25
NAME_IN = 0.24
SIDE_IN = 1.05


@dataclass(frozen=True)
class ExportResult:
    """The result of an export.

    Attributes:
        folder: The export's folder.
        written: Number of images written now.
        kept: Number of images that an earlier, stopped export had written.
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
    progress: Tell | None = None,
) -> ExportResult:
    """Write every usable image as a recipe's models see it, except for mean and deviation.

    Files are ``[part/]class/name.png``; a name that occurs twice in a folder gets its image id.
    ``manifest.csv`` holds both hashes, ``preprocess.toml`` the specification. A stopped export can
    be continued: an image written from the same source with the same specification is kept.

    ``variant`` is a key of :data:`~leukoscope.imaging.observation.PROBE_INPUTS`.

    Raises:
        UnknownNameError: No such variant.
        UsageError: ``out`` lies in the data set or contains it.
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
    for record, found in zip(records, ordered_map(write, items), strict=True):
        if isinstance(found, ImageError):
            unreadable.append((record.path, f"{found.reason}: {found.detail}"))
        else:
            row, was_there = found
            rows.append(row)
            kept += was_there
        if progress is not None:
            progress(len(rows) + len(unreadable), len(records))
    columns = dict.fromkeys((*COLUMNS, *manifest.describing_columns))
    write_csv(out / "manifest.csv", list(columns), rows)
    _remove_temporary_files(out, set(names))
    return ExportResult(out, len(rows) - kept, kept, tuple(unreadable))


def _prepare(data: Path, out: Path, recipe: Recipe, variant: str) -> None:
    """Refuse a folder that cannot be used, then write the specification."""
    import tomli_w

    if variant not in PROBE_INPUTS:
        raise UnknownNameError("variant", variant, PROBE_INPUTS)
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
    """A path for each image, whatever was written before."""
    plain = [_plain_name(record) for record in records]
    counts = Counter(name.lower() for name in plain)  # some file systems ignore case
    return [
        f"{name}.png" if counts[name.lower()] == 1 else f"{name}-{record.image_id}.png"
        for name, record in zip(plain, records, strict=True)
    ]


def _plain_name(record: ImageRecord) -> str:
    parts = (record.given_part, record.label, PurePosixPath(record.path).stem)
    return "/".join(file_part(part) for part in parts if part)


def _write(
    path: Path, record: ImageRecord, name: str, recipe: Recipe, variant: str, out: Path
) -> tuple[dict[str, str], bool] | ImageError:
    """Write one image; returns its row and whether it was there, or why it cannot be read."""
    file = out / name
    was_there = _source_of(file) == record.sha256
    if not was_there:
        try:
            image = load_input(path, variant, recipe.preprocess)
        except ImageError as error:
            return error
        _save_png(file, image, record.sha256)
    row = {
        **record.description,
        "path": name,
        "label": record.label,
        "patient_id": record.patient_id,
        "group_id": record.group_id,
        "acquisition_id": record.acquisition_id,
        "split": record.given_part,
        "sha256": sha256_file(file),
        "source": record.path,
        "source_sha256": record.sha256,
    }
    return row, was_there


def _remove_temporary_files(out: Path, names: set[str]) -> None:
    """Remove the temporary files of an export that was killed."""
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
    """Hash of the source of an exported file; empty if the file is not from an export."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as picture:
            return str(getattr(picture, "text", {}).get(SOURCE_KEY, ""))
    except (OSError, UnidentifiedImageError, SyntaxError):
        return ""


@dataclass(frozen=True)
class SampleImage:
    """One image that was picked.

    Attributes:
        label: Its class.
        path: Relative to the data set's folder.
        sha256: Hash of the file.
    """

    label: str
    path: str
    sha256: str


def pick_samples(manifest: Manifest, per_class: int, seed: int) -> list[SampleImage]:
    """Images of each class, drawn at random; the same for the same files and seed.

    The draw depends only on the content of each file, not on the number or order of files: an added
    image changes at most one choice per class.

    Raises:
        DataError: No image is usable.
    """
    if not manifest.usable:
        raise DataError(f"{manifest.root}: expected images of known classes, found none")

    def order(record: ImageRecord) -> str:
        return sha256_bytes(f"{seed} {record.sha256} {record.path}".encode())

    picked: list[SampleImage] = []
    for name in manifest.class_names:
        records = sorted((r for r in manifest.usable if r.label == name), key=order)
        picked += [SampleImage(r.label, r.path, r.sha256) for r in records[:per_class]]
    return picked


def draw_samples(manifest: Manifest, samples: list[SampleImage], out: Path, *, seed: int) -> Path:
    """Draw one row per class, with the file name under each image and the ``seed`` on the sheet.

    Raises:
        UsageError: ``out`` is not a PNG file.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"{out}: expected the name of a PNG file", hint="e.g. --out samples.png")
    rows = [[s for s in samples if s.label == name] for name in manifest.class_names]
    columns = max(len(row) for row in rows)
    totals = {name: sum(r.label == name for r in manifest.usable) for name in manifest.class_names}
    with house_style():
        height = 0.35 + len(rows) * (CELL_IN + NAME_IN)
        figure = new_figure(height, width_in=max(4.0, SIDE_IN + columns * (CELL_IN + 0.08)))
        figure.suptitle(
            f"Samples of each class (seed {seed})", x=0.01, ha="left", fontsize=9.5, weight="bold"
        )
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for name, row, line in zip(manifest.class_names, rows, axes, strict=True):
            for column, axis in enumerate(line):
                axis.set_xticks([])
                axis.set_yticks([])
                for spine in axis.spines.values():
                    spine.set_visible(False)
                if column == 0:
                    title = class_title(name).replace(" (", "\n(")
                    axis.set_ylabel(
                        f"{title}\n{len(row)} of {totals[name]}",
                        rotation=0, ha="right", va="center", fontsize=7.5,
                    )  # fmt: skip
                if column < len(row):
                    axis.imshow(_read(manifest, row[column]), interpolation="antialiased")
                    axis.set_xlabel(_short(row[column].path), fontsize=5.5, labelpad=2)
        data = figure_png(figure, photo=True)
    write_bytes(out, data)
    return out


def copy_samples(manifest: Manifest, samples: list[SampleImage], folder: Path) -> int:
    """Copy the picked files, unchanged, into one folder per class; returns their number.

    Raises:
        UsageError: The folder lies in the data set.
        DataError: Another file has that name already.
    """
    data, there = manifest.root.resolve(), folder.resolve()
    if there == data or data in there.parents:
        raise UsageError(f"{folder} lies in the data set: the data stay as they are")
    for sample in samples:
        name = PurePosixPath(sample.path).name
        target = folder / file_part(sample.label) / name
        if target.exists() and sha256_bytes(target.read_bytes()) != sample.sha256:
            target = target.with_name(f"{target.stem}-{sample.sha256[:12]}{target.suffix}")
        with atomic_path(target) as temporary:
            shutil.copyfile(manifest.root / sample.path, temporary)
    return len(samples)


def _read(manifest: Manifest, sample: SampleImage) -> NDArray[np.uint8]:
    try:
        return decode_image(manifest.root / sample.path).image
    except ImageError as error:
        raise DataError(f"{error.message} (it could be read a moment ago)") from None


def _short(path: str, limit: int = 30) -> str:
    """The end of a file name, which differs between the files of a series.

    >>> _short("Pro/WBC-Malignant-Pro-001.jpg"), _short("x/" + "a" * 30 + "_12.png")
    ('WBC-Malignant-Pro-001.jpg', '…aaaaaaaaaaaaaaaaaaaaaa_12.png')
    """
    name = PurePosixPath(path).name
    return name if len(name) <= limit else f"…{name[-limit + 1 :]}"
