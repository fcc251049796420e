"""From a folder, a manifest or a URL to the names of images, one at a time.

No list of all names is held: what is named here may be a billion images.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from leukoscope.core.errors import DataError, MissingExtraError, UsageError
from leukoscope.core.files import csv_value, leaves_folder
from leukoscope.runtime.input_files import expand_inputs
from leukoscope.scale.fetching import UrlRule, file_system, is_url

TABLES = (".csv", ".tsv", ".parquet")
LISTS = (".txt", ".lst")
COLUMNS = ("path", "image", "file", "url")  # of a table, the first that is there


def image_names(
    items: Sequence[str],
    root: str | None = None,
    *,
    urls: UrlRule = "none",
    outside: Callable[[str], None] = lambda name: None,
) -> Iterator[str]:
    """Name of every image: an absolute path or a URL.

    Args:
        items: Folders, files, patterns, ``-``, tables (CSV, TSV or Parquet with a column ``path``,
            ``image``, ``file`` or ``url``), lists (``.txt``, a path a line), or URLs of folders
            and files that fsspec can read.
        root: What relative names in tables and lists are relative to: a folder or a URL. Default:
            the folder of the table or list.
        urls: Whether a table or list may hold URLs of its own.
        outside: Told each name in a table or list that leads out of the folder of the names.

    Raises:
        UsageError: Nothing lies behind an item, or a table holds a URL against the rule.
        DataError: A table that cannot be read.
        MissingExtraError: fsspec or pyarrow is needed and not installed.
    """

    def listed(item: str, names: Iterable[str], home: Path) -> Iterator[str]:
        return _joined(item, names, root or str(home), urls, outside)

    for item in items:
        suffix, path = Path(item).suffix.lower(), Path(item)
        if is_url(item):
            yield from _below_url(item)
        elif suffix in TABLES and path.is_file():
            yield from listed(item, _table(path), path.absolute().parent)
        elif suffix in LISTS and path.is_file():
            with path.open(encoding="utf-8-sig") as lines:
                yield from listed(item, _lines(lines), path.absolute().parent)
        elif item == "-":
            yield from listed("standard input", _lines(sys.stdin), Path.cwd())
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


def _joined(
    item: str, names: Iterable[str], root: str, urls: UrlRule, outside: Callable[[str], None]
) -> Iterator[str]:
    """Names below the root, but for those that are whole already."""
    far = is_url(root)
    for name in names:
        if is_url(name):
            if urls == "none":
                raise UsageError(
                    f"{item}: expected names of files, found the URL {name}",
                    hint="--urls public reads what a table names in the public network, "
                    "--urls any also in yours",
                )
            yield name
            continue
        if leaves_folder(name):
            outside(name)
        if far and not Path(name).is_absolute():
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
                    yield csv_value(row[place])
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


def _below_url(url: str) -> Iterator[str]:
    """Files below a URL, folder by folder, but for hidden ones; the URL itself where it is one."""
    system, top = file_system(url)
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
