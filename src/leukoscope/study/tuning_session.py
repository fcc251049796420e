"""One process's share of a tuning: draw, fit, record what came of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from leukoscope.config.tuning import TuneConfig, resolve
from leukoscope.core.errors import LeukoscopeError
from leukoscope.core.files import atomic_path
from leukoscope.core.run_folder import RunFolder
from leukoscope.study.events import Progress
from leukoscope.study.store import InputStore
from leukoscope.study.tuning_data import PrunedTrial, Scorer, TuningData
from leukoscope.study.tuning_results import Outcome, probs_file, tuned_name, write_trials
from leukoscope.study.tuning_trials import TrialRow, Trials, decode

FAILURES_AT_START = 3  # so many, and nothing else, mean that the recipe itself does not work
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
Say = Callable[[str], None]


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
        with self.pool.turn:
            rows = self.pool.rows()
            write_trials(Outcome(self.config, self.out, self.data, rows, {}))
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


def _runtime_reason(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY):
        return f"out of memory: {text}" if text else "out of memory"
    return f"{type(error).__name__}: {text}"


def _line(rows: Sequence[TrialRow], number: int, minimise: bool) -> str:
    row = next(row for row in rows if row.number == number)
    took = "" if row.seconds is None else f", {row.seconds:.0f} s"
    if row.state == "failed":
        return f"trial {number}: failed, {row.reason}{took}"
    value = "—" if row.value is None else f"{row.value:.4f}"
    text = f"trial {number}: {value}{' (pruned)' if row.state == 'pruned' else ''}{took}"
    done = [(r.value, r.number) for r in rows if r.state == "complete" and r.value is not None]
    if not done:
        return text
    best, first = min(done, key=lambda pair: (pair[0] if minimise else -pair[0], pair[1]))
    return f"{text}; best {best:.4f} (trial {first})"
