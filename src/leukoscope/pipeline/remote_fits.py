"""Fits of a study that other processes do, or take part in, from the files of the run."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from leukoscope.config.passport import Passport
from leukoscope.config.recipe import GradientTraining, Recipe
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError
from leukoscope.core.run_folder import PREDICTIONS, RunFolder
from leukoscope.evaluation.run_files import RunFiles
from leukoscope.learning.backbones import build_network
from leukoscope.learning.distributed import has_local_batch_norm
from leukoscope.pipeline.features.patient_store import PatientStore, Store, open_store
from leukoscope.pipeline.fitting import RecipeFits
from leukoscope.pipeline.folds import ProtocolPlan
from leukoscope.pipeline.gradient_training import GradientTrainer
from leukoscope.pipeline.inapplicable import inapplicable_probes
from leukoscope.pipeline.jobs import SharedTraining
from leukoscope.pipeline.probes import ProbeFits, prepare_study
from leukoscope.pipeline.progress import Progress, Tell


class FitKey(NamedTuple):
    """One fit of a study.

    Attributes:
        kind: ``recipe`` or ``probe``.
        name: Which one.
        protocol: Under which protocol.
        fold: In which fold.
    """

    kind: str
    name: str
    protocol: str
    fold: int

    def __str__(self) -> str:
        return f"{self.kind} {self.name}, {self.protocol}, fold {self.fold}"


class Executor(Protocol):
    """Has :func:`fit_one` called for every key, in processes of its own."""

    def __call__(self, run: Path, keys: Sequence[FitKey], tell: Tell) -> None:
        """Return when all are done; ``tell`` is told of fits done and in all.

        Raises:
            TrainingError: A fit failed, or its process died; names the fit.
        """


def all_fits(
    store: Store, plan: ProtocolPlan, config: StudyConfig, passport: Passport
) -> list[RecipeFits | ProbeFits]:
    """The fits of every recipe and probe of a study."""
    left_out = {row["probe"] for row in inapplicable_probes(config, passport, store.images)}
    return [
        *(RecipeFits.of(store, recipe, plan.folds, config.seed) for recipe in config.recipes),
        *(ProbeFits.of(store, p, plan, config) for p in config.probes if p not in left_out),
    ]


def fit_elsewhere(
    store: Store,
    plan: ProtocolPlan,
    config: StudyConfig,
    passport: Passport,
    executor: Executor,
) -> None:
    """Have an executor do every fit of a study that is not finished and waits for no other.

    Those that wait take seconds, and are left to :func:`~leukoscope.pipeline.fitting.fit_recipe`.
    """
    if not isinstance(store, PatientStore):
        store = replace(store, shared=True)
    prepare_study(store, config)
    keys = []
    try:
        for fits in all_fits(store, plan, config, passport):
            missing = [f for f in fits.folds if not (fits.folder(f) / PREDICTIONS).is_file()]
            if missing:
                fits.prepare()
            keys += [
                FitKey(*_which(fits), fold.protocol, fold.fold)
                for fold in missing
                if not (isinstance(fits, RecipeFits) and fits.waits(fold))
            ]
        if keys:
            with store.progress.step(f"fits in other processes, {len(keys)} in all") as tell:
                executor(store.run.path, keys, tell)
    finally:
        shutil.rmtree(store.images.shared_folder, ignore_errors=True)


def fit_one(run: str, key: FitKey) -> None:
    """Do one fit of a run whose shared files are written, in the process of an executor.

    Raises:
        DataError: This machine does not see the run.
    """
    fits = open_fits(run, key.kind, key.name)
    fold = next(f for f in fits.folds if (f.protocol, f.fold) == (key.protocol, key.fold))
    fits.fit(fold, lambda done, total: None)


def open_fits(run: str, kind: str, name: str) -> RecipeFits | ProbeFits:
    """The fits of one recipe or probe of a run, from its files; the last ones stay in memory.

    Raises:
        DataError: This machine does not see the run.
    """
    splits = RunFolder(Path(run)).splits
    if not splits.is_file():
        raise DataError(
            f"{splits}: this file is missing on {platform.node()}",
            hint="every machine must see the run's folder and the data under the same paths",
        )
    return _opened(run, splits.stat().st_mtime_ns, kind, name)


@lru_cache(maxsize=1)  # a process mostly does one recipe's fits in a row
def _opened(run: str, written: int, kind: str, name: str) -> RecipeFits | ProbeFits:
    files = RunFiles.open(Path(run))
    plan = ProtocolPlan(files.splits, (), ())
    store = open_store(files.run, files.manifest, files.config, Progress(), shared=True)
    every = all_fits(store, plan, files.config, files.passport)
    return next(one for one in every if _which(one) == (kind, name))


def _which(fits: RecipeFits | ProbeFits) -> tuple[str, str]:
    if isinstance(fits, RecipeFits):
        return "recipe", fits.recipe.name
    return "probe", fits.probe


def train_share(order: SharedTraining) -> None:
    """Do this process's share of one training; it writes nothing.

    Raises:
        DataError: This machine does not see the run, or not the same cache.
        TrainingError: It broke down.
    """
    fits = open_fits(order.run, "recipe", order.recipe)
    assert isinstance(fits, RecipeFits)
    trainer = fits.trainer
    assert isinstance(trainer, GradientTrainer)
    if (trainer.views is not None) != order.cached:
        raise DataError(
            f"{order.recipe}: only some machines train on cached activations",
            hint="train without training.cached_views, or on machines that are alike",
        )
    trainer.train(order.rows, Path(order.folder), order.seed, lambda done, total: None)


def worker_notes(config: StudyConfig) -> list[str]:
    """What a reader must know of models that several processes trained together."""
    names = [recipe.name for recipe in config.recipes if _measures_shares(recipe)]
    if not names:
        return []
    return [
        f"{', '.join(names)}: several processes trained together on CPUs, and each batch norm "
        "measured one process's share of the batch; one process would have trained another model."
    ]


def _measures_shares(recipe: Recipe) -> bool:
    stages = [stage.training for stage in (recipe, recipe.refined()) if stage is not None]
    network = build_network(recipe.model, num_classes=2, size_px=recipe.preprocess.size_px)
    return any(
        isinstance(stage, GradientTraining) and has_local_batch_norm(network, stage)
        for stage in stages
    )
