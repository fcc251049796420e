"""Running the service: where it may listen, signals, a stop that finishes what it accepted."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from leukoscope.core.errors import LeukoscopeError, MissingExtraError, UsageError
from leukoscope.runtime.audit_log import AuditLog
from leukoscope.runtime.engines import one_thread_each
from leukoscope.runtime.prediction import Failure, Prediction
from leukoscope.runtime.predictor import Predictor
from leukoscope.service.settings import ServiceSettings

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from leukoscope.service.model_pool import ModelPool

KEY_VARIABLE = "LEUKOSCOPE_API_KEY"
_SHORTEST_KEY = 16
_MOST_CONNECTIONS = 1000


def read_key(path: Path | None) -> SecretStr | None:
    """The API key from the first line of a file, else from the environment variable, else None.

    Raises:
        UsageError: The file cannot be read, or the key is too short.
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
        UsageError: There is no key, and ``without_key`` was not given.
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
    precision: str,
    audit_log: Path | None,
    listening: Callable[[str], None],
) -> None:
    """Answer until SIGTERM or SIGINT; SIGHUP, where the system has it, reopens the bundles.

    ``port`` 0 takes a free one; ``listening`` gets the address once the server answers.

    Raises:
        MissingExtraError: FastAPI, uvicorn or another part of ``[app]`` is not installed.
        UsageError: The address cannot be used.
        LeukoscopeError: A bundle cannot be used.
    """
    _require_packages()
    from leukoscope.service.app import build_app
    from leukoscope.service.graceful import GracefulServer
    from leukoscope.service.model_pool import ModelPool
    from leukoscope.service.telemetry import Metrics, start_logging

    one_thread_each()
    start_logging()
    metrics = Metrics()
    record = AuditLog(audit_log) if audit_log else None
    append = partial(_append_to, record)
    models = ModelPool(bundles, engine, precision, settings, metrics, on_answers=append)
    failed: list[LeukoscopeError] = []

    async def load() -> None:
        if (error := await _load_error(models)) is not None:
            failed.append(error)
            server.should_exit = True  # else it would seem to be on its way for ever

    app = build_app(
        models,
        settings,
        metrics,
        load=lambda: server.start_job(load),
        draining=lambda: server.draining,
        recording=lambda: record is None or record.in_place,
    )
    listener, address = _listen(host, port)
    server = GracefulServer(
        _uvicorn_config(app, settings),
        listener,
        drain_s=settings.drain_s,
        started=lambda: listening(address),
        reload=models.reload,
    )
    with closing(record) if record else nullcontext():
        server.answer()
    if failed:
        raise failed[0]


async def _load_error(models: ModelPool) -> LeukoscopeError | None:
    """Open the bundles; gives what went wrong, if anything did."""
    from leukoscope.service.telemetry import log

    try:
        await models.load()
    except LeukoscopeError as error:
        return error
    except Exception:
        log("failed", level=logging.ERROR, exc_info=True)
        return LeukoscopeError("the bundles cannot be opened; the log says why")
    return None


def _require_packages() -> None:
    """Refuse to start where a package of the extra ``app`` is not installed."""
    try:
        from leukoscope.service import app, graceful, model_pool, telemetry  # noqa: F401
    except ImportError:
        raise MissingExtraError("leukoscope serve", "app") from None


def _append_to(
    record: AuditLog | None, predictor: Predictor, answers: Sequence[Prediction | Failure]
) -> None:
    """Append answers to the audit log, where one is kept."""
    if record is not None:
        for answer in answers:
            record.add(answer, predictor)


def _uvicorn_config(app: FastAPI, settings: ServiceSettings) -> uvicorn.Config:
    """Configure uvicorn: its own logs off, every wait bounded."""
    import uvicorn

    from leukoscope.service.graceful import bounded_protocol

    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        http=bounded_protocol(settings.upload_s),
        ws="none",
        lifespan="on",
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=int(settings.stop_s),
    )


def _listen(host: str, port: int) -> tuple[socket.socket, str]:
    """Open a socket; returns it with its address as a URL."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UsageError(
            f"cannot listen at {host}, port {port}: {error.strerror or error}",
            hint="give another --port, or --port 0 for any free one",
        ) from None
    # Connections inherit it. asyncio sets it on sockets of its own only; without it an answer
    # may wait for the client's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    shown = f"[{host}]" if ":" in host else host
    return listener, f"http://{shown}:{listener.getsockname()[1]}"
