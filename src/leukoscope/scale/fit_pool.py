"""The fits of a study in several processes of this machine, or on a Ray cluster.

A single training in several processes is led by the first, which runs the pipeline as ever. The
others audit, split and write nothing: they wait to be told of each gradient training and do their
share of it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from leukoscope.core.errors import MissingExtraError, TrainingError, UnknownNameError, UsageError
from leukoscope.core.threads import how_it_ended
from leukoscope.runtime.engines import available_cores
from leukoscope.scale.pool import ProcessPool, Work
from leukoscope.scale.ray_cluster import require_ray, run_tasks

if TYPE_CHECKING:
    from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from torch.distributed import ProcessGroup

    from leukoscope.pipeline.jobs import Announce, SharedTraining
    from leukoscope.pipeline.progress import Tell
    from leukoscope.pipeline.remote_fits import Executor, FitKey


EXECUTORS = ("local", "ray")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
VISIBLE = "CUDA_VISIBLE_DEVICES"
_KEPT = "what was finished is kept: go on with --resume"
_MEMORY = f"{_KEPT}, with fewer --jobs where memory ran out"
ANSWER = timedelta(minutes=15)  # longer than any process of one training waits for another
IDLE = timedelta(days=14)  # while the first one audits, measures, reports


def executor_of(name: str, jobs: int) -> Executor | None:
    """What does the fits of a study, or None where the study's own process does them.

    Args:
        name: ``local`` or ``ray``.
        jobs: Fits at once.

    Raises:
        UnknownNameError: Another name.
        MissingExtraError: Ray is not installed.
    """
    if name not in EXECUTORS:
        raise UnknownNameError("executor", name, EXECUTORS)
    if jobs < 1:
        raise UsageError(f"--jobs expects a number from 1, got {jobs}")
    if name == "ray":
        require_ray("--executor ray")
        return lambda run, keys, tell: run_on_ray(run, keys, tell, jobs)
    if jobs == 1:
        return None
    return lambda run, keys, tell: run_here(run, keys, tell, jobs)


def run_here(
    run: Path,
    keys: Sequence[FitKey],
    tell: Tell,
    jobs: int,
    open_fits: Callable[[str], Callable[[FitKey], None]] | None = None,
) -> None:
    """Do fits in ``jobs`` new processes of this machine, which share its cores.

    A fit whose process died is done once more.

    Args:
        run: Folder of the study.
        keys: Which fits.
        tell: Told of fits done and in all.
        jobs: Fits at once.
        open_fits: Called in each process with the run's folder, gives what does one fit; another
            only in tests.

    Raises:
        TrainingError: A fit failed or its process died twice; the others are ended, and what was
            finished is kept.
    """
    jobs = min(jobs, len(keys))
    pool = _FitPool(partial(_open, open_fits or _fits_of, str(run)), shares(jobs))
    for done, _ in enumerate(pool.run(keys, jobs), start=1):
        tell(done, len(keys))


class _FitPool(ProcessPool["FitKey", None]):
    """Does a fit once more where its process died: that may be anybody's kill."""

    def __init__(
        self,
        open_worker: Callable[[], Work[FitKey, None]],
        environments: Sequence[Mapping[str, str]],
    ) -> None:
        super().__init__(open_worker, environments=environments, hint=_MEMORY)
        self._deaths: set[FitKey] = set()

    def tasks_after_death(self, task: FitKey, place: int, why: str) -> list[FitKey]:
        """The same fit, once."""
        if task in self._deaths:
            raise TrainingError(
                f"the process of {task} ended twice before its fit did ({why})", hint=_MEMORY
            )
        self._deaths.add(task)
        return [task]

    def error_of(self, task: FitKey | None, message: str, hint: str) -> TrainingError:
        """The words of the worker, with the name of its fit."""
        return (
            _error_of(task, message, hint) if task else TrainingError(message, hint=hint or _KEPT)
        )


def _open(
    open_fits: Callable[[str], Callable[[FitKey], None]], run: str
) -> Callable[[FitKey, Callable[[int], None]], None]:
    """What does fits in this process."""
    fit = open_fits(run)
    return lambda key, _: fit(key)


def _fits_of(run: str) -> Callable[[FitKey], None]:
    from leukoscope.pipeline.remote_fits import fit_one

    return partial(fit_one, run)


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


def run_on_ray(run: Path, keys: Sequence[FitKey], tell: Tell, jobs: int) -> None:
    """Do fits as tasks of Ray, ``jobs`` at once; all its machines must see the run and the data.

    Ray joins the cluster of ``RAY_ADDRESS``, or else starts on this machine.

    Raises:
        TrainingError: As :func:`run_here`.
    """
    from leukoscope.pipeline.remote_fits import fit_one

    fitted = run_tasks(
        "--executor ray", partial(fit_one, str(run)), keys, at_once=jobs, error_of=_error_of
    )
    for done, _ in enumerate(fitted, start=1):
        tell(done, len(keys))


def _error_of(key: FitKey, message: str, hint: str) -> TrainingError:
    """The words of a worker, with the name of its fit."""
    return TrainingError(f"{key}: {message}", hint=hint or _KEPT)


@dataclass(frozen=True)
class WorkerGroup:
    """The processes that train together, as the leading one sees them; a context.

    Attributes:
        announce: Tells the others of a gradient training; None where there are none.
        ended: The exit code, where this process has nothing to lead: it took part, or it started
            the others.
    """

    announce: Announce | None = None
    ended: int | None = None

    def __enter__(self) -> WorkerGroup:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an error the others may be in a training; the end of this process ends that.
        if self.announce is not None and error is None:
            from torch import distributed

            self.announce(None)
            distributed.destroy_process_group()


