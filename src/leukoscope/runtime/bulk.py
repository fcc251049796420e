"""From many files to many rows: large images are cut, all are answered, each answer is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from leukoscope.runtime.large_images import Answered
from leukoscope.runtime.outputs import BOX, PredictionWriter
from leukoscope.runtime.prediction import Failure, Prediction
from leukoscope.runtime.predictor import Predictor

BOX_NAMES = tuple(field.name for field in BOX)
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class AnswerFiles:
    """The file of answers, and a second one of the parts of images that were cut, if any were.

    Args:
        answers: Of the answers.
        open_parts: Opens the file of the parts, with the further columns :data:`BOX_NAMES`;
            called at the first image that was cut.
    """

    def __init__(
        self, answers: PredictionWriter, open_parts: Callable[[], PredictionWriter]
    ) -> None:
        self.answers = answers
        self.parts: PredictionWriter | None = None
        self._open_parts = open_parts

    @property
    def writers(self) -> tuple[PredictionWriter, ...]:
        """Of the files that are open."""
        return (self.answers,) if self.parts is None else (self.answers, self.parts)

    def write(
        self, answer: Prediction | Failure, parts: Answered, further: Mapping[str, Any] = _NOTHING
    ) -> None:
        """Add an image and its parts.

        Args:
            answer: Of the image.
            parts: What was said of its parts; empty where it was not cut.
            further: Values of the row in addition to the answer, or in place of it.
        """
        self.answers.write(answer, **further)
        if not parts:
            return
        if self.parts is None:
            self.parts = self._open_parts()
        name = further.get("image", answer.as_dict()["image"])
        for part, said in parts:
            self.parts.write(said, image=name, **dict(zip(BOX_NAMES, part.box, strict=True)))

    def discard(self) -> None:
        """Delete what was written."""
        for writer in self.writers:
            with suppress(Exception):  # whatever broke, the file goes
                writer.finish()
            with suppress(OSError):
                writer.partial.unlink()

    def __enter__(self) -> AnswerFiles:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for writer in self.writers:
            writer.__exit__(kind, error, traceback)


def beside(out: Path, class_names: tuple[str, ...], further: tuple[str, ...] = ()) -> AnswerFiles:
    """A file of answers, and NAME.parts.csv beside it.

    Args:
        out: Ends in ``.csv``, ``.jsonl`` or ``.parquet``.
        class_names: Of the bundle.
        further: Columns of the answers beside those of every output.

    Raises:
        UnknownNameError: Another suffix.
        MissingExtraError: Parquet without pyarrow.
    """

    def open_parts() -> PredictionWriter:
        return PredictionWriter(out.with_name(f"{out.stem}.parts.csv"), class_names, BOX_NAMES)

    return AnswerFiles(PredictionWriter(out, class_names, further), open_parts)


def predict_files(
    predictor: Predictor,
    sources: Iterable[Path | Failure],
    files: AnswerFiles | None = None,
    *,
    further: Iterable[Mapping[str, object]] = repeat(_NOTHING),
    explain: Path | None = None,
) -> Iterator[Prediction | Failure]:
    """Predict files of any size, in their order, in constant memory, and write each answer.

    Args:
        predictor: A bundle at work.
        sources: Files, or failures that pass in their places.
        files: Get a row for each image, and for each part of one that was cut; None writes none.
        further: Of each image, see :meth:`AnswerFiles.write`.
        explain: Folder for heat maps, and for overlays of the images that were cut.

    Yields:
        Each answer, once its rows are written.

    Raises:
        UsageError: Heat maps are asked of a bundle that has none.
    """
    parts: Answered = []

    # The parts are those of the answer that comes next.
    answers = predictor.predict_stream(sources, explain=explain, on_parts=parts.extend)
    for answer, more in zip(answers, further, strict=False):
        if files is not None:
            files.write(answer, parts, more)
        parts.clear()
        yield answer
