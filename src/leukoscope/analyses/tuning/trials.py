"""The trials of a tuning in Optuna's storage: drawn, shared between processes, resumed."""

from __future__ import annotations

import itertools
import math
import random
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from leukoscope.config.tuning_results import Label, TrialRecord, TrialState
from leukoscope.config.tuning_space import Choice, Range, Space, TuneConfig, baselines
from leukoscope.core.errors import DataError, TrainingError, UsageError
from leukoscope.core.views import plural

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

MOST_GRID_POINTS = 1000
FEWEST_FOR_IMPORTANCE = 8
JOURNAL = "tune.journal"
QUEUED, QUEUE_S = "queued", 10.0
_WORKER = re.compile(r"[0-9a-f]{12}")


def open_storage(text: str) -> BaseStorage:
    """Open ``journal:FILE`` or a database URL.

    Raises:
        UsageError: The database cannot be opened.
        DataError: The file is not a journal.
    """
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if text.startswith("journal:"):
        path = Path(text.removeprefix("journal:")).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_partial_line(path)
        with readable(text):
            return JournalStorage(JournalFileBackend(str(path)))
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return RDBStorage(text)
    except (SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"--storage {_short(text)}: cannot be opened, {str(error).splitlines()[0]}",
            hint="see Optuna's page on RDBStorage for the URL and the driver that it needs",
        ) from None


def _short(url: str) -> str:
    """A URL, perhaps a malformed one, without the user and password before its host."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _cut_partial_line(path: Path) -> None:
    """Cut off a last line that a kill left unfinished, which would corrupt the next one."""
    from optuna.storages.journal import JournalFileSymlinkLock

    if not path.is_file() or not path.stat().st_size:
        return
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(data.rfind(b"\n") + 1)
    finally:
        lock.release()


@contextmanager
def readable(text: str) -> Iterator[None]:
    """Turn the errors of a file that is not a journal into one that names it."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        if not text.startswith("journal:"):
            raise
        raise DataError(
            f"{text.removeprefix('journal:')}: expected a journal of Optuna, but {error!r}",
            hint="name another file with --storage journal:FILE",
        ) from None


def shown_storage(text: str) -> str:
    """A storage as it may be written down: without password, and with an absolute path.

    >>> shown_storage("postgresql://me:secret@host/db")
    'postgresql://me:***@host/db'

    Raises:
        UsageError: It is neither ``journal:FILE`` nor a database URL.
    """
    if text.startswith("journal:"):
        return f"journal:{Path(text.removeprefix('journal:')).expanduser().resolve()}"
    if not text:
        return ""
    if "://" not in text:
        raise UsageError(
            f"--storage expects journal:FILE or a database URL, got {text!r}",
            hint="e.g. journal:tune.journal or sqlite:///tune.db",
        )
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(text).render_as_string(hide_password=True)
    except ArgumentError:
        raise UsageError(f"--storage {_short(text)}: this is no database URL") from None


