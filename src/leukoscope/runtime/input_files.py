"""From what a user names — files, folders, patterns, a list — to single files.

No list of all files is kept: a folder of a million images is walked, not held.
"""

from __future__ import annotations

import glob
import os
import random
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from leukoscope.core.files import LeftOut, is_folder, is_table_or_text
from leukoscope.runtime.bundle import RECORD
from leukoscope.runtime.prediction import Failure

# What stands beside phantom images and is not meant as input.
_TRUTH = Path("truth", "truth.json")  # ground truth of `leukoscope phantom`
_BESIDE_TRUTH = ("truth", "manifest.csv", "README.md")
_LITTER = ("Thumbs.db", "desktop.ini")
SAMPLES = 32  # of the files are looked at to choose a bundle
_UNFINISHED = ".partial"  # what `predict` itself is writing, perhaps into the very folder


class Inputs:
    """The inputs that a user named; each iteration gives the same files.

    ``items`` is as in :func:`expand_inputs`. What ``-`` reads from ``stdin`` is copied to a
    temporary file. ``left_out`` tells what the last iteration passed over.
    """

    def __init__(self, items: Sequence[str], stdin: TextIO | None = None) -> None:
        self.items = tuple(items)
        self.left_out = LeftOut()
        self._stdin: TextIO | None = None
        if "-" in self.items:
            self._stdin = tempfile.TemporaryFile("w+", errors="surrogateescape")  # noqa: SIM115
            weakref.finalize(self, self._stdin.close)
            shutil.copyfileobj(stdin if stdin is not None else sys.stdin, self._stdin)

    def __iter__(self) -> Iterator[Path | Failure]:
        if self._stdin is not None:
            self._stdin.seek(0)
        self.left_out = LeftOut()
        return expand_inputs(self.items, self._stdin, self.left_out)

    def survey(self, most: int) -> tuple[int, list[Path]]:
        """The number of inputs, and at most ``most`` files drawn evenly from them, in input order.

        The draw is the same each time (reservoir sampling, algorithm R of Vitter 1985).
        """
        rng = random.Random(0)
        chosen: list[tuple[int, Path]] = []
        total = files = 0
        for item in self:
            total += 1
            if not isinstance(item, Path):
                continue
            files += 1
            if len(chosen) < most:
                chosen.append((files, item))
            elif (place := rng.randrange(files)) < most:
                chosen[place] = (files, item)
        return total, [path for _, path in sorted(chosen)]


def expand_inputs(
    items: Sequence[str], stdin: TextIO | None = None, left_out: LeftOut | None = None
) -> Iterator[Path | Failure]:
    """All files behind the items, each once.

    A folder stands for everything below it, sorted, files before folders, but for hidden files,
    unfinished output (``.partial``), the ground truth that lies beside phantom images, and tables
    and texts, by their names. Any other file in it is kept: where it is no image, reading it
    fails, and so the user learns of it; so is a table that is named itself. Symbolic links are
    followed; a folder that leads back into itself is entered once.

    Args:
        items: Paths, patterns such as ``slides/**/*.png``, or ``-`` for a list of paths, one a
            line, on standard input.
        stdin: Where ``-`` reads; standard input by default.
        left_out: Told the tables and texts.

    Yields:
        A path, or a :class:`Failure` for an item behind which there is nothing.
    """
    # A file can come twice only where several things are named; hashes take little room.
    seen: set[int] | None = None if len(items) == 1 and Path(items[0]).is_dir() else set()
    folders: set[str] = set()
    passed = left_out or LeftOut()
    for item in _items(items, stdin if stdin is not None else sys.stdin):
        found: Iterable[Path | Failure]
        found = (
            _walk(item, folders, passed) if isinstance(item, Path) and item.is_dir() else (item,)
        )
        for path in found:
            if seen is not None:
                key = hash(os.path.normpath(path.absolute()) if isinstance(path, Path) else path)
                if key in seen:
                    continue
                seen.add(key)
            yield path


def _items(items: Sequence[str], stdin: TextIO) -> Iterator[Path | Failure]:
    for item in items:
        if item == "-":
            for line in stdin:
                if name := line.rstrip("\r\n"):
                    yield _existing(name)
        elif glob.has_magic(item) and not os.path.lexists(item):
            matches = sorted(glob.glob(item, recursive=True))  # noqa: PTH207 (absolute patterns)
            yield from map(Path, matches)
            if not matches:
                yield Failure(
                    item, "missing", "no file fits this pattern", "quote the pattern in a shell"
                )
        else:
            yield _existing(item)


def _existing(name: str) -> Path | Failure:
    if "\0" in name or not os.path.lexists(name):
        return Failure(name, "missing", "no such file or folder", "check the spelling")
    return Path(name)


def _walk(top: Path, entered: set[str], left_out: LeftOut) -> Iterator[Path | Failure]:
    """Yield the files below a folder, depth first, without recursion: folders may nest deeply."""
    stack = [top]
    while stack:
        folder = stack.pop()
        real = os.path.realpath(folder)
        if real in entered:
            continue
        entered.add(real)
        try:
            with os.scandir(folder) as entries:
                names = sorted((entry.name, is_folder(entry)) for entry in entries)
        except OSError as error:
            detail = f"expected a readable folder, but {error.strerror or error}"
            yield Failure(str(folder), "unreadable", detail)
            continue
        if (RECORD, False) in names:
            detail = "a bundle, which holds a model and no images to classify"
            yield Failure(str(folder), "unreadable", detail, "name it with --bundle")
            continue
        skipped = (*_LITTER, *(_BESIDE_TRUTH if (folder / _TRUTH).is_file() else ()))
        inner = []
        for name, below in names:
            if name.startswith(".") or name.endswith(_UNFINISHED) or name in skipped:
                continue
            if below:
                inner.append(folder / name)
            elif is_table_or_text(name):
                left_out.add(folder / name)
            else:
                yield folder / name
        stack += reversed(inner)
