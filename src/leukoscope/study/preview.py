"""Sheets of what a recipe does to the images of a data set, and their quality by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.loading import load_recipe
from leukoscope.config.recipe import Recipe
from leukoscope.core.files import write_csv
from leukoscope.core.labels import CLASSES
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.imaging.quality import measure_quality
from leukoscope.reporting.sheet import draw_sheet
from leukoscope.study.augmentation_sheet import draw_augmentations
from leukoscope.study.inputs import INPUTS, stream

SHOWN = ("image", "background-only", "cells-only", "stain-neutral")
AUGMENTED = 8  # images on the sheet of augmentations
QUALITY_IMAGES = 150  # of each class


def draw_preview(
    manifest: Manifest,
    out: Path,
    recipe_name: str,
    *,
    per_class: int,
    augment: bool,
    seed: int,
    overrides: Sequence[str] = (),
) -> list[Path]:
    """Draw a sheet of inputs, on request one of augmentations, and a table of image quality.

    Returns:
        The files written.
    """
    recipe = load_recipe(recipe_name, overrides)
    rng = np.random.default_rng(seed)
    chosen: dict[str, list[ImageRecord]] = {}
    for name in manifest.class_names:
        records = [record for record in manifest.usable if record.label == name]
        chosen[name] = [records[i] for i in rng.permutation(len(records))]
    shown = [record for records in chosen.values() for record in records[:per_class]]
    written = [_sheet_of_inputs(manifest, shown, recipe, out / "inputs.png")]
    if augment:
        written.append(_sheet_of_augmentations(manifest, chosen, recipe, out / "augment.png", seed))
    return [*written, _quality_table(manifest, chosen, out / "quality.csv")]


def _sheet_of_inputs(
    manifest: Manifest, shown: Sequence[ImageRecord], recipe: Recipe, path: Path
) -> Path:
    rows = []
    for record in shown:
        image = decode_image(manifest.path_of(record)).image
        views = [apply_preprocess(INPUTS[name](image), recipe.preprocess) for name in SHOWN]
        rows.append([image, *views])
    titles = ["original", *SHOWN]
    return draw_sheet(path, rows, [_caption(record) for record in shown], titles)


def _sheet_of_augmentations(
    manifest: Manifest,
    chosen: dict[str, list[ImageRecord]],
    recipe: Recipe,
    path: Path,
    seed: int,
) -> Path:
    each = max(1, AUGMENTED // len(chosen))
    shown = [record for records in chosen.values() for record in records[:each]]
    images = [
        apply_preprocess(decode_image(manifest.path_of(record)).image, recipe.preprocess)
        for record in shown
    ]
    titles = [CLASSES[record.label].title for record in shown]
    return draw_augmentations(path, np.stack(images), titles, recipe, seed)


def _caption(record: ImageRecord) -> str:
    return f"{CLASSES[record.label].title}\n{Path(record.path).name}"


def _quality_table(
    manifest: Manifest, chosen: dict[str, list[ImageRecord]], path: Path
) -> Path:  # fmt: skip
    """Mean and standard deviation by class, and one-way ANOVA over the classes."""
    from scipy.stats import f_oneway

    values: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name, records in chosen.items():
        paths = [manifest.path_of(record) for record in records[:QUALITY_IMAGES]]
        rows = list(stream(lambda file: measure_quality(decode_image(file).image), paths))
        values[name] = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    rows_out = []
    for key in next(iter(values.values())):
        samples = [by_key[key] for by_key in values.values()]
        enough = (
            len(samples) > 1
            and all(len(s) > 1 for s in samples)
            and np.ptp(np.concatenate(samples)) > 0
        )
        test = f_oneway(*samples) if enough else None
        row: dict[str, object] = {"statistic": key}
        for name, sample in zip(values, samples, strict=True):
            row[f"n_{name}"] = len(sample)
            row[f"mean_{name}"] = f"{sample.mean():.4g}"
            row[f"sd_{name}"] = f"{sample.std(ddof=1):.4g}" if len(sample) > 1 else ""
        row["anova_f"] = f"{test.statistic:.4g}" if test else ""
        row["anova_p"] = f"{test.pvalue:.3g}" if test else ""
        rows_out.append(row)
    write_csv(path, list(rows_out[0]), rows_out)
    return path
