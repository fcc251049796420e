"""The application: routes of the API, of health and of the metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

from leukoscope.core.labels import roles_of
from leukoscope.core.program import DISCLAIMER, __version__
from leukoscope.service import page, schemas, uploads
from leukoscope.service.batching import ServedAnswer
from leukoscope.service.guard import Guard
from leukoscope.service.model_pool import ModelPool, ServedModel
from leukoscope.service.schemas import (
    FORM,
    ModelOut,
    PredictOut,
    ProblemError,
    ProblemOut,
    State,
    promise_of,
    verdict_of,
)
from leukoscope.service.schemas import problems as may_fail
from leukoscope.service.settings import ServiceSettings
from leukoscope.service.telemetry import Metrics
from leukoscope.service.uploads import Upload, UploadMemory

ModelQuery = Annotated[str | None, Query(description="Name of a model; the first by default.")]
ExplainQuery = Annotated[bool, Query(description="Also the heat map, as a PNG data URI.")]
SimilarQuery = Annotated[
    int, Query(ge=0, le=20, description="So many similar training cases with each answer.")
]
ByPatientQuery = Annotated[
    uploads.ByPatient | None,
    Query(
        description="Also one row a patient: all images are of `one`; the first `folder` "
        "of the file's name; or the form `field` patient, one for each file."
    ),
]


def build_app(
    models: ModelPool,
    settings: ServiceSettings,
    metrics: Metrics,
    *,
    load: Callable[[], object] | None = None,
    draining: Callable[[], bool] = lambda: False,
    recording: Callable[[], bool] = lambda: True,
) -> FastAPI:
    """The ASGI application, which opens the models when it starts.

    ``load`` replaces ``models.load`` as what opens them; ``draining`` says whether the server is
    about to stop; ``recording`` whether its audit log, if it keeps one, is in its place.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        started = (load or models.load)()
        if asyncio.iscoroutine(started):
            await started
        yield
        await models.close()

    middleware = [Middleware(Guard, settings=settings, metrics=metrics, draining=draining)]
    if settings.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["X-API-Key", "Authorization"],
            )
        )
    app = FastAPI(
        title="Leukoscope",
        version=__version__,
        description=f"Calibrated, explained answers about blood-smear images. {DISCLAIMER}",
        docs_url=None,  # both of FastAPI's own pages load scripts from another host
        redoc_url=None,
        lifespan=lifespan,
        middleware=middleware,
        responses=may_fail(401, 403, 429, 500),
    )
    memory = UploadMemory(settings)
    schemas.install(app)
    _add_health(app, models, metrics, memory, draining, recording)
    _add_models(app, models)
    _add_predict(app, models, settings, memory)
    _add_openapi(app)
    page.add(app, models, settings, memory)
    return app


def _add_health(
    app: FastAPI,
    models: ModelPool,
    metrics: Metrics,
    memory: UploadMemory,
    draining: Callable[[], bool],
    recording: Callable[[], bool],
) -> None:
    """Add the routes of health and of the Prometheus metrics."""

    @app.get("/healthz", response_model=State, tags=["health"])
    async def healthz() -> Response:
        """The process lives."""
        return JSONResponse({"status": "alive"})

    @app.get("/readyz", response_model=State, responses=may_fail(503), tags=["health"])
    async def readyz() -> Response:
        """All models are warm, answers can be recorded, and no stop was asked for."""
        if not models.ready or draining():
            what = "The server is stopping." if draining() else "The models are being opened."
            raise ProblemError(503, what, retry_after_s=2)
        if models.stuck:
            raise ProblemError(503, "No worker has answered for too long.", retry_after_s=10)
        if not recording():
            raise ProblemError(503, "The audit log was moved or removed.", retry_after_s=10)
        return JSONResponse({"status": "ready"})

    text: dict[int | str, dict[str, object]] = {
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
    }

    @app.get("/metrics", response_class=Response, responses=text, tags=["health"])
    async def prometheus() -> Response:
        """Requests, latency, batch sizes, queue, decisions by class, for Prometheus."""
        metrics.queue.set(models.waiting)
        metrics.hanging.set(models.hanging)
        metrics.uploads.set(memory.used)
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_models(app: FastAPI, models: ModelPool) -> None:
    """Add the list of models."""

    @app.get("/v1/models", response_model=list[ModelOut], responses=may_fail(503), tags=["answers"])
    async def list_models() -> Response:
        """The models that can be asked; the first is the default."""
        return JSONResponse([_describe(model) for model in models.all()])


