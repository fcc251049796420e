"""The fits of a study in several processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from leukoscope.core.errors import TrainingError, UnknownNameError, UsageError
from leukoscope.runtime.engines import available_cores
from leukoscope.scale.pool import ProcessPool, Work
from leukoscope.scale.ray_cluster import require_ray, run_tasks

if TYPE_CHECKING:
    from leukoscope.pipeline.progress import Tell
    from leukoscope.pipeline.remote_fits import Executor, FitKey

EXECUTORS = ("local", "ray")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
VISIBLE = "CUDA_VISIBLE_DEVICES"
_KEPT = "what was finished is kept: go on with --resume"
_MEMORY = f"{_KEPT}, with fewer --jobs where memory ran out"


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
