"""The two ways a public data set comes: one file over HTTP, or Kaggle's own client."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leukoscope.core.errors import DataError, MissingExtraError
from leukoscope.datasets.fetch_registry import PublicSet

Progress = Callable[[str, int, int], None]
ATTEMPTS = 3
BLOCK_BYTES = 1 << 14  # what a broken connection can lose
TIMEOUT_S = 30


@dataclass
class ResumingDownload:
    """A downloader for pooch that goes on where a broken download stopped.

    pooch checks the hash and puts the file in its place; what came so far is kept in ``partial``.

    Attributes:
        partial: File for what has come.
        progress: Told ``(step, bytes here, bytes in all)``.
    """

    partial: Path
    progress: Progress

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        """Fetch ``url`` into ``output_file``; a broken connection is taken up again at once."""
        from requests.exceptions import ChunkedEncodingError, ConnectionError, Timeout

        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._go_on(url)
                break
            except (ChunkedEncodingError, ConnectionError, Timeout):
                if attempt == ATTEMPTS:
                    raise
        self.partial.replace(output_file)

    def _go_on(self, url: str) -> None:
        import requests

        here = self.partial.stat().st_size if self.partial.exists() else 0
        # A compressed transfer would count other bytes than the file has.
        headers = {"Accept-Encoding": "identity"}
        if here:
            headers["Range"] = f"bytes={here}-"
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
            if here and answer.status_code == 416:  # there is nothing after what is here
                if answer.headers.get("Content-Range") != f"bytes */{here}":
                    self.partial.unlink()
                    self._go_on(url)
                return
            answer.raise_for_status()
            if answer.status_code != 206:
                here = 0  # the server sends everything again
            total = here + int(answer.headers.get("Content-Length", 0))
            with self.partial.open("ab" if here else "wb") as file:
                for block in answer.iter_content(BLOCK_BYTES):
                    file.write(block)
                    here += len(block)
                    self.progress("downloading", here, total)


def fetch_file(item: PublicSet, part: Path, by_hand: str, progress: Progress) -> Path:
    """Download the one file of a set, or check the one that is there.

    What a broken download left in ``part`` is used; ``by_hand`` says what a person without a
    network can do.

    Raises:
        DataError: The server cannot be reached, has no such file, or sends another one.
        MissingExtraError: pooch is not installed.
    """
    try:
        import pooch
        from requests.exceptions import HTTPError, RequestException
    except ImportError:
        raise MissingExtraError("fetching data", "fetch") from None
    pooch.get_logger().setLevel("WARNING")
    name = file_name(item)
    part.mkdir(parents=True, exist_ok=True)
    download = ResumingDownload(part / f"{name}.partial", progress)
    try:
        return Path(pooch.retrieve(item.url, item.checksum or None, name, part, None, download))
    except HTTPError as error:
        answer = str(error).partition(" for url")[0]
        raise DataError(f"{item.url}: expected the file, got {answer}", hint=by_hand) from None
    except RequestException as error:
        kept = f"; what came is kept in {part}" if download.partial.exists() else ""
        raise DataError(
            f"{item.url}: the connection failed ({type(error).__name__}){kept}", hint=by_hand
        ) from None
    except ValueError as error:  # pooch has deleted the file
        raise DataError(
            f"{item.url}: the file that came has another checksum than the published "
            f"{item.checksum}; it was deleted ({str(error).split('. Deleted')[0]})",
            hint=f"run the command again; if it happens again, ask at {item.page}",
        ) from None


def file_name(item: PublicSet) -> str:
    """The name of a set's one file.

    >>> from leukoscope.datasets.fetch_registry import public_set
    >>> file_name(public_set("bloodmnist"))
    'bloodmnist.npz'
    """
    return item.url.partition("?")[0].rpartition("/")[2]


def fetch_kaggle(item: PublicSet, part: Path, by_hand: str) -> Path:
    """Download and unpack a set with Kaggle's client and the user's own credentials.

    The client checks Kaggle's checksum of the transfer, goes on where it stopped, and draws its
    own progress bar.

    What a broken download left in ``part`` is used; ``by_hand`` says what a person without a
    network can do.

    Returns:
        The unpacked folder, below ``part``.

    Raises:
        DataError: Kaggle cannot be reached, or refuses.
        MissingExtraError: kagglehub is not installed.
    """
    try:
        import kagglehub
    except ImportError:
        raise MissingExtraError("fetching from Kaggle", "fetch") from None
    part.mkdir(parents=True, exist_ok=True)
    try:
        with _setting("KAGGLEHUB_CACHE", str(part.resolve())):
            return Path(kagglehub.dataset_download(item.kaggle))
    except Exception as error:  # the client, its transport and its files each have their own kinds
        raise _kaggle_error(item, error, by_hand) from None


CREDENTIALS = (
    "make a token on https://www.kaggle.com/settings and put it in ~/.kaggle/kaggle.json, or in "
    "KAGGLE_USERNAME and KAGGLE_KEY"
)


def _kaggle_error(item: PublicSet, error: Exception, by_hand: str) -> DataError:
    kind = type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403) or "Unauthenticated" in kind or "Credential" in kind:
        why = f"Kaggle refuses ({status or kind})"
        return DataError(f"{item.source}: {why}", hint=f"{CREDENTIALS}; or {by_hand}")
    if status is None and kind.endswith(("ConnectionError", "Timeout")):
        return DataError(f"{item.source}: Kaggle cannot be reached ({kind})", hint=by_hand)
    lines = str(error).strip().splitlines()
    detail = f"{kind}: {lines[0]}" if lines else kind
    return DataError(f"{item.source}: the download failed ({detail})", hint=by_hand)


@contextmanager
def _setting(name: str, value: str) -> Iterator[None]:
    """An environment variable for the length of a block: the client has no argument for it."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