class TrialPool:
    """The trials of one tuning; inside the context this process is one of its workers.

    Args:
        config: The tuning's configuration.
        key: Hash of what the trials have in common; trials with another key are kept apart.
        storage: ``journal:FILE``, a database URL, or empty for a journal in ``out``.
        out: The tuning's folder.
        minimise: Whether small values are good.
        steps: Largest number of steps that a trial can report.
    """

    def __init__(
        self, config: TuneConfig, key: str, storage: str, out: Path, *, minimise: bool, steps: int
    ) -> None:
        from filelock import FileLock

        self.config, self.minimise, self.steps = config, minimise, steps
        self.name = f"{config.recipe.name}-{key[:12]}"
        self.worker = uuid.uuid4().hex[:12]
        self.workers = _lock_folder(storage, out)
        self.workers.mkdir(parents=True, exist_ok=True)
        # Drawing is one at a time among those who share the locks; so is writing results.
        self.lock = FileLock(self.workers / "turn.lock")
        self._alive = FileLock(self._file(self.worker))
        self._storage_text = storage or f"journal:{out / JOURNAL}"

    def __enter__(self) -> TrialPool:
        import optuna

        self._alive.acquire()
        self._verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with self.lock:
            self.storage = open_storage(self._storage_text)
            with readable(self._storage_text):
                self._open_study()
        return self

    def __exit__(self, *_: object) -> None:
        import optuna

        optuna.logging.set_verbosity(self._verbosity)
        self._alive.release()
        self._file(self.worker).unlink(missing_ok=True)

    def _open_study(self) -> None:
        """Create the study, or load it once the process that created it has filled the queue."""
        from optuna import create_study
        from optuna.exceptions import DuplicatedStudyError

        create = partial(
            create_study,
            storage=self.storage,
            study_name=self.name,
            direction="minimize" if self.minimise else "maximize",
            pruner=_pruner(self.config.pruner, self.steps),
        )
        created = True
        try:
            self.study: Study = create()
        except DuplicatedStudyError:
            created = False
            self.study = create(load_if_exists=True)
        end = time.monotonic() + QUEUE_S
        while not created and not self.study.user_attrs.get(QUEUED) and time.monotonic() < end:
            time.sleep(0.1)
        if created or not self.study.get_trials(deepcopy=False):  # or its creator was killed
            self._enqueue_first()
        if not self.study.user_attrs.get(QUEUED):
            self.study.set_user_attr(QUEUED, True)

    def ask(self, limit: int) -> tuple[Trial, dict[str, Label]] | None:
        """Draw the next trial and its values; None once ``limit`` trials are drawn."""
        while True:
            with self.lock:
                self._requeue_dead()
                if self._counted() >= limit:
                    return None
                trial = self.study.ask()
                # By the number of trials before it, not by how often the program was started.
                before = self._counted(until=trial.number)
                seed = (self.config.study.seed + 1_000_003 * before) % 2**31
                self.study.sampler = _sampler(self.config.sampler, seed)
                labels = {k: _suggest(trial, k, p) for k, p in self.config.space.items()}
                trial.set_user_attr("worker", self.worker)
                if self._counted() <= limit:
                    return trial, labels
                # Only where others do not share the lock: whoever comes too late gives it back.
                self._end(trial.number, "drawn at once with the last one", stopped=True)
            time.sleep(random.uniform(0, 0.5))

    def _counted(self, until: float = math.inf) -> int:
        return sum(row.state != "stopped" and row.trial < until for row in self.rows())

    def complete(self, trial: Trial, value: float) -> None:
        """End a trial with its value."""
        self.study.tell(trial, value)

    def prune(self, trial: Trial) -> None:
        """End a trial that is worse than others at the same step."""
        from optuna.trial import TrialState

        self.study.tell(trial, state=TrialState.PRUNED)

    def fail(self, trial: Trial, reason: str) -> None:
        """End a trial that raised an error."""
        self._end(trial.number, reason, stopped=False)

    def stop(self, trial: Trial, reason: str) -> None:
        """End an interrupted trial and queue its values again."""
        with self.lock:
            self._end(trial.number, reason, stopped=True)

    def rows(self) -> list[TrialRecord]:
        """All trials that were drawn, in order."""
        trials = self.study.get_trials(deepcopy=False)
        return [_row(trial) for trial in trials if trial.state.name != "WAITING"]

    def importances(self) -> dict[str, float]:
        """Share of the variance that each key explains, 0–1 (fANOVA, Hutter et al. 2014).

        Empty if fewer than eight trials are complete, or all have the same value.
        """
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances

        values = [row.value for row in self.rows() if row.state == "complete"]
        if len(values) < FEWEST_FOR_IMPORTANCE or len(set(values)) < 2:
            return {}
        evaluator = FanovaImportanceEvaluator(seed=self.config.study.seed)
        return dict(get_param_importances(self.study, evaluator=evaluator))

    def _enqueue_first(self) -> None:
        """Queue the whole grid in random order, or else the unchanged recipe."""
        own = baselines(self.config.recipe, self.config.space)
        rows = own
        if self.config.sampler == "grid":
            rows = grid(self.config.space, self.config.study.seed)
        for labels in rows:
            self.study.enqueue_trial(labels, user_attrs={"own": labels in own})

    def _requeue_dead(self) -> None:
        """Queue the running trials of killed workers again."""
        dead: set[str] = set()
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state.name != "RUNNING":
                continue
            worker = str(trial.user_attrs.get("worker", ""))
            if worker in dead or self._is_dead(worker):
                dead.add(worker)
                self._end(trial.number, "its process was killed", stopped=True)
        for worker in dead:
            self._file(worker).unlink(missing_ok=True)

    def _is_dead(self, worker: str) -> bool:
        """Whether a worker was killed: its lock file exists and nobody holds it."""
        from filelock import FileLock, Timeout

        if not worker:  # killed while it drew: drawing happens under the lock that we hold
            return self._storage_text.startswith("journal:")
        if not _WORKER.fullmatch(worker):
            return False  # no name of ours: in a received storage it could lead to another folder
        if worker == self.worker or not self._file(worker).is_file():
            return False  # a worker without a file here has another folder, or another machine
        lock = FileLock(self._file(worker))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        lock.release()
        return True

    def _end(self, number: int, reason: str, *, stopped: bool) -> None:
        """End a trial as failed with a reason; a stopped one is queued again."""
        from optuna.trial import TrialState

        study_id = self.storage.get_study_id_from_name(self.name)
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(study_id, number)
        labels = self.storage.get_trial_params(trial_id)
        own = bool(self.storage.get_trial_user_attrs(trial_id).get("own"))
        self.storage.set_trial_user_attr(trial_id, "reason", reason)
        self.storage.set_trial_user_attr(trial_id, "stopped", stopped)
        self.study.tell(number, state=TrialState.FAIL)
        if stopped and labels:
            self.study.enqueue_trial(labels, user_attrs={"own": own})

    def _file(self, worker: str) -> Path:
        return self.workers / f"{worker}.lock"


