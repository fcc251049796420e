"""A uvicorn server that ends slow connections, and stops only when everything is answered."""

from __future__ import annotations

import asyncio
import select
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

_LINGER_S = 0.25
MAX_HEAD_BYTES = 64 * 1024
"""Most bytes of a request that are no body: its line, its headers, what follows its body."""
_SLICE = 8 * 1024
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)
_PARSER_TELLS_BODIES = hasattr(AutoHTTPProtocol, "on_body")
Job = Callable[[], Coroutine[Any, Any, None]]


class GracefulServer(uvicorn.Server):
    """A uvicorn server on one open socket.

    SIGTERM or SIGINT stops it gracefully; a second signal skips the waiting before the port closes;
    a third ends it at once. SIGHUP, where the system has it, starts ``reload``.

    Args:
        config: The uvicorn configuration.
        listener: The open socket.
        drain_s: Time between the signal and closing the port.
        started: Called once, when connections are accepted.
        reload: What SIGHUP starts.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        listener: socket.socket,
        *,
        drain_s: float,
        started: Callable[[], None],
        reload: Job,
    ) -> None:
        super().__init__(config)
        self._listener = listener
        self._drain_s = drain_s
        self._announce: Callable[[], None] | None = started
        self._reload = reload
        self._reload_wanted = False
        self._stop_at: float | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._on_hangup)

    @property
    def draining(self) -> bool:
        """Whether a stop was requested."""
        return self._stop_at is not None

    def start_job(self, job: Job) -> None:
        """Run a coroutine beside the requests."""
        task = asyncio.ensure_future(job())
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    def answer(self) -> None:
        """Run until a signal, or ``should_exit``, says to stop."""
        self.run(sockets=[self._listener])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a stop signal here: uvicorn would raise it again after shutdown."""
        if self.should_exit:
            self.force_exit = True
        elif self.draining:
            self.should_exit = True
        else:
            self._stop_at = time.monotonic() + self._drain_s

    async def on_tick(self, counter: int) -> bool:
        """Check, ten times a second, whether to announce, reload or stop."""
        if self._announce is not None:
            self._announce()
            self._announce = None
        if self._reload_wanted:
            self._reload_wanted = False
            self.start_job(self._reload)
        if self._stop_at is not None and time.monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, then wait for what was accepted."""
        # Closing resets connections that the system has made and nobody has accepted yet:
        # let no more be made, accept those that are there, close when there are none.
        self._listener.listen(0)
        while select.select([self._listener], [], [], 0)[0]:
            await asyncio.sleep(0.01)
        for server in self.servers:
            server.close()
        await asyncio.sleep(_LINGER_S)  # what was sent on open connections still comes in
        await super().shutdown(sockets)

    def _on_hangup(self, sig: int, frame: FrameType | None) -> None:
        self._reload_wanted = True


class BoundedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """The HTTP protocol of uvicorn with the limits on a request's head that it lacks.

    uvicorn takes a head, and trailers, of any size. This protocol closes a connection that sends
    more than :data:`MAX_HEAD_BYTES` without a byte of a body between them.

    Attributes:
        head_s: Limits the time from the first byte (or from the connection) to the end of the head,
            and how long bytes are taken after an early answer. Between requests uvicorn's limit
            applies.
    """

    head_s: float
    _end: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the time limit with the connection."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take bytes piece by piece, so that no head grows past its limit."""
        if not _PARSER_TELLS_BODIES:  # h11 has such a limit itself
            super().data_received(data)
            self._watch()
            return
        for start in range(0, len(data), _SLICE):
            piece = data[start : start + _SLICE]
            self._head_bytes += len(piece)  # a body, or the end of a request, sets it back
            super().data_received(piece)
            if self.transport.is_closing():
                return
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse_head()
                return
        self._watch()

    def on_body(self, body: bytes) -> None:
        """Count anew: a body is no head."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Count anew for the next request."""
        self._head_bytes = 0
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer with the connection."""
        super().connection_lost(exc)
        if self._end is not None:
            self._end.cancel()

    def _refuse_head(self) -> None:
        """Close, and say why unless an answer is on its way."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_TOO_LARGE)
        self.transport.close()

    def _watch(self) -> None:
        """Start the timer while no request is under way; further bytes do not reset it."""
        cycle: Any = self.cycle
        waits = cycle is None or cycle.response_complete
        if waits and self._end is None:
            self._end = self.loop.call_later(self.head_s, self.transport.close)
        elif not waits and self._end is not None:
            self._end.cancel()
            self._end = None


def bounded_protocol(seconds: float) -> type[asyncio.Protocol]:
    """A :class:`BoundedProtocol` with its time limit; uvicorn makes one for each connection."""
    return type("Bounded", (BoundedProtocol,), {"head_s": seconds})
