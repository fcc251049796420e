"""Probes: classifiers that must fail if the data can only be told apart by morphology.

Each sees an image from which something was taken away
(:mod:`leukoscope.imaging.observation`), or a few numbers of it
(:mod:`leukoscope.pipeline.features.one_pass`), and is fitted and tested on the very
folds of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from leukoscope.config import DEFAULT_RECIPE
from leukoscope.config.loading import load_recipe
from leukoscope.config.passport import Passport
from leukoscope.config.recipe import LinearHeadTraining, Recipe
from leukoscope.config.study import PATIENT_PROBES, StudyConfig
from leukoscope.core.files import sha256_json
from leukoscope.core.records import Fold
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.learning.linear_head import fit_linear_head
from leukoscope.pipeline.features.one_pass import NUMBER_TABLES, NumberTable, finished, grain_table
from leukoscope.pipeline.features.patient_store import PatientStore, Store, cell_shares
from leukoscope.pipeline.features.store import InputStore, Wanted
from leukoscope.pipeline.folds import ProtocolPlan
from leukoscope.pipeline.inapplicable import (
    PictureScale,
    inapplicable_probes,
    listing_numbers,
    measured_tables,
    picture_scale,
)
from leukoscope.pipeline.jobs import (
    HELD_OUT,
    Labelled,
    Logits,
    calibrate_fits,
    part_rows,
    read_fit,
    write_fit,
)
from leukoscope.pipeline.linear_fits import linear_logits, nuisance_tables
from leukoscope.pipeline.perturbed import perturbed_wanted, run_perturbed
from leukoscope.pipeline.progress import Progress, Tell
from leukoscope.pipeline.rejection import appearance_table

NUMERIC = (*NUMBER_TABLES, "grain-only", "order-only")
"""Probes of every study that see numbers, not images."""

LINEAR = ("grain-only", "frame-only")
"""Those whose numbers are put on a normal scale and given to a linear head: trees would also read
how *exact* a statistic is, which is the area of the cells that it was taken from."""

TREES = 50
_LEAVES = 150  # at most in a tree: deeper ones read noise, and cost more
_PENALTIES = (0.003, 0.03, 0.3)
_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")


def sees_image(probe: str) -> bool:
    """Whether a probe is fitted on features of pictures, and not on numbers.

    >>> sees_image("ground-only"), sees_image("file-only"), sees_image("cell-share")
    (True, False, False)
    """
    return probe not in NUMERIC and probe not in PATIENT_PROBES


def number_table(probe: str, scale: PictureScale) -> NumberTable | None:
    """The table that a probe is fitted on; None for those that see images, names or cell types."""
    return grain_table(scale.um_per_px) if probe == "grain-only" else NUMBER_TABLES.get(probe)


def prepare_study(store: Store, config: StudyConfig, *, models: bool = True) -> None:
    """Read the files once for all that the recipes, probes and perturbed images of a study need.

    ``models`` says whether the recipes are trained, or only stand behind probes.
    """
    scale = picture_scale(store.images, config)
    wanted: list[Wanted] = []
    tables = list(measured_tables(config))
    for recipe in config.recipes if models else ():
        if recipe.frozen_features:
            wanted += [Wanted(recipe, name) for name in ("image", *recipe.degraded)]
        tables += nuisance_tables(recipe).values()
        if not recipe.inner_folds and not isinstance(store, PatientStore):
            tables.append(appearance_table(recipe.preprocess))
        wanted += perturbed_wanted(store, recipe, config)
    for probe in config.probes:
        table = number_table(probe, scale)
        if table is not None:
            tables.append(table)
        elif sees_image(probe):
            wanted.append(Wanted(probe_recipe(config), probe))
    store.images.prepare(wanted, tables, config.seed)


def shortcut_tables(
    store: Store,
    passport: Passport,
    plan: ProtocolPlan,
    config: StudyConfig,
    progress: Progress,
) -> list[PredictionTable]:
    """All probes of a study, and its models on perturbed images; what is finished is read."""
    prepare_study(store, config)
    left_out = {row["probe"] for row in inapplicable_probes(config, passport, store.images)}
    tables = []
    for probe in config.probes:
        if probe not in left_out:
            tables += run_probe(store, probe, plan, config, progress)
    for recipe in config.recipes:
        tables += run_perturbed(store, recipe, plan, config, progress)
    return tables


def run_probe(
    store: Store,
    probe: str,
    plan: ProtocolPlan,
    config: StudyConfig,
    progress: Progress,
) -> list[PredictionTable]:
    """Fit one probe on every fold of every protocol that applies.

    Returns:
        One table per fold; its ``input`` column names the probe.
    """
    fits, tables = ProbeFits.of(store, probe, plan, config), []
    with progress.step(f"probe {probe}") as tell:
        for done, fold in enumerate(fits.folds, start=1):
            tables.append(fits.fit(fold, tell))
            tell(done, len(fits.folds))
        return calibrate_fits(fits.folds, tables, fits.folder)


@dataclass(frozen=True)
class ProbeFits:
    """The fits of one probe: one on each fold, independent of the others.

    Attributes:
        store: Statistics and features.
        probe: Its name.
        folds: On which folds.
        config: The study's.
    """

    store: Store
    probe: str
    folds: tuple[Fold, ...]
    config: StudyConfig

    @classmethod
    def of(cls, store: Store, probe: str, plan: ProtocolPlan, config: StudyConfig) -> ProbeFits:
        """Those on every fold of every protocol that applies."""
        folds = tuple(fold for name in plan.names for fold in plan.of(name))
        return cls(store, probe, folds, config)

    @property
    def classifier(self) -> str:
        """Name for the table."""
        if not sees_image(self.probe):
            kind = "linear" if self.probe in (*LINEAR, "cell-share") else "forest"
            return f"{self.probe.removesuffix('-only')}-{kind}"
        return probe_recipe(self.config).name

    def folder(self, fold: Fold) -> Path:
        """Where the files of one fit go."""
        name = f"{self.probe}-{sha256_json(self.classifier)[:8]}"
        return self.store.run.cache / "probes" / name / fold.protocol / f"fold{fold.fold}"

    def prepare(self) -> None:
        """Compute what all fits share and keep it on disk."""
        _ = self._values

    def fit(self, fold: Fold, tell: Tell) -> PredictionTable:
        """Fit on one fold, or read what an earlier run wrote."""
        folder, data = self.folder(fold), self.store.data
        earlier = read_fit(data, fold, folder)
        if earlier is not None:
            return earlier
        logits = self._logits(part_rows(data, fold))
        return write_fit(data, fold, self.classifier, self.probe, folder, logits)

    def _logits(self, rows: Mapping[str, NDArray[np.int64]]) -> dict[str, Logits]:
        """Fit the probe's classifier and apply it to the held-out images."""
        values, data = self._values, self.store.data
        if self.probe == "cell-share":
            return plain_logits(values, data, rows)
        if self.probe in LINEAR:
            return rank_logits(values, data, rows)
        if not sees_image(self.probe):
            return forest_logits(values, data, self.config.seed, rows)
        return linear_logits(probe_recipe(self.config), values, data, rows)

    @cached_property
    def _values(self) -> NDArray[Any]:
        """What the probe sees of every image: (n, d) numbers, or features of a picture."""
        if not sees_image(self.probe):
            return probe_numbers(self.store, self.probe, self.config)
        return self.store.features(probe_recipe(self.config), self.probe, self.config.seed)


