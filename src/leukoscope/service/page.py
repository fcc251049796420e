"""The web page: server-rendered, one small script, no other host."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from leukoscope.core.program import __version__
from leukoscope.reporting.markup import source_of
from leukoscope.runtime.outputs import csv_text
from leukoscope.runtime.prediction import Failure
from leukoscope.service import uploads, views
from leukoscope.service.batching import ServedAnswer
from leukoscope.service.model_pool import ModelPool, ServedModel
from leukoscope.service.schemas import ProblemError
from leukoscope.service.settings import ServiceSettings
from leukoscope.service.uploads import Upload, UploadMemory
from leukoscope.service.views import Pictures, draw_pictures

if TYPE_CHECKING:
    from jinja2 import Environment

_SIMILAR = 5
_STATIC = {
    "page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml",
    "corrections.js": "text/javascript",
}  # fmt: skip


def add(app: FastAPI, models: ModelPool, settings: ServiceSettings, memory: UploadMemory) -> None:
    """Add the page, its pictures and its documents to an application."""
    _add_documents(app, models)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> Response:
        if not models.ready:
            return _html("opening.html.j2")
        return _html("page.html.j2", **_page_values(models, settings))

    @app.post("/answers", include_in_schema=False)
    async def answers(request: Request, fragment: bool = False) -> Response:
        async with memory.read(request) as upload:
            model = models.get(upload.model or None)
            heat = model.predictor.has_maps
            found = await uploads.predict_upload(
                request, model, upload, settings, heat=heat, similar=_SIMILAR
            )
            values = await _result_values(models, model, upload, found)
        if fragment:
            return _html("results.html.j2", **values)
        return _html("answers.html.j2", **values)


def _add_documents(app: FastAPI, models: ModelPool) -> None:
    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return RedirectResponse("/static/icon.svg")

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in _STATIC:  # a fixed list: no name of a request ever becomes a path
            raise ProblemError(404, "no such file")
        kept = {"Cache-Control": "no-cache"}
        return Response(_static(name), media_type=_STATIC[name], headers=kept)

    @app.get("/examples/{model}/{name}", include_in_schema=False)
    async def example(model: str, name: str) -> Response:
        content = models.get(model).examples.get(name)
        if content is None:
            raise ProblemError(404, "no such example")
        return Response(content, media_type="image/png")

    @app.get("/card/{model}", include_in_schema=False)
    async def card(model: str) -> Response:
        from markdown_it import MarkdownIt

        served = models.get(model)
        markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        tokens = markdown.parse(served.card)
        for token in tokens:
            token.attrs.pop("style", None)  # of table cells; the page allows no inline style
        text = markdown.renderer.render(tokens, markdown.options, {})
        return _html("card.html.j2", name=served.name, card=text)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return _html("docs.html.j2", api=app.openapi())


def _page_values(models: ModelPool, settings: ServiceSettings) -> dict[str, Any]:
    served = models.all()
    drawn = next((model for model in served if model.predictor.record.phantoms), None)
    return {
        "models": [views.about(model) for model in served],
        "examples": views.about(drawn or served[0]),
        "max_files": settings.max_files,
        "max_file_mb": settings.max_file_mb,
        "needs_key": settings.api_key is not None,
    }


async def _result_values(
    models: ModelPool, model: ServedModel, upload: Upload, answers: list[ServedAnswer]
) -> dict[str, object]:
    """The values that the template of the results shows."""
    cards, failures, counts = [], [], dict.fromkeys(("accept", "review", "reject"), 0)
    thumbs: dict[int, str] = {}
    for index, answer in enumerate(answers):
        if isinstance(answer, Failure):
            failures.append(answer)
            continue
        pictures: Pictures = await asyncio.get_running_loop().run_in_executor(
            models.pool,
            draw_pictures,
            model.predictor,
            models.decoders.decode,
            upload.files[index],
            answer,
        )
        cards.append(views.card(model, index, answer, pictures))
        thumbs[index] = pictures.thumb
        counts[answer.decision] += 1
    together = uploads.by_patient(model, upload, answers, "one") if upload.one_patient else []
    names = model.predictor.class_names
    return {
        "cards": cards,
        "failures": failures,
        "counts": counts,
        "patient": views.patient(together[0], names) if together else None,
        "deciding": views.deciding(model, answers, together[0]["predicted"]) if together else [],
        "thumbs": thumbs,
        "about": views.about(model),
        "csv": base64.b64encode(csv_text(answers, names).encode()).decode(),
        "made": views.texts()["results"]["made"].format(
            when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            version=__version__,
            model=model.predictor.model,
            sha256=model.predictor.bundle.sha256,
        ),
    }


@cache
def _static(name: str) -> bytes:
    if name == "corrections.js":  # the script of all pages that collect corrections
        return source_of(name).encode()
    return files(__package__).joinpath("static", name).read_bytes()


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("leukoscope.service"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _html(template: str, **values: object) -> HTMLResponse:
    t = views.texts()
    return HTMLResponse(
        _templates().get_template(template).render(t=t, version=__version__, **values)
    )
