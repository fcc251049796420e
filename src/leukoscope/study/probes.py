"""Probes: classifiers that must fail if the data can only be told apart by morphology.

Each sees an image from which something was taken away
(:mod:`leukoscope.imaging.probe_inputs`), or a few numbers of it, and is fitted and tested on the
very folds of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.config import DEFAULT_RECIPE
from leukoscope.config.loading import load_recipe
from leukoscope.config.recipe import LinearHeadTraining, Recipe
from leukoscope.config.study import StudyConfig
from leukoscope.core.files import sha256_json
from leukoscope.core.records import Fold
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.imaging.background import bar_statistics, colour_statistics
from leukoscope.imaging.decode import decode_image
from leukoscope.study.edited import run_edited
from leukoscope.study.events import Progress, Tell
from leukoscope.study.fitting import linear_logits
from leukoscope.study.jobs import HELD_OUT, FitAndPredict, Labelled, Logits, run_job
from leukoscope.study.protocols import ProtocolPlan
from leukoscope.study.store import InputStore

Numbers = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
FORESTS: Mapping[str, tuple[str, Numbers]] = MappingProxyType(
    {
        "colour-only": ("colour", colour_statistics),
        "scale-bar-only": ("scale-bar", bar_statistics),
    }
)
"""Probes that see numbers, not images: the name of their table, and what computes a row."""


def inapplicable_probes(config: StudyConfig, passport: Mapping[str, Any]) -> list[dict[str, str]]:
    """Probes that were asked for but have nothing to see in this data, with the reasons."""
    if "scale-bar-only" not in config.probes or passport["scale_bars"]["images"]:
        return []
    reason = "the audit found no burned-in scale bar in any image"
    return [{"probe": "scale-bar-only", "reason": reason}]


def shortcut_tables(
    store: InputStore,
    passport: Mapping[str, Any],
    plan: ProtocolPlan,
    config: StudyConfig,
    progress: Progress,
) -> list[PredictionTable]:
    """All probes of a study, and its models on edited images; what is finished is read."""
    left_out = {row["probe"] for row in inapplicable_probes(config, passport)}
    tables = []
    for probe in config.probes:
        if probe not in left_out:
            tables += run_probe(store, probe, plan, config, progress)
    for recipe in config.recipes:
        tables += run_edited(store, recipe, plan, config, progress)
    return tables


def run_probe(
    store: InputStore,
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
    return tables


@dataclass(frozen=True)
class ProbeFits:
    """The fits of one probe: one on each fold, independent of the others.

    Attributes:
        store: Statistics and features.
        probe: Its name.
        folds: On which folds.
        config: The study's.
    """

    store: InputStore
    probe: str
    folds: tuple[Fold, ...]
    config: StudyConfig

    @classmethod
    def of(
        cls, store: InputStore, probe: str, plan: ProtocolPlan, config: StudyConfig
    ) -> ProbeFits:
        """Those on every fold of every protocol that applies."""
        folds = tuple(fold for name in plan.names for fold in plan.of(name))
        return cls(store, probe, folds, config)

    @property
    def classifier(self) -> str:
        """Name for the table."""
        if self.probe in FORESTS:
            return f"{FORESTS[self.probe][0]}-forest"
        return probe_recipe(self.config).name

    def folder(self, fold: Fold) -> Path:
        """Where the files of one fit go."""
        name = f"{self.probe}-{sha256_json(self.classifier)[:8]}"
        return self.store.run.cache / "probes" / name / fold.protocol / f"fold{fold.fold}"

    def prepare(self) -> None:
        """Compute what all fits share and keep it on disk."""
        _ = self._logits

    def fit(self, fold: Fold, tell: Tell) -> PredictionTable:
        """Fit on one fold, or read what an earlier run wrote."""
        folder, data = self.folder(fold), self.store.data

        def job(rows: Mapping[str, NDArray[np.int64]]) -> dict[str, Logits]:
            return self._logits(rows)  # made only where something is left to fit

        return run_job(data, fold, self.classifier, self.probe, folder, job)

    @cached_property
    def _logits(self) -> FitAndPredict:
        store, seed = self.store, self.config.seed
        if self.probe in FORESTS:
            table, numbers = FORESTS[self.probe]
            values = store.table(table, partial(_numbers_of, numbers))
            return partial(_forest_logits, values, store.data, seed)
        recipe = probe_recipe(self.config)
        features = store.features(recipe, self.probe, seed)
        return partial(linear_logits, recipe, features, store.data)


def probe_recipe(config: StudyConfig) -> Recipe:
    """The plain classifier behind the image probes: the study's own linear one, or the default."""
    for recipe in config.recipes:
        if isinstance(recipe.training, LinearHeadTraining):
            return recipe
    return load_recipe(DEFAULT_RECIPE)


def _numbers_of(numbers: Numbers, path: Path) -> NDArray[np.float64]:
    return numbers(decode_image(path).image)


def _forest_logits(
    values: NDArray[np.float64],
    data: Labelled,
    seed: int,
    rows: Mapping[str, NDArray[np.int64]],
) -> dict[str, Logits]:
    """Extremely randomised trees on numbers; log-probabilities stand in for logits."""
    from sklearn.ensemble import ExtraTreesClassifier

    forest = ExtraTreesClassifier(300, min_samples_leaf=2, random_state=seed, n_jobs=2)
    forest.fit(values[rows["train"]], data.y[rows["train"]])
    forest.n_jobs = 1  # threads would add the trees' votes in another order each time
    logits = {}
    for part in HELD_OUT:
        if len(rows[part]) == 0:
            logits[part] = np.empty((0, len(data.class_names)))
            continue
        probs = np.full((len(rows[part]), len(data.class_names)), 1e-3)
        probs[:, forest.classes_] += forest.predict_proba(values[rows[part]])
        logits[part] = np.log(probs / probs.sum(axis=1, keepdims=True))
    return logits