def probe_numbers(store: Store, probe: str, config: StudyConfig) -> NDArray[np.float64]:
    """(n, d) float64 numbers that a probe of :data:`NUMERIC` is fitted on; NaN where unknown.

    Of patients mean and deviation over their images, and in ``file-only`` how many images.
    """
    if not isinstance(store, PatientStore):
        return image_numbers(store, probe, config)
    if probe == "cell-share":
        return cell_shares(store.images.data.records, store.patients)
    found = store.pooled(image_numbers(store.images, probe, config))
    if probe != "file-only":
        return found
    return np.column_stack([found, [len(rows) for rows in store.patients.rows]])


def image_numbers(store: InputStore, probe: str, config: StudyConfig) -> NDArray[np.float64]:
    """(n, d) float64 numbers of every image for a probe of :data:`NUMERIC`; NaN where unknown."""
    if probe == "order-only":
        return listing_numbers(store)
    table = number_table(probe, picture_scale(store, config))
    assert table is not None
    return finished(probe, store.numbers(table))


def probe_recipe(config: StudyConfig) -> Recipe:
    """The plain classifier behind the image probes: the study's own linear one, or the default."""
    for recipe in config.recipes:
        if isinstance(recipe.training, LinearHeadTraining):
            return recipe
    return load_recipe(DEFAULT_RECIPE)


