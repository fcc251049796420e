"""File access that survives a kill: atomic writes, hashes, CSV and JSON."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import posixpath
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, TextIO

from leukoscope.core.errors import DataError

_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # how a spreadsheet knows one, behind our own apostrophes

_TABLES_AND_TEXTS = frozenset((
    ".csv", ".tsv", ".parquet", ".xls", ".xlsx", ".ods", ".txt", ".md", ".log", ".json", ".jsonl",
    ".xml", ".yaml", ".yml", ".toml", ".ini", ".html", ".htm", ".doc", ".docx", ".rtf",
))  # fmt: skip
_TEXT_NAMES = frozenset({"readme", "license", "licence"})


def is_table_or_text(name: str) -> bool:
    """Whether a file's name says that it lies beside images in a folder and is none.

    >>> [is_table_or_text(name) for name in ("aml/cells.CSV", "README", "a.txt.png", "scan.pdf")]
    [True, True, False, False]
    """
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")  # pathlib is slow
    if not dot or not stem:
        return suffix.lower() in _TEXT_NAMES
    return f".{suffix.lower()}" in _TABLES_AND_TEXTS


@dataclass
class LeftOut:
    """Counts what is passed over (tables and texts in a folder of images), and keeps the first."""

    count: int = 0
    first: str = ""

    def add(self, path: Path | str) -> None:
        """One more."""
        self.count += 1
        self.first = self.first or str(path)

    @property
    def words(self) -> str:
        """In one line; empty where there is none."""
        if not self.count:
            return ""
        files = "1 file that is no image was" if self.count == 1 else (
            f"{self.count:,} files that are no images were"
        )  # fmt: skip
        return f"{files} left out, e.g. {self.first}"


@contextmanager
def named_fault(path: Path) -> Iterator[None]:
    """Let an error of writing, which knows no file, such as a full disk, name ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block ends without error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with named_fault(path):
            yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with named_fault(path), temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    r"""Write ``text`` to ``path`` as UTF-8, atomically.

    What is no UTF-8, such as a byte of a file's name, is spelled out (``\udce4``): in JSON it is
    read back as it was.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON; NaN and infinities are refused (use None)."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        DataError: The file is missing or is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: this file is missing") from None
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON, but {error}") from None


def file_part(text: str) -> str:
    """A text of the data, such as a class, as the name of one file or folder.

    Separators of paths and leading dots become ``_``, so that no name leads to another folder.

    >>> file_part("N/A"), file_part("../x"), file_part(".."), file_part("Pro")
    ('N_A', '___x', '__', 'Pro')
    """
    plain = "".join("_" if sign in "/\\" or ord(sign) < 32 else sign for sign in text)
    shown = plain.lstrip(".")
    return "_" * (len(plain) - len(shown)) + shown


def leaves_folder(name: str) -> bool:
    """Whether a relative or absolute path leads out of the folder that it is read from.

    >>> leaves_folder("a/b.png"), leaves_folder("a/../../b.png"), leaves_folder("/etc/passwd")
    (False, True, True)
    """
    if ".." not in name and name[:1] not in ("/", "\\") and name[1:2] != ":":
        return False  # what nearly every name is
    plain = posixpath.normpath(name.replace("\\", "/"))
    return PureWindowsPath(name).drive != "" or plain.startswith(("/", "../")) or plain == ".."


def csv_cell(value: object) -> object:
    """A value for a CSV file that a spreadsheet may open: no text of the data is a formula.

    Text that begins like a formula gets an apostrophe before it, which :func:`csv_value` takes
    off again. Numbers stay as they are.

    >>> csv_cell("=1+1"), csv_cell("-0.5"), csv_cell("Pro"), csv_cell(-2)
    ("'=1+1", '-0.5', 'Pro', -2)
    """
    if not isinstance(value, str) or not _FORMULA.match(value):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def csv_value(cell: str) -> str:
    """The text of a cell that :func:`csv_cell` wrote.

    >>> csv_value("'=1+1"), csv_value("-0.5"), csv_value("'quoted'")
    ('=1+1', '-0.5', "'quoted'")
    """
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell, 1) else cell


def csv_line(cells: Sequence[object]) -> list[str]:
    """Cells as :func:`csv_writer` writes them into a row, quoted where they have to be.

    >>> csv_line(["Pro", "a, b", "=1+1", 2])
    ['Pro', '"a, b"', "'=1+1", '2']
    """
    return [_quoted(csv_cell(cell)) for cell in cells]


def _quoted(cell: object) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow([cell, ""])  # one empty cell would be quoted
    return buffer.getvalue().removesuffix(",")


class _LineFeeds:
    """Ends rows by a line feed; only a writer that ends them by both quotes a carriage return."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> None:
        self._file.write(row.removesuffix("\r\n") + "\n")


def csv_writer(file: TextIO, columns: Sequence[str]) -> Callable[[Mapping[str, object]], object]:
    """Write the header of a CSV file; gives what writes a row. A missing value is empty."""
    writer = csv.writer(_LineFeeds(file))
    writer.writerow(map(csv_cell, columns))
    known = set(columns)

    def write(row: Mapping[str, object]) -> None:
        if not row.keys() <= known:
            raise ValueError(f"no columns: {', '.join(map(str, row.keys() - known))}")
        writer.writerow([csv_cell(row.get(name, "")) for name in columns])

    return write


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as CSV with the named columns, atomically; see :func:`csv_cell`."""
    buffer = io.StringIO()
    write = csv_writer(buffer, columns)
    for row in rows:
        write(row)
    write_text(path, buffer.getvalue())


def read_csv(path: Path, required: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read a CSV file with a header row; see :func:`iterate_csv`."""
    return list(iterate_csv(path, required))


def iterate_csv(path: Path, required: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """The rows of a CSV file with a header row, one at a time; blank lines are left out.

    Raises:
        DataError: The file is missing, not UTF-8, or lacks a required column.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: this file is missing") from None
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: expected a UTF-8 CSV file, but {error}") from None
    rows = csv.reader(io.StringIO(text, newline=""))
    names = [csv_value(name) for name in next(rows, ())]
    missing = [name for name in required if name not in names]
    if missing:
        raise DataError(
            f"{path}: expected the columns {', '.join(required)}; "
            f"{', '.join(missing)} missing, found {', '.join(names) or 'none'}"
        )
    for row in rows:
        if row:
            values = [csv_value(cell) if cell[:1] == "'" else cell for cell in row]
            values += [""] * (len(names) - len(row))  # a row may end early
            yield dict(zip(names, values, strict=False))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a link to itself is a (broken) file."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in blocks."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_json(value: object) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no white space)."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())
