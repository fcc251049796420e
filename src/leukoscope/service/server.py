"""Running the service: where it may listen, signals, a stop that finishes what it accepted."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from leukoscope.core.errors import LeukoscopeError, MissingExtraError, UsageError
from leukoscope.service.settings import ServiceSettings

if TYPE_CHECKING:
    from types import FrameType

KEY_VARIABLE = "LEUKOSCOPE_API_KEY"
_SHORTEST_KEY = 16
_MOST_CONNECTIONS = 1000
_LINGER_S = 0.25


def read_key(path: Path | None) -> SecretStr | None:
    """The API key: first line of a file, else the environment variable; None where neither is.

    Raises:
        UsageError: The file cannot be read, or the key is short.
    """
    if path is not None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: expected a file with the API key, but {error}") from None
        key, where = (lines[0].strip() if lines else ""), str(path)
    else:
        key, where = os.environ.get(KEY_VARIABLE, ""), KEY_VARIABLE
        if not key:
            return None
    if len(key) < _SHORTEST_KEY:
        raise UsageError(
            f"{where}: expected an API key of at least {_SHORTEST_KEY} characters, "
            f"found {len(key)}",
            hint="python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one",
        )
    return SecretStr(key)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_binding(host: str, settings: ServiceSettings, *, without_key: bool) -> None:
    """Refuse to be reachable from other machines without a key.

    Raises:
        UsageError: There is no key, and nobody said that none is wanted.
    """
    if not is_loopback(host) and settings.api_key is None and not without_key:
        raise UsageError(
            f"{host} can be reached from other machines, and no API key is set",
            hint=f"give --api-key-file or set {KEY_VARIABLE}; --without-key if something else "
            "guards it",
        )


def serve(
    bundles: Sequence[Path],
    settings: ServiceSettings,
    *,
    host: str,
    port: int,
    engine: str,
    listening: Callable[[str], None],
) -> None:
    """Answer until a signal says to stop.

    SIGTERM, SIGINT: stop gracefully. SIGHUP, where the system has it: open the bundles again.

    Args:
        bundles: Their folders.
        settings: Limits.
        host: Address to listen at.
        port: 0 takes any free one.
        engine: As in :func:`leukoscope.runtime.predictor.load_bundle`.
        listening: Told the address when the server answers.

    Raises:
        MissingExtraError: FastAPI, uvicorn or another part of ``[app]`` is not installed.
        UsageError: The address cannot be used.
        LeukoscopeError: A bundle cannot be used.
    """
    try:
        import fastapi
        import prometheus_client
        import python_multipart
        import uvicorn
    except ImportError:
        raise MissingExtraError("leukoscope serve", "app") from None
    del fastapi, prometheus_client, python_multipart
    import cv2
    from threadpoolctl import threadpool_limits

    from leukoscope.service.app import build_app
    from leukoscope.service.models import Models
    from leukoscope.service.telemetry import Metrics, start_logging

    # Images are worked on beside each other: threads for the inside of one would only compete.
    cv2.setNumThreads(1)
    threadpool_limits(1, user_api="blas")
    start_logging()
    metrics = Metrics()
    models = Models(bundles, engine, settings, metrics)
    failed: list[LeukoscopeError] = []

    class Server(uvicorn.Server):
        """Stops in three steps: not ready, no new connections, everything answered."""

        stop_at: float | None = None
        reload_wanted = False
        told = False

        @property
        def draining(self) -> bool:
            return self.stop_at is not None

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if self.should_exit:
                self.force_exit = True
            elif self.draining:
                self.should_exit = True
            else:
                self.stop_at = time.monotonic() + settings.drain_s

        async def on_tick(self, counter: int) -> bool:
            if not self.told:
                self.told = True
                listening(address)
            if self.reload_wanted:
                self.reload_wanted = False
                self.reloading = asyncio.create_task(models.reload())
            if failed or (self.stop_at is not None and time.monotonic() >= self.stop_at):
                self.should_exit = True
            return await super().on_tick(counter)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Closing resets connections that the system has made and nobody has accepted yet:
            # let no more be made, accept those that are there, close when there are none.
            listener.listen(0)
            while select.select([listener], [], [], 0)[0]:
                await asyncio.sleep(0.01)
            for each in self.servers:
                each.close()
            await asyncio.sleep(_LINGER_S)  # what was sent on open connections still comes in
            await super().shutdown(sockets)

    async def load() -> None:
        try:
            await models.load()
        except LeukoscopeError as error:
            failed.append(error)

    def start_loading() -> None:
        server.loading = asyncio.create_task(load())  # type: ignore[attr-defined]

    def on_hangup(sig: int, frame: FrameType | None) -> None:
        server.reload_wanted = True

    app = build_app(models, settings, metrics, load=start_loading, draining=lambda: server.draining)
    server = Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="on",
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_keep_alive=20,
            timeout_graceful_shutdown=int(settings.stop_s),
        )
    )
    listener, address = _listen(host, port)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, on_hangup)
    server.run(sockets=[listener])
    if failed:
        raise failed[0]


def _listen(host: str, port: int) -> tuple[socket.socket, str]:
    """An open socket and its address as a link."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UsageError(
            f"cannot listen at {host}, port {port}: {error.strerror or error}",
            hint="give another --port, or --port 0 for any free one",
        ) from None
    shown = f"[{host}]" if ":" in host else host
    return listener, f"http://{shown}:{listener.getsockname()[1]}"
