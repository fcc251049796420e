"""Tuning: many configurations of one recipe, drawn, fitted and compared on validation images."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leukoscope.analyses.tuning.data import (
    ConfigurationScorer,
    PrunedTrial,
    TuningData,
    criterion_of,
    hold_out,
    tuning_data,
)
from leukoscope.analyses.tuning.results import (
    Outcome,
    probs_file,
    tuned_name,
    write_results,
    write_trials,
)
from leukoscope.analyses.tuning.trials import (
    TrialPool,
    decode,
    grid_size,
    nothing_completed,
    open_storage,
    shown_storage,
)
from leukoscope.config.base import validate
from leukoscope.config.loading import differs, load_recipe, save_study_config
from leukoscope.config.recipe import GradientTraining
from leukoscope.config.study import StudyConfig
from leukoscope.config.tuning_results import TrialRecord, TuningFile
from leukoscope.config.tuning_space import (
    SPACES,
    Choice,
    Range,
    TuneConfig,
    check_space,
    default_space,
    load_tune_config,
    resolve,
    save_tune_config,
)
from leukoscope.core.errors import ConfigError, LeukoscopeError, MissingExtraError, UsageError
from leukoscope.core.files import atomic_path, sha256_json
from leukoscope.core.records import save_folds
from leukoscope.core.run_folder import RunFolder, resumes
from leukoscope.evaluation.statistics.metrics import METRICS
from leukoscope.pipeline.features.store import InputStore
from leukoscope.pipeline.progress import Listener, Progress
from leukoscope.study.run import StudyResult, audited_in, labelled, run_study

if TYPE_CHECKING:
    from optuna import Trial

FAILURES_AT_START = 3  # so many, and nothing else, mean that the recipe itself does not work
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
LogLine = Callable[[str], None]
CONFIG = "tune.toml"


class TuningWorker:
    """The part of a tuning that this process does.

    Args:
        config: The tuning's configuration.
        out: Its folder.
        data: The images that the trials use.
        pool: The trials of all processes.
        progress: Shows the progress.
        say: Called with one line after each trial.
    """

    def __init__(
        self,
        config: TuneConfig,
        out: Path,
        data: TuningData,
        pool: TrialPool,
        progress: Progress,
        say: LogLine,
    ) -> None:
        self.config, self.out, self.data, self.pool = config, out, data, pool
        self.progress, self.say = progress, say
        store = InputStore(RunFolder(out), data.manifest, data.data, progress)
        self.scorer = ConfigurationScorer(data, store, tuned_name(config), config.study.seed)

    def run(self, limit: int, minutes: float | None) -> bool:
        """Run trials up to the limit or the time; returns whether Ctrl-C ended it."""
        end = None if minutes is None else time.monotonic() + 60 * minutes
        trial = None
        with self.progress.step(f"tuning {self.config.recipe.name}") as tell:
            try:
                while end is None or time.monotonic() < end:
                    drawn = self.pool.ask(limit)
                    if drawn is None:
                        break
                    trial, labels = drawn
                    self._run_trial(
                        trial, labels, partial(self._report_progress, tell, trial.number, limit)
                    )
                    number, trial = trial.number, None
                    if self._save_progress(number, limit, tell):
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

    def _save_progress(self, number: int, limit: int, tell: Callable[[int, int], None]) -> bool:
        """Write the table so far; returns whether to give up, as every trial has failed."""
        with self.pool.lock:
            rows = self.pool.rows()
            write_trials(Outcome(self.config, self.out, self.data, rows, {}))
        self.say(_line(rows, number, self.pool.minimise))
        done = [row for row in rows if row.state not in ("stopped", "running")]
        tell(1000 * len(done), 1000 * limit)
        return len(done) == FAILURES_AT_START and all(row.state == "failed" for row in done)

    def _report_progress(
        self, tell: Callable[[int, int], None], number: int, limit: int, done: int, total: int
    ) -> None:
        tell(1000 * min(number, limit - 1) + 1000 * done // max(1, total), 1000 * limit)

    def _run_trial(
        self, trial: Trial, labels: Mapping[str, object], tell: Callable[[int, int], None]
    ) -> None:
        """Fit one configuration; an error ends only this trial."""
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


def _runtime_reason(error: Exception) -> str:
    """Describe an error of torch or of memory in one line."""
    text = str(error).partition("\n")[0]
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY):
        return f"out of memory: {text}" if text else "out of memory"
    return f"{type(error).__name__}: {text}"


def _line(rows: Sequence[TrialRecord], number: int, minimise: bool) -> str:
    """The line that is printed after a trial: its value, its time and the best so far."""
    row = next(row for row in rows if row.trial == number)
    took = "" if row.seconds is None else f", {row.seconds:.0f} s"
    if row.state == "failed":
        return f"trial {number}: failed, {row.reason}{took}"
    value = "—" if row.value is None else f"{row.value:.4f}"
    text = f"trial {number}: {value}{' (pruned)' if row.state == 'pruned' else ''}{took}"
    done = [(r.value, r.trial) for r in rows if r.state == "complete" and r.value is not None]
    if not done:
        return text
    best, first = min(done, key=lambda pair: (pair[0] if minimise else -pair[0], pair[1]))
    return f"{text}; best {best:.4f} (trial {first})"


@dataclass(frozen=True)
class TuneResult:
    """The result of a tuning.

    Attributes:
        out: The tuning's folder.
        summary: The content of ``tune.json``.
        interrupted: Whether Ctrl-C stopped it; everything is written all the same.
        unreadable: Path and reason of each image that could not be read.
    """

    out: Path
    summary: TuningFile
    interrupted: bool
    unreadable: tuple[tuple[str, str], ...]


def tune_config(
    study: StudyConfig,
    space: dict[str, Range | Choice],
    *,
    folds: int = 1,
    sampler: str = "tpe",
    pruner: str = "median",
    storage: str = "",
) -> TuneConfig:
    """Resolve and check a tuning's options.

    Args:
        study: From ``study_config``, with one recipe and one protocol.
        space: The search space. Default: that of the recipe's training method.
        folds: Folds within the train and val parts; 1 uses these parts as they are.
        sampler: ``tpe``, ``random`` or ``grid``.
        pruner: ``median``, ``hyperband`` or ``none``.
        storage: ``journal:FILE`` or a database URL. Default: a journal in the tuning's folder.

    Raises:
        ConfigError: A value is invalid.
        UnknownNameError: The recipe has no such key.
    """
    recipe = study.recipes[0]
    if recipe.training.method not in SPACES:
        raise ConfigError(
            f"recipe {recipe.name}: tune searches {' and '.join(SPACES)}, not "
            f"{recipe.training.method}",
            hint="classifiers on features choose among their own settings on `val` in every fit; "
            "widen those with --set training.classifier.…",
        )
    if recipe.inner_folds:
        raise ConfigError(
            f"recipe {recipe.name} trains {recipe.inner_folds} models, and a tuning measures one",
            hint="add --set inner_folds=0 to search the values of one member",
        )
    if recipe.refine.epochs:
        raise ConfigError(
            f"recipe {recipe.name} is two trainings, and a tuning searches the values of one",
            hint="add --set refine.epochs=0 to search those of its head",
        )
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
        "storage": shown_storage(storage),
    }
    return validate(TuneConfig, values, "tune")


def run_tune(
    config: TuneConfig,
    out: Path,
    *,
    trials: int,
    minutes: float | None = None,
    storage: str = "",
    resume: bool = False,
    listener: Listener | None = None,
    say: LogLine = lambda text: None,
) -> TuneResult:
    """Try configurations until there are ``trials`` of them, and write the results.

    Several processes may work on one folder at once, all but the first with ``resume``.

    ``trials`` counts those of earlier sessions and of other processes; none starts after
    ``minutes``. ``storage`` is that of ``config``, with its password. ``say`` is called with one
    line after each trial.

    Raises:
        MissingExtraError: torch or Optuna is not installed.
        UsageError: The folder holds something else.
        TrainingError: No trial was completed.
    """
    _require_packages()
    storage = _storage(config, storage)
    if "://" in storage:
        open_storage(storage)  # before anything is written or waited for
    _open_folder(out, config, resume)
    run, progress = RunFolder(out), Progress(listener) if listener else Progress()
    with progress.step("audit"):
        found = audited_in(run, config.study, progress)
    labelled(found, config.study)
    fold = hold_out(found, config.study)
    save_folds(run.splits, [fold], found.manifest)
    data = tuning_data(found, config, fold)
    limit = min(trials, grid_size(config.space)) if config.sampler == "grid" else trials
    key = sha256_json([config.model_dump(mode="json", exclude={"storage"}), data.sha256])
    with TrialPool(
        config,
        key,
        storage,
        out,
        minimise=not METRICS[criterion_of(config.recipe)].higher_is_better,
        steps=_steps(config, data),
    ) as pool:
        worker = TuningWorker(config, out, data, pool, progress, say)
        interrupted = worker.run(limit, minutes)
        # Who writes last has the last rows: in turn.
        with pool.lock, progress.step("figures"):
            outcome = Outcome(config, out, data, pool.rows(), pool.importances())
            _remove_stopped(outcome)
            if not outcome.complete:
                write_trials(outcome)
                if interrupted:
                    raise KeyboardInterrupt
                raise nothing_completed(outcome.rows)
            summary = write_results(outcome)
    return TuneResult(out, summary, interrupted, found.manifest.unreadable)


def _require_packages() -> None:
    """Refuse to start where a package that tuning needs is not installed."""
    for package, extra in (("torch", "train"), ("optuna", "tune"), ("filelock", "tune")):
        if find_spec(package) is None:
            raise MissingExtraError("tuning", extra)


def measure_best(config: TuneConfig, out: Path, listener: Listener) -> StudyResult:
    """Train ``best.toml`` on the same hold-out and measure it once on the test part.

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


