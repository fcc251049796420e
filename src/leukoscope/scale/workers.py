"""Who does the shards: worker processes of this machine, or actors on a Ray cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from leukoscope.core.errors import DataError
from leukoscope.scale.journal import ShardResult, result_from
from leukoscope.scale.pool import ProcessPool, TellPlace, Work
from leukoscope.scale.ray_cluster import run_actors
from leukoscope.scale.score_plan import Plan
from leukoscope.scale.shard import Scorer, Task

STALL_S = 600.0
_MOST_POISON = 100  # in one shard: so many say that something else is wrong
_ATTEMPTS = 2  # actors that may die over a shard
_COMMITTED_STAYS = "what is committed stays: run again with --resume"


class ShardScorer(Protocol):
    """What a worker needs: :class:`leukoscope.scale.shard.Scorer`, or a test's own."""

    def score(self, task: Task, tell: TellPlace) -> ShardResult:
        """Score one shard."""
        ...


Open = Callable[[Path, Plan, int], ShardScorer]


def score_in_processes(
    folder: Path,
    plan: Plan,
    tasks: Iterable[Task],
    *,
    workers: int,
    threads: int,
    stall_s: float = STALL_S,
    tell: Callable[[int], None] = lambda _: None,
    open_scorer: Open = Scorer,
) -> Iterator[ShardResult]:
    """Score shards in processes of this machine.

    Args:
        folder: Of the run.
        plan: Of the run.
        tasks: Taken one after the other, as workers ask for them.
        workers: Number of processes.
        threads: Of each.
        stall_s: Seconds without a sign of life after which a worker is replaced.
        tell: Called with the number of images that are done in shards under way.
        open_scorer: Called in each process; must be importable.

    Yields:
        Each shard's result, as it is done.

    Raises:
        LeukoscopeError: A worker says why it cannot go on, or dies before it can begin.
    """
    pool = _ScoringPool(partial(_open, open_scorer, folder, plan, threads), stall_s)

    def tell_places() -> None:
        tell(sum(w.place for w in pool.workers if w.task and not w.task.careful))

    yield from pool.run(tasks, workers, tell_places)


class _ScoringPool(ProcessPool[Task, ShardResult]):
    """Finds the image that ends every process that reads it, and scores the shard without it."""

    def __init__(self, open_worker: Callable[[], Work[Task, ShardResult]], stall_s: float) -> None:
        hint = "is there enough memory for so many workers? try --workers 1"
        super().__init__(open_worker, stall_s=stall_s, hint=hint)
        self._deaths: dict[int, int] = {}  # by shard
        self._suspects: dict[int, int] = {}  # by shard, the place of an image

    def tasks_after_death(self, task: Task, place: int, why: str) -> list[Task]:
        """The same shard, one image at a time after the second death, without a deadly image."""
        if not task.careful:
            self._deaths[task.shard] = self._deaths.get(task.shard, 0) + 1
            return [replace(task, careful=self._deaths[task.shard] >= 2)]
        # Once may be anybody's kill; twice at one place is the image.
        if self._suspects.get(task.shard) != place:
            self._suspects[task.shard] = place
            return [task]
        if len(task.poison) >= _MOST_POISON:
            raise DataError(
                f"{len(task.poison)} images of shard {task.shard} ended their process ({why})",
                hint="is there enough memory? run again with --workers 1 --resume",
            )
        words = f"the process that read this image ended: {why}"
        return [replace(task, poison=(*task.poison, (place, words)))]

    def error_of(self, task: Task | None, message: str, hint: str) -> DataError:
        """The words of the worker."""
        return DataError(message, hint=hint)


def _open(
    open_scorer: Open, folder: Path, plan: Plan, threads: int
) -> Callable[[Task, TellPlace], ShardResult]:
    """What scores shards in this process."""
    try:
        scorer = open_scorer(folder, plan, threads)
    except OSError as error:
        raise _disk_failed(folder, error) from None

    def score(task: Task, tell: TellPlace) -> ShardResult:
        try:
            return scorer.score(task, tell)
        except ConnectionError:
            raise  # the run has ended
        except OSError as error:
            raise _disk_failed(folder, error) from None

    return score


def _disk_failed(folder: Path, error: OSError) -> DataError:
    return DataError(f"{folder}: the disk failed: {error}")


def score_on_ray(
    folder: Path,
    plan: Plan,
    shards: Iterable[int],
    *,
    workers: int,
    threads: int,
    address: str | None = None,
) -> Iterator[ShardResult]:
    """Score shards in actors of a Ray cluster.

    A shard whose actor died is tried once more; one over which two have died is left out of what
    is given, and the caller does it again in a process that it can watch.

    Args:
        folder: Of the run.
        plan: Of the run.
        shards: Their numbers.
        workers: Number of actors.
        threads: Cores that each takes.
        address: See :func:`leukoscope.scale.ray_cluster.run_actors`.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: There is no cluster at the address.
        DataError: An actor says why it cannot go on.
    """
    lines = run_actors(
        "scoring on Ray",
        partial(_open_in_actor, folder, plan, threads),
        shards,
        actors=workers,
        threads=threads,
        address=address,
        error_of=lambda message, hint: DataError(message, hint=hint or _COMMITTED_STAYS),
    )
    for line in lines:
        if line:
            yield result_from(json.loads(line))


def _open_in_actor(folder: Path, plan: Plan, threads: int) -> Callable[[int], str]:
    """What scores shards in an actor: from a number to a line of the journal, or to none."""
    scorer = Scorer(folder, plan, threads)

    def score(shard: int) -> str:
        if scorer.dead_attempts(shard) >= _ATTEMPTS:
            return ""  # Ray would try for ever
        return json.dumps(asdict(scorer.score(Task(shard))))

    return score
