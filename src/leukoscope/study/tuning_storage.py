"""Where the trials of a tuning are kept: a journal file, or any database of Optuna."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from leukoscope.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def open_storage(text: str) -> BaseStorage:
    """Open ``journal:FILE`` or a database URL.

    Raises:
        UsageError: The database cannot be opened.
        DataError: The file is no journal.
    """
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if text.startswith("journal:"):
        path = Path(text.removeprefix("journal:")).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        _mend(path)
        with readable(text):
            return JournalStorage(JournalFileBackend(str(path)))
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return RDBStorage(text)
    except (SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"--storage {_short(text)}: cannot be opened, {str(error).splitlines()[0]}",
            hint="see Optuna's page on RDBStorage for the URL and the driver that it needs",
        ) from None


def _short(url: str) -> str:
    """A URL that may not even be one, without what stands before its host."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _mend(path: Path) -> None:
    """Cut off a last line that a kill left unfinished, which would spoil the next one."""
    from optuna.storages.journal import JournalFileSymlinkLock

    if not path.is_file() or not path.stat().st_size:
        return
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(data.rfind(b"\n") + 1)
    finally:
        lock.release()


@contextmanager
def readable(text: str) -> Iterator[None]:
    """A journal that is none becomes an error that names it."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        if not text.startswith("journal:"):
            raise
        raise DataError(
            f"{text.removeprefix('journal:')}: expected a journal of Optuna, but {error!r}",
            hint="name another file with --storage journal:FILE",
        ) from None


def shown_storage(text: str) -> str:
    """A storage as it may be written down: without a password, and with a whole path.

    >>> shown_storage("postgresql://me:secret@host/db")
    'postgresql://me:***@host/db'

    Raises:
        UsageError: It is neither ``journal:FILE`` nor a database URL.
    """
    if text.startswith("journal:"):
        return f"journal:{Path(text.removeprefix('journal:')).expanduser().resolve()}"
    if not text:
        return ""
    if "://" not in text:
        raise UsageError(
            f"--storage expects journal:FILE or a database URL, got {text!r}",
            hint="e.g. journal:tune.journal or sqlite:///tune.db",
        )
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(text).render_as_string(hide_password=True)
    except ArgumentError:
        raise UsageError(f"--storage {_short(text)}: this is no database URL") from None