def join_workers(devices: int, nodes: int, jobs: int = 1) -> WorkerGroup:
    """Find out what this process is, and start the others where nobody has.

    Under torchrun the processes are those that it started; under SLURM ``devices`` and ``nodes``
    must be said as well, since a batch script alone does not start several. Otherwise this process
    starts ``devices`` through torchrun's own launcher and waits for them.

    Args:
        devices: Processes on each machine.
        nodes: Machines.
        jobs: Fits at once, which must be one where several processes share each.

    Raises:
        MissingExtraError: torch is not installed.
        UsageError: The numbers do not fit each other or those of the launcher.
        TrainingError: A process that was started here was killed.
    """
    launched = any(name in os.environ for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS"))
    if devices * nodes == 1 and not launched:
        return WorkerGroup()  # torch need not be imported to know that
    if find_spec("torch") is None:
        raise MissingExtraError("training", "train")
    from leukoscope.learning.distributed import cluster_environment

    environment, asked = cluster_environment(), devices * nodes
    world = environment.world_size() if environment else 1
    rank = environment.global_rank() if environment else 0
    slurm = "SLURM" in type(environment).__name__
    if asked == 1 and (world == 1 or (slurm and rank == 0)):
        return WorkerGroup()
    if (slurm and world > 1) or asked > 1 < world:
        _fits(asked, world)
    if jobs > 1:
        raise UsageError(
            f"--jobs {jobs} and {max(asked, world)} processes for each training exclude each other"
        )
    if environment is not None and world > 1:
        return _connect(environment)
    if nodes > 1:
        raise UsageError(
            f"--nodes {nodes} needs a launcher that starts a process on every machine",
            hint=f"on each: torchrun --nnodes {nodes} --nproc-per-node {devices} --rdzv-backend "
            "c10d --rdzv-endpoint HOST:29500 -m leukoscope train …; or srun under SLURM",
        )
    _check_devices(devices)
    return WorkerGroup(ended=_start(devices))


def _fits(asked: int, world: int) -> None:
    if asked != world:
        raise UsageError(
            f"the launcher started {world} processes, but --devices × --nodes is {asked}",
            hint="say the same numbers to both",
        )


def _check_devices(devices: int) -> None:
    import torch

    found = torch.cuda.device_count()
    if found and devices > found:
        raise UsageError(f"--devices {devices}: this machine has {found}")


def _connect(environment: ClusterEnvironment) -> WorkerGroup:
    """Meet the other processes; whoever is not the first takes part until it is dismissed."""
    import torch
    from torch import distributed

    rank, world = environment.global_rank(), environment.world_size()
    os.environ["MASTER_ADDR"] = environment.main_address
    os.environ["MASTER_PORT"] = str(environment.main_port)
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(environment.local_rank())
    distributed.init_process_group(backend, rank=rank, world_size=world, timeout=ANSWER)
    told = distributed.new_group(backend="gloo", timeout=IDLE)
    assert isinstance(told, distributed.ProcessGroup)
    if rank:
        return WorkerGroup(ended=_train_shares(told))

    from leukoscope.learning.distributed import broadcast

    # What torchrun told the libraries is the share of one of several; while only the first
    # process works, between the trainings, inference may use all cores.
    os.environ.pop("OMP_NUM_THREADS", None)

    def announce(order: SharedTraining | None) -> None:
        broadcast(order, told)

    return WorkerGroup(announce)


def _train_shares(told: ProcessGroup) -> int:
    """Do this process's share of every training until the first one dismisses it."""
    from torch import distributed

    from leukoscope.learning.distributed import broadcast
    from leukoscope.pipeline.remote_fits import train_share

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends, and dismisses this one
    try:
        while True:
            order: SharedTraining | None = None
            try:
                order = broadcast(order, told)
            except RuntimeError:  # the first process is gone, and has said why
                return 1
            if order is None:
                return 0
            with suppress(TrainingError):  # the first process meets the same, and tells
                train_share(order)
    finally:
        distributed.destroy_process_group()


def _start(devices: int) -> int:
    """Run this very command in ``devices`` processes; returns the exit code of the first."""
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    launcher: Any = torchrun
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // devices)))
    logging.disable()  # what the launcher logs is said below, in the words of this program
    command = ["--standalone", f"--nproc-per-node={devices}", "-m", "leukoscope", *sys.argv[1:]]
    try:
        launcher.run(launcher.parse_args(command))
    except SignalException as stopped:
        return 128 + int(stopped.sigval)  # the first process has said so
    except ChildFailedError as error:
        own = (-signal.SIGTERM, -signal.SIGINT)  # how the launcher ends the rest
        for rank, failure in error.failures.items():
            if failure.exitcode < 0 and failure.exitcode not in own:
                _killed(rank, devices, failure.exitcode)
        _, first = error.get_first_failure()
        return int(first.exitcode) if first.exitcode > 0 else 1  # it has said why
    return 0


def _killed(rank: int, devices: int, code: int) -> NoReturn:
    raise TrainingError(
        f"process {rank + 1} of {devices} was killed ({how_it_ended(code)}); the others were ended",
        hint="go on from the last epoch with --resume",
    )