def _describe(model: ServedModel) -> dict[str, Any]:
    """What the API says about one model."""
    predictor = model.predictor
    return {
        "name": model.name,
        "model": predictor.model,
        "sha256": predictor.bundle.sha256,
        "class_names": list(predictor.class_names),
        "roles": roles_of(predictor.class_names, predictor.record.roles),
        "trained_on": predictor.record.trained_on,
        "licence": predictor.record.licence,
        "promise": promise_of(predictor.record),
        "verdict": verdict_of(predictor.record),
        "explains": predictor.has_maps,
        "similar_cases": model.similar_cases,
    }


def _add_predict(
    app: FastAPI, models: ModelPool, settings: ServiceSettings, memory: UploadMemory
) -> None:
    """Add the prediction of uploaded images."""

    @app.post(
        "/v1/predict",
        response_model=PredictOut,
        openapi_extra=FORM,
        responses={**may_fail(400, 404, 408, 413, 415, 422, 503)},
        tags=["answers"],
    )
    async def predict(
        request: Request,
        model: ModelQuery = None,
        explain: ExplainQuery = False,
        similar: SimilarQuery = 0,
        by_patient: ByPatientQuery = None,
    ) -> Response:
        """Class, calibrated probabilities, prediction set, decision and reasons for each image.

        200 where at least one image could be read; the others are named in `errors`.
        """
        async with memory.read(request) as upload:
            served = models.get(model)
            answers = await uploads.predict_upload(
                request, served, upload, settings, heat=explain, similar=similar
            )
            predictions, errors = uploads.response_rows(served, answers)
            if not predictions:
                raise ProblemError(422, "none of the images could be read", errors=errors)
            if explain:
                await _add_heat_maps(predictions, models, served, upload, answers)
            content = {
                "predictions": predictions,
                "errors": errors,
                **_provenance(served),
                "request_id": request.state.request_id,
            }
            if by_patient is not None:
                content["patients"] = uploads.by_patient(served, upload, answers, by_patient)
            return JSONResponse(content)


async def _add_heat_maps(
    rows: Sequence[dict[str, Any]],
    models: ModelPool,
    served: ServedModel,
    upload: Upload,
    answers: Sequence[ServedAnswer],
) -> None:
    """Draw the heat map of each row beside the event loop, and put it into the row."""
    loop = asyncio.get_running_loop()
    for row in rows:
        file, answer = upload.files[row["index"]], answers[row["index"]]
        row["heatmap"] = await loop.run_in_executor(
            models.pool, uploads.heat_uri, served, models.decoders.decode, file, answer
        )


def _provenance(served: ServedModel) -> dict[str, object]:
    """Which model and program gave the answers, and what is promised of them."""
    predictor = served.predictor
    return {
        "model": predictor.model,
        "model_sha256": predictor.bundle.sha256,
        "promise": predictor.record.promise_words,
        "warning": predictor.record.warning,
        "version": __version__,
        "disclaimer": DISCLAIMER,
    }


def _add_openapi(app: FastAPI) -> None:
    """Replace the OpenAPI document by one without validation schemas that no answer uses."""
    original = app.openapi

    def openapi() -> dict[str, object]:
        """Without the validation schemas of FastAPI, which no answer here has."""
        document = original()
        document["components"]["schemas"]["ProblemOut"] = ProblemOut.model_json_schema()
        return document

    app.openapi = openapi  # type: ignore[method-assign]
