"""Tuning: many configurations of one recipe, compared on validation images only.

The trials see the train and val parts of one hold-out; the best configuration is written as a
recipe, and only a study of that recipe (or ``measure_best``) looks at the test part.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from leukoscope.config.loading import load_recipe, save_study_config, validate
from leukoscope.config.recipe import GradientTraining
from leukoscope.config.search import Choice, Range
from leukoscope.config.study import StudyConfig
from leukoscope.config.tuning import TuneConfig, check_space, default_space, resolve
from leukoscope.core.errors import ConfigError, LeukoscopeError, MissingExtraError, UsageError
from leukoscope.core.files import atomic_path, sha256_json, write_text
from leukoscope.core.records import save_folds
from leukoscope.core.run_folder import RunFolder
from leukoscope.study.events import Listener, Progress
from leukoscope.study.run import StudyResult, audited_in, labelled, run_study
from leukoscope.study.store import InputStore
from leukoscope.study.tuning_data import (
    PrunedTrial,
    Scorer,
    TuningData,
    criterion_of,
    hold_out,
    tuning_data,
)
from leukoscope.study.tuning_results import Outcome, probs_file, write_results, write_trials
from leukoscope.study.tuning_trials import Trials, decode, grid_size, nothing_completed

CONFIG = "tune.toml"
FAILURES_AT_START = 3  # so many, and nothing else, mean that the recipe itself does not work
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
Say = Callable[[str], None]


@dataclass(frozen=True)
class TuneResult:
    """How a tuning ended.

    Attributes:
        out: Its folder.
        summary: The content of ``tune.json``.
        interrupted: Whether it was stopped by Ctrl-C; everything is written all the same.
        unreadable: Path and reason of each image that was quarantined.
    """

    out: Path
    summary: dict[str, Any]
    interrupted: bool
    unreadable: tuple[tuple[str, str], ...]


def tune_config(
    study: StudyConfig,
    space: dict[str, Range | Choice],
    *,
    folds: int = 1,
    sampler: str = "tpe",
    pruner: str = "median",
) -> TuneConfig:
    """Resolve and check a tuning's options.

    Args:
        study: From ``study_config`` with one recipe and one protocol.
        space: What may change; empty takes the space of the recipe's training method.
        folds: Folds within the train and val parts; 1 takes these parts as they are.
        sampler: ``tpe``, ``random`` or ``grid``.
        pruner: ``median``, ``hyperband`` or ``none``.

    Raises:
        ConfigError: A value is invalid.
        UnknownNameError: A key that the recipe does not have.
    """
    recipe = study.recipes[0]
    chosen = space or default_space(recipe)
    check_space(recipe, chosen)
    splits = study.splits.model_copy(update={"folds": 1, "cluster_curve": ()})
    plain = study.model_copy(update={"splits": splits, "probes": (), "bundle": False})
    values = {
        "study": plain.model_dump(mode="json"),
        "folds": folds,
        "space": {key: parameter.model_dump(mode="json") for key, parameter in chosen.items()},
        "sampler": sampler,
        "pruner": pruner,
    }
    return validate(TuneConfig, values, "tune")


def load_tune_config(out: Path) -> TuneConfig:
    """Read the ``tune.toml`` of a tuning's folder.

    Raises:
        ConfigError: It is missing or invalid.
    """
    import tomllib

    path = out / CONFIG
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected the configuration of a tuning, but {error}") from None
    return validate(TuneConfig, values, str(path))


def run_tune(
    config: TuneConfig,
    out: Path,
    *,
    trials: int,
    minutes: float | None = None,
    storage: str = "",
    resume: bool = False,
    listener: Listener | None = None,
    say: Say = lambda text: None,
) -> TuneResult:
    """Try configurations until there are ``trials`` of them, and write what was found.

    Several processes may work on one folder at once (each but the first with ``resume``).

    Args:
        config: From :func:`tune_config`.
        out: The tuning's folder; new or empty unless ``resume``.
        trials: How many in all, those of earlier sessions and other processes included.
        minutes: No trial is started later than this.
        storage: ``journal:FILE`` or a database URL; empty is a journal in ``out``.
        resume: Go on with, or join, the tuning in ``out``.
        listener: Called with (step, done, total).
        say: Told one line after each trial.

    Raises:
        MissingExtraError: torch or Optuna is not installed.
        UsageError: The folder holds something else.
        TrainingError: No trial was completed.
    """
    for package, extra in (("torch", "train"), ("optuna", "tune"), ("filelock", "tune")):
        if find_spec(package) is None:
            raise MissingExtraError("tuning", extra)
    _open_folder(out, config, resume)
    run, progress = RunFolder(out), Progress(listener) if listener else Progress()
    with progress.step("audit"):
        found = audited_in(run, config.study, progress)
    labelled(found)
    fold = hold_out(found, config.study)
    save_folds(run.splits, [fold], found.manifest)
    data = tuning_data(found, config, fold)
    broken = tuple((r.path, r.reason) for r in found.manifest.images if r.status == "quarantined")
    limit = min(trials, grid_size(config.space)) if config.sampler == "grid" else trials
    key = sha256_json([config.model_dump(mode="json"), data.sha256])
    with Trials(
        config,
        key,
        storage,
        out,
        minimise=criterion_of(config.recipe) == "log_loss",
        steps=_steps(config, data),
    ) as pool:
        session = Session(config, out, data, pool, progress, say)
        interrupted = session.work(limit, minutes)
        outcome = Outcome(config, out, data, pool.rows(), pool.importances(), storage)
        if not outcome.complete:
            write_trials(outcome)
            if interrupted:
                raise KeyboardInterrupt
            raise nothing_completed(pool.rows())
        with progress.step("figures"):
            summary = write_results(outcome)
    return TuneResult(out, summary, interrupted, broken)


class Session:
    """This process's share of a tuning.

    Args:
        config: What is tuned.
        out: The tuning's folder.
        data: What the trials see.
        pool: The trials of all processes.
        progress: Told how far it is.
        say: Told one line after each trial.
    """

    def __init__(
        self,
        config: TuneConfig,
        out: Path,
        data: TuningData,
        pool: Trials,
        progress: Progress,
        say: Say,
    ) -> None:
        self.config, self.out, self.data, self.pool = config, out, data, pool
        self.progress, self.say = progress, say
        store = InputStore(RunFolder(out), data.manifest, data.data, progress)
        self.scorer = Scorer(data, store, tuned_name(config), config.study.seed)

    def work(self, limit: int, minutes: float | None) -> bool:
        """Draw and fit until the limit or the time is reached; whether Ctrl-C ended it."""
        end = None if minutes is None else time.monotonic() + 60 * minutes
        trial = None
        with self.progress.step(f"tuning {self.config.recipe.name}") as tell:
            try:
                while end is None or time.monotonic() < end:
                    drawn = self.pool.ask(limit)
                    if drawn is None:
                        break
                    trial, labels = drawn
                    self._one(trial, labels, partial(self._tell, tell, trial.number, limit))
                    number, trial = trial.number, None
                    if self._written(number, limit, tell):
                        break
            except BaseException as error:
                stopped = isinstance(error, KeyboardInterrupt)
                if trial is not None:
                    reason = "stopped by the user" if stopped else f"a fault: {error!r}"
                    with suppress(ValueError):  # it had just ended
                        self.pool.stop(trial, reason)
                if not stopped:
                    raise
                return True
        return False

    def _written(self, number: int, limit: int, tell: Callable[[int, int], None]) -> bool:
        """Write the table so far; whether there is no point in going on."""
        rows = self.pool.rows()
        write_trials(Outcome(self.config, self.out, self.data, rows, {}, ""))
        self.say(_line(rows, number, self.pool.minimise))
        done = [row for row in rows if row.state not in ("stopped", "running")]
        tell(1000 * len(done), 1000 * limit)
        return len(done) == FAILURES_AT_START and all(row.state == "failed" for row in done)

    def _tell(
        self, tell: Callable[[int, int], None], number: int, limit: int, done: int, total: int
    ) -> None:
        tell(1000 * min(number, limit - 1) + 1000 * done // max(1, total), 1000 * limit)

    def _one(self, trial: Any, labels: dict[str, Any], tell: Callable[[int, int], None]) -> None:
        """Fit one configuration; what goes wrong in it ends it alone."""
        folder = self.out / "trials" / f"{trial.number:04d}"

        def report(step: int, value: float) -> bool:
            trial.report(value, step)
            return bool(trial.should_prune())

        try:
            recipe = resolve(self.config.recipe, decode(self.config.space, labels))
            value, probs = self.scorer.score(recipe, folder, report, tell)
        except PrunedTrial:
            self.pool.prune(trial)
        except LeukoscopeError as error:
            self.pool.fail(trial, f"{type(error).__name__}: {error.message}")
        except (MemoryError, RuntimeError) as error:  # torch's errors are RuntimeErrors
            self.pool.fail(trial, _runtime_reason(error))
        else:
            with atomic_path(probs_file(self.out, trial.number)) as temporary:
                np.save(temporary, probs.astype(np.float32), allow_pickle=False)
            self.pool.complete(trial, value)
        finally:
            for part in folder.glob("fold*"):  # history.csv stays
                for name in ("resume", "tensorboard"):
                    shutil.rmtree(part / name, ignore_errors=True)


def measure_best(config: TuneConfig, out: Path, listener: Listener) -> StudyResult:
    """Train ``best.toml`` on the same hold-out and measure it on the test part, once.

    Raises:
        UsageError: Another configuration of this tuning was measured before.
    """
    best = load_recipe(str(out / "best.toml"))
    study = config.study.model_copy(update={"recipes": (best,)})
    final = RunFolder(out / "final")
    if not final.path.is_dir():
        shutil.copytree(RunFolder(out).cache / "audit", final.cache / "audit")
        save_study_config(final.config, study)
    try:
        return run_study(study, final.path, resume=True, report=False, listener=listener)
    except ConfigError as error:
        raise UsageError(
            f"{final.path} holds the test result of another configuration: {error.message}",
            hint="the test part has been used; tune anew with another --seed and --out to have "
            "another one",
        ) from None


def tuned_name(config: TuneConfig) -> str:
    """Name of the recipe in ``best.toml``."""
    return f"{config.recipe.name.removesuffix('-tuned')}-tuned"


def _open_folder(out: Path, config: TuneConfig, resume: bool) -> None:
    path = out / CONFIG
    occupied = out.is_dir() and any(out.iterdir())
    if occupied and not path.is_file():
        raise UsageError(
            f"{out} is not empty and holds no tuning", hint="name a new folder with --out"
        )
    if occupied and not resume:
        raise UsageError(
            f"{out} already holds a tuning",
            hint="add --resume to go on with it or to join it, or name a new folder with --out",
        )
    if occupied and load_tune_config(out) != config:
        raise ConfigError(
            f"{path} differs from the options given",
            hint="resume with --out (and --trials, --timeout, --storage) alone, or name a new "
            "folder with --out",
        )
    if not occupied:
        write_text(path, _toml(config.model_dump(mode="json")))


def _toml(values: dict[str, Any]) -> str:
    import tomli_w

    return tomli_w.dumps(values)


def _steps(config: TuneConfig, data: TuningData) -> int:
    training = config.recipe.training
    epochs = training.epochs if isinstance(training, GradientTraining) else 1
    return epochs * len(data.folds)


def _runtime_reason(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY):
        return f"out of memory: {text}" if text else "out of memory"
    return f"{type(error).__name__}: {text}"


def _line(rows: Sequence[Any], number: int, minimise: bool) -> str:
    row = next(row for row in rows if row.number == number)
    took = "" if row.seconds is None else f", {row.seconds:.0f} s"
    if row.state == "failed":
        return f"trial {number}: failed, {row.reason}{took}"
    value = "—" if row.value is None else f"{row.value:.4f}"
    complete = [r for r in rows if r.state == "complete"]
    text = f"trial {number}: {value}{' (pruned)' if row.state == 'pruned' else ''}{took}"
    if not complete:
        return text
    best = (min if minimise else max)(complete, key=lambda r: r.value)
    return f"{text}; best {best.value:.4f} (trial {best.number})"
