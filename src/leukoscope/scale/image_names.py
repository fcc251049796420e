"""From a folder, a manifest or a URL to the names of images, one at a time, and to files again.

No list of all names is held: what is named here may be a billion images.
"""

from __future__ import annotations

import csv
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from leukoscope.core.errors import DataError, MissingExtraError, UsageError
from leukoscope.core.threads import ordered_map
from leukoscope.imaging.decode import MAX_BYTES
from leukoscope.runtime.input_files import expand_inputs
from leukoscope.runtime.prediction import Failure

TABLES = (".csv", ".tsv", ".parquet")
LISTS = (".txt", ".lst")
COLUMNS = ("path", "image", "file", "url")  # of a table, the first that is there
AHEAD = 16  # files of another file system that are fetched before they are asked for
_TRIES = 3
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+(::|://)")


def is_url(text: str) -> bool:
    """Whether fsspec has to read it.

    >>> is_url("s3://archive/smears"), is_url("smears/a.png"), is_url("C:/smears")
    (True, False, False)
    """
    return _URL.match(text) is not None


def image_names(items: Sequence[str], root: str | None = None) -> Iterator[str]:
    """Name of every image: an absolute path or a URL.

    Args:
        items: Folders, files, patterns, ``-``, tables (CSV, TSV or Parquet with a column ``path``,
            ``image``, ``file`` or ``url``), lists (``.txt``, a path a line), or URLs of folders
            and files that fsspec can read. A table or list may hold URLs.
        root: What relative names in tables and lists are relative to: a folder or a URL. Default:
            the folder of the table or list.

    Raises:
        UsageError: Nothing lies behind an item.
        DataError: A table that cannot be read.
        MissingExtraError: fsspec or pyarrow is needed and not installed.
    """
    for item in items:
        suffix = Path(item).suffix.lower()
        if is_url(item):
            yield from _below_url(item)
        elif suffix in TABLES and Path(item).is_file():
            yield from _joined(_table(Path(item)), root or str(Path(item).absolute().parent))
        elif suffix in LISTS and Path(item).is_file():
            with Path(item).open(encoding="utf-8-sig") as lines:
                yield from _joined(_lines(lines), root or str(Path(item).absolute().parent))
        elif item == "-":
            yield from _joined(_lines(sys.stdin), root or str(Path.cwd()))
        else:
            for found in expand_inputs([item]):
                if isinstance(found, Path):
                    yield str(found.absolute())
                elif found.reason == "missing":
                    raise UsageError(f"{found.path}: {found.message}", hint=found.hint)
                else:  # a folder that may not be read: named again when its turn comes
                    yield str(Path(found.path).absolute())


def _lines(lines: Iterable[str]) -> Iterator[str]:
    return (name for line in lines if (name := line.rstrip("\r\n")))


def _joined(names: Iterable[str], root: str) -> Iterator[str]:
    """Names below the root, but for those that are whole already."""
    far = is_url(root)
    for name in names:
        if is_url(name):
            yield name
        elif far and not Path(name).is_absolute():
            yield f"{root.rstrip('/')}/{name}"
        else:
            # A Path would keep every part of every name in Python's table of strings for a while.
            yield os.path.join(root, name)  # noqa: PTH118


def _table(path: Path) -> Iterator[str]:
    if path.suffix.lower() == ".parquet":
        yield from _parquet(path)
        return
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.reader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            header = next(rows, [])
            place = header.index(_column(path, header))
            for row in rows:
                if len(row) > place and row[place]:
                    yield row[place]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise DataError(f"{path}: expected a UTF-8 table, but {error}") from None


def _parquet(path: Path) -> Iterator[str]:
    if find_spec("pyarrow") is None:
        raise MissingExtraError("reading a Parquet manifest", "parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            column = _column(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=8192, columns=[column]):
                yield from (str(name) for name in batch.column(0).to_pylist() if name)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: expected a Parquet file, but {error}") from None


def _column(path: Path, header: Sequence[str]) -> str:
    found = next((name for name in COLUMNS if name in header), None)
    if found is None:
        raise DataError(
            f"{path}: expected a column {' or '.join(COLUMNS)}, "
            f"found {', '.join(header) or 'an empty file'}"
        )
    return found


def _file_system(url: str) -> tuple[Any, str]:
    if find_spec("fsspec") is None:
        raise MissingExtraError(f"reading {url}", "scale")
    from fsspec.core import url_to_fs

    try:
        opened, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        known = "see the list of file systems in fsspec's documentation"
        raise UsageError(f"{url}: cannot be opened: {error}", hint=known) from None
    return opened, str(path)


def _below_url(url: str) -> Iterator[str]:
    """Files below a URL, folder by folder, but for hidden ones; the URL itself where it is one."""
    system, top = _file_system(url)
    try:
        if system.isfile(top):
            yield url
            return
        found = False
        for folder, folders, files in system.walk(top):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                if name and not name.startswith("."):
                    found = True
                    yield str(system.unstrip_protocol(f"{folder}/{name}"))
    except Exception as error:  # file systems raise what their libraries raise
        raise DataError(f"{url}: cannot be listed: {type(error).__name__}: {error}") from None
    if not found:
        raise UsageError(
            f"{url}: no file lies below it", hint="check the spelling, and that it can be reached"
        )


LocalFile = tuple[Path | Failure, Path | None]


def local_files(names: Iterable[str | Failure], folder: Path) -> Iterator[LocalFile]:
    """Each image as a file of this machine; those behind URLs are fetched a few ahead.

    Args:
        names: Of :func:`image_names`; failures pass in their places.
        folder: For the copies.

    Yields:
        The file, or why there is none, and the copy to delete after use, if it is one.
    """

    def far(numbered: tuple[int, str | Failure]) -> bool:
        return isinstance(numbered[1], str) and is_url(numbered[1])

    def fetch(numbered: tuple[int, str | Failure]) -> LocalFile:
        number, url = numbered
        return _fetch(str(url), folder / str(number))

    for behind_url, group in groupby(enumerate(names), far):
        if behind_url:
            name = "leukoscope-fetch"
            yield from ordered_map(fetch, group, threads=AHEAD, ahead=AHEAD, name=name)
        else:
            for _, item in group:
                yield (item if isinstance(item, Failure) else Path(item)), None


def _fetch(url: str, stem: Path) -> LocalFile:
    """Copy one file here; what passes (a lost connection) is tried three times."""
    target = stem.with_suffix(Path(url).suffix)
    detail = ""
    for attempt in range(_TRIES):
        try:
            system, path = _file_system(url)
            size = system.info(path).get("size")
            if size is not None and size > MAX_BYTES:
                detail = f"expected at most {MAX_BYTES} bytes, found {size}"
                return Failure(url, "too-large", detail), None
            system.get_file(path, str(target))
            return target, target
        except FileNotFoundError:
            return Failure(url, "missing", "no such file"), None
        except (UsageError, MissingExtraError):
            raise
        except Exception as error:  # file systems raise what their libraries raise
            detail = f"cannot be fetched: {type(error).__name__}: {error}"
            if attempt + 1 < _TRIES:
                time.sleep(0.5 * 2**attempt)
    with suppress(OSError):
        target.unlink()
    return Failure(url, "unreadable", detail), None
