"""What a study would do, how long it would take on this machine, and what it cannot show."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leukoscope.config.guarantees import fewest_for
from leukoscope.config.recipe import GradientTraining, LinearHeadTraining, Recipe
from leukoscope.config.study import DEGRADED, StudyConfig
from leukoscope.core.labels import check_roles
from leukoscope.core.records import Manifest
from leukoscope.core.views import plural
from leukoscope.datasets.audit.findings import of_one_patient
from leukoscope.datasets.audit.measurements import audit_image
from leukoscope.evaluation.statistics.intervals import MIN_GROUPS
from leukoscope.pipeline.features.inputs import GROUND, load_input, observe
from leukoscope.pipeline.features.one_pass import NumberTable
from leukoscope.pipeline.folds import (
    none_applies,
    study_rows,
    surely_inapplicable,
    undecided_protocols,
)
from leukoscope.pipeline.inapplicable import PictureScale
from leukoscope.pipeline.perturbed import PATIENT_IMAGES, PERTURBED_IMAGES, perturbed_inputs
from leukoscope.pipeline.probes import number_table, probe_recipe, sees_image
from leukoscope.pipeline.progress import Listener
from leukoscope.study.run import (
    check_external_data,
    check_recipes,
    check_two_classes,
    read_data,
)

if TYPE_CHECKING:
    from torch import Tensor

    from leukoscope.learning.backbones import Network

SAMPLE = 16
THREADS = 2
HEAD_S = 1.0e-4  # seconds per training image and penalty, from runs on two cores
FEATURES_MB = 0.006  # of one image
FOREST_S = 0.3  # seconds of one fit on numbers
CLASSIFIER_S = 5e-3  # seconds per training image, all settings of a classifier on features


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
        inapplicable: ``{"protocol", "reason"}`` for each that the data cannot support; the audit
            may find more.
        undecided: ``{"protocol", "reason"}`` for each that is counted here, and of which the audit
            decides whether it applies.
    """

    n_files: int
    n_images: int
    steps: tuple[PlannedStep, ...]
    disk_mb: float
    limits: tuple[str, ...]
    inapplicable: tuple[dict[str, str], ...]
    undecided: tuple[dict[str, str], ...]


def plan_study(config: StudyConfig, listener: Listener) -> StudyPlan:
    """Read the data, time each kind of work on a sample, and say what would run.

    Raises:
        DataError: The study would end with it: no image can be used, fewer than two classes, no
            protocol that applies.
    """
    check_recipes(config)
    start = time.perf_counter()
    manifest = read_data(config, listener)
    reading = PlannedStep(
        "reading", plural(len(manifest.images), "file"), time.perf_counter() - start
    )
    n = len(manifest.usable)
    if n == 0:
        raise manifest.none_usable(config.data.path)
    rows = study_rows(manifest, config)
    check_two_classes(manifest)
    check_external_data(config, manifest.class_names)
    if not config.external:
        check_roles(config.data.roles, manifest.class_names)
    listener("timing a sample", 0, 0)
    sample = [manifest.usable[i] for i in np.linspace(0, n - 1, min(SAMPLE, n)).astype(int)]
    paths = [manifest.path_of(record) for record in sample]
    start = time.perf_counter()
    cut_out = sum(audit_image(path).cut_out[0] for path in paths) > len(paths) / 2
    audit_s = n * (time.perf_counter() - start) / len(paths) / THREADS
    left_out = surely_inapplicable(rows, config, cut_out=cut_out)
    protocols = [p for p in config.protocols if p not in {row["protocol"] for row in left_out}]
    if not protocols:
        raise none_applies(left_out, config)
    fits = len(protocols) * config.splits.folds
    steps = [reading, PlannedStep("audit", plural(n, "image"), audit_s)]
    disk_mb = 20 + n * 0.01
    timed: dict[str, _RecipeTimes] = {}
    for recipe in config.recipes:
        times = timed[recipe.name] = _time_recipe(recipe, paths)
        of_recipe, written_mb = _recipe_steps(config, recipe, times, n, protocols)
        steps += of_recipe
        disk_mb += written_mb
    for probe in config.probes:
        seconds = _probe_seconds(config, probe, timed, n, fits, paths)
        steps.append(PlannedStep(f"probe {probe}", plural(fits, "fit"), seconds))
        disk_mb += n * FEATURES_MB if sees_image(probe) else 0
    steps.append(PlannedStep("statistics, bundle, report", "", 20 + n * 0.008))
    limits = tuple(_limits(manifest, rows, config, cut_out))
    undecided = undecided_protocols(protocols)
    return StudyPlan(len(manifest.images), n, tuple(steps), disk_mb, limits, left_out, undecided)


