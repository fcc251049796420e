"""From what a user names — files, folders, patterns, a list — to single files."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from leukoscope.runtime.prediction import Failure

# What stands beside phantom images and is not meant as input.
_TRUTH = Path("truth", "truth.json")  # ground truth of `leukoscope phantom`
_BESIDE_TRUTH = ("truth", "manifest.csv", "README.md")
_LITTER = ("Thumbs.db", "desktop.ini")


def expand_inputs(items: Sequence[str], stdin: TextIO | None = None) -> Iterator[Path | Failure]:
    """All files behind the items, each once.

    A folder stands for everything below it, sorted, files before folders, but for hidden files
    and for the ground truth that lies beside phantom images. Files in it that are no images are
    kept: reading them fails, and so the user learns of them. Symbolic links are followed; a
    folder that leads back into itself is entered once.

    Args:
        items: Paths, patterns such as ``slides/**/*.png``, or ``-`` for a list of paths, one a
            line, on standard input.
        stdin: Where ``-`` reads; standard input by default.

    Yields:
        A path, or a :class:`Failure` for an item behind which there is nothing.
    """
    seen: set[str] = set()
    folders: set[str] = set()
    for item in _items(items, stdin if stdin is not None else sys.stdin):
        found: Iterable[Path | Failure]
        found = _walk(item, folders) if isinstance(item, Path) and item.is_dir() else (item,)
        for path in found:
            key = (
                os.path.normpath(path.absolute())
                if isinstance(path, Path)
                else f"failure {path.path}"
            )
            if key not in seen:
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


def _walk(top: Path, entered: set[str]) -> Iterator[Path | Failure]:
    """Files below a folder, depth first; an explicit stack, since folders may nest deeply."""
    stack = [top]
    while stack:
        folder = stack.pop()
        real = os.path.realpath(folder)
        if real in entered:
            continue
        entered.add(real)
        try:
            paths = sorted(folder.iterdir())
        except OSError as error:
            detail = f"expected a readable folder, but {error.strerror or error}"
            yield Failure(str(folder), "unreadable", detail)
            continue
        skipped = (*_LITTER, *(_BESIDE_TRUTH if (folder / _TRUTH).is_file() else ()))
        inner = []
        for path in paths:
            if path.name.startswith(".") or path.name in skipped:
                continue
            if path.is_dir():
                inner.append(path)
            else:
                yield path
        stack += reversed(inner)
