"""What stands before every route: who asks, how often, from where; and what every answer carries.

One plain ASGI middleware: request id, Host and cross-site checks, API key, rate limit, security
headers, one log line and the metrics.
"""

from __future__ import annotations

import hmac
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leukoscope.core.program import __version__
from leukoscope.service.schemas import ProblemError
from leukoscope.service.settings import ServiceSettings
from leukoscope.service.telemetry import Metrics, log

OPEN = ("/", "/healthz", "/readyz", "/favicon.ico", "/docs", "/openapi.json")
OPEN_BELOW = ("/static/", "/examples/", "/card/")
"""Answered without a key: what the page is made of, and what says how to ask; no answers."""

_MAX_CLIENTS = 10_000
_NOT_BEGUN = 0
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": _CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Leukoscope-Version": __version__,
}


class RateLimit:
    """A token bucket of ``per_minute`` requests for each client; 0 sets no limit."""

    def __init__(self, per_minute: int) -> None:
        self._most = per_minute
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, client: str, now: float) -> float:
        """Seconds that a client has to wait; 0 if the request may pass.

        >>> limit = RateLimit(60)
        >>> [limit.wait_s("a", 0.0) for _ in range(61)][-2:], limit.wait_s("a", 1.0)
        ([0.0, 1.0], 0.0)
        """
        if not self._most:
            return 0.0
        tokens, then = self._left.pop(client, (float(self._most), now))
        tokens = min(self._most, tokens + (now - then) * self._most / 60)
        passes = tokens >= 1
        self._left[client] = (tokens - passes, now)
        while len(self._left) > _MAX_CLIENTS:
            self._left.popitem(last=False)
        return 0.0 if passes else (1 - tokens) * 60 / self._most


class Guard:
    """The middleware in front of every route.

    ``draining`` says whether the server is about to stop: connections are then not kept open.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServiceSettings,
        metrics: Metrics,
        draining: Callable[[], bool],
    ) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._draining = draining
        self._rate = RateLimit(settings.rate_per_minute)
        key = settings.api_key
        self._key = None if key is None else key.get_secret_value().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, request_id = time.perf_counter(), uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = _NOT_BEGUN

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(MutableHeaders(scope=message), scope, request_id)
            await send(message)

        try:
            self._check(scope, Headers(scope=scope))
            await self._app(scope, receive, sending)
        except ProblemError as problem:
            await problem.response(request_id)(scope, receive, sending)
        except Exception:
            if status != _NOT_BEGUN:
                raise
            log("failed", level=logging.ERROR, request_id=request_id, exc_info=True)
            answer = ProblemError(500, "The server failed; its log says why under this request id.")
            await answer.response(request_id)(scope, receive, sending)
        finally:
            self._note(scope, status, time.perf_counter() - started, request_id)

    def _check(self, scope: Scope, headers: Headers) -> None:
        try:
            host = urlsplit(f"//{headers.get('host', '')}").hostname
        except ValueError:  # such as an address whose bracket never closes
            raise ProblemError(400, "expected a host name in the header Host") from None
        if self._settings.hosts and host not in self._settings.hosts:
            raise ProblemError(421, "this server does not answer to that host name")
        origin = headers.get("origin")
        foreign = headers.get("sec-fetch-site") == "cross-site"
        if scope["method"] == "POST" and foreign and origin not in self._settings.cors_origins:
            raise ProblemError(403, "requests from other web sites are not answered")
        preflight = scope["method"] == "OPTIONS"  # a browser sends it without a key
        address = (scope.get("client") or ("?",))[0]
        denied: ProblemError | None = None
        try:
            known = not preflight and self._check_key(scope["path"], headers)
        except ProblemError as error:  # counted first: keys must not be tried without end
            known, denied = False, error
        client = "key" if known else address
        if scope["path"] not in ("/healthz", "/readyz"):
            wait_s = self._rate.wait_s(client, time.monotonic())
            if wait_s:
                most = self._settings.rate_per_minute
                raise ProblemError(429, f"more than {most} requests a minute", retry_after_s=wait_s)
        if denied is not None:
            raise denied

    def _check_key(self, path: str, headers: Headers) -> bool:
        if self._key is None:
            return False
        given = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        if given and hmac.compare_digest(given.encode("latin-1"), self._key):
            return True
        if path in OPEN or path.startswith(OPEN_BELOW):
            return False
        raise ProblemError(
            401, "expected the API key in the header X-API-Key, or as a bearer token"
        )

    def _add_headers(self, headers: MutableHeaders, scope: Scope, request_id: str) -> None:
        for name, value in HEADERS.items():
            headers[name] = value
        headers["X-Request-Id"] = request_id
        if not scope["path"].startswith("/static/"):
            headers["Cache-Control"] = "no-store"
        if self._draining():
            headers["Connection"] = "close"

    def _note(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.latency.labels(route).observe(seconds)
        log(
            "request",
            request_id=request_id,
            method=scope["method"],
            route=route,
            status=status,
            ms=round(1000 * seconds, 2),
            **scope["state"].get("noted", {}),
        )