def _recipe_steps(
    config: StudyConfig, recipe: Recipe, times: _RecipeTimes, n: int, protocols: Sequence[str]
) -> tuple[list[PlannedStep], float]:
    """The training of a recipe and its answers to perturbed images; and the MB that it writes."""
    linear = isinstance(recipe.training, LinearHeadTraining)
    curve = recipe.draws_curve and "acquisition" in protocols
    points = len(config.splits.cluster_curve) * config.splits.folds if curve else 0
    jobs = len(protocols) * config.splits.folds + config.bundle + points
    jobs *= max(1, recipe.inner_folds)
    model_mb = 0.05 if linear else times.parameters_mb
    disk_mb = n * times.cached_mb
    if recipe.frozen_features:
        disk_mb += n * FEATURES_MB
        model_mb = 0.05 if linear else n * 0.003  # training images are kept as features
    most = PERTURBED_IMAGES if config.unit == "image" else PATIENT_IMAGES
    shown = len(perturbed_inputs(config)) * min(n, most)
    if not recipe.frozen_features:  # features serve all protocols
        shown += (
            (len(perturbed_inputs(config)) - len(DEGRADED))
            * min(n, PERTURBED_IMAGES)
            * (len(protocols) - 1)
        )
    steps = [
        PlannedStep(f"training {recipe.name}", plural(jobs, "fit"), times.total(n, jobs)),
        PlannedStep(
            f"{recipe.name} on perturbed images", plural(shown, "image"), shown * times.forward
        ),
    ]
    return steps, disk_mb + jobs * model_mb


def _probe_seconds(
    config: StudyConfig,
    probe: str,
    timed: Mapping[str, _RecipeTimes],
    n: int,
    fits: int,
    paths: Sequence[Path],
) -> float:
    """Seconds of a probe's fits, and of making what it sees of each image."""
    if not sees_image(probe):
        table = number_table(probe, PictureScale(None, "unknown"))
        if table is None:
            return fits * FOREST_S
        return fits * FOREST_S + n * _seconds_each(paths, partial(_measure, table)) / THREADS
    recipe = probe_recipe(config)
    times = timed.get(recipe.name) or _time_recipe(recipe, paths)
    variant = "background-only" if probe == GROUND else probe  # as dear, but for a partner
    prepare = _seconds_each(paths, partial(load_input, variant=variant, spec=recipe.preprocess))
    return n * prepare / THREADS + times.total(n, fits)


def _measure(table: NumberTable, path: Path) -> object:
    return table.numbers(observe(path))


@dataclass(frozen=True)
class _RecipeTimes:
    """Seconds that one image, one fit cost, and what is kept of them."""

    per_image: float
    per_fit_image: float
    forward: float
    parameters_mb: float
    cached_mb: float = 0.0

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
    if not isinstance(recipe.training, GradientTraining):
        run_network(network, images[:2], spec)  # the export is not what is timed
        seconds = _seconds(lambda: run_network(network, images, spec)) / len(paths)
        per_fit = CLASSIFIER_S
        if isinstance(recipe.training, LinearHeadTraining):
            per_fit = HEAD_S * len(recipe.training.c_grid)
        return _RecipeTimes(seconds, per_fit, seconds, megabytes)
    batch = torch.from_numpy(normalise(images, spec))
    training = recipe.training
    network.train()
    network(batch).sum().backward()  # the first step also warms up
    seconds = _seconds(lambda: network(batch).sum().backward()) / len(paths)
    of_cache, cached_mb = _time_upper(network.eval(), training, batch)
    if of_cache is None:  # a forward pass alone is a third; a head on features next to nothing
        epoch = seconds / 3 if training.freeze == "all" else seconds
        of_cache = 0.0 if training.cached_views and training.freeze == "all" else epoch
    return _RecipeTimes(
        seconds / 3 * max(1, training.cached_views),
        recipe.refine.epochs * seconds + training.epochs * of_cache,
        seconds / 3,
        megabytes,
        cached_mb,
    )


