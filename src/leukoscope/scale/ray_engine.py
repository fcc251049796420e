"""Shards on a Ray cluster: Ray Data hands them to actors that hold the bundle.

Each row of the data set is a shard's number; an actor reads that shard's part of the list, scores
it and gives back what it wrote. Images never pass through Ray's object store. The run's folder, the
bundle and the images must be reachable under the same names on every node.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leukoscope.core.errors import DataError, LeukoscopeError
from leukoscope.scale.journal import ShardResult, result_from
from leukoscope.scale.processes import connected
from leukoscope.scale.score_plan import Plan
from leukoscope.scale.shard import Scorer, Task

_ATTEMPTS = 2  # actors that may die over a shard


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
