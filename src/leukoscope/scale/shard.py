"""One shard, from names to files that wait to be committed; the same in every kind of worker."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from leukoscope.core.errors import BundleError
from leukoscope.runtime.engines import one_thread_each
from leukoscope.runtime.large_images import Answered, predict_any
from leukoscope.runtime.outputs import PredictionWriter
from leukoscope.runtime.prediction import Failure, Prediction
from leukoscope.runtime.predictor import load_bundle
from leukoscope.runtime.tiling import Cutter
from leukoscope.scale.image_names import local_files
from leukoscope.scale.journal import ShardFile, ShardResult, file_of
from leukoscope.scale.score_plan import Plan, ScoreFolder, read_inputs

ROW = "row"  # number of the image in the run, from 0
_BOX = ("x", "y", "width", "height")
_TELL_S = 0.5  # between two signs of life

Tell = Callable[[int], None]


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
        )
        if self.predictor.bundle.sha256 != plan.bundle_sha256:
            raise BundleError(
                f"{plan.bundle}: expected the bundle {plan.bundle_sha256[:12]} that this run "
                f"began with, found {self.predictor.bundle.sha256[:12]}",
                hint="put it back, or score into a new folder",
            )
        field = None if plan.whole else self.predictor.record.field
        self.cutter = Cutter(field, plan.um_per_px, plan.scale_bar_um) if field else None

    def score(self, task: Task, tell: Tell = lambda _: None) -> ShardResult:
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
        files = _Files(self.folder, task.shard, self.predictor.class_names)
        decisions, predicted = Counter[str](), Counter[str]()
        try:
            for place, answer in enumerate(self._answers(names, task, files, tell)):
                files.write(answer, names[place], rows[place])
                if isinstance(answer, Prediction):
                    decisions[answer.decision] += 1
                    predicted[answer.predicted] += 1
                if not task.careful and time.perf_counter() - told >= _TELL_S:
                    told = time.perf_counter()
                    tell(place)
            written = files.complete()
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

    def _answers(
        self, names: Sequence[str], task: Task, files: _Files, tell: Tell
    ) -> Iterator[Prediction | Failure]:
        """One answer per name, in their order."""
        poison = dict(task.poison)
        if not task.careful:
            yield from self._stream(
                [poison_failure(n, poison[i]) if i in poison else n for i, n in enumerate(names)],
                files,
            )
            return
        for place, name in enumerate(names):
            tell(place)
            yield from self._stream(
                [poison_failure(name, poison[place]) if place in poison else name], files
            )

    def _stream(
        self, items: Sequence[str | Failure], files: _Files
    ) -> Iterator[Prediction | Failure]:
        copies: list[Path | None] = []
        names: dict[str, str] = {}

        def sources(folder: str) -> Iterator[Path | Failure]:
            for item, (found, copy) in zip(items, local_files(items, Path(folder)), strict=True):
                if isinstance(found, Path):
                    names[str(found)] = str(item)
                copies.append(copy)
                yield found

        def on_parts(image: str, parts: Answered) -> None:
            files.write_parts(names[image], parts)

        with tempfile.TemporaryDirectory(prefix="leukoscope-") as folder:
            found = sources(folder)
            answers = predict_any(self.predictor, found, self.cutter, on_parts=on_parts)
            for place, answer in enumerate(answers):
                yield answer
                if (copy := copies[place]) is not None:
                    copy.unlink(missing_ok=True)


class _Files:
    """The files of a shard while they are written: answers, and parts of large images if any."""

    def __init__(self, folder: ScoreFolder, shard: int, class_names: Sequence[str]) -> None:
        self.folder, self.class_names = folder, class_names
        self.target = folder.shard(shard)
        self.answers = self._open(self.target, (ROW,))
        self.parts: PredictionWriter | None = None
        self.rows = self.part_rows = 0

    def _open(self, target: Path, further: Sequence[str]) -> PredictionWriter:
        # Another worker may do the same shard where the first one is believed dead.
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.partial")
        return PredictionWriter(target, self.class_names, further, partial=partial)

    def write(self, answer: Prediction | Failure, name: str, row: int) -> None:
        self.answers.write(answer, image=name, **{ROW: row})
        self.rows += 1

    def write_parts(self, name: str, parts: Answered) -> None:
        if self.parts is None:
            self.parts = self._open(self.folder.parts / self.target.name, _BOX)
        for part, answer in parts:
            box = dict(zip(_BOX, part.box, strict=True))
            self.parts.write(answer, image=name, **box)
            self.part_rows += 1

    def complete(self) -> tuple[ShardFile, ...]:
        self.answers.finish()
        found = [file_of(self.folder, self.answers.partial, self.answers.path, self.rows)]
        if self.parts is not None:
            self.parts.finish()
            found.append(file_of(self.folder, self.parts.partial, self.parts.path, self.part_rows))
        return tuple(found)

    def discard(self) -> None:
        for writer in filter(None, (self.answers, self.parts)):
            with suppress(Exception):  # whatever broke, the file goes
                writer.finish()
            with suppress(OSError):
                writer.partial.unlink()


def poison_failure(name: str, why: str) -> Failure:
    """What stands in the place of an image that ends every process which reads it."""
    return Failure(name, "poison", why, "look at this file with another program")
