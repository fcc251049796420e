"""The answers of the API and its errors (RFC 9457), as the OpenAPI document describes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, create_model
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from leukoscope.config.bundle import BundleRecord
from leukoscope.core.known_classes import Role
from leukoscope.runtime.output_fields import OutputField
from leukoscope.runtime.prediction import FAILURE_FIELDS, PREDICTION_FIELDS
from leukoscope.runtime.similar import CASE_FIELDS

MEDIA_TYPE = "application/problem+json"
_OPEN = ConfigDict(extra="allow")
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {
                        "files": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "format": "binary"},
                            "description": "JPEG, PNG, WebP, BMP, TIFF or single-frame GIF.",
                        },
                        "patient": {
                            "type": "array",
                            "items": {"type": "string"},
                            "description": "With by_patient=field: one for each file, in order.",
                        },
                    },
                }
            }
        },
    }
}
"""The request body of ``/v1/predict``; parsed by hand, so that nothing reaches the disk."""


class ProblemError(Exception):
    """A request that gets no answer.

    Args:
        status: HTTP status.
        detail: What was expected, what came, what to do.
        retry_after_s: When asking again makes sense.
        more: Further members of the document, such as ``errors``.
    """

    def __init__(
        self, status: int, detail: str, *, retry_after_s: float | None = None, **more: object
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


_Definitions = Mapping[str, tuple[object, Any]]  # name → type and FieldInfo


def _model(name: str, doc: str, fields: _Definitions, *, more: bool = False) -> type[BaseModel]:
    """A model of the API; ``more`` says that answers may hold further members."""
    config = _OPEN if more else None
    # The stubs of pydantic do not know a mapping of definitions.
    made: type[BaseModel] = create_model(  # type: ignore[call-overload]
        name, __doc__=doc, __config__=config, **fields
    )
    return made


def _definitions(fields: Iterable[OutputField[Any]], *, optional: bool = False) -> _Definitions:
    """Types and descriptions of the fields that the API's document lists."""
    default = None if optional else ...
    return {
        field.name: (
            _SIMILAR if field.name == "similar" else field.kind,
            Field(default, description=field.description or None),
        )
        for field in fields
        if field.api and field.optional == optional
    }


SimilarOut = _model(
    "SimilarOut",
    "A training case that resembles the image in the model's features, not in diagnosis.",
    _definitions(CASE_FIELDS),
)
_SIMILAR = list[SimilarOut] | None  # type: ignore[valid-type]

PredictionOut = _model(
    "PredictionOut",
    "What the model says about one image; ``p_<class>`` for each class stands beside these.",
    {
        "index": (int, Field(description="Place of the image in the request, from 0.")),
        **_definitions(PREDICTION_FIELDS),
        "seen_in_training": (
            bool,
            Field(description="This very file was among the training images."),
        ),
        **_definitions(PREDICTION_FIELDS, optional=True),
    },
    more=True,
)

ErrorOut = _model(
    "ErrorOut",
    "An image that could not be read.",
    {"index": (int, Field()), **_definitions(FAILURE_FIELDS)},
)


class PromiseOut(BaseModel):
    """For which new images a model is calibrated; numbers are null in older bundles."""

    words: str = Field(description="The same in one sentence.")
    unit: str | None = Field(
        description="patient, merged acquisition cluster, acquisition cluster or image."
    )
    protocol: str | None
    n_groups: int | None = Field(description="Number of units that were held out.")
    n: int | None = Field(description="Number of their images.")
    coverage: float | None = Field(description="Nominal coverage of the prediction sets.")
    measured: dict[str, Any] | None = Field(
        description="Coverage on units with no part in it: value, low, high, reliable."
    )
    method: str | None


def promise_of(record: BundleRecord) -> dict[str, object]:
    """The content of :class:`PromiseOut`."""
    known = record.promise.model_dump(mode="json") if record.promise is not None else {}
    names = [name for name in PromiseOut.model_fields if name != "words"]
    return {"words": record.promise_words, **{name: known.get(name) for name in names}}


class VerdictOut(BaseModel):
    """What the study behind a model allows one to say."""

    level: str = Field(description="unsafe, inconclusive, plausible or plausible-by-clusters.")
    headline: str
    sources: dict[str, str] = Field(
        description="Source of shortcut → shown, refuted, open or inapplicable."
    )


def verdict_of(record: BundleRecord) -> dict[str, object] | None:
    """The content of :class:`VerdictOut`; None in older bundles."""
    return None if record.verdict is None else record.verdict.model_dump(mode="json")


class PredictOut(BaseModel):
    """The answer to a request."""

    predictions: list[PredictionOut]  # type: ignore[valid-type]
    errors: list[ErrorOut]  # type: ignore[valid-type]
    patients: list[dict[str, Any]] | None = Field(
        default=None, description="With by_patient: one row a patient."
    )
    model: str
    model_sha256: str
    promise: str = Field(description="For which new images the answers are calibrated.")
    warning: str = Field(
        description="What the verdict of the model's study says against its answers, or empty."
    )
    version: str
    disclaimer: str
    request_id: str


class ModelOut(BaseModel):
    """A model that can be asked."""

    name: str
    model: str
    sha256: str
    class_names: list[str]
    roles: dict[str, Role] = Field(
        description="What each class stands for; one that is left out is not stated."
    )
    trained_on: str
    licence: str
    promise: PromiseOut
    verdict: VerdictOut | None
    explains: bool = Field(description="Whether explain=true works.")
    similar_cases: int = Field(description="Training cases that similar=k chooses from.")


class State(BaseModel):
    """Whether the server lives, or is ready."""

    status: str


class ProblemOut(BaseModel):
    """An error (RFC 9457)."""

    model_config = _OPEN
    type: str
    title: str
    status: int
    detail: str
    request_id: str


def problems(*statuses: int) -> dict[int | str, dict[str, object]]:
    """The ``responses`` of a route that may answer with these errors."""
    reference = {"$ref": "#/components/schemas/ProblemOut"}
    words = {
        400: "Malformed form.", 401: "The API key is missing or wrong.", 404: "No such model.",
        403: "Asked from another web site.", 408: "The upload took too long.",
        413: "Too many, or too large.", 415: "Not a multipart form.",
        422: "No image could be read, or a parameter is wrong.",
        429: "Come again after Retry-After seconds.", 500: "The server failed.",
        503: "Not ready, or no answer in time; come again after Retry-After seconds.",
    }  # fmt: skip
    return {
        status: {"description": words[status], "content": {MEDIA_TYPE: {"schema": reference}}}
        for status in statuses
    }
