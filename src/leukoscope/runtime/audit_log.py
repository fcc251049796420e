"""An append-only log of every prediction and failure, each line chained to the one before.

A line is a JSON object whose last key, ``hash``, is the SHA-256 of the object without it;
``previous`` is the hash of the line before, of the first line 64 zeros. So a change, a removal or
an exchange of lines breaks the chain. What no chain can show by itself is that lines were taken
off its end, or that the whole of it was written anew: for that, keep the newest hash elsewhere and
give it to :func:`verify_log`.

Several threads and processes may append to one log. Processes take turns by ``fcntl.flock``; on
Windows, which has none, only one process may write to a log. A line is handed to the operating
system whole before :meth:`AuditLog.append` returns, so that a killed process loses nothing; it is
not forced to the disk, so a power cut may.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from leukoscope.core.errors import DataError
from leukoscope.core.files import sha256_bytes, sha256_file
from leukoscope.runtime.prediction import Failure, Prediction

if TYPE_CHECKING:
    from leukoscope.runtime.predictor import Predictor

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOG_SCHEMA: Final = 1
START: Final = "0" * 64
_BLOCK = 1 << 16
_TORN_KEPT = 4096  # bytes of a torn line that its record repeats
_PACKAGES = ("leukoscope", "numpy", "opencv-python-headless", "pillow", "onnxruntime", "openvino")


class AuditLog:
    """An audit log that is open for appending; safe to use from several threads.

    A last line cut off by a kill stays in place: the next :meth:`append` ends it and records its
    length, SHA-256 and text in a line of the kind ``recovered``. A missing file is created, with
    its folder.

    Raises:
        DataError: The file cannot be written, or its last line is not one of an audit log.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.head, self._sequence, self._size = START, 0, 0
        self._lock = threading.Lock()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.path, flags, 0o644)
        except OSError as error:
            raise DataError(
                f"{self.path}: the audit log cannot be written: {error.strerror or error}"
            ) from None
        with self._locked():
            pass  # a file that is no log is told before anything is predicted

    def append(self, entry: Mapping[str, object]) -> str:
        """Write one line and return its hash, the new head of the chain.

        ``schema``, ``sequence``, ``time``, ``previous`` and ``hash`` are added to ``entry``, which
        holds JSON values.

        Raises:
            DataError: The disk is full or the file was taken away.
        """
        with self._locked() as torn:
            if torn:
                self._write(_recovery(torn), before=b"\n")
            return self._write(entry)

    def add(
        self, answer: Prediction | Failure, predictor: Predictor, *, sha256: str | None = None
    ) -> str:
        """Append the entry of one answer; the arguments are those of :func:`entry_of`."""
        return self.append(entry_of(answer, predictor, sha256=sha256))

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bytes]:
        """Lock the file; yields a torn last line, or nothing where the last line is complete."""
        with self._lock:
            if fcntl is not None:
                fcntl.flock(self._handle, fcntl.LOCK_EX)
            try:
                self._check_place()
                size = os.fstat(self._handle).st_size
                # Only where another process wrote since is anything read.
                yield self._read_end(size) if size != self._size else b""
            finally:
                if fcntl is not None:
                    fcntl.flock(self._handle, fcntl.LOCK_UN)

    @property
    def in_place(self) -> bool:
        """Whether the file under its name is still the one that was opened."""
        return self._found_instead() is None

    def _found_instead(self) -> str | None:
        """What lies in the place of the file that was opened; None where it does itself."""
        try:
            there = self.path.stat()
        except OSError:
            return "no file"
        return None if os.path.samestat(os.fstat(self._handle), there) else "another file"

    def _check_place(self) -> None:
        """Refuse to write on to a file that nobody will find: moved away, deleted or replaced."""
        found = self._found_instead()
        if found is not None:
            raise DataError(
                f"{self.path}: expected the audit log that was opened, found {found}: it was moved "
                "or removed",
                hint="a chain is not to be rotated: put the file back, or start again with another "
                "--audit-log",
            )

    def _read_end(self, size: int) -> bytes:
        """Read sequence number and hash of the last complete line; returns the bytes after it."""
        tail, start = b"", size
        while start and tail.count(b"\n") < 2:
            step = min(_BLOCK, start)
            start -= step
            os.lseek(self._handle, start, os.SEEK_SET)  # O_APPEND still writes at the end
            tail = os.read(self._handle, step) + tail
        *whole, torn = tail.split(b"\n")
        with contextlib.suppress(ValueError):  # cut off right before its line feed: nothing lost
            parse_line(torn)
            os.write(self._handle, b"\n")
            whole, torn, size = [torn], b"", size + 1
        if whole:
            try:
                last = parse_line(whole[-1])
            except ValueError as error:
                raise DataError(
                    f"{self.path}: its last line is none of an audit log ({error})",
                    hint="`leukoscope audit-log verify` says more; begin a new file",
                ) from None
            self.head, self._sequence = last["hash"], last["sequence"]
        self._size = -1 if torn else size
        return torn

    def _write(self, entry: Mapping[str, object], before: bytes = b"") -> str:
        body = {
            "schema": LOG_SCHEMA,
            "sequence": self._sequence + 1,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **entry,
            "previous": self.head,
        }
        text = json.dumps(body, separators=(",", ":"), allow_nan=False)
        digest = sha256_bytes(text.encode())
        line = before + f'{text[:-1]},"hash":"{digest}"}}\n'.encode()
        try:
            written = os.write(self._handle, line)
        except OSError as error:
            raise DataError(
                f"{self.path}: the audit log cannot be written: {error.strerror or error}"
            ) from None
        if written != len(line):  # a full disk: what was written is a torn line
            self._size = -1
            raise DataError(f"{self.path}: the audit log cannot be written whole: disk full?")
        self.head, self._sequence = digest, self._sequence + 1
        self._size = os.fstat(self._handle).st_size
        return digest


