"""Processes of this machine that do tasks; one that dies or hangs is replaced."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, TypeVar

from leukoscope.core.errors import DataError, LeukoscopeError
from leukoscope.core.threads import follow_parent, how_it_ended

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")
TellPlace = Callable[[int], None]
Work = Callable[[_Task, TellPlace], _Result]
_DEATHS_AT_START = 3  # one after the other, before the first task: no task is to blame
_CONTEXT = multiprocessing.get_context("spawn")  # threads of torch do not survive a fork


@dataclass
class _Worker(Generic[_Task]):
    """A process and what it is at."""

    process: SpawnProcess
    pipe: Connection
    environment: Mapping[str, str]
    ready: bool = False
    task: _Task | None = None
    place: int = 0
    alive_at: float = field(default_factory=time.monotonic)


class ProcessPool(ABC, Generic[_Task, _Result]):
    """Does tasks in worker processes.

    Args:
        open_worker: Called once in each process, gives what does one task there; must be
            importable. What it does may tell the place in the task that it has come to.
        environments: Variables of the processes, in turn; none by default.
        stall_s: Seconds without a sign of life in a task after which a process is replaced.
        hint: What to do where no process can begin.
    """

    def __init__(
        self,
        open_worker: Callable[[], Work[_Task, _Result]],
        *,
        environments: Sequence[Mapping[str, str]] = (MappingProxyType({}),),
        stall_s: float = math.inf,
        hint: str,
    ) -> None:
        self._open_worker, self._stall_s, self._hint = open_worker, stall_s, hint
        self._environments = environments
        self.workers: list[_Worker[_Task]] = []
        self._dead_at_start = 0

    @abstractmethod
    def tasks_after_death(self, task: _Task, place: int, why: str) -> list[_Task]:
        """How the task of a dead process is done again.

        Args:
            task: What it was at.
            place: The last that it told.
            why: How it ended, in words.

        Raises:
            LeukoscopeError: It is not done again.
        """

    @abstractmethod
    def error_of(self, task: _Task | None, message: str, hint: str) -> LeukoscopeError:
        """What is raised where a worker says why it cannot go on; None while it begins."""

    def run(
        self, tasks: Iterable[_Task], workers: int, on_wait: Callable[[], None] = lambda: None
    ) -> Iterator[_Result]:
        """Do tasks; all processes end with the iterator, also those in the middle of a task.

        Args:
            tasks: Taken one after the other, as workers ask for them.
            workers: Number of processes; fewer where there are fewer tasks.
            on_wait: Called at least once a second.

        Yields:
            Each result, as it is done.

        Raises:
            LeukoscopeError: A worker says why it cannot go on, or dies before it can begin.
        """
        waiting, source = deque[_Task](), iter(tasks)
        try:
            waiting.extend(islice(source, workers))
            for number in range(len(waiting)):
                self.start(self._environments[number % len(self._environments)])
            while waiting or any(worker.task is not None for worker in self.workers):
                for worker in self.workers:
                    if worker.ready and worker.task is None and waiting:
                        self._give(worker, waiting.popleft())
                        waiting.extend(islice(source, 1))
                results, again = self._listen()
                waiting.extend(again)
                on_wait()
                yield from results
        finally:
            for worker in self.workers:
                worker.pipe.close()
                worker.process.kill()  # its files are whole or not there
            for worker in self.workers:
                worker.process.join()

    def start(self, environment: Mapping[str, str]) -> None:
        """One more process."""
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=_work, args=(theirs, self._open_worker), daemon=True)
        with _environment(environment):
            process.start()
        theirs.close()  # so that the end of the process closes the pipe
        self.workers.append(_Worker(process, ours, environment))

    def _give(self, worker: _Worker[_Task], task: _Task) -> None:
        worker.task, worker.place, worker.alive_at = task, 0, time.monotonic()
        with suppress(OSError):  # it is dead: its pipe says so when it is next listened to
            worker.pipe.send(task)

    def _listen(self) -> tuple[list[_Result], list[_Task]]:
        """Wait for messages and deaths: what is done, and what has to be done again."""
        results: list[_Result] = []
        again: list[_Task] = []
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
                self._dead_at_start = 0
            elif kind == "at":
                worker.place = value
            elif kind == "done":
                worker.task = None
                results.append(value)
            else:
                raise self.error_of(worker.task, *value)
        for worker in list(self.workers):
            # Opening a bundle from a slow disk is no stall.
            if worker.task is not None and time.monotonic() - worker.alive_at > self._stall_s:
                worker.process.kill()
                worker.process.join()
                words = f"the process gave no sign of life for {self._stall_s:.0f} s"
                again += self._replace(worker, words)
        return results, again

    def _replace(self, worker: _Worker[_Task], why: str) -> list[_Task]:
        """Start a process in place of a dead one; gives what has to be done again."""
        self.workers.remove(worker)
        worker.pipe.close()
        if not worker.ready:
            self._dead_at_start += 1
            if self._dead_at_start >= _DEATHS_AT_START:
                raise DataError(
                    f"{self._dead_at_start} worker processes died before they began: {why}",
                    hint=self._hint,
                )
        again = (
            [] if worker.task is None else self.tasks_after_death(worker.task, worker.place, why)
        )
        self.start(worker.environment)
        return again


def _work(pipe: Connection, open_worker: Callable[[], Work[object, object]]) -> None:
    """The life of a worker: it ends with its pipe, or with its parent."""
    follow_parent()
    try:
        work = open_worker()
        pipe.send(("ready", None))
        while True:
            task = pipe.recv()
            pipe.send(("done", work(task, lambda place: pipe.send(("at", place)))))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except LeukoscopeError as error:
        pipe.send(("error", (error.message, error.hint)))
    except Exception as error:
        words = "".join(traceback.format_exception_only(error)).strip()
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}, line {last.lineno}"
        pipe.send(("error", (f"a worker failed in {place}: {words}", "")))


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """A process that starts inside has these variables before any library reads them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
