"""Files behind URLs, copied to this machine: bounded, and from public addresses alone if asked."""

from __future__ import annotations

import base64
import http.client
import ipaddress
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args
from urllib.parse import unquote, urlsplit

from leukoscope.core.errors import MissingExtraError, UsageError
from leukoscope.core.threads import ordered_map
from leukoscope.imaging.decode import MAX_BYTES
from leukoscope.runtime.prediction import Failure

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


def file_system(url: str, extra: str = "score") -> tuple[Any, str]:
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
        names: Of :func:`leukoscope.scale.image_names.image_names`; failures pass in their places.
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
    _context: Any

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
