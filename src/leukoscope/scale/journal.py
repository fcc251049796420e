"""Which shards are done: committed once each, whatever dies when.

A commit has three steps: the files of the shard lie beside their places under other names, flushed
to disk; one line with their checksums is added to the journal and flushed; the files get their
names. A run that died between the last two is finished by the next one from the journal; one that
died before does the shard again. Only the process that holds the lock commits.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

from leukoscope.config.base import validate_record
from leukoscope.core.errors import DataError
from leukoscope.core.files import sha256_file
from leukoscope.scale.score_plan import ScoreFolder

_SHARD_FILE = re.compile(r"(predictions|parts)/part-(\d{6,})\.parquet")
_PARTIAL = re.compile(r"(predictions|parts)/\.part-(\d{6,})\.parquet\.[0-9a-f]+\.partial")


@dataclass(frozen=True)
class ShardFile:
    """One file of a shard.

    Attributes:
        name: Where it belongs, relative to the run's folder.
        partial: Where it lies until it is committed, likewise.
        rows: Number of rows.
        bytes: Size.
        sha256: Checksum of its bytes.
    """

    name: str
    partial: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardResult:
    """What a worker made of a shard.

    Attributes:
        shard: Its number.
        files: The first holds one row per image.
        unreadable: Images without a prediction.
        decisions: Number of images by decision.
        predicted: Number of images by class.
        seconds: What the worker needed.
    """

    shard: int
    files: tuple[ShardFile, ...]
    unreadable: int
    decisions: dict[str, int]
    predicted: dict[str, int]
    seconds: float


class Journal:
    """The committed shards of a run; see the module.

    Args:
        folder: The run's.

    Raises:
        DataError: A line of the journal cannot be read or names a file that is none of the run, or
            the journal or a folder of the run is a link that leads out of it.
    """

    def __init__(self, folder: ScoreFolder) -> None:
        _refuse_links(folder)
        self.folder = folder
        self.done: set[int] = set()
        self.images = self.unreadable = 0
        self.decisions: Counter[str] = Counter()
        self.predicted: Counter[str] = Counter()
        folder.predictions.mkdir(parents=True, exist_ok=True)
        self._cut_torn_line()
        for result in read_journal(folder):
            if self._finish(result):
                self._count(result)
        self._sweep()
        self._file = folder.journal.open("ab")

    def commit(self, result: ShardResult) -> bool:
        """Make a shard's files part of the run; False where that was done already."""
        if result.shard in self.done:
            for file in result.files:
                (self.folder.path / file.partial).unlink(missing_ok=True)
            return False
        self._file.write(json.dumps(asdict(result), separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        if not self._finish(result):
            raise DataError(
                f"{self.folder.path}: the files of shard {result.shard} changed while they were "
                "committed",
                hint="does another program write to this folder? run again with --resume",
            )
        self._count(result)
        return True

    def close(self) -> None:
        """Close the journal's file, and remove what dead workers left."""
        self._file.close()
        self._sweep()

    def _sweep(self) -> None:
        for place in (self.folder.predictions, self.folder.parts):
            for left in place.glob(".*.partial"):
                with suppress(OSError):  # another system's worker may still hold it
                    left.unlink()

    def _finish(self, result: ShardResult) -> bool:
        """Give the files their names; False where they are not there, so that it is done again."""
        for file in result.files:
            target, partial = self.folder.path / file.name, self.folder.path / file.partial
            if target.is_file() and target.stat().st_size == file.bytes:
                continue
            if not partial.is_file() or sha256_file(partial) != file.sha256:
                return False
            target.parent.mkdir(exist_ok=True)
            partial.replace(target)
            _flush_folder(target.parent)
        return True

    def _count(self, result: ShardResult) -> None:
        if result.shard in self.done:
            return
        self.done.add(result.shard)
        self.images += result.files[0].rows
        self.unreadable += result.unreadable
        self.decisions.update(result.decisions)
        self.predicted.update(result.predicted)

    def _cut_torn_line(self) -> None:
        """A kill can leave half of a line, which would spoil the next one."""
        path = self.folder.journal
        if not path.is_file():
            return
        with path.open("r+b") as file:
            data = file.read()
            if data and not data.endswith(b"\n"):
                file.truncate(data.rfind(b"\n") + 1)


def read_journal(folder: ScoreFolder) -> Iterator[ShardResult]:
    """Every line of a journal, in the order of the commits.

    Raises:
        DataError: A line cannot be read.
    """
    if not folder.journal.is_file():
        return
    with folder.journal.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                result = result_from(json.loads(line))
                _check_names(result)
                yield result
            except ValueError as error:
                raise DataError(
                    f"{folder.journal}, line {number}: expected a committed shard, but {error}",
                    hint="delete this line and run again with --resume: its shard is done again",
                ) from None


def result_from(values: dict[str, object]) -> ShardResult:
    """A result from its JSON.

    Raises:
        ValueError: It lacks a field, or one is of another kind.
    """
    return validate_record(_results(), values)


@cache
def _results() -> TypeAdapter[ShardResult]:
    return TypeAdapter(ShardResult)


def _check_names(result: ShardResult) -> None:
    """Accept the names that a worker gives to the files of this shard, and no others.

    Raises:
        ValueError: A line of a received folder could otherwise have any file overwritten.
    """
    if not result.files:
        raise ValueError("it names no file")
    for file in result.files:
        for name, pattern in ((file.name, _SHARD_FILE), (file.partial, _PARTIAL)):
            found = pattern.fullmatch(name)
            if found is None or int(found[2]) != result.shard:
                raise ValueError(f"{name!r} is no file of shard {result.shard}")


def _refuse_links(folder: ScoreFolder) -> None:
    """A link in a received folder must not lead what is written to another place."""
    home = folder.path.resolve()
    for path in (folder.journal, folder.predictions, folder.parts):
        if path.resolve() != home / path.name:
            raise DataError(
                f"{path}: expected a file or folder of the run, found a link to {path.resolve()}",
                hint="link the whole folder of the run instead of a part of it",
            )


def file_of(folder: ScoreFolder, partial: Path, target: Path, rows: int) -> ShardFile:
    """Describe a file that is complete, after it is flushed to disk."""
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    return ShardFile(
        target.relative_to(folder.path).as_posix(),
        partial.relative_to(folder.path).as_posix(),
        rows,
        partial.stat().st_size,
        sha256_file(partial),
    )


def _flush_folder(path: Path) -> None:
    """Make renamed files last through a loss of power, where the system can."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
