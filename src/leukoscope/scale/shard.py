"""One shard, from names to files that wait to be committed, and who does the shards.

The work is the same in every kind of worker: processes of this machine, or actors on a Ray cluster.
"""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from leukoscope.core.errors import BundleError, DataError
from leukoscope.core.views import plural
from leukoscope.runtime.bulk import BOX_NAMES, AnswerFiles, predict_files
from leukoscope.runtime.engines import one_thread_each
from leukoscope.runtime.outputs import ROW, PredictionWriter
from leukoscope.runtime.prediction import Failure, Prediction
from leukoscope.runtime.predictor import load_bundle
from leukoscope.scale.fetching import local_files
from leukoscope.scale.journal import ShardFile, ShardResult, file_of, result_from
from leukoscope.scale.pool import ProcessPool, TellPlace, Work
from leukoscope.scale.ray_cluster import run_actors
from leukoscope.scale.score_plan import Plan, ScoreFolder, read_inputs

_TELL_S = 0.5  # between two signs of life
STALL_S = 600.0
_MOST_POISON = 100  # in one shard: so many say that something else is wrong
_ATTEMPTS = 2  # actors that may die over a shard
_COMMITTED_STAYS = "what is committed stays: run again with --resume"


@dataclass(frozen=True)
class Task:
    """A shard to do.

    Attributes:
        shard: Its number.
        poison: Places in the shard that are quarantined unread, and why.
        careful: One image at a time, each announced, so that the one that ends the process is
            known.
    """

    shard: int
    poison: tuple[tuple[int, str], ...] = ()
    careful: bool = False


class Scorer:
    """A bundle at work on the shards of a run; one for each worker.

    Args:
        folder: Of the run.
        plan: Of the run.
        threads: That this worker may use.

    Raises:
        BundleError: The bundle is not the one that the run began with.
        LeukoscopeError: Whatever keeps the bundle from being opened here.
    """

    def __init__(self, folder: Path, plan: Plan, threads: int) -> None:
        one_thread_each()
        self.folder, self.plan = ScoreFolder(folder), plan
        self.predictor = load_bundle(
            plan.bundle,
            engine=plan.engine,
            precision=plan.precision,
            threads=threads,
            bulk=True,
            whole=plan.whole,
            um_per_px=plan.um_per_px,
            scale_bar_um=plan.scale_bar_um,
        )
        if self.predictor.bundle.sha256 != plan.bundle_sha256:
            raise BundleError(
                f"{plan.bundle}: expected the bundle {plan.bundle_sha256[:12]} that this run "
                f"began with, found {self.predictor.bundle.sha256[:12]}",
                hint="put it back, or score into a new folder",
            )

    def score(self, task: Task, tell: TellPlace = lambda _: None) -> ShardResult:
        """Score one shard; its files wait under other names until they are committed.

        Args:
            task: Which one, and how.
            tell: Called with the place of an image in the shard: before each where the task is
                careful, twice a second otherwise.

        Raises:
            LeukoscopeError: The model, the disk or the list of inputs fails; never for an image.
        """
        started = told = time.perf_counter()
        rows, names = self.plan.rows(task.shard), list(read_inputs(self.folder, task.shard))
        files = self._open_files(task.shard)
        decisions, predicted = Counter[str](), Counter[str]()
        try:
            for place, answer in enumerate(self._answers(names, rows, task, files, tell)):
                if isinstance(answer, Prediction):
                    decisions[answer.decision] += 1
                    predicted[answer.predicted] += 1
                if not task.careful and time.perf_counter() - told >= _TELL_S:
                    told = time.perf_counter()
                    tell(place)
            written = tuple(self._complete(writer) for writer in files.writers)
        except BaseException:
            files.discard()
            raise
        if written[0].rows != len(rows):
            files.discard()
            raise AssertionError(f"{written[0].rows} rows for {len(rows)} images")
        return ShardResult(
            shard=task.shard,
            files=written,
            unreadable=len(rows) - sum(decisions.values()),
            decisions=dict(decisions),
            predicted=dict(predicted),
            seconds=round(time.perf_counter() - started, 3),
        )

    def dead_attempts(self, shard: int) -> int:
        """How many workers of this run began this shard and neither finished nor failed."""
        target = self.folder.shard(shard)
        return sum(1 for _ in target.parent.glob(f".{target.name}.*.partial"))

    def _open_files(self, shard: int) -> AnswerFiles:
        """The files of a shard, which wait under names of their own until they are committed."""
        target = self.folder.shard(shard)
        parts = self.folder.parts / target.name
        return AnswerFiles(self._open(target, (ROW.name,)), lambda: self._open(parts, BOX_NAMES))

    def _open(self, target: Path, further: Sequence[str]) -> PredictionWriter:
        # Another worker may do the same shard where the first one is believed dead.
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.partial")
        return PredictionWriter(target, self.predictor.class_names, further, partial=partial)

    def _complete(self, writer: PredictionWriter) -> ShardFile:
        writer.finish()
        return file_of(self.folder, writer.partial, writer.path, writer.rows)

    def _answers(
        self,
        names: Sequence[str],
        rows: Sequence[int],
        task: Task,
        files: AnswerFiles,
        tell: TellPlace,
    ) -> Iterator[Prediction | Failure]:
        """One answer per name, in their order, each written."""
        poison = dict(task.poison)
        items = [poison_failure(n, poison[i]) if i in poison else n for i, n in enumerate(names)]
        further = [{"image": n, ROW.name: row} for n, row in zip(names, rows, strict=True)]
        if not task.careful:
            yield from self._predict(items, further, files)
            return
        for place, item in enumerate(items):
            tell(place)
            yield from self._predict([item], [further[place]], files)

    def _predict(
        self,
        items: Sequence[str | Failure],
        further: Sequence[Mapping[str, object]],
        files: AnswerFiles,
    ) -> Iterator[Prediction | Failure]:
        """Answers; the copy of a file from elsewhere goes as soon as its answer is there."""
        copies: list[Path | None] = []

        def sources(folder: str) -> Iterator[Path | Failure]:
            for found, copy in local_files(items, Path(folder), urls=self.plan.urls):
                copies.append(copy)
                yield found

        with tempfile.TemporaryDirectory(prefix="leukoscope-") as folder:
            found = sources(folder)
            answers = predict_files(self.predictor, found, files, further=further)
            for place, answer in enumerate(answers):
                yield answer
                if (copy := copies[place]) is not None:
                    copy.unlink(missing_ok=True)


def poison_failure(name: str, why: str) -> Failure:
    """What stands in the place of an image that ends every process which reads it."""
    return Failure(name, "poison", why, "look at this file with another program")


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
                f"{plural(len(task.poison), 'image')} of shard {task.shard} "
                f"ended their process ({why})",
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
