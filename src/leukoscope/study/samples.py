"""Find samples of each class and lay them out on one labelled sheet."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import DataError, ImageError, UsageError
from leukoscope.core.files import atomic_path, sha256_bytes, write_bytes
from leukoscope.core.labels import CLASSES
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.imaging.decode import decode_image
from leukoscope.reporting.figures.style import figure_png, house_style, new_figure

CELL_IN = 1.25
NAME_IN = 0.24
SIDE_IN = 1.05


@dataclass(frozen=True)
class Sample:
    """One image that was picked.

    Attributes:
        label: Its class.
        path: Below the data set's folder.
        sha256: Of the file.
    """

    label: str
    path: str
    sha256: str


def pick_samples(manifest: Manifest, per_class: int, seed: int) -> list[Sample]:
    """Images of each class, drawn at random but the same for the same files and seed.

    The draw depends on the files' content only, not on their number or order: an image that is
    added changes at most its own place.

    Raises:
        DataError: No image is usable.
    """
    if not manifest.usable:
        raise DataError(f"{manifest.root}: expected images of known classes, found none")

    def order(record: ImageRecord) -> str:
        return sha256_bytes(f"{seed} {record.sha256} {record.path}".encode())

    picked: list[Sample] = []
    for name in manifest.class_names:
        records = sorted((r for r in manifest.usable if r.label == name), key=order)
        picked += [Sample(r.label, r.path, r.sha256) for r in records[:per_class]]
    return picked


def draw_samples(manifest: Manifest, samples: list[Sample], out: Path, *, seed: int) -> Path:
    """Draw one row for each class, with the file name under each image.

    The ``seed`` that they were picked with is stated on the sheet.

    Raises:
        UsageError: ``out`` is no PNG file.
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
                    title = CLASSES[name].title.replace(" (", "\n(")
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


def copy_samples(manifest: Manifest, samples: list[Sample], folder: Path) -> int:
    """Copy the picked files, unchanged, into one folder for each class.

    Returns:
        How many were copied.

    Raises:
        UsageError: The folder lies in the data set.
        DataError: Another file has the name already.
    """
    data, there = manifest.root.resolve(), folder.resolve()
    if there == data or data in there.parents:
        raise UsageError(f"{folder} lies in the data set: the data stay as they are")
    for sample in samples:
        name = PurePosixPath(sample.path).name
        target = folder / sample.label / name
        if target.exists() and sha256_bytes(target.read_bytes()) != sample.sha256:
            target = target.with_name(f"{target.stem}-{sample.sha256[:12]}{target.suffix}")
        with atomic_path(target) as temporary:
            shutil.copyfile(manifest.root / sample.path, temporary)
    return len(samples)


def _read(manifest: Manifest, sample: Sample) -> NDArray[np.uint8]:
    try:
        return decode_image(manifest.root / sample.path).image
    except ImageError as error:
        raise DataError(f"{error.message} (it could be read a moment ago)") from None


def _short(path: str, limit: int = 30) -> str:
    """The end of a file name, which tells files of one series apart.

    >>> _short("Pro/WBC-Malignant-Pro-001.jpg"), _short("x/" + "a" * 30 + "_12.png")
    ('WBC-Malignant-Pro-001.jpg', '…aaaaaaaaaaaaaaaaaaaaaa_12.png')
    """
    name = PurePosixPath(path).name
    return name if len(name) <= limit else f"…{name[-limit + 1 :]}"