def forest_logits(
    values: NDArray[np.float64],
    data: Labelled,
    seed: int,
    rows: Mapping[str, NDArray[np.int64]],
) -> dict[str, Logits]:
    """Extremely randomised trees on numbers; log-probabilities stand in for logits.

    What is unknown (NaN) becomes the median of the training images.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    train = values[rows["train"]]
    filled = np.where(np.isnan(values), _medians(train), values)
    leaf = max(2, len(train) // _LEAVES)
    forest = ExtraTreesClassifier(TREES, min_samples_leaf=leaf, random_state=seed)
    forest.fit(filled[rows["train"]], data.y[rows["train"]])
    # All parts at once: a call for each would go through the trees, in Python, three times.
    held_out = np.concatenate([rows[part] for part in HELD_OUT])
    probs = np.full((len(held_out), len(data.class_names)), 1e-3)
    if len(held_out):
        probs[:, forest.classes_] += forest.predict_proba(filled[held_out])
    logits = np.log(probs / probs.sum(axis=1, keepdims=True))
    ends = np.cumsum([len(rows[part]) for part in HELD_OUT])[:-1]
    return dict(zip(HELD_OUT, np.split(logits, ends), strict=True))


def rank_logits(
    values: NDArray[np.float64], data: Labelled, rows: Mapping[str, NDArray[np.int64]]
) -> dict[str, Logits]:
    """A linear head on numbers that were brought to a normal scale by their ranks.

    What is unknown (NaN) becomes the median of the training images; ``val`` selects the penalty.
    """
    train = values[rows["train"]]
    shown = normal_scores(train, np.where(np.isnan(values), _medians(train), values))
    return _penalised(shown, data, rows)


def plain_logits(
    values: NDArray[np.float64], data: Labelled, rows: Mapping[str, NDArray[np.int64]]
) -> dict[str, Logits]:
    """A linear head on numbers as they are; what is unknown becomes the median as above."""
    shown = np.where(np.isnan(values), _medians(values[rows["train"]]), values)
    return _penalised(shown, data, rows)


def _penalised(
    shown: NDArray[np.float64], data: Labelled, rows: Mapping[str, NDArray[np.int64]]
) -> dict[str, Logits]:
    """A linear head whose penalty ``val`` selects."""
    head = fit_linear_head(
        shown[rows["train"]],
        data.y[rows["train"]],
        len(data.class_names),
        c_grid=_PENALTIES,
        X_val=shown[rows["val"]],
        y_val=data.y[rows["val"]],
    )
    return {part: head.logits(shown[rows[part]]) for part in HELD_OUT}


def normal_scores(train: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, d) standard normal quantiles of the place of each value among those of ``train``."""
    from scipy.special import ndtri

    found = np.zeros(values.shape)
    for column in range(values.shape[1]):
        known = np.sort(train[~np.isnan(train[:, column]), column])
        if len(known) < 2 or known[0] == known[-1]:
            continue
        places = [np.searchsorted(known, values[:, column], side=side) for side in _SIDES]
        share = (0.5 * (places[0] + places[1]) + 0.5) / (len(known) + 1)
        found[:, column] = ndtri(np.clip(share, 0.5 / len(known), 1 - 0.5 / len(known)))
    return found


def _medians(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each column without its NaN; 0 where there is nothing else."""
    known = ~np.isnan(values)
    found = np.zeros(values.shape[1])
    for column in np.flatnonzero(known.any(axis=0)):
        found[column] = np.median(values[known[:, column], column])
    return found
