"""Are a run's heat maps to be believed? Each method scored against masks and sanity checks."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leukoscope.analyses.leukocyte_masks import LeukocyteMaskSource
from leukoscope.config.explanations import (
    BASELINES,
    AuditedImage,
    AuditFile,
    AuditSettings,
    MapScores,
)
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_json, write_bytes
from leukoscope.core.records import Fold, ImageRecord
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation import explanation_scores as scores
from leukoscope.evaluation.calibration.scaling import apply_calibration
from leukoscope.evaluation.examples import interleave
from leukoscope.evaluation.explanation_scores import judge_maps, summarise
from leukoscope.evaluation.statistics.intervals import MIN_GROUPS
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import apply_preprocess, normalise
from leukoscope.pipeline.features.inputs import load_input
from leukoscope.pipeline.folds import groups_of, unit_of
from leukoscope.pipeline.progress import Tell
from leukoscope.pipeline.trained_run import RECORD, FittedModel
from leukoscope.reporting.figures.heatmaps import audit_figure
from leukoscope.reporting.figures.style import figure_png, house_style
from leukoscope.reporting.formats import seconds as duration
from leukoscope.study.explanations import ModelSource

if TYPE_CHECKING:
    from leukoscope.learning.backbones import Network

Heat = NDArray[np.float32] | NDArray[np.float64]
JSON, FIGURE = "audit.json", "audit.png"
IMAGES = MIN_GROUPS  # fewer could not be judged
NOISE = 0.01  # standard deviation, of white
NOISY_COPIES = 2
_SLOW = ("occlusion", "integrated-gradients")  # randomised at the ends only: head, all layers
_NORM_IMAGES = 16  # on which batch norms of randomised networks are estimated
_BATCH = 32
_LONG_S = 600.0  # an audit that takes longer names what takes less


@dataclass(frozen=True)
class AuditPlan:
    """What to audit.

    Attributes:
        methods: Names of :data:`leukoscope.learning.attribution.METHODS`; empty for all that the
            network allows.
        images: Number of test images.
        masks: Folder of masks; None for the ground truth of phantoms, else our segmentation.
        seed: Seed of the choice of images, of noise and of randomised weights.
        judged: Whether to refuse fewer independent images than a verdict needs.
    """

    methods: tuple[str, ...] = ()
    images: int = IMAGES
    masks: Path | None = None
    seed: int = 0
    judged: bool = True


def audit_explanations(
    source: ModelSource,
    plan: AuditPlan,
    out: Path,
    progress: Tell,
    warn: Callable[[str], None] = lambda text: None,
) -> AuditFile:
    """Score heat maps and write ``audit.json`` and ``audit.png``.

    Scores of an earlier audit with the same models and settings are reused.

    Args:
        source: The model whose heat maps are scored.
        plan: Methods and number of images.
        out: Folder of the files.
        progress: Called with (images scored, images in all).
        warn: Called before the first image if no verdict was asked for and there are too few
            independent images for one, and after it with the time that all will take.

    Raises:
        UnknownNameError: No such method.
        ConfigError: A method that this network does not allow.
        DataError: No image has a mask, or an image or mask is damaged, or a verdict needs more
            independent images.
    """
    masks = LeukocyteMaskSource.find(source.fitted.manifest, plan.masks)
    chosen, groups = _choose(source, masks, plan)
    settings = _settings(source, plan, masks)
    _check_enough(plan, len({groups.get(r.image_id) or r.image_id for r, _ in chosen}),
                  f"{settings.unit}s", warn)  # fmt: skip
    done = _finished(out / JSON, settings)
    found = {r.image_id: done[r.image_id] for r, _ in chosen if r.image_id in done}
    waiting = [(record, fold) for record, fold in chosen if record.image_id not in found]
    started = time.monotonic()
    for fold in dict.fromkeys(fold for _, fold in waiting):
        model = _HeatMapScorer(source, fold, settings.methods, plan.seed)
        for record in (record for record, where in waiting if where == fold):
            group = groups.get(record.image_id) or record.image_id
            found[record.image_id] = model.audit(record, group, masks)
            AuditFile(schema=1, settings=settings, images=tuple(found.values())).save(out / JSON)
            progress(len(found), len(chosen))
            if record is waiting[0][0] and len(waiting) > 1:
                took = time.monotonic() - started
                warn(_how_long(len(waiting), took, settings.methods))
    images = tuple(found[record.image_id] for record, _ in chosen)
    config = source.fitted.config
    summary = summarise(images, confidence=config.confidence, replicates=config.bootstrap)
    stages = images[0].stages
    result = AuditFile(
        schema=1,
        settings=settings,
        stages=stages,
        verdicts={name: judge_maps(summary[name], stages) for name in settings.methods},
        summary=summary,
        images=images,
    )
    result.save(out / JSON)
    with house_style():
        write_bytes(out / FIGURE, figure_png(audit_figure(result)))
    return result


def _how_long(images: int, each_s: float, methods: Sequence[str]) -> str:
    """How long all images will take, and what would take less."""
    said = f"{images} images will take about {duration(images * each_s)}"
    if images * each_s > _LONG_S and len(methods) > 1:
        said += f"; one method takes less: -m {methods[0]}"
    return said


def _check_enough(
    plan: AuditPlan, independent: int, unit: str, warn: Callable[[str], None]
) -> None:
    """Refuse, or warn, before hours of work whose result could not be judged."""
    if independent >= MIN_GROUPS:
        return
    found = f"{independent} independent images ({unit}) would be scored, a verdict needs"
    if plan.judged:
        raise DataError(
            f"{found} {MIN_GROUPS}",
            hint="ask for more with --images, or score them without a verdict with --unjudged",
        )
    warn(f"{found} {MIN_GROUPS}: the maps will not be judged")


def put_into_report(run: RunFolder, progress: Tell) -> None:
    """Write a study's report again with the audit; a run without statistics has no report."""
    if run.metrics.is_file() and run.report_html.is_file():
        from leukoscope.reporting.study.report import write_report

        write_report(run, progress=progress)


