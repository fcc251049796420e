"""The one place that drives Ray: it connects, hands out work, collects it, and says what failed.

Exceptions lose their hints on the way between machines, so a worker sends them as words.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, TypeVar

from leukoscope.core.errors import LeukoscopeError, MissingExtraError, UsageError

_Key = TypeVar("_Key")
_NO_HINT = ""


@dataclass(frozen=True)
class WorkerFailure:
    """What went wrong in a task.

    Attributes:
        message: In words.
        hint: What to do; empty where the worker does not know.
    """

    message: str
    hint: str = _NO_HINT


def require_ray(feature: str) -> None:
    """Refuse to go on without Ray.

    Raises:
        MissingExtraError: It is not installed.
    """
    if find_spec("ray") is None:
        raise MissingExtraError(feature, "scale")


def run_tasks(
    feature: str,
    work: Callable[[_Key], None],
    keys: Sequence[_Key],
    *,
    at_once: int,
    error_of: Callable[[_Key, str, str], LeukoscopeError],
) -> Iterator[_Key]:
    """Do one task for each key; those under way end with the iterator.

    The tasks share the cores and GPUs of the cluster evenly. Ray joins the cluster of
    ``RAY_ADDRESS``, or else starts on this machine.

    Args:
        feature: What needs Ray, for the message where it is missing.
        work: Called in a worker with a key; must be importable there.
        keys: Of the tasks.
        at_once: Most tasks at once.
        error_of: The error of a task, from its key, a message and a hint, which may be empty.

    Yields:
        Each key, as its task is done.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: There is no cluster at the address.
        LeukoscopeError: Of ``error_of``, at the first task that fails.
    """
    with _connected(feature) as ray:
        task = _remote(ray, at_once=at_once, tasks=len(keys))
        queue, running = list(reversed(keys)), dict[object, _Key]()
        try:
            for _ in keys:
                while queue and len(running) < at_once:
                    key = queue.pop()
                    running[task.remote(work, key)] = key
                (ready,), _ = ray.wait(list(running))
                key = running.pop(ready)
                try:
                    failure = ray.get(ready)
                except ray.exceptions.RayTaskError as fault:  # before the work began: no import
                    failure = WorkerFailure(str(fault).strip().splitlines()[-1])
                except ray.exceptions.RayError as fault:
                    failure = WorkerFailure(str(fault).strip().splitlines()[0])
                if failure is not None:
                    raise error_of(key, failure.message, failure.hint)
                yield key
        finally:
            for unfinished in running:
                ray.cancel(unfinished, force=True)


def _remote(ray: ModuleType, *, at_once: int, tasks: int) -> Any:
    """:func:`_attempt` as a task that takes its share of the cluster."""
    largest = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes())
    have = ray.cluster_resources()
    cores = int(have.get("CPU", 1)) // min(at_once, tasks)
    share = ray.remote(
        num_cpus=max(1, min(cores, largest)),
        num_gpus=min(1, have.get("GPU", 0) / at_once),
        max_retries=0,
    )
    return share(_attempt)


def _attempt(work: Callable[[_Key], None], key: _Key) -> WorkerFailure | None:
    """Do one task; what went wrong comes back as words."""
    try:
        work(key)
    except LeukoscopeError as error:
        return WorkerFailure(error.message, error.hint)
    except Exception as error:
        return WorkerFailure(f"{type(error).__name__}: {error}")
    return None


def run_actors(
    feature: str,
    open_worker: Callable[[], Callable[[int], str]],
    numbers: Iterable[int],
    *,
    actors: int,
    threads: int,
    address: str | None,
    error_of: Callable[[str, str], LeukoscopeError],
) -> Iterator[str]:
    """Do numbered work in actors, each of which opens once what it works with.

    An actor that dies is replaced, and its work is done again.

    Args:
        feature: What needs Ray, for the message where it is missing.
        open_worker: Called in each actor, gives what does the work of a number there; must be
            importable.
        numbers: Of the work.
        actors: How many.
        threads: Cores that each takes.
        address: Of a running cluster, or ``auto``; None takes ``RAY_ADDRESS``, and without it
            starts Ray on this machine.
        error_of: The error of a failure, from a message and a hint, which may be empty.

    Yields:
        Each result, as it is done.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: There is no cluster at the address.
        LeukoscopeError: Of ``error_of``: an actor says why it cannot go on, or Ray cannot.
    """
    listed = list(numbers)
    if not listed:
        return
    with _connected(feature, address, actors * threads) as ray:
        from ray.data import ActorPoolStrategy, DataContext

        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its import has set another
        context = DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        source: Any = ray.data.from_items(listed, override_num_blocks=len(listed))
        rows = source.map(
            _Actor,
            fn_constructor_args=(open_worker,),
            compute=ActorPoolStrategy(size=actors),
            num_cpus=threads,
        )
        try:
            for row in rows.iter_rows():
                if row["message"]:
                    raise error_of(row["message"], row["hint"])
                yield row["result"]
        except ray.exceptions.RayError as error:
            detail = str(error).strip().splitlines()[-1]
            raise error_of(f"Ray could not go on: {detail}", _NO_HINT) from None


class _Actor:
    """What was opened in an actor, at work: from the row of a number to the row of its result."""

    def __init__(self, open_worker: Callable[[], Callable[[int], str]]) -> None:
        self.failed: LeukoscopeError | None = None
        try:
            self.work = open_worker()
        except LeukoscopeError as error:  # an actor that cannot be made would be made for ever
            self.failed = error

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Do the work of one number; what went wrong comes back as words."""
        try:
            if self.failed is not None:
                raise self.failed
            return {"message": "", "hint": "", "result": self.work(int(row["item"]))}
        except LeukoscopeError as error:
            return {"message": error.message, "hint": error.hint, "result": ""}
        except OSError as error:
            return {"message": str(error), "hint": "", "result": ""}


@contextmanager
def _connected(feature: str, address: str | None = None, cores: int | None = None) -> Iterator[Any]:
    """The module ``ray``, connected inside.

    Args:
        feature: What needs it, for the message where it is missing.
        address: Of a running cluster, or ``auto``; None takes ``RAY_ADDRESS``, and without it
            starts Ray on this machine.
        cores: Of this machine, where Ray is started; None takes all.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: There is no cluster at the address.
    """
    require_ray(feature)
    ray: ModuleType = import_module("ray")
    if ray.is_initialized():  # by a program that calls this one
        yield ray
        return
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    _start(ray, address or os.environ.get("RAY_ADDRESS"), cores)
    try:
        yield ray
    finally:
        ray.shutdown()


def _start(ray: ModuleType, address: str | None, cores: int | None) -> None:
    quiet = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    with _silent():
        if address is None:
            ray.init("local", num_cpus=cores, include_dashboard=False, **quiet)
            return
        try:
            _knock(address)
            ray.init(address, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"{address}: no Ray cluster answers there ({str(error).splitlines()[0]})",
                hint="start one with `ray start --head`, or leave the address out",
            ) from None


def _knock(address: str) -> None:
    """Whether anything listens there; Ray would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def _silent() -> Iterator[None]:
    """Ray's C++ part writes to the terminal: told not to, it says there that it was told."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