def _storage(config: TuneConfig, given: str) -> str:
    """The storage with its password, if it has one."""
    if given and shown_storage(given) != config.storage:
        raise UsageError(
            f"--storage {shown_storage(given)}: this tuning keeps its trials in "
            f"{config.storage or 'its own folder'}"
        )
    if not given and "***" in config.storage:
        raise UsageError(
            f"this tuning keeps its trials in {config.storage}, and passwords are not kept",
            hint="name it again with --storage",
        )
    return given or config.storage


def _open_folder(out: Path, config: TuneConfig, resume: bool) -> None:
    """Start the folder of a tuning, or check that it can be resumed."""
    path = out / CONFIG
    how = "add --resume to go on with it or to join it"
    resumed = resumes(path, "tuning", resume=resume, hint=how)
    if resumed and (kept := load_tune_config(path)) != config:
        hint = (
            "resume with --out (and --trials, --timeout, --storage) alone, or name a new folder "
            "with --out"
        )
        raise differs(path, kept, config, hint)
    if not resumed:
        save_tune_config(path, config)


def _remove_stopped(outcome: Outcome) -> None:
    """Remove the folders of killed trials, which run again under another number."""
    for row in outcome.rows:
        if row.state == "stopped":
            shutil.rmtree(outcome.out / "trials" / f"{row.trial:04d}", ignore_errors=True)


def _steps(config: TuneConfig, data: TuningData) -> int:
    """The largest number of steps that a trial can report."""
    training = config.recipe.training
    epochs = training.epochs if isinstance(training, GradientTraining) else 1
    return epochs * len(data.folds)