def _choose(
    source: ModelSource, masks: LeukocyteMaskSource, plan: AuditPlan
) -> tuple[list[tuple[ImageRecord, int]], dict[str, str]]:
    """Choose test images with their folds; also gives the group of every image."""
    fitted = source.fitted
    groups = groups_of(_folds(source)).get(source.protocol, {})
    table = fitted.test_table(source.recipe, source.protocol)
    known = {record.image_id: record for record in fitted.manifest.images}
    by_class: dict[str, list[tuple[ImageRecord, int]]] = {}
    for row in np.random.default_rng(plan.seed).permutation(len(table)).tolist():
        name = str(table.image_id[row])
        record = known.get(name) or fitted.record(name)  # which says what is wrong
        if masks.covers(record):
            by_class.setdefault(record.label, []).append((record, int(table.fold[row])))
    if not by_class:
        raise DataError(
            f"{plan.masks or fitted.run.path}: no test image of {source.recipe} under "
            f"{source.protocol} has a mask",
            hint="leave --masks out to use our own segmentation",
        )
    order = interleave([by_class[name] for name in sorted(by_class)], len(table))
    # One image of each group first: a second one of the same slide tells little that is new.
    seen: Counter[str] = Counter()
    rank = []
    for record, _ in order:
        group = groups.get(record.image_id, record.image_id)
        rank.append(seen[group])
        seen[group] += 1
    return [order[i] for i in np.argsort(rank, kind="stable")][: plan.images], groups


def _folds(source: ModelSource) -> list[Fold]:
    fitted = source.fitted
    return list(fitted.splits) if fitted.run.splits.is_file() else []


def _settings(source: ModelSource, plan: AuditPlan, masks: LeukocyteMaskSource) -> AuditSettings:
    from leukoscope.learning.attribution import METHODS, find_layer, find_method

    for name in plan.methods:
        find_method(name)
    fitted, recipe, protocol = source.fitted, source.recipe, source.protocol
    folds = fitted.finished_folds(recipe, protocol)
    network = fitted.model(recipe, protocol, folds[0]).network
    needs_map = ("grad-cam", "grad-cam++")
    if set(plan.methods) & set(needs_map):
        find_layer(network, None)  # says what else to use
    allowed = [m for m in METHODS if network.gradcam_layer is not None or m not in needs_map]
    return AuditSettings(
        recipe=recipe,
        protocol=protocol,
        unit=unit_of(protocol, _folds(source)),
        methods=tuple(dict.fromkeys(plan.methods)) or tuple(allowed),
        masks=masks.kind,
        masks_sha256=masks.sha256,
        seed=plan.seed,
        checkpoints={
            str(fold): read_json(fitted.run.model(recipe, protocol, fold) / RECORD)["sha256"]
            for fold in folds
        },
    )


