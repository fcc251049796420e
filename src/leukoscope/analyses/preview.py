"""Sheets of what a recipe does to images: its steps, its augmentation, quality by class."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.loading import load_recipe
from leukoscope.config.preprocess import PreprocessSpec, Step
from leukoscope.config.recipe import Augmentation, GradientTraining, Recipe
from leukoscope.core.errors import DataError
from leukoscope.core.files import atomic_path, write_bytes, write_csv
from leukoscope.core.labels import class_title
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.core.threads import ordered_map
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.observation import PROBE_INPUTS
from leukoscope.imaging.preprocess import apply_preprocess, apply_step, resize
from leukoscope.imaging.quality import QUALITY_MEASURES, measure_quality
from leukoscope.reporting.figures.style import QUIET, figure_png, house_style, new_figure

# What a kind is shown with where the recipe leaves it off: strong enough to be seen.
EXAMPLES: Mapping[str, float | bool] = {
    "rotation_deg": 30.0,
    "shift": 0.1,
    "shear_deg": 15.0,
    "zoom": 0.2,
    "crop_min_area": 0.6,
    "quarter_turns": True,
    "horizontal_flip": True,
    "vertical_flip": True,
    "brightness": 0.2,
    "contrast": 0.2,
    "saturation": 0.2,
    "hue": 0.05,
    "stain": 0.05,
    "blur_px": 2.0,
    "invert": 0.5,
    "jpeg": 0.8,
}
BLENDS: Mapping[str, float] = {"mixup": 0.4, "cutmix": 1.0}
MIXES = 3
Images = NDArray[np.uint8]
Image = NDArray[np.uint8]
STEP_IMAGES = 3
STEP_MEASURED = 60
STAGE_IN = 1.15
TEXT_IN = 1.75
SHOWN = ("image", "background-only", "cells-only", "stain-neutral")
AUGMENTED = 8  # images on the sheet of augmentations
QUALITY_IMAGES = 150  # of each class


def draw_sheet(
    path: Path,
    rows: Sequence[Sequence[NDArray[np.uint8]]],
    captions: Sequence[str],
    titles: Sequence[str],
    *,
    side_in: float = 1.5,
) -> Path:
    """Draw images in a grid and return the path of the PNG.

    Args:
        path: PNG file to write.
        rows: (H, W, 3) uint8 images of each row; sizes may differ.
        captions: Text at the left of each row.
        titles: Text above each column.
        side_in: Side of a cell in inches.
    """
    from matplotlib.figure import Figure

    n_rows, n_columns = len(rows), len(titles)
    figure = Figure(
        figsize=(1.6 + n_columns * side_in, 0.5 + n_rows * side_in), layout="constrained"
    )
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    for row, images in enumerate(rows):
        for column in range(n_columns):
            axis = axes[row, column]
            axis.set_axis_on()
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set_visible(False)
            axis.imshow(images[column], interpolation="nearest")
            if row == 0:
                axis.set_title(titles[column], fontsize=8)
        axes[row, 0].set_ylabel(
            captions[row], fontsize=7, rotation=0, ha="right", va="center", labelpad=6
        )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)
    return path


def draw_augmentations(
    path: Path, images: Images, titles: Sequence[str], recipe: Recipe, seed: int
) -> Path:
    """Draw the effect of each augmentation on some images, and batches of a recipe.

    Args:
        path: PNG file to write; it is returned.
        images: (N, S, S, 3) uint8 RGB, preprocessed; one column each.
        titles: Text above each column.
        recipe: Its values are shown; an augmentation that it leaves off has example values.
        seed: Decides every change, as the seed of a training does.
    """
    rows = [list(images)]
    captions = ["as read"]
    for caption, changed in (*_kinds(images, recipe, seed), *_mixes(images, recipe, seed)):
        captions.append(caption)
        rows.append(list(changed))
    titles = [title.replace(" (", "\n(") for title in titles]
    return draw_sheet(path, rows, captions, titles, side_in=1.2)


def _kinds(images: Images, recipe: Recipe, seed: int) -> Iterator[tuple[str, Images]]:
    """Each augmentation alone."""
    off, used = Augmentation(), _used(recipe)
    for number, (name, example) in enumerate(EXAMPLES.items()):
        own = getattr(used, name)
        is_on = own != getattr(off, name)
        alone = off.model_copy(update={name: own if is_on else example})
        caption = _change_caption(name, own if is_on else example, is_on=is_on)
        yield caption, _augmented(images, alone, seed, number)
    plain = GradientTraining()
    for number, (name, alpha) in enumerate(BLENDS.items()):
        own = getattr(recipe.training, name, 0.0)
        training = plain.model_copy(update={name: own or alpha})
        # Each column from a batch of its own: all images of a batch are blended in one share.
        columns = range(len(images))
        batches = [_blended(images, training, seed, 100 * number + column) for column in columns]
        blended = np.stack([batches[column][column] for column in columns])
        yield _change_caption(name, own or alpha, is_on=bool(own)), blended


def _mixes(images: Images, recipe: Recipe, seed: int) -> Iterator[tuple[str, Images]]:
    """Batches as the recipe trains on them."""
    if not isinstance(recipe.training, GradientTraining):
        yield f"{recipe.name} as trained:\nfrozen features,\nnothing changes", images
        return
    for number in range(MIXES):
        changed = _augmented(images, recipe.augmentation, seed, len(EXAMPLES) + number)
        yield (
            f"{recipe.name}\nas trained, {number + 1}",
            _blended(changed, recipe.training, seed, 100 * len(BLENDS) + number),
        )


def _used(recipe: Recipe) -> Augmentation:
    """The augmentations that have an effect: linear heads are fitted on unchanged images."""
    return recipe.augmentation if isinstance(recipe.training, GradientTraining) else Augmentation()


def _augmented(images: Images, config: Augmentation, seed: int, number: int) -> Images:
    import torch

    from leukoscope.learning.augment import augment_batch, build_augmentation
    from leukoscope.learning.batches import batch_seed

    transform = build_augmentation(config)
    batch = torch.from_numpy(images)
    return np.asarray(augment_batch(batch, transform, batch_seed(seed, 0, number)).numpy())


def _blended(images: Images, training: GradientTraining, seed: int, number: int) -> Images:
    import torch

    from leukoscope.learning.augment import build_blend

    blend = build_blend(training, (seed, 0, number, 1))
    if blend is None:
        return images
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    mixed = blend.images(batch).round().byte().permute(0, 2, 3, 1)
    return np.asarray(mixed.numpy())


def _change_caption(name: str, value: float | bool, *, is_on: bool) -> str:
    shown = name if value is True else f"{name} = {value:g}"
    return shown if is_on else f"{shown}\n(off in this recipe)"


def stages(image: Image, spec: PreprocessSpec) -> list[Image]:
    """The image as it is, after each preprocessing step, and after the resize.

    Args:
        image: (H, W, 3) uint8 RGB.
        spec: The preprocessing.

    Returns:
        ``len(spec.steps) + 2`` images; the last is the model's input.
    """
    found = [image]
    for step in spec.steps:
        found.append(apply_step(found[-1], step))
    found.append(resize(found[-1], spec.size_px, spec.resize))
    return found


def step_titles(spec: PreprocessSpec) -> list[str]:
    """The name of each step with its values, the resize last.

    >>> step_titles(PreprocessSpec(size_px=64))
    ['resize: 64 px, stretch']
    """
    return [*map(_title, spec.steps), f"resize: {spec.size_px} px, {spec.resize}"]


def draw_steps(manifest: Manifest, recipe: Recipe, out: Path, *, seed: int) -> list[Path]:
    """Draw ``steps.png``, one row per step, and write ``steps.csv``; returns both paths.

    The pictures are of one image of each of the first classes; the statistics are means over up
    to 60 images, balanced over the classes.

    Raises:
        DataError: No image is usable.
    """
    chosen = _choose(manifest, seed)
    titles = step_titles(recipe.preprocess)
    measured = _measure(manifest, chosen, recipe.preprocess)
    shown = [
        (record, stages(decode_image(manifest.path_of(record)).image, recipe.preprocess))
        for record in chosen[:STEP_IMAGES]
    ]
    data = _sheet(recipe, titles, shown, measured)
    write_bytes(out / "steps.png", data)
    _table(out / "steps.csv", titles, measured)
    return [out / "steps.png", out / "steps.csv"]


def _title(step: Step) -> str:
    values = step.model_dump(exclude={"kind"})
    texts = [f"{key} {_value(value)}" for key, value in values.items()]
    name = step.kind.replace("_", " ")
    return f"{name}: {', '.join(texts)}" if texts else name


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_value(item)}" for key, item in value.items()) + ")"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(map(_value, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _choose(manifest: Manifest, seed: int) -> list[ImageRecord]:
    """Choose images, one of each class in turn."""
    if not manifest.usable:
        raise DataError(f"{manifest.root}: expected images of known classes, found none")
    rng = np.random.default_rng(seed)
    by_class = []
    for name in manifest.class_names:
        records = [record for record in manifest.usable if record.label == name]
        by_class.append([records[i] for i in rng.permutation(len(records))])
    each = max(1, STEP_MEASURED // len(by_class))
    return [
        records[turn]
        for turn in range(each)
        for records in by_class
        if turn < len(records)
    ]  # fmt: skip


def _measure(
    manifest: Manifest, records: Sequence[ImageRecord], spec: PreprocessSpec
) -> NDArray[np.float64]:
    """Measures of each image after each stage: (images, stages, measures) float64."""
    paths = [manifest.path_of(record) for record in records]
    return np.array(list(ordered_map(partial(_measure_one, spec=spec), paths)))


def _measure_one(path: Path, spec: PreprocessSpec) -> list[list[float]]:
    rows = []
    for image in stages(decode_image(path).image, spec):
        found = measure_quality(image)
        rows.append([found[name] for name in QUALITY_MEASURES])
    return rows


def _sheet(
    recipe: Recipe,
    titles: Sequence[str],
    shown: Sequence[tuple[ImageRecord, list[Image]]],
    measured: NDArray[np.float64],
) -> bytes:
    columns = 2 * len(shown)
    means = measured.mean(axis=0)
    with house_style():
        width = 2 * TEXT_IN + columns * STAGE_IN
        figure = new_figure(0.75 + len(titles) * (STAGE_IN + 0.1), width_in=width)
        figure.suptitle(
            f"What {recipe.name} does to an image, step by step; statistics are means over "
            f"{len(measured)} images",
            x=0.01, ha="left", fontsize=9.5, weight="bold",
        )  # fmt: skip
        ratios = [TEXT_IN, *[STAGE_IN] * columns, TEXT_IN]
        axes = figure.subplots(len(titles), columns + 2, squeeze=False, width_ratios=ratios)
        for axis in axes.flat:
            axis.set_axis_off()
        for row, name in enumerate(titles):
            lines = textwrap.wrap(f"{row + 1}. {name}", 30, max_lines=7, placeholder=" …")
            axes[row, 0].text(0, 0.5, "\n".join(lines), va="center", fontsize=7)
            for number, (record, images) in enumerate(shown):
                for offset in (0, 1):
                    axis = axes[row, 1 + 2 * number + offset]
                    axis.imshow(images[row + offset], interpolation="antialiased")
                    if row == 0:  # the name stands once, over the first of the two
                        title = "after" if offset else f"{_file_caption(record)}\nbefore"
                        axis.set_title(title, fontsize=6.5, weight="normal")
            axes[row, -1].text(
                0, 0.5, _change(means[row], means[row + 1]), va="center", fontsize=7, color=QUIET,
                family="monospace",
            )  # fmt: skip
        return figure_png(figure, photo=True)


def _file_caption(record: ImageRecord) -> str:
    name = Path(record.path).name
    shown = name if len(name) <= 28 else f"…{name[-27:]}"
    return f"{class_title(record.label).partition(' (')[0]}\n{shown}"


def _change(before: NDArray[np.float64], after: NDArray[np.float64]) -> str:
    lines = []
    for name, old, new in zip(QUALITY_MEASURES, before, after, strict=True):
        lines.append(f"{name:10s} {_number(old):>7s} → {_number(new)}")
    return "\n".join(lines)


def _number(value: float) -> str:
    """A number with three figures, without powers of ten.

    >>> _number(10480.0), _number(31.85), _number(0.1469)
    ('10,480', '31.9', '0.147')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(path: Path, titles: Sequence[str], measured: NDArray[np.float64]) -> None:
    """Mean and standard deviation of each measure after each step."""
    rows = []
    for stage, title in enumerate(["original", *titles]):
        row: dict[str, object] = {"step": stage, "what": title, "n": len(measured)}
        for number, name in enumerate(QUALITY_MEASURES):
            values = measured[:, stage, number]
            row[f"mean_{name}"] = f"{values.mean():.5g}"
            row[f"sd_{name}"] = f"{values.std(ddof=1):.4g}" if len(values) > 1 else ""
        rows.append(row)
    write_csv(path, list(rows[0]), rows)


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
        views = [apply_preprocess(PROBE_INPUTS[name](image), recipe.preprocess) for name in SHOWN]
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
    titles = [class_title(record.label) for record in shown]
    return draw_augmentations(path, np.stack(images), titles, recipe, seed)


def _caption(record: ImageRecord) -> str:
    return f"{class_title(record.label)}\n{Path(record.path).name}"


def _quality_table(manifest: Manifest, chosen: dict[str, list[ImageRecord]], path: Path) -> Path:
    """Mean and standard deviation by class, and one-way ANOVA over the classes."""
    from scipy.stats import f_oneway

    values: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name, records in chosen.items():
        paths = [manifest.path_of(record) for record in records[:QUALITY_IMAGES]]
        rows = list(ordered_map(lambda file: measure_quality(decode_image(file).image), paths))
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
