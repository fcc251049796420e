"""The API against its own description, and against hostile files."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from starlette.testclient import TestClient

schemathesis = pytest.importorskip("schemathesis")
openapi_checks = pytest.importorskip("schemathesis.specs.openapi.checks")

METHODS = (("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/v1/models"), ("POST", "/v1/predict"))


@pytest.fixture(scope="module")
def schema(served: str) -> Any:
    return schemathesis.openapi.from_url(f"{served}/openapi.json")


@pytest.mark.parametrize(("method", "path"), METHODS)
def test_the_answers_fit_the_description(schema: Any, method: str, path: str) -> None:
    operation = schema[path][method]
    few = settings(
        max_examples=15, deadline=None, derandomize=True, database=None,
        phases=(Phase.generate,), suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    checks = [
        schemathesis.checks.not_a_server_error,
        openapi_checks.status_code_conformance,
        openapi_checks.content_type_conformance,
        openapi_checks.response_schema_conformance,
    ]

    def ask(case: object) -> None:
        case.call_and_validate(checks=checks)  # type: ignore[attr-defined]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        few(given(case=operation.as_strategy())(ask))()


def test_no_upload_breaks_the_server(client: TestClient, fuzz: ModuleType) -> None:
    statuses = set()
    for number, (_, body, kind) in enumerate(fuzz.requests_of(300, seed=7)):
        path = "/answers" if number % 20 == 7 else "/v1/predict"
        answer = client.post(path, content=body, headers={"content-type": kind})
        statuses.add(answer.status_code)
        assert answer.status_code < 500, (number, answer.text)
    assert {200, 400, 415, 422} <= statuses