def _finished(path: Path, settings: AuditSettings) -> dict[str, AuditedImage]:
    """Entries of an earlier audit that can be reused, by image."""
    try:
        old = AuditFile.load(path)
    except DataError:
        return {}
    return {image.image_id: image for image in old.images} if old.settings == settings else {}


@dataclass(frozen=True)
class _SanityChecks:
    """What randomised weights and slight noise do to a map, see :class:`MapScores`."""

    randomised: tuple[float | None, ...] | None
    noise: float | None
    sensitivity: float | None


_UNCHECKED = _SanityChecks(None, None, None)  # of a map that knows no model


class _HeatMapScorer:
    """One fold's model and its randomised copies, which score heat maps of images."""

    def __init__(self, source: ModelSource, fold: int, methods: Sequence[str], seed: int) -> None:
        self._source, self._fold, self._seed = source, fold, seed
        self._methods = methods
        self.model: FittedModel = source.fitted.model(source.recipe, source.protocol, fold)
        self._forgetful: list[tuple[str, Network]] = []

    @property
    def randomised(self) -> list[tuple[str, Network]]:
        """The stages of randomisation, created when first needed."""
        if not self._forgetful:
            import torch

            from leukoscope.learning.attribution import randomised

            fitted = self._source.fitted
            table = fitted.table(self._source.recipe, self._source.protocol, self._fold)
            ids = table.select(part="test", input="image").image_id.tolist()[:_NORM_IMAGES]
            paths = [fitted.manifest.path_of(fitted.record(name)) for name in ids]
            images = np.stack([load_input(path, "image", self.model.spec) for path in paths])
            batch = torch.from_numpy(normalise(images, self.model.spec))
            batch = torch.cat([batch, batch.flip(3)])  # a norm needs two images or more
            self._forgetful = randomised(self.model.network, batch, seed=self._seed)
        return self._forgetful

    def audit(self, record: ImageRecord, group: str, masks: LeukocyteMaskSource) -> AuditedImage:
        """The scores of every method and baseline on one image; ``group`` is its unit."""
        image = decode_image(self._source.fitted.manifest.path_of(record)).image
        shown = apply_preprocess(image, self.model.spec)
        mask = masks.mask(record, image, self.model.spec)
        seed = (self._seed << 32) + int(record.sha256[:8] or "0", 16)
        probs = self.probs(shown[None])[0]
        target = int(probs.argmax())
        heats = {m: self.heat(m, shown, target)[0] for m in self._methods}
        own = {m: self._sanity_checks(m, shown, target, heat, seed) for m, heat in heats.items()}
        size_px = shown.shape[0]
        known = (scores.random_map(seed), scores.centre_map(size_px), scores.edge_map(shown))
        maps: dict[str, Heat] = {**heats, **dict(zip(BASELINES, known, strict=True))}
        return AuditedImage(
            image_id=record.image_id,
            path=record.path,
            y_true=record.label,
            group=group,
            fold=self._fold,
            explained=self.model.class_names[target],
            p=round(float(probs[target]), 4),
            area=round(float(mask.mean()), 4),
            stages=tuple(name for name, _ in self.randomised),
            maps={
                name: self._scores(shown, heat, mask, target, seed, own.get(name, _UNCHECKED))
                for name, heat in maps.items()
            },
        )

    def _scores(
        self, shown: NDArray[np.uint8], heat: Heat, mask: NDArray[np.bool_], target: int,
        seed: int, checks: _SanityChecks,
    ) -> MapScores:  # fmt: skip
        """What one map scores on one image."""
        wide, curves = scores.enlarge(heat, shown.shape[0]), self._curves(shown, heat, target, seed)
        return MapScores(
            hit=_known(scores.pointing_hit(wide, mask)),
            share=_known(scores.heat_share(wide, mask)),
            insertion=curves["insertion"],
            deletion=curves["deletion"],
            morf=curves["morf"],
            lerf=curves["lerf"],
            randomised=checks.randomised,
            noise=checks.noise,
            sensitivity=checks.sensitivity,
        )

    def probs(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Calibrated probabilities of one view, which the methods explain."""
        import torch

        logits = []
        with torch.inference_mode():
            for start in range(0, len(images), _BATCH):
                batch = normalise(images[start : start + _BATCH], self.model.spec)
                logits.append(self.model.network(torch.from_numpy(batch)).numpy())
        scaled = apply_calibration(np.concatenate(logits).astype(float), self.model.calibration)
        return np.asarray(scaled, np.float64)

    def heat(
        self, method: str, shown: NDArray[np.uint8], target: int, *,
        network: Network | None = None, noise: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:  # fmt: skip
        """Heat maps of an image, or of its noisy copies, from this or a randomised network."""
        import torch

        from leukoscope.learning.attribution import METHODS

        batch = normalise(shown[None], self.model.spec)
        if noise is not None:
            batch = batch + noise / np.asarray(self.model.spec.std, np.float32)[:, None, None]
        targets = [target] * len(batch)
        return METHODS[method](network or self.model.network, torch.from_numpy(batch), targets)

    def _sanity_checks(
        self, method: str, shown: NDArray[np.uint8], target: int, heat: NDArray[np.float32],
        seed: int,
    ) -> _SanityChecks:  # fmt: skip
        """Compare a heat map with those of randomised weights and of slightly noisy images."""
        cells = scores.cells_per_side(shown.shape[0])

        def similar(other: NDArray[np.float32]) -> float | None:
            both = (scores.enlarge(heat, cells), scores.enlarge(other, cells))
            return _known(scores.rank_similarity(*both))

        shape = (NOISY_COPIES, 3, *shown.shape[:2])
        noise = np.random.default_rng(seed).normal(0, NOISE, shape).astype(np.float32)
        noisy = self.heat(method, shown, target, noise=noise)
        under = [value for other in noisy if (value := similar(other)) is not None]
        randomised = tuple(
            None
            if method in _SLOW and 0 < stage < len(self.randomised) - 1
            else similar(self.heat(method, shown, target, network=network)[0])
            for stage, (_, network) in enumerate(self.randomised)
        )
        return _SanityChecks(
            randomised,
            noise=_known(np.mean(under)) if under else None,
            sensitivity=_known(scores.max_sensitivity(heat, list(noisy))),
        )

    def _curves(
        self, shown: NDArray[np.uint8], heat: Heat, target: int, seed: int
    ) -> dict[str, tuple[float, ...]]:  # fmt: skip
        """Insertion and deletion curves: class probability as pixels come or go by heat."""
        cells, size_px = scores.cells_per_side(shown.shape[0]), shown.shape[0]
        blurred, blank = scores.blurred(shown), scores.mean_colour(shown)

        def masks(shares: Sequence[float], *, coldest: bool = False) -> Iterator[NDArray[np.bool_]]:
            yield from scores.hottest_cells(heat, shares, cells=cells, seed=seed, coldest=coldest)

        def pixels(shares: Sequence[float]) -> Iterator[NDArray[np.bool_]]:
            yield from (scores.cells_to_pixels(mask, size_px)[..., None] for mask in masks(shares))

        versions = {
            "insertion": [np.where(mask, shown, blurred) for mask in pixels(scores.STEPS)],
            "deletion": [np.where(mask, blank, shown) for mask in pixels(scores.STEPS)],
            "morf": [scores.impute(shown, m, seed=seed) for m in masks(scores.ROAD_STEPS)],
            "lerf": [
                scores.impute(shown, m, seed=seed) for m in masks(scores.ROAD_STEPS, coldest=True)
            ],
        }
        return {
            name: tuple(self.probs(np.stack(images))[:, target].round(4).tolist())
            for name, images in versions.items()
        }


def _known(value: float | np.floating) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
