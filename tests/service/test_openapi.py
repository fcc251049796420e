"""The API's document stays what other programs were written against."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from leukoscope.core.program import __version__
from leukoscope.runtime.prediction import PREDICTION_FIELDS
from leukoscope.service.app import build_app
from leukoscope.service.model_pool import ModelPool
from leukoscope.service.settings import ServiceSettings
from leukoscope.service.telemetry import Metrics

GOLDEN = Path(__file__).parent / "openapi.json"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    settings, metrics = ServiceSettings(), Metrics()
    models = ModelPool([], "auto", "auto", settings, metrics)
    found: dict[str, Any] = build_app(models, settings, metrics).openapi()
    return found


def test_the_document_is_the_golden_one(document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    wanted = GOLDEN.read_text(encoding="utf-8").replace('"VERSION"', json.dumps(__version__))
    # After a change that is meant: write `text` there, with VERSION in place of the version.
    assert text == wanted


def test_every_field_of_a_prediction_is_described(document: dict[str, Any]) -> None:
    described = document["components"]["schemas"]["PredictionOut"]
    listed = [field for field in PREDICTION_FIELDS if field.api]
    assert {field.name for field in listed} < set(described["properties"])
    assert {field.name for field in listed if not field.optional} < set(described["required"])
    assert described["additionalProperties"] is True
