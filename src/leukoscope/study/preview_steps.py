"""A sheet of what each preprocessing step does: before, after, and the image quality of both."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.preprocess import PreprocessSpec, Step
from leukoscope.config.recipe import Recipe
from leukoscope.core.errors import DataError
from leukoscope.core.files import write_bytes, write_csv
from leukoscope.core.labels import CLASSES
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import apply_step, resize
from leukoscope.imaging.quality import QUALITY_MEASURES, measure_quality
from leukoscope.reporting.figures.style import QUIET, figure_png, house_style, new_figure
from leukoscope.study.inputs import stream

Image = NDArray[np.uint8]
SHOWN = 3
MEASURED = 60
STAGE_IN = 1.15
TEXT_IN = 1.75


def stages(image: Image, spec: PreprocessSpec) -> list[Image]:
    """The image as it is, after each step, and after the resize.

    Args:
        image: (H, W, 3) uint8 RGB.
        spec: What is done.

    Returns:
        ``len(spec.steps) + 2`` images; the last is what the model gets.
    """
    found = [image]
    for step in spec.steps:
        found.append(apply_step(found[-1], step))
    found.append(resize(found[-1], spec.size_px, spec.resize))
    return found


def step_titles(spec: PreprocessSpec) -> list[str]:
    """A name with its values for each step, the resize last.

    >>> step_titles(PreprocessSpec(size_px=64))
    ['resize: 64 px, stretch']
    """
    return [*map(_title, spec.steps), f"resize: {spec.size_px} px, {spec.resize}"]


def draw_steps(manifest: Manifest, recipe: Recipe, out: Path, *, seed: int) -> list[Path]:
    """Draw ``steps.png``, one row a step, and write ``steps.csv``.

    The pictures are of one image of each of the first classes; the statistics are means over up
    to 60 images, as many of each class as there are.

    Returns:
        The files written.

    Raises:
        DataError: No image is usable.
    """
    chosen = _choose(manifest, seed)
    titles = step_titles(recipe.preprocess)
    measured = _measure(manifest, chosen, recipe.preprocess)
    shown = [
        (record, stages(decode_image(manifest.path_of(record)).image, recipe.preprocess))
        for record in chosen[:SHOWN]
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
    """One image of each class in turn."""
    if not manifest.usable:
        raise DataError(f"{manifest.root}: expected images of known classes, found none")
    rng = np.random.default_rng(seed)
    by_class = []
    for name in manifest.class_names:
        records = [record for record in manifest.usable if record.label == name]
        by_class.append([records[i] for i in rng.permutation(len(records))])
    each = max(1, MEASURED // len(by_class))
    return [
        records[turn]
        for turn in range(each)
        for records in by_class
        if turn < len(records)
    ]  # fmt: skip


def _measure(
    manifest: Manifest, records: Sequence[ImageRecord], spec: PreprocessSpec
) -> NDArray[np.float64]:
    """(images, stages, measures) float64."""
    paths = [manifest.path_of(record) for record in records]
    return np.array(list(stream(partial(_measure_one, spec=spec), paths)))


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
                        title = "after" if offset else f"{_caption(record)}\nbefore"
                        axis.set_title(title, fontsize=6.5, weight="normal")
            axes[row, -1].text(
                0, 0.5, _change(means[row], means[row + 1]), va="center", fontsize=7, color=QUIET,
                family="monospace",
            )  # fmt: skip
        return figure_png(figure, photo=True)


def _caption(record: ImageRecord) -> str:
    name = Path(record.path).name
    shown = name if len(name) <= 28 else f"…{name[-27:]}"
    return f"{CLASSES[record.label].title.partition(' (')[0]}\n{shown}"


def _change(before: NDArray[np.float64], after: NDArray[np.float64]) -> str:
    lines = []
    for name, old, new in zip(QUALITY_MEASURES, before, after, strict=True):
        lines.append(f"{name:10s} {_number(old):>7s} → {_number(new)}")
    return "\n".join(lines)


def _number(value: float) -> str:
    """Three figures, without powers of ten.

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
