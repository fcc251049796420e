"""The trained model on perturbed test images: part of the image is gone, or it is a little worse.

A probe says what the *data* holds beside morphology; this says what the *model* makes of it. The
model never saw such images, so a low score proves nothing, but one above chance on images without
a leukocyte shows that the rest of the image is read. Mild damage that no haematologist would
notice leaves morphology as it is: what a model loses by it, it had not got from morphology.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import Calibration
from leukoscope.config.recipe import Recipe
from leukoscope.config.study import DEGRADED, PERTURBED, SWAPPED, StudyConfig
from leukoscope.core.errors import DataError
from leukoscope.core.protocols import PROTOCOLS, strictest
from leukoscope.core.records import Fold
from leukoscope.evaluation.calibration.scaling import apply_calibration, softmax
from leukoscope.evaluation.combining import log_probs, weighted_mean
from leukoscope.evaluation.patient_heads import Bags, bag_logits
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.learning.backbones import Network
from leukoscope.learning.checkpoint import RECORD, CheckpointMeta, load_checkpoint, load_head
from leukoscope.learning.features import predict_logits
from leukoscope.pipeline.features.inputs import GROUND
from leukoscope.pipeline.features.patient_store import PatientStore, Store
from leukoscope.pipeline.features.store import InputStore, Wanted
from leukoscope.pipeline.fitting import HeadTrainer, job_seed
from leukoscope.pipeline.folds import ProtocolPlan
from leukoscope.pipeline.inner_folds import fit_inner_folds
from leukoscope.pipeline.jobs import Labelled, Logits, calibrate_fits, calibrations_of_run
from leukoscope.pipeline.patient_fitting import PatientTrainer, load_head_of
from leukoscope.pipeline.progress import Progress
from leukoscope.pipeline.results.shortcut_summary import MODEL_ON

Rows = NDArray[np.int64]
PERTURBED_IMAGES = 300
"""So many images at most are perturbed, spread over classes, patients and clusters."""

PATIENT_IMAGES = 5000
"""Where patients are the unit, whole patients with about so many images at most in all."""


def perturbed_inputs(config: StudyConfig) -> tuple[str, ...]:
    """The inputs that the models of a study are applied to, besides whole images.

    Grounds are swapped where ``ground-only`` is asked for, whose partners they come from.
    """
    swapped = SWAPPED if GROUND in config.probes else ()
    return (*PERTURBED, *swapped, *DEGRADED)


def perturbed_patients(store: PatientStore, seed: int) -> Rows:
    """(m,) rows of patients, spread over classes, all of whose images are perturbed."""
    order = spread_order(store.data, seed)
    images = np.cumsum([len(store.patients.rows[row]) for row in order])
    few = max(2 * len(store.data.class_names), int(np.searchsorted(images, PATIENT_IMAGES)))
    return np.sort(order[:few])


def perturbed_wanted(store: Store, recipe: Recipe, config: StudyConfig) -> list[Wanted]:
    """Features of perturbed images that a recipe on a frozen backbone will be applied to."""
    if not recipe.frozen_features:
        return []
    if isinstance(store, PatientStore):
        rows = store.image_rows(perturbed_patients(store, config.seed))
    else:
        rows = perturbed_rows(store.data, config.seed)
    return [Wanted(recipe, name, rows) for name in perturbed_inputs(config)]


def perturbed_rows(data: Labelled, seed: int, most: int = PERTURBED_IMAGES) -> Rows:
    """(m,) rows, at most ``most``, spread evenly over classes and, within them, over units.

    Units are patients, or else acquisition clusters. Drawn by seed and image, whatever the folds.
    """
    if len(data.records) <= most:
        return np.arange(len(data.records))
    return np.sort(spread_order(data, seed)[:most])


def spread_order(data: Labelled, seed: int) -> Rows:
    """(n,) all rows in an order of which every first part is spread as :func:`perturbed_rows`."""
    rng = np.random.default_rng([seed, 15])
    lots = rng.random(len(data.records))
    turns: list[tuple[int, float, int]] = []
    for k in range(len(data.class_names)):
        rows = np.flatnonzero(data.y == k)
        seen: dict[str, int] = {}
        rounds = []
        for row in rows[np.argsort(lots[rows])]:
            record = data.records[row]
            unit = record.patient_id or record.acquisition_id or record.group_id
            seen[unit] = seen.get(unit, -1) + 1
            rounds.append((seen[unit], float(lots[row]), int(row)))
        ordered = sorted(rounds)
        turns += [(at, lot, row) for at, (_, lot, row) in enumerate(ordered)]
    return np.array([row for _, _, row in sorted(turns)], np.int64)


def run_perturbed(
    store: Store,
    recipe: Recipe,
    plan: ProtocolPlan,
    config: StudyConfig,
    progress: Progress,
) -> list[PredictionTable]:
    """Apply the models of one recipe to perturbed versions of their own test images.

    Heads on a frozen backbone are read from their checkpoints and applied to features; what left
    no checkpoint (trees, rules) is fitted once more, with the same seed and images; networks that
    were trained as a whole are loaded fold by fold, and see the mildly degraded images under the
    strictest protocol only, because that costs time.

    Returns:
        One table per fold and input: test images only, the model's own calibration, its recipe,
        and ``model-on-background-only`` … as the input.
    """
    folds = [fold for name in plan.names for fold in plan.of(name)]
    folds = [fold for fold in folds if _table_path(store, recipe, fold).is_file()]
    hardest = strictest(plan.names)
    tables: list[PredictionTable] = []
    if not folds:
        return tables
    models: PerturbedModels | PerturbedPatients
    if isinstance(store, PatientStore):
        models = PerturbedPatients(store, recipe, perturbed_inputs(config), config.seed)
    else:
        models = PerturbedModels(store, recipe, perturbed_inputs(config), config.seed)
    tables_of_fits = [PredictionTable.load(_table_path(store, recipe, fold)) for fold in folds]
    calibrate_fits(folds, tables_of_fits, lambda f: _table_path(store, recipe, f).parent, PROTOCOLS)
    calibrations = calibrations_of_run(store.run, [recipe.name], folds)
    with progress.step(f"{recipe.name} on perturbed images") as tell:
        for done, fold in enumerate(folds, start=1):
            quick = recipe.frozen_features or fold.protocol == hardest
            names = [name for name in models.inputs if quick or name not in DEGRADED]
            found = (
                _one_fold(
                    models, fold, name, calibrations.get((recipe.name, fold.protocol, fold.fold))
                )
                for name in names
            )
            tables += [table for table in found if len(table)]
            models.forget()
            tell(done, len(folds))
    return tables


def _table_path(store: Store, recipe: Recipe, fold: Fold) -> Path:
    return store.run.fit_predictions(recipe.name, fold.protocol, fold.fold)


def _one_fold(
    models: PerturbedModels | PerturbedPatients,
    fold: Fold,
    name: str,
    calibration: Calibration | None,
) -> PredictionTable:
    store, recipe = models.store, models.recipe
    target = store.run.cache / "edited" / recipe.name / fold.protocol / f"{name}-{fold.fold}.csv"
    if target.is_file():
        try:
            return PredictionTable.load(target)
        except DataError:
            target.unlink()  # of another version or damaged
    rows = models.rows(fold, name)
    logits = models.logits(fold, name)
    table = PredictionTable.build(
        store.data.class_names,
        [store.data.records[i].image_id for i in rows],
        softmax(logits) if calibration is None else apply_calibration(logits, calibration),
        recipe=recipe.name,
        protocol=fold.protocol,
        fold=fold.fold,
        part="test",
        input=MODEL_ON + name,
        y_true=store.data.y[rows],
        logits=logits,
    )
    table.save(target)
    return PredictionTable.load(target)


@dataclass
class PerturbedModels:
    """The fitted models of one recipe, and perturbed versions of the images.

    Attributes:
        store: Features and pixels.
        recipe: Whose models.
        inputs: Which versions.
        seed: The study's.
    """

    store: InputStore
    recipe: Recipe
    inputs: Sequence[str]
    seed: int
    _pixels: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    _values: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    _heads: dict[Path, Callable[[NDArray[np.floating]], Logits]] = field(default_factory=dict)
    _networks: dict[Path, tuple[Network, CheckpointMeta]] = field(default_factory=dict)
    _refitted: dict[str, Logits] = field(default_factory=dict)

    def rows(self, fold: Fold, name: str) -> Rows:
        """Test images of a fold that are perturbed in one way."""
        rows, perturbed = self.store.data.rows(fold, "test"), self._perturbed(name)
        return rows if perturbed is None else rows[np.isin(rows, perturbed)]

    def logits(self, fold: Fold, name: str) -> Logits:
        """(m, K) of :meth:`rows` by the model that was fitted in this fold."""
        if not len(self.rows(fold, name)):
            return np.empty((0, len(self.store.data.class_names)))
        if not self.has_heads(fold):
            if not self._refitted:
                self._refitted = self._fit_again(fold)
            return self._refitted[name]
        found = [self._apply(member, fold, name) for member in self._members(fold)]
        if not self.recipe.inner_folds:
            return found[0]
        return log_probs(weighted_mean(np.stack([softmax(logits) for logits in found])))

    def has_heads(self, fold: Fold) -> bool:
        """Whether the models of a fold left checkpoints, so that nothing is fitted again."""
        return all((member / RECORD).is_file() for member in self._members(fold))

    def forget(self) -> None:
        """Drop what holds for one fold only."""
        self._refitted = {}
        self._heads = {}
        self._networks = {}

    def _members(self, fold: Fold) -> Iterator[Path]:
        folder = self.store.run.model(self.recipe.name, fold.protocol, fold.fold)
        if not self.recipe.inner_folds:
            yield folder
        for number in range(self.recipe.inner_folds):
            yield folder / f"inner{number}"

    def _perturbed(self, name: str) -> Rows | None:
        return None if name == "image" else self._chosen

    @cached_property
    def _chosen(self) -> Rows:
        return perturbed_rows(self.store.data, self.seed)

    def _apply(self, folder: Path, fold: Fold, name: str) -> Logits:
        rows = self.rows(fold, name)
        if self.recipe.frozen_features:
            if folder not in self._heads:
                self._heads[folder] = load_head(folder)
            return self._heads[folder](self._features(name, rows))
        if name not in self._pixels:
            self._pixels[name] = self.store.pixels(
                self.recipe, name, self._perturbed(name), self.seed
            )
        shown = self._pixels[name][self._places(name, rows)]
        network, meta = self._network(folder)
        return predict_logits(network, shown, meta.recipe.preprocess)

    def _network(self, folder: Path) -> tuple[Network, CheckpointMeta]:
        """The model of a folder; the last one is kept, as all inputs go through it in turn."""
        if folder not in self._networks:
            self._networks = {folder: load_checkpoint(folder)}
        return self._networks[folder]

    def _features(self, name: str, rows: Rows) -> NDArray[np.float32]:
        if name not in self._values:
            perturbed = self._perturbed(name)
            self._values[name] = self.store.features(self.recipe, name, self.seed, rows=perturbed)
        return self._values[name][self._places(name, rows)]

    def _places(self, name: str, rows: Rows) -> Rows:
        """Where images stand among those that are perturbed."""
        perturbed = self._perturbed(name)
        return rows if perturbed is None else np.searchsorted(perturbed, rows)

    def _fit_again(self, fold: Fold) -> dict[str, Logits]:
        """Fit as the study did, with all perturbed images appended as the test part."""
        if not self.recipe.frozen_features:
            raise DataError(
                f"{self.store.run.path}: the checkpoints of {self.recipe.name} are gone",
                hint="run the study again, or leave the probes out",
            )
        data = self.store.data
        rows = {name: self.rows(fold, name) for name in self.inputs}
        shown = np.concatenate(list(rows.values()))
        more = replace(data, records=(*data.records, *(data.records[row] for row in shown)))
        whole = self.store.features(self.recipe, "image", self.seed)
        features = np.concatenate([whole, *(self._features(n, r) for n, r in rows.items())])
        parts = {part: data.rows(fold, part) for part in ("train", "val", "cal")}
        parts["test"] = len(data.records) + np.arange(len(shown))
        seed = job_seed(self.seed, self.recipe.name, fold.protocol, fold.fold)
        scratch = self.store.run.cache / "edited" / "again"
        trainer = HeadTrainer.of(self.store, self.recipe, features, more, self.seed)
        if self.recipe.inner_folds:
            members = self.recipe.inner_folds
            found = fit_inner_folds(trainer, more, fold, members, scratch, seed, _quiet, parts)[
                "test"
            ]
        else:
            found = trainer.fit(parts, scratch, seed, _quiet)["test"]
        ends = np.cumsum([len(of) for of in rows.values()])[:-1]
        return dict(zip(rows, np.split(found, ends), strict=True))


@dataclass
class PerturbedPatients:
    """The fitted heads of one recipe, and patients all of whose images are perturbed.

    Attributes:
        store: Features.
        recipe: Whose heads.
        inputs: Which versions.
        seed: The study's.
    """

    store: PatientStore
    recipe: Recipe
    inputs: Sequence[str]
    seed: int
    _bags: dict[str, Bags] = field(default_factory=dict)
    _found: dict[str, Logits] = field(default_factory=dict)

    def rows(self, fold: Fold, name: str) -> Rows:
        """Test patients of a fold that are perturbed."""
        rows = self.store.data.rows(fold, "test")
        return rows[np.isin(rows, self._chosen)]

    def logits(self, fold: Fold, name: str) -> Logits:
        """(m, K) of :meth:`rows` by the model that was fitted in this fold."""
        rows = self.rows(fold, name)
        if not len(rows):
            return np.empty((0, len(self.store.data.class_names)))
        folder = self.store.run.model(self.recipe.name, fold.protocol, fold.fold)
        head = load_head_of(self.recipe, folder)
        if head is not None:
            return bag_logits(head, self._of(name, rows))
        if not self._found:
            self._found = self._fit_again(fold, rows)
        return self._found[name]

    def forget(self) -> None:
        """Drop what holds for one fold only."""
        self._found = {}

    @cached_property
    def _chosen(self) -> Rows:
        return perturbed_patients(self.store, self.seed)

    def _of(self, name: str, rows: Rows) -> Bags:
        if name not in self._bags:
            self._bags[name] = self.store.bags(self.recipe, name, self.seed, self._chosen)
        return self._bags[name].take(np.searchsorted(self._chosen, rows))

    def _fit_again(self, fold: Fold, rows: Rows) -> dict[str, Logits]:
        """Fit as the study did, with the perturbed patients of all versions as the test part."""
        store, data = self.store, self.store.data
        trainer = PatientTrainer.of(store, self.recipe, self.seed)
        bags = trainer.bags
        for name in self.inputs:
            bags = bags.followed_by(self._of(name, rows))
        again = tuple(data.records[row] for _ in self.inputs for row in rows)
        more = replace(data, records=(*data.records, *again))
        trainer = replace(trainer, bags=bags, data=more)
        parts = {part: data.rows(fold, part) for part in ("train", "val", "cal")}
        parts["test"] = len(data.records) + np.arange(len(again))
        seed = job_seed(self.seed, self.recipe.name, fold.protocol, fold.fold)
        scratch = store.run.cache / "edited" / "again"
        if self.recipe.inner_folds:
            members = self.recipe.inner_folds
            fitted = fit_inner_folds(trainer, more, fold, members, scratch, seed, _quiet, parts)
        else:
            fitted = trainer.fit(parts, scratch, seed, _quiet)
        return dict(zip(self.inputs, np.split(fitted["test"], len(self.inputs)), strict=True))


def _quiet(done: int, total: int, *, later: int = 0) -> None:
    """Nobody waits for these fits in particular."""
