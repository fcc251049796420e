"""Who does the shards: worker processes of this machine, or actors on a Ray cluster."""

from __future__ import annotations

import json
import logging
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from leukoscope.core.errors import DataError, LeukoscopeError
from leukoscope.scale.journal import ShardResult, result_from
from leukoscope.scale.processes import connected, follow_parent, how_it_ended
from leukoscope.scale.score_plan import Plan
from leukoscope.scale.shard import Scorer, Task, Tell

STALL_S = 600.0
_DEATHS_AT_START = 3  # one after the other, before their first shard: no image is to blame
_MOST_POISON = 100  # in one shard: so many say that something else is wrong
_CONTEXT = multiprocessing.get_context("spawn")
_ATTEMPTS = 2  # actors that may die over a shard


class Scores(Protocol):
    """What a worker needs: :class:`leukoscope.scale.shard.Scorer`, or a test's own."""

    def score(self, task: Task, tell: Tell) -> ShardResult:
        """Score one shard."""
        ...


Open = Callable[[Path, Plan, int], Scores]


@dataclass
class _Worker:
    """A process and what it is at."""

    process: Any
    pipe: Connection
    ready: bool = False
    task: Task | None = None
    place: int = 0
    alive_at: float = field(default_factory=time.monotonic)


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
    pool = _Pool(folder, plan, threads, open_scorer)
    waiting, source = deque[Task](), iter(tasks)
    try:
        waiting.extend(islice(source, workers))
        for _ in range(len(waiting)):
            pool.start()
        while waiting or any(worker.task for worker in pool.workers):
            for worker in pool.workers:
                if worker.ready and worker.task is None and waiting:
                    pool.give(worker, waiting.popleft())
                    waiting.extend(islice(source, 1))
            results, again = pool.listen(stall_s)
            waiting.extend(again)
            tell(sum(w.place for w in pool.workers if w.task and not w.task.careful))
            yield from results
    finally:
        pool.close()


class _Pool:
    """The processes, and the messages that pass."""

    def __init__(self, folder: Path, plan: Plan, threads: int, open_scorer: Open) -> None:
        self.how = (folder, plan, threads, open_scorer)
        self.workers: list[_Worker] = []
        self.deaths: dict[int, int] = {}  # by shard
        self.suspects: dict[int, int] = {}  # by shard, the place of an image
        self.dead_at_start = 0

    def start(self) -> None:
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=_work, args=(theirs, *self.how), daemon=True)
        process.start()
        theirs.close()
        self.workers.append(_Worker(process, ours))

    def give(self, worker: _Worker, task: Task) -> None:
        worker.task, worker.place, worker.alive_at = task, 0, time.monotonic()
        with suppress(OSError):  # it is dead: its pipe says so when it is next listened to
            worker.pipe.send(task)

    def listen(self, stall_s: float) -> tuple[list[ShardResult], list[Task]]:
        """Wait for messages and deaths: what is done, and what has to be done again."""
        results: list[ShardResult] = []
        again: list[Task] = []
        by_pipe = {worker.pipe: worker for worker in self.workers}
        for pipe in wait(list(by_pipe), timeout=1.0):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                kind, value = worker.pipe.recv()
            except (EOFError, OSError):
                worker.process.join()
                again += self._replace(worker, how_it_ended(worker.process.exitcode))
                continue
            worker.alive_at = time.monotonic()
            if kind == "ready":
                worker.ready = True
                self.dead_at_start = 0
            elif kind == "at":
                worker.place = value
            elif kind == "done":
                worker.task = None
                results.append(value)
            else:
                raise value
        for worker in list(self.workers):
            # Opening a bundle from a slow disk is no stall.
            if worker.task and time.monotonic() - worker.alive_at > stall_s:
                worker.process.kill()
                worker.process.join()
                words = f"the process gave no sign of life for {stall_s:.0f} s"
                again += self._replace(worker, words)
        return results, again

    def _replace(self, worker: _Worker, why: str) -> list[Task]:
        """A new worker for a dead one, and how its shard is done again."""
        self.workers.remove(worker)
        worker.pipe.close()
        if not worker.ready:
            self.dead_at_start += 1
            if self.dead_at_start >= _DEATHS_AT_START:
                raise DataError(
                    f"{self.dead_at_start} worker processes died before they began: {why}",
                    hint="is there enough memory for so many workers? try --workers 1",
                )
        self.start()
        task = worker.task
        if task is None:
            return []
        if not task.careful:
            self.deaths[task.shard] = self.deaths.get(task.shard, 0) + 1
            return [replace(task, careful=self.deaths[task.shard] >= 2)]
        # Once may be anybody's kill; twice at one place is the image.
        if self.suspects.get(task.shard) != worker.place:
            self.suspects[task.shard] = worker.place
            return [task]
        if len(task.poison) >= _MOST_POISON:
            raise DataError(
                f"{len(task.poison)} images of shard {task.shard} ended their process ({why})",
                hint="is there enough memory? run again with --workers 1 --resume",
            )
        words = f"the process that read this image ended: {why}"
        return [replace(task, poison=(*task.poison, (worker.place, words)))]

    def close(self) -> None:
        """End all processes, also those in the middle of a shard."""
        for worker in self.workers:
            worker.pipe.close()
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()


