"""Files behind folders, manifests and URLs: their names one at a time, and their content.

No list of all names is held: what is named may be a billion images. What a URL names is copied to
this machine: bounded, and from public addresses alone if asked.
"""

from __future__ import annotations

import base64
import csv
import http.client
import ipaddress
import os
import re
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, get_args
from urllib.parse import unquote, urlsplit

from leukoscope.core.errors import DataError, MissingExtraError, UsageError
from leukoscope.core.files import LeftOut, csv_value, leaves_folder
from leukoscope.core.threads import ordered_map
from leukoscope.imaging.decode import MAX_BYTES
from leukoscope.runtime.input_files import expand_inputs
from leukoscope.runtime.prediction import Failure

if TYPE_CHECKING:
    import ssl

    from fsspec import AbstractFileSystem

UrlRule = Literal["none", "public", "any"]
"""Which URLs may be fetched; a run of URLs that the user typed has the rule ``any``."""
URL_RULES: tuple[UrlRule, ...] = get_args(UrlRule)
AHEAD = 16  # files of another file system that are fetched before they are asked for
_TRIES = 3
_BLOCK = 2**20
_TIMEOUT_S = 60.0  # without a byte
_LONGEST_S = 300.0
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+(::|://)")
_USER = re.compile(r"://[^/\s@]*@")
_QUERY = re.compile(r"(://[^\s?]*)\?[^\s'\"]*")
_WEB = ("http", "https")
_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss")
"""Object stores, whose addresses come from the user's own configuration and never from a name."""
LocalFile = tuple[Path | Failure, Path | None]
TABLES = (".csv", ".tsv", ".parquet")
LISTS = (".txt", ".lst")
COLUMNS = ("path", "image", "file", "url")  # of a table, the first that is there


class _RefusedError(Exception):
    """A URL that is not to be read, however often it is tried."""


def is_url(text: str) -> bool:
    """Whether a name has to be fetched.

    >>> is_url("s3://archive/smears"), is_url("smears/a.png"), is_url("C:/smears")
    (True, False, False)
    """
    return _URL.match(text) is not None


def shown_url(text: str) -> str:
    """A text in which no URL shows a password, a token or a signature.

    >>> shown_url("no s3://key:secret@store/model?versionId=7&token=abc today")
    'no s3://store/model?… today'
    """
    return _QUERY.sub(r"\1?…", _USER.sub("://", text))


def file_system(url: str, extra: str = "score") -> tuple[AbstractFileSystem, str]:
    """What fsspec reads a URL with, and the path there.

    ``extra`` is the optional dependency that brings fsspec to whoever asks.

    Raises:
        UsageError: No file system of that name can be opened.
        MissingExtraError: fsspec is not installed.
    """
    if find_spec("fsspec") is None:
        raise MissingExtraError(f"opening {shown_url(url)}", extra)
    from fsspec.core import url_to_fs

    try:
        opened, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        known = "see the list of file systems in fsspec's documentation"
        raise UsageError(f"{shown_url(url)}: cannot be opened: {error}", hint=known) from None
    return opened, str(path)


def local_files(
    names: Iterable[str | Failure], folder: Path, *, urls: UrlRule = "none"
) -> Iterator[LocalFile]:
    """Each image as a file of this machine; those behind URLs are fetched a few ahead.

    Args:
        names: Of :func:`leukoscope.scale.fetching.image_names`; failures pass in their places.
        folder: For the copies.
        urls: The rule of the run. With ``none`` a URL is a failure; with ``public`` every address
            is looked at.

    Yields:
        The file, or why there is none, and the copy to delete after use, if it is one.
    """

    def far(numbered: tuple[int, str | Failure]) -> bool:
        return isinstance(numbered[1], str) and is_url(numbered[1])

    def fetch(numbered: tuple[int, str | Failure]) -> LocalFile:
        number, url = numbered
        if urls == "none":  # a list that came from elsewhere may say more than its plan allows
            detail = "expected the name of a file, found a URL, which this run does not read"
            return Failure(str(url), "unreadable", detail), None
        target = (folder / str(number)).with_suffix(Path(urlsplit(str(url)).path).suffix[:10])
        failure = fetch_file(str(url), target, public=urls == "public")
        return (failure, None) if failure else (target, target)

    for behind_url, group in groupby(enumerate(names), far):
        if behind_url:
            name = "leukoscope-fetch"
            yield from ordered_map(fetch, group, threads=AHEAD, ahead=AHEAD, name=name)
        else:
            for _, item in group:
                yield (item if isinstance(item, Failure) else Path(item)), None


def fetch_file(
    url: str,
    target: Path,
    *,
    public: bool = False,
    most_bytes: int | None = None,
    longest_s: float = _LONGEST_S,
) -> Failure | None:
    """Copy one file here; what passes (a lost connection) is tried three times.

    Args:
        url: The file.
        target: Where to; nothing is left there after a failure.
        public: Whether to connect to public addresses alone.
        most_bytes: Largest size; default: that of an image.
        longest_s: Longest time of one try.

    Returns:
        Why there is no copy: ``missing``, ``too-large`` or ``unreadable``; None where there is.
    """
    most = MAX_BYTES if most_bytes is None else most_bytes
    failure = Failure(url, "unreadable", "")
    for attempt in range(_TRIES):
        try:
            with closing(_open(url, public, most)) as source, target.open("wb") as file:
                _copy(source, file, most, longest_s)
            return None
        except FileNotFoundError:
            failure = Failure(url, "missing", "no such file")
            break
        except _RefusedError as refused:
            failure = Failure(url, *refused.args)
            break
        except (UsageError, MissingExtraError):
            raise
        except Exception as error:  # file systems raise what their libraries raise
            detail = f"cannot be fetched: {type(error).__name__}: {error}"
            failure = Failure(url, "unreadable", detail)
            if attempt + 1 < _TRIES:
                time.sleep(0.5 * 2**attempt)
    with suppress(OSError):
        target.unlink()
    return failure


def _copy(source: BinaryIO, file: BinaryIO, most: int, longest_s: float) -> None:
    """Copy at most so many bytes; a server may not say how many there are."""
    copied, end = 0, time.monotonic() + longest_s
    while block := source.read(_BLOCK):
        copied += len(block)
        _check_size(copied, most)
        if time.monotonic() > end:
            raise _RefusedError("unreadable", f"expected the file within {longest_s:g} s")
        file.write(block)


def _check_size(size: int | None, most: int) -> None:
    if size is not None and size > most:
        raise _RefusedError("too-large", f"expected at most {most:,} bytes, found more")


def _open(url: str, public: bool, most: int) -> BinaryIO:
    """The bytes behind a URL; its size is looked at first, where it is known."""
    scheme = url.partition(":")[0].lower()
    if scheme in _WEB and "::" not in url:
        return _open_web(url, public, most)
    if public and (scheme not in _STORES or "::" in url):
        raise _RefusedError("unreadable", _not_public(f"a URL of the kind {scheme}"))
    system, path = file_system(url)
    _check_size(system.info(path).get("size"), most)
    opened: BinaryIO = system.open(path, "rb")
    return opened


def _open_web(url: str, public: bool, most: int) -> BinaryIO:
    try:
        answer = _OPENERS[public].open(_request(url), timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise FileNotFoundError(url) from None
        raise ConnectionError(f"the server answers {error.code}") from None
    size = answer.headers.get("Content-Length", "")
    try:
        _check_size(int(size) if size.isdigit() else None, most)
    except _RefusedError:
        answer.close()
        raise
    opened: BinaryIO = answer
    return opened


def _request(url: str) -> urllib.request.Request:
    """What asks for a URL; a password in it goes to that server and to no other."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl())
    if user:
        code = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {code}")
    return request


def _not_public(what: str) -> str:
    return f"expected a public address, found {what}; --urls any reads it all the same"


def is_public(address: str) -> bool:
    """Whether an IP address belongs to no machine, laboratory or provider's own network.

    >>> is_public("9.9.9.9"), is_public("127.0.0.1"), is_public("::ffff:10.0.0.1")
    (True, False, False)
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or found
    return found.is_global and not found.is_multicast


def _connect_publicly(host: str, port: int, timeout: float | None) -> socket.socket:
    """A connection to the very address that was looked at: a name may mean another one later."""
    fault: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
        if not is_public(str(address[0])):
            raise _RefusedError("unreadable", _not_public(f"{host} at {address[0]}"))
        opened = socket.socket(family, kind, protocol)
        try:
            opened.settimeout(timeout)
            opened.connect(address)
        except OSError as error:
            opened.close()
            fault = error
        else:
            return opened
    raise fault or OSError(f"{host} has no address")


class _PublicHTTPConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        """Connect where the address is public."""
        self.sock = _connect_publicly(self.host, self.port, self.timeout)


class _PublicHTTPSConnection(http.client.HTTPSConnection):
    _context: ssl.SSLContext

    def connect(self) -> None:
        """Connect where the address is public; the certificate is checked as always."""
        opened = _connect_publicly(self.host, self.port, self.timeout)
        self.sock = self._context.wrap_socket(opened, server_hostname=self.host)


class _PublicHTTP(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open a URL, also that of a redirect."""
        return self.do_open(_PublicHTTPConnection, req)


class _PublicHTTPS(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open a URL, also that of a redirect."""
        return self.do_open(_PublicHTTPSConnection, req)


def _opener(*of_web: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """What opens http and https, and nothing else that a redirect may name."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        *of_web,
    ):
        opener.add_handler(handler)
    return opener


_OPENERS = {
    True: _opener(_PublicHTTP(), _PublicHTTPS()),
    False: _opener(
        urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler()
    ),
}


def image_names(
    items: Sequence[str],
    root: str | None = None,
    *,
    urls: UrlRule = "none",
    outside: Callable[[str], None] = lambda name: None,
    left_out: LeftOut | None = None,
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
        left_out: Told the tables and texts that lie in a folder.

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
            for found in expand_inputs([item], None, left_out):
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
