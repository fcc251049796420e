"""A web server on this machine, for whatever reads or writes URLs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """Starts servers; each has the given attributes, which its handler finds as ``server.…``."""
    with ExitStack() as stack:

        def start(handler: Callable[..., BaseHTTPRequestHandler], **attributes: object) -> Any:
            server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            vars(server).update(attributes)
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            stack.callback(server.server_close)
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return server

        yield start