def _time_upper(
    network: Network, training: GradientTraining, batch: Tensor
) -> tuple[float | None, float]:
    """Seconds of a step on cached activations and MB of them, an image; None without a cache."""
    import torch

    from leukoscope.learning.activations import LowerPart, upper_part
    from leukoscope.learning.optimisers import fast_depthwise, freeze, has_fast_bfloat16

    if not training.cached_views or training.freeze == "all" or torch.cuda.is_available():
        return None, 0.0
    upper = upper_part(network, training.freeze)
    if upper is None:
        return None, 0.0
    with torch.no_grad():
        x = LowerPart(upper)(batch)
    freeze(upper, training)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16()):
            out = upper(x)
        out.float().sum().backward()

    with fast_depthwise(upper):
        step()
        seconds = _seconds(step) / len(batch)
    return seconds, x[0].numel() * training.cached_views * 2 / 1e6


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _seconds_each(paths: Sequence[Path], work: Callable[[Path], object]) -> float:
    return _seconds(lambda: [work(path) for path in paths]) / len(paths)


def _limits(
    manifest: Manifest, rows: Manifest, config: StudyConfig, cut_out: bool
) -> Iterator[str]:
    records = manifest.usable
    patients = {record.patient_id for record in records} - {""}
    if not all(record.patient_id for record in records):
        yield (
            "No patient ids for all images: a score on unseen patients cannot be measured"
            + ("." if cut_out else "; the acquisition protocols are a proxy from the background.")
        )
    if cut_out:
        yield (
            "Cells cut out on black: no background is left to find acquisition clusters in, so "
            "unseen slides and sessions cannot be imitated."
        )
    if patients and len(patients) < MIN_GROUPS:
        yield (
            f"Only {plural(len(patients), 'patient')}: intervals over patients will be "
            f"marked “few groups” (fewer than {MIN_GROUPS})."
        )
    pairs = {(record.label, record.patient_id) for record in records if record.patient_id}
    if single := of_one_patient(Counter(label for label, _ in sorted(pairs))):
        yield single
    yield from _beyond_promise(manifest, rows, config)


def _beyond_promise(manifest: Manifest, rows: Manifest, config: StudyConfig) -> Iterator[str]:
    """What too few of them calibrate a fold for, as the study counts them at its end.

    With several folds a fold is calibrated on what the others test; a hold-out has a part of its
    own. ``rows``: images, or patients in their place.
    """
    splits, fewest, share = config.splits, fewest_for(config.coverage), f"{config.coverage:.0%}"
    calibrating = splits.cal if splits.folds == 1 else 1 - 1 / splits.folds
    by_class = Counter(record.label for record in rows.usable)
    pairs = {(record.label, record.patient_id) for record in manifest.usable if record.patient_id}
    patients = len({patient for _, patient in pairs})
    if patients and (held := round(patients * calibrating)) < fewest:
        yield (
            f"{plural(patients, 'patient')}, about {held} of them for calibration; a "
            f"guarantee of {share} by patient needs {fewest} and is not attainable."
        )
    noun = "patients" if config.unit == "patient" else "images"
    for name in manifest.class_names:
        own = sum(label == name for label, _ in pairs)
        held = round(own * calibrating)
        if own and held < fewest and config.unit == "image":
            yield (
                f"{name}: {plural(own, 'patient')}, about {held} of them for calibration; a "
                f"guarantee of {share} by class and patient needs {fewest} and is not attainable."
            )
        cal = round(by_class[name] * calibrating)
        if cal < fewest:
            yield (
                f"{name}: about {cal} calibration {noun}; prediction sets cannot promise {share} "
                f"for this class ({fewest} are needed)."
            )
