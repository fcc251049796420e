"""What a table of URLs can make this machine read, and how much of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from leukoscope.runtime.prediction import Failure
from leukoscope.scale import fetching
from leukoscope.scale.fetching import UrlRule, local_files


class Handler(BaseHTTPRequestHandler):
    """Answers by path; notes what was asked, and how many bytes it could send."""

    def do_GET(self) -> None:
        seen = self.server.seen  # type: ignore[attr-defined]
        seen.asked.append(self.path)
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.2:{self.server.server_port}/a.png")  # type: ignore[attr-defined]
            self.end_headers()
            return
        known = self.path in ("/a.png", "/announced", "/endless")
        self.send_response(200 if known else 404)
        if self.path == "/announced":
            self.send_header("Content-Length", str(10**12))
        self.end_headers()
        if self.path == "/a.png":
            self.wfile.write(b"pixels")
        try:
            while self.path in ("/announced", "/endless"):
                self.wfile.write(bytes(2**16))
                seen.sent += 2**16
        except OSError:
            seen.closed.set()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Any]) -> SimpleNamespace:
    monkeypatch.setattr(fetching, "_TRIES", 1)
    monkeypatch.setattr(fetching, "MAX_BYTES", 2**20)
    seen = SimpleNamespace(asked=[], sent=0, closed=threading.Event())
    seen.url = f"http://127.0.0.1:{serve(Handler, seen=seen).server_port}"
    return seen


def fetched(url: str, folder: Path, urls: UrlRule) -> str | bytes:
    """The reason of a failure, or the bytes."""
    ((found, _),) = local_files([url], folder, urls=urls)
    if isinstance(found, Failure):
        assert not list(folder.iterdir()), "what was refused is not kept"
        return found.reason
    return found.read_bytes()


def test_a_web_address_is_read_where_the_user_allows_it(web: Any, tmp_path: Path) -> None:
    assert fetched(f"{web.url}/a.png", tmp_path / "", "any") == b"pixels"
    assert fetched(f"{web.url}/gone.png", make(tmp_path / "b"), "any") == "missing"


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_public_means_that_no_private_address_is_even_connected_to(
    web: Any, tmp_path: Path
) -> None:
    for url in (
        f"{web.url}/a.png",
        web.url.replace("127.0.0.1", "localhost") + "/a.png",
        "http://10.0.0.1/a.png",
        "https://169.254.169.254/latest/meta-data",
        "http://[::1]/a.png",
        "file:///etc/passwd",
        f"simplecache::{web.url}/a.png",
        "ssh://host/a.png",
    ):
        assert fetched(url, tmp_path, "public") == "unreadable", url
    assert web.asked == []


def test_a_redirect_into_the_private_network_is_not_followed(
    web: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    ((found, _),) = local_files([f"{web.url}/away"], tmp_path, urls="public")
    assert isinstance(found, Failure)
    assert "127.0.0.2" in found.message
    assert web.asked == ["/away"]


@pytest.mark.parametrize("path", ["announced", "endless"])
def test_a_file_larger_than_an_image_is_not_read_to_its_end(
    web: Any, tmp_path: Path, path: str
) -> None:
    assert fetched(f"{web.url}/{path}", tmp_path, "any") == "too-large"
    assert web.closed.wait(10)
    assert web.sent < 2**26  # what fits into the buffers of both sides
