"""One writer in a folder at a time; a process that dies, however it dies, lets go."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from leukoscope.core.errors import UsageError

LOCK = ".lock"
_BUSY = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_BEHIND = 2**30  # Windows lets nobody read what is locked: a byte behind the text is


@contextmanager
def only_writer(folder: Path, doing: str) -> Iterator[None]:
    """Hold the lock of a folder, which is made where there is none.

    The lock belongs to the open file, so the system takes it from a process that ends; a file that
    a killed process left is taken over. On a file system without locks nobody is kept out.

    Args:
        folder: What is written to.
        doing: What its writer does, for the message: ``runs a study in``.

    Raises:
        UsageError: Another process holds the lock; says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    handle = _acquired(path, doing)
    try:
        since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, f"process {os.getpid()} on {platform.node()}, since {since}\n".encode())
        yield
    finally:
        with suppress(OSError):  # Windows deletes no open file; the next writer takes it over
            path.unlink()
        os.close(handle)


def _acquired(path: Path, doing: str) -> int:
    """The locked file, which is still the one at the path."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        if not _try_lock(handle):
            owner = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            raise UsageError(
                f"{path.parent}: another process {doing} this folder ({owner or 'unknown'})",
                hint="wait for it, or name a new folder with --out",
            )
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(handle).st_ino:
                return handle
        os.close(handle)  # its former owner deleted it between our opening and locking it


def _try_lock(handle: int) -> bool:
    """Lock an open file; False where another process has done so."""
    try:
        _lock(handle)
    except OSError as error:
        return error.errno not in _BUSY
    return True


try:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

except ImportError:  # Windows
    import msvcrt

    def _lock(handle: int) -> None:
        os.lseek(handle, _BEHIND, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