def _work(pipe: Connection, folder: Path, plan: Plan, threads: int, open_scorer: Open) -> None:
    """The life of a worker: it ends with its pipe, or with its parent."""
    follow_parent()
    try:
        scorer = open_scorer(folder, plan, threads)
        pipe.send(("ready", None))
        while True:
            task = pipe.recv()
            result = scorer.score(task, lambda place: pipe.send(("at", place)))
            pipe.send(("done", result))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except LeukoscopeError as error:
        pipe.send(("error", DataError(error.message, hint=error.hint)))
    except OSError as error:
        pipe.send(("error", DataError(f"{folder}: the disk failed: {error}")))
    except Exception as error:
        import traceback

        words = "".join(traceback.format_exception_only(error)).strip()
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}, line {last.lineno}"
        pipe.send(("error", DataError(f"a worker failed in {place}: {words}")))


class ShardActor:
    """A bundle at work in an actor: from the row of a shard to the row of its result."""

    def __init__(self, folder: str, plan: Plan, threads: int) -> None:
        self.failed = ""
        try:
            self.scorer = Scorer(Path(folder), plan, threads)
        except LeukoscopeError as error:  # an actor that cannot be made would be made for ever
            self.failed = str(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Score one shard; what went wrong comes back as words."""
        if self.failed:
            return {"error": self.failed, "result": ""}
        task = Task(int(row["item"]))
        if self.scorer.dead_attempts(task.shard) >= _ATTEMPTS:
            return {"error": "", "result": ""}  # Ray would try for ever
        try:
            result = self.scorer.score(task)
        except (LeukoscopeError, OSError) as error:
            return {"error": str(error), "result": ""}
        return {"error": "", "result": json.dumps(asdict(result))}


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
        address: Of a running cluster, or ``auto``; None takes ``RAY_ADDRESS``, and without it
            starts Ray on this machine for this run.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: There is no cluster at the address.
        DataError: An actor says why it cannot go on.
    """
    numbers = list(shards)
    if not numbers:
        return
    with connected("scoring on Ray", address, workers * threads) as ray:
        from ray.data import ActorPoolStrategy, DataContext

        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its import has set another
        context = DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        source: Any = ray.data.from_items(numbers, override_num_blocks=len(numbers))
        results = source.map(
            ShardActor,
            fn_constructor_args=(str(folder), plan, threads),
            compute=ActorPoolStrategy(size=workers),
            num_cpus=threads,
        )
        try:
            for row in results.iter_rows():
                if row["error"]:
                    message, _, hint = row["error"].partition("\n  → ")
                    raise DataError(message, hint=hint)
                if row["result"]:
                    yield result_from(json.loads(row["result"]))
        except ray.exceptions.RayError as error:
            detail = str(error).strip().splitlines()[-1]
            raise DataError(
                f"Ray could not go on: {detail}",
                hint="what is committed stays: run again with --resume",
            ) from None
