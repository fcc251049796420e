"""The fits of a study in several processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from leukoscope.core.errors import (
    LeukoscopeError,
    MissingExtraError,
    TrainingError,
    UnknownNameError,
    UsageError,
)
from leukoscope.runtime.engines import available_cores
from leukoscope.scale.processes import connected, follow_parent, how_it_ended

if TYPE_CHECKING:
    from leukoscope.pipeline.progress import Tell
    from leukoscope.pipeline.remote_fits import Executor, FitKey

EXECUTORS = ("local", "ray")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
VISIBLE = "CUDA_VISIBLE_DEVICES"
GRACE_S = 5.0


def executor_of(name: str, jobs: int) -> Executor | None:
    """What does the fits of a study, or None where the study's own process does them.

    Args:
        name: ``local`` or ``ray``.
        jobs: Fits at once.

    Raises:
        UnknownNameError: Another name.
        MissingExtraError: Ray is not installed.
    """
    from importlib.util import find_spec

    if name not in EXECUTORS:
        raise UnknownNameError("executor", name, EXECUTORS)
    if jobs < 1:
        raise UsageError(f"--jobs expects a number from 1, got {jobs}")
    if name == "ray":
        if find_spec("ray") is None:
            raise MissingExtraError("--executor ray", "scale")
        return lambda run, keys, tell: run_on_ray(run, keys, tell, jobs)
    if jobs == 1:
        return None
    return lambda run, keys, tell: run_here(run, keys, tell, jobs)


def run_here(run: Path, keys: Sequence[FitKey], tell: Tell, jobs: int) -> None:
    """Do fits in ``jobs`` new processes of this machine, which share its cores.

    Raises:
        TrainingError: A fit failed or its process died; the others are ended, and what was
            finished is kept.
    """
    queue, done, jobs = list(reversed(keys)), 0, min(jobs, len(keys))
    processes: dict[Connection, BaseProcess] = {}
    running: dict[Any, FitKey] = {}
    try:
        for number, share in enumerate(shares(jobs)):
            with _environment(share):
                connection, process = _start(number)
            processes[connection] = process
            running[connection] = _send(connection, run, queue.pop())
        while running:
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                key = running.pop(ready)
                _check(ready, processes[ready], key)
                done += 1
                tell(done, len(keys))
                if queue:
                    running[ready] = _send(ready, run, queue.pop())
    finally:
        for process in processes.values():
            process.kill()  # their files are whole or not there; Lightning is slow to be asked
        for process in processes.values():
            process.join()


def _check(connection: Connection, process: BaseProcess, key: FitKey) -> None:
    """Read how a fit ended; anything but well is an error."""
    try:
        error = connection.recv()
    except (EOFError, ConnectionResetError):
        process.join(GRACE_S)
        _died(key, process.exitcode)
    if error is not None:
        _failed(key, *error)


def shares(jobs: int) -> list[dict[str, str]]:
    """The environment of each process: its share of the cores and, of several GPUs, one in turn."""
    import torch

    own = dict.fromkeys(THREADS, str(max(1, available_cores() // jobs)))
    gpus = [str(number) for number in range(torch.cuda.device_count())]
    visible = os.environ.get(VISIBLE, "").split(",")
    gpus = visible if len(visible) == len(gpus) else gpus
    if len(gpus) < 2:
        return [own] * jobs
    return [own | {VISIBLE: gpus[number % len(gpus)]} for number in range(jobs)]


def _start(number: int) -> tuple[Connection, BaseProcess]:
    context = get_context("spawn")  # threads of torch do not survive a fork
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there,), daemon=True, name=f"fits-{number}")
    process.start()
    there.close()  # so that the end of the process closes the pipe
    return here, process


def _send(connection: Connection, run: Path, key: FitKey) -> FitKey:
    with suppress(OSError):  # it has died already, which reading will tell
        connection.send((str(run), key))
    return key


def _work(connection: Connection) -> None:
    """A worker: do fits until the pipe is closed; Ctrl-C is for the process of the study."""
    follow_parent()
    while True:
        try:
            run, key = connection.recv()
        except EOFError:
            return
        connection.send(_try(run, key))


def _try(run: str, key: FitKey) -> tuple[str, str] | None:
    """Message and hint of what went wrong, or None."""
    from leukoscope.pipeline.remote_fits import fit_one

    try:
        fit_one(run, key)
    except LeukoscopeError as error:
        return error.message, error.hint
    except Exception as error:
        return f"{type(error).__name__}: {error}", ""
    return None


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
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


def _failed(key: FitKey, message: str, hint: str) -> NoReturn:
    raise TrainingError(
        f"{key}: {message}",
        hint=hint or "what was finished is kept: go on with --resume",
    )


def _died(key: FitKey, code: int | None) -> NoReturn:
    raise TrainingError(
        f"the process of {key} ended before its fit did ({how_it_ended(code)})",
        hint="what was finished is kept: go on with --resume, with fewer --jobs where memory ran "
        "out",
    )


def run_on_ray(run: Path, keys: Sequence[FitKey], tell: Tell, jobs: int) -> None:
    """Do fits as tasks of Ray, ``jobs`` at once; all its machines must see the run and the data.

    Ray joins the cluster of ``RAY_ADDRESS``, or else starts on this machine.

    Raises:
        TrainingError: As :func:`run_here`.
    """
    with connected("--executor ray") as ray:
        _fit_on(ray, run, keys, tell, jobs)


def _fit_on(ray: Any, run: Path, keys: Sequence[FitKey], tell: Tell, jobs: int) -> None:
    running: dict[Any, FitKey] = {}
    try:
        largest = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes())
        cores = int(ray.cluster_resources().get("CPU", 1)) // min(jobs, len(keys))
        gpus = ray.cluster_resources().get("GPU", 0)
        task = ray.remote(
            num_cpus=max(1, min(cores, largest)),
            num_gpus=min(1, gpus / jobs),
            max_retries=0,
        )(_try)
        queue = list(reversed(keys))
        for done in range(len(keys)):
            while queue and len(running) < jobs:
                key = queue.pop()
                running[task.remote(str(run), key)] = key
            (ready,), _ = ray.wait(list(running))
            key = running.pop(ready)
            try:
                error = ray.get(ready)
            except ray.exceptions.RayError as fault:
                _failed(key, str(fault).strip().splitlines()[0], "")
            if error is not None:
                _failed(key, *error)
            tell(done + 1, len(keys))
    finally:
        for task in running:
            ray.cancel(task, force=True)
