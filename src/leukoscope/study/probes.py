"""Probes: classifiers that must fail if the data can only be told apart by morphology.

Each sees an image from which something was taken away
(:mod:`leukoscope.imaging.probe_inputs`), or a few numbers of it, and is fitted and tested on the
very folds of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.loading import load_recipe
from leukoscope.config.recipe import LinearHeadTraining, Recipe
from leukoscope.config.study import StudyConfig
from leukoscope.core.files import sha256_json
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.imaging.background import bar_statistics, colour_statistics
from leukoscope.imaging.decode import decode_image
from leukoscope.study.edited import run_edited
from leukoscope.study.events import Progress
from leukoscope.study.fitting import linear_logits
from leukoscope.study.jobs import HELD_OUT, Labelled, Logits, run_job
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
    folds = [fold for name in plan.names for fold in plan.of(name)]
    if probe in FORESTS:
        table, numbers = FORESTS[probe]
        name = f"{table}-forest"
        values = store.table(table, partial(_numbers_of, numbers))
        fit = partial(_forest_logits, values, store.data, config.seed)
    else:
        recipe = probe_recipe(config)
        features = store.features(recipe, probe, config.seed)
        name = recipe.name
        fit = partial(linear_logits, recipe, features, store.data)
    tables = []
    with progress.step(f"probe {probe}") as tell:
        for done, fold in enumerate(folds, start=1):
            folder = store.run.cache / "probes" / f"{probe}-{sha256_json(name)[:8]}" / fold.protocol
            tables.append(run_job(store.data, fold, name, probe, folder / f"fold{fold.fold}", fit))
            tell(done, len(folds))
    return tables


def probe_recipe(config: StudyConfig) -> Recipe:
    """The plain classifier behind the image probes: the study's own linear recipe, or ``quick``."""
    for recipe in config.recipes:
        if isinstance(recipe.training, LinearHeadTraining):
            return recipe
    return load_recipe("quick")


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
