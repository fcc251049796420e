"""What a study would do, how long it would take on this machine, and what it cannot show."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from leukoscope.config.recipe import LinearHeadTraining, Recipe
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError
from leukoscope.core.records import Manifest
from leukoscope.datasets.layouts import load_dataset
from leukoscope.datasets.measurements import audit_image
from leukoscope.study.events import Listener
from leukoscope.study.inputs import INPUTS, load_input
from leukoscope.study.probes import probe_recipe

SAMPLE = 16
THREADS = 2
HEAD_S = 1.0e-4  # seconds per training image and penalty, from runs on two cores
CAL_BY_CLASS = 19  # smallest n with a non-trivial 95 % quantile: ceil((n + 1) · 0.95) ≤ n
FEW_GROUPS = 10


@dataclass(frozen=True)
class PlannedStep:
    """One step of a planned study.

    Attributes:
        name: What happens.
        work: How much of it.
        seconds: Estimate from a sample of the images, timed on this machine.
    """

    name: str
    work: str
    seconds: float


@dataclass(frozen=True)
class StudyPlan:
    """A study before it starts.

    Attributes:
        n_files: Files found.
        n_images: Usable images.
        steps: In the order in which they run.
        disk_mb: Estimate of what the study's folder will hold.
        limits: What the data cannot show, in sentences.
    """

    n_files: int
    n_images: int
    steps: tuple[PlannedStep, ...]
    disk_mb: float
    limits: tuple[str, ...]


def plan_study(config: StudyConfig, listener: Listener) -> StudyPlan:
    """Read the data, time each kind of work on a sample, and say what would run.

    Raises:
        DataError: No image can be used.
    """
    start = time.perf_counter()
    manifest = load_dataset(
        Path(config.data.path),
        layout=config.data.layout,
        class_map=config.data.class_map,
        progress=lambda done, total: listener("reading the images", done, total),
    )
    reading = PlannedStep("reading", f"{len(manifest.images)} files", time.perf_counter() - start)
    n = len(manifest.usable)
    if n == 0:
        raise DataError(f"{config.data.path}: no usable image")
    listener("timing a sample", 0, 0)
    sample = [manifest.usable[i] for i in np.linspace(0, n - 1, min(SAMPLE, n)).astype(int)]
    paths = [manifest.path_of(record) for record in sample]
    fits = len(_likely_protocols(manifest, config)) * config.splits.folds
    audit_s = n * _seconds_each(paths, audit_image) / THREADS
    steps = [reading, PlannedStep("audit", f"{n} images", audit_s)]
    disk_mb = 20 + n * 0.01
    timed: dict[str, _RecipeTimes] = {}
    for recipe in config.recipes:
        times = timed[recipe.name] = _time_recipe(recipe, paths)
        linear = isinstance(recipe.training, LinearHeadTraining)
        curve = len(config.splits.cluster_curve) * config.splits.folds
        jobs = fits + 1 + (curve if linear and "acquisition" in config.protocols else 0)
        steps.append(PlannedStep(f"training {recipe.name}", f"{jobs} fits", times.total(n, jobs)))
        disk_mb += n * (0.006 if linear else 0) + jobs * (0.05 if linear else times.parameters_mb)
    for probe in config.probes:
        seconds = fits * 1.0
        if probe in INPUTS:
            recipe = probe_recipe(config)
            times = timed.get(recipe.name) or _time_recipe(recipe, paths)
            prepare = _seconds_each(
                paths, partial(load_input, variant=probe, spec=recipe.preprocess)
            )
            seconds = n * prepare / THREADS + times.total(n, fits)
            disk_mb += n * 0.006
        steps.append(PlannedStep(f"probe {probe}", f"{fits} fits", seconds))
    steps.append(PlannedStep("statistics, bundle, report", "", 20 + n * 0.008))
    limits = tuple(_limits(manifest, config))
    return StudyPlan(len(manifest.images), n, tuple(steps), disk_mb, limits)


@dataclass(frozen=True)
class _RecipeTimes:
    """Seconds that one image, one fit cost."""

    per_image: float
    per_fit_image: float
    parameters_mb: float

    def total(self, n: int, jobs: int) -> float:
        return n * self.per_image + jobs * 0.6 * n * self.per_fit_image


def _time_recipe(recipe: Recipe, paths: Sequence[Path]) -> _RecipeTimes:
    """Time one forward pass, and for gradient training one step, on a sample."""
    import torch

    from leukoscope.imaging.preprocess import normalise
    from leukoscope.learning.backbones import build_network
    from leukoscope.learning.features import run_network

    spec = recipe.preprocess
    network = build_network(recipe.model, num_classes=4, size_px=spec.size_px, seed=0)
    megabytes = sum(p.numel() for p in network.parameters()) * 4 / 1e6
    images = np.stack([load_input(path, "image", spec) for path in paths])
    if isinstance(recipe.training, LinearHeadTraining):
        run_network(network, images[:2], spec)  # the export is not what is timed
        seconds = _seconds(lambda: run_network(network, images, spec)) / len(paths)
        return _RecipeTimes(seconds, HEAD_S * len(recipe.training.c_grid), megabytes)
    batch = torch.from_numpy(normalise(images, spec))
    network.train()
    seconds = _seconds(lambda: network(batch).sum().backward()) / len(paths)
    # Early stopping makes the number of epochs an upper bound.
    return _RecipeTimes(seconds / 3, seconds * recipe.training.epochs, megabytes)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _seconds_each(paths: Sequence[Path], work: Callable[[Path], object]) -> float:
    return _seconds(lambda: [work(path) for path in paths]) / len(paths)


def _likely_protocols(manifest: Manifest, config: StudyConfig) -> list[str]:
    """Protocols that the manifest alone does not rule out; the audit may rule out more."""
    records = manifest.usable
    ruled_out = set()
    if not all(record.patient_id for record in records):
        ruled_out.add("grouped")
    if not any(record.given_part for record in records):
        ruled_out.add("given")
    return [name for name in config.protocols if name not in ruled_out]


def _limits(manifest: Manifest, config: StudyConfig) -> Iterator[str]:
    records = manifest.usable
    by_class = Counter(record.label for record in records)
    patients = {
        name: {r.patient_id for r in records if r.label == name} - {""} for name in by_class
    }
    if not all(record.patient_id for record in records):
        yield (
            "No patient ids for all images: a score on unseen patients cannot be measured; the "
            "acquisition protocols are a proxy found from the background."
        )
    for name in manifest.class_names:
        if patients[name] and len(patients[name]) < FEW_GROUPS:
            yield (
                f"Only {len(patients[name])} patients of {name}: intervals over patients will be "
                f"marked unreliable (fewer than {FEW_GROUPS})."
            )
        if patients[name] and len(patients[name]) * config.splits.cal < CAL_BY_CLASS:
            yield (
                f"About {len(patients[name]) * config.splits.cal:.0f} calibration patients of "
                f"{name}: a guarantee of {config.coverage:.0%} by patient and class needs "
                f"{CAL_BY_CLASS}; it is not attainable."
            )
        cal = by_class[name] * config.splits.cal
        if cal < CAL_BY_CLASS:
            yield (
                f"About {cal:.0f} calibration images of {name}: prediction sets cannot promise "
                f"{config.coverage:.0%} for this class ({CAL_BY_CLASS} are needed)."
            )
    if len(by_class) < 2:
        yield "Fewer than two classes: no classifier can be trained."
    if not any(record.given_part for record in records):
        yield "No given split: the protocol `given` will be left out."
