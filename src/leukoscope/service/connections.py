"""Connections that end: who is slow with the head of a request, or goes on after a refusal."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol


def bounded_protocol(seconds: float) -> type[asyncio.Protocol]:
    """The HTTP protocol of uvicorn, which by itself waits for the head of a request without end.

    Args:
        seconds: Longest time from the first byte of a request (or from the connection) to the end
            of its head, and that bytes are still taken after an answer that did not wait for them.
            Between requests uvicorn's own time holds.
    """

    class Bounded(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        _end: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._end is not None:
                self._end.cancel()

        def _watch(self) -> None:
            """Start the clock while no request is under way; more bytes do not set it back."""
            cycle: Any = self.cycle
            waits = cycle is None or cycle.response_complete
            if waits and self._end is None:
                self._end = self.loop.call_later(seconds, self.transport.close)
            elif not waits and self._end is not None:
                self._end.cancel()
                self._end = None

    return Bounded