def _lock_folder(storage: str, out: Path) -> Path:
    """The folder of locks, beside a shared file: SQLite alone gives one trial to two workers."""
    for scheme in ("journal:", "sqlite:///"):
        if storage.startswith(scheme):
            file = Path(storage.removeprefix(scheme)).expanduser()
            return file.with_name(f"{file.name}.workers")
    return out / "cache" / "workers"


def grid(space: Space, seed: int) -> list[dict[str, object]]:
    """Every combination of a space's grid points as labels, in random order.

    Raises:
        UsageError: There are too many.
    """
    points = {key: parameter.grid() for key, parameter in space.items()}
    size = grid_size(space)
    if size > MOST_GRID_POINTS:
        counts = " × ".join(str(len(values)) for values in points.values())
        raise UsageError(
            f"the grid has {counts} = {size} points, expected at most {MOST_GRID_POINTS}",
            hint="name fewer keys with --search, fewer steps (log:1e-5..1e-2/3), or use tpe",
        )
    rows = [dict(zip(points, row, strict=True)) for row in itertools.product(*points.values())]
    random.Random(seed).shuffle(rows)
    return rows


def grid_size(space: Space) -> int:
    """The number of combinations of a space's grid points."""
    return math.prod(len(parameter.grid()) for parameter in space.values())


def decode(space: Space, labels: Mapping[str, object]) -> dict[str, object]:
    """The recipe's values for the labels of a trial."""
    return {
        key: parameter.value_of(label) if isinstance(parameter := space[key], Choice) else label
        for key, label in labels.items()
    }


def _suggest(trial: Trial, key: str, parameter: Range | Choice) -> Label:
    if isinstance(parameter, Choice):
        return cast(Label, trial.suggest_categorical(key, parameter.labels))
    if parameter.kind == "int":
        return trial.suggest_int(key, int(parameter.low), int(parameter.high))
    return trial.suggest_float(key, parameter.low, parameter.high, log=parameter.kind == "log")


def _sampler(kind: str, seed: int) -> BaseSampler:
    from optuna.samplers import RandomSampler, TPESampler

    # Every point of a grid stands in the queue: nothing is left to draw.
    return TPESampler(seed=seed) if kind == "tpe" else RandomSampler(seed=seed)


def _pruner(kind: str, steps: int) -> BasePruner:
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    if kind == "median":
        return MedianPruner(n_startup_trials=4, n_warmup_steps=1 + max(1, steps // 5))
    if kind == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=max(1, steps))
    return NopPruner()


def _row(trial: FrozenTrial) -> TrialRecord:
    state = trial.state.name
    reported = {int(step): float(v) for step, v in sorted(trial.intermediate_values.items())}
    value = trial.value
    if state == "PRUNED":
        value = next(reversed(reported.values()), None)
    stopped = bool(trial.user_attrs.get("stopped"))
    states: dict[str, TrialState] = {
        "COMPLETE": "complete", "PRUNED": "pruned", "RUNNING": "running",
    }  # fmt: skip
    return TrialRecord(
        trial=trial.number,
        state=states.get(state, "stopped" if stopped else "failed"),
        value=value,
        labels=dict(trial.params),
        reason=str(trial.user_attrs.get("reason", "")),
        seconds=trial.duration.total_seconds() if trial.duration else None,
        reported=tuple(reported.items()),
        own=bool(trial.user_attrs.get("own")),
    )


def nothing_completed(rows: list[TrialRecord]) -> TrainingError:
    """The error of a tuning whose trials all failed, with the reasons."""
    reasons = dict.fromkeys(row.reason for row in rows if row.state == "failed")
    return TrainingError(
        f"none of {plural(len(rows), 'trial')} was completed: "
        f"{'; '.join(reasons) or 'none was finished'}",
        hint="try the recipe alone with `leukoscope train`, then go on with --resume",
    )
