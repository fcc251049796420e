"""Errors as ``application/problem+json`` (RFC 9457); never a stack trace."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

MEDIA_TYPE = "application/problem+json"


class ProblemError(Exception):
    """A request that gets no answer.

    Args:
        status: HTTP status.
        detail: What was expected, what came, what to do.
        retry_after_s: When asking again makes sense.
        more: Further members of the document, such as ``errors``.
    """

    def __init__(
        self, status: int, detail: str, *, retry_after_s: float | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.more = more

    def response(self, request_id: str) -> JSONResponse:
        """The document, with its headers."""
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 408:  # what is still to come of the upload is not waited for
            headers["Connection"] = "close"
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        content = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
            **self.more,
        }
        return JSONResponse(content, self.status, headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error with a problem document."""

    async def own(request: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        return error.response(request.state.request_id)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        found = ProblemError(error.status_code, str(error.detail)).response(
            request.state.request_id
        )
        found.headers.update(error.headers or {})
        return found

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        return ProblemError(422, f"{place}: {first['msg']}").response(request.state.request_id)

    app.add_exception_handler(ProblemError, own)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
