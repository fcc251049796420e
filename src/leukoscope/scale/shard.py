"""One shard, from names to files that wait to be committed; the same in every kind of worker."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leukoscope.core.errors import BundleError
from leukoscope.runtime.bulk import BOX_NAMES, AnswerFiles, predict_files
from leukoscope.runtime.engines import one_thread_each
from leukoscope.runtime.outputs import ROW, PredictionWriter
from leukoscope.runtime.prediction import Failure, Prediction
from leukoscope.runtime.predictor import load_bundle
from leukoscope.scale.fetching import local_files
from leukoscope.scale.journal import ShardFile, ShardResult, file_of
from leukoscope.scale.pool import TellPlace
from leukoscope.scale.score_plan import Plan, ScoreFolder, read_inputs

_TELL_S = 0.5  # between two signs of life


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