def entry_of(
    answer: Prediction | Failure, predictor: Predictor, *, sha256: str | None = None
) -> dict[str, object]:
    """The log entry of one answer: image, result, bundle, engine and precision.

    ``sha256`` is needed for a failure whose input was not a file; a file is hashed here.
    """
    failed = isinstance(answer, Failure)
    path = Path(answer.path if isinstance(answer, Failure) else answer.image)
    if isinstance(answer, Prediction):
        sha256, output = answer.sha256, answer.as_dict() | {"logits": list(answer.logits)}
    else:
        output = answer.as_dict()
        with contextlib.suppress(OSError, ValueError):
            sha256 = sha256 or (sha256_file(path) if path.is_file() else None)
    return {
        "kind": "failure" if failed else "prediction",
        "path": str(path.absolute()),
        "sha256": sha256,
        "bundle": predictor.bundle.sha256,
        "bundle_path": str(predictor.bundle.folder.absolute()),
        "engine": predictor.engine.name,
        "precision": predictor.engine.precision,
        "output": output,
        "versions": _versions(),
    }


def parse_line(line: bytes) -> dict[str, Any]:
    """Parse one line of a log and check its hash.

    Raises:
        ValueError: It is not a log line, or its content does not match its hash; says which.
    """
    try:
        entry = json.loads(line)
    except ValueError:
        raise ValueError("no JSON") from None
    if not isinstance(entry, dict) or list(entry)[-1:] != ["hash"]:
        raise ValueError("no line of an audit log")
    tail = f',"hash":"{entry["hash"]}"}}'.encode()
    if not line.endswith(tail) or sha256_bytes(line[: -len(tail)] + b"}") != entry["hash"]:
        raise ValueError("changed: its content is not that of its hash")
    if entry.get("schema") != LOG_SCHEMA:
        raise ValueError(f"schema {entry.get('schema')!r}, this version reads {LOG_SCHEMA}")
    return entry


@dataclass
class LogCheck:
    """The result of :func:`verify_log`.

    Attributes:
        entries: Number of complete lines.
        recovered: Number of torn lines that a later line records.
        head: Hash of the last complete line.
        problem: The first fault with its line number; empty if the chain holds.
    """

    entries: int = 0
    recovered: int = 0
    head: str = START
    problem: str = ""
    _seen_head: bool = field(default=False, repr=False)


def verify_log(path: Path, *, head: str | None = None) -> LogCheck:
    """Follow the chain from the first line to the last, in constant memory.

    ``head`` is a hash that was kept elsewhere and must occur in the chain. Only this reveals lines
    removed from the end, or a chain that was rewritten as a whole.

    Raises:
        DataError: The file cannot be read.
    """
    found = LogCheck()
    for number, entry in _walk(path, found):
        found._seen_head |= entry["hash"] == head
        found.entries, found.head = number, entry["hash"]
    if head and not found._seen_head and not found.problem:
        found.problem = (
            f"the kept hash {head[:12]}… is not in the chain: lines were removed from its end, or "
            f"it was written anew"
        )
    return found


def read_log(path: Path) -> Iterator[dict[str, object]]:
    """Yield the entries of a log whose chain holds.

    Raises:
        DataError: The chain is broken; says where.
    """
    found = LogCheck()
    for _, entry in _walk(path, found):
        yield entry
    if found.problem:
        raise DataError(f"{path}: {found.problem}")


def _walk(path: Path, found: LogCheck) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield complete lines with their sequence numbers until one of them is wrong."""
    previous, sequence, torn, number = START, 0, b"", 0
    for number, line in _lines(path):
        try:
            entry, wrong = parse_line(line), ""
        except ValueError as error:
            entry, wrong = {}, str(error)
        if torn:
            if entry.get("torn_sha256") != sha256_bytes(torn):
                found.problem = f"line {number - 1}: no JSON, and the next does not record it"
                return
            found.recovered, torn = found.recovered + 1, b""
        elif wrong == "no JSON":
            torn = line  # allowed only where the next line records it
            continue
        wrong = wrong or _link(entry, previous, sequence)
        if wrong:
            found.problem = f"line {number}: {wrong}"
            return
        previous, sequence = entry["hash"], sequence + 1
        yield sequence, entry
    if torn:
        found.problem = (
            f"line {number}: cut off after {len(torn)} bytes: a writer was killed, or the file was "
            f"truncated; the next entry will record it"
        )


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.removesuffix(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _link(entry: Mapping[str, Any], previous: str, sequence: int) -> str:
    """Why a complete line does not follow the one before it; empty if it does."""
    if entry.get("sequence") != sequence + 1:
        return (
            f"its number is {entry.get('sequence')}, expected {sequence + 1}: lines were removed, "
            f"added or exchanged"
        )
    if entry.get("previous") != previous:
        return "it does not follow the line before: lines were changed, removed or exchanged"
    return ""


def _recovery(torn: bytes) -> dict[str, object]:
    return {
        "kind": "recovered",
        "torn_bytes": len(torn),
        "torn_sha256": sha256_bytes(torn),
        "torn_text": torn[:_TORN_KEPT].decode(errors="backslashreplace"),
    }


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
