"""A model with classes of any name: letters of any script, spaces, markup, forty characters."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import pytest
from starlette.testclient import TestClient

from leukoscope.core.known_classes import Role
from leukoscope.runtime.bundle import save_bundle

AppWith = Callable[..., AbstractContextManager[TestClient]]
NAMES = ("<b>bold</b> & 'co'", "白血病 細胞", "a_class_whose_name_has_forty_characters_")


@pytest.fixture
def odd(tiny_parts: ModuleType, tmp_path: Path) -> Callable[..., Path]:
    """The tiny bundle under the names above, with roles."""

    def make(roles: dict[str, Role]) -> Path:
        record, parts = tiny_parts.with_cases()
        changed = record.model_copy(
            update={"class_names": NAMES, "name": "odd", "roles": roles, "similar": None}
        )
        folder = tmp_path / ("roles" if roles else "none") / "bundle"
        kept = {k: v for k, v in parts.items() if not k.startswith("similar")}
        save_bundle(folder, changed, kept)
        return folder

    return make


def test_the_api_answers_under_these_names(
    app_with: AppWith, odd: Callable[..., Path], red: bytes
) -> None:
    roles: dict[str, Role] = {NAMES[0]: "other", NAMES[1]: "malignant", NAMES[2]: "malignant"}
    with app_with(odd(roles)) as client:
        sent = [("files", ("a.png", red, "image/png"))]
        row = client.post("/v1/predict", files=sent).json()["predictions"][0]
        assert row["predicted"] == NAMES[0]
        p = [row[f"p_{name}"] for name in NAMES]
        assert sum(p) == pytest.approx(1, abs=1e-5)
        assert row["p_malignant"] == pytest.approx(p[1] + p[2], abs=1e-5)
        together = client.post("/v1/predict?by_patient=one", files=sent).json()["patients"][0]
        assert together["p_malignant"] == pytest.approx(row["p_malignant"], abs=1e-5)
        assert client.get("/metrics").status_code == 200
        (model,) = client.get("/v1/models").json()
        assert model["class_names"] == list(NAMES)
        assert model["roles"] == roles


def test_the_page_shows_them_as_text_and_what_they_stand_for(
    app_with: AppWith, odd: Callable[..., Path], red: bytes
) -> None:
    with app_with(odd({})) as client:
        page = client.get("/").text
        assert "<b>bold" not in page
        assert "&lt;b&gt;bold&lt;/b&gt;" in page
        assert "白血病 細胞" in page
        assert page.count("<td>not stated</td>") == 3
        assert "This model gives no P(malignant)" in page
        assert "hematogones" not in page
        sent = [("files", ("a.png", red, "image/png"))]
        assert (
            client.post("/v1/predict", files=sent).json()["predictions"][0]["p_malignant"] is None
        )
        answers = client.post("/answers", files=sent).text
        assert "<b>bold" not in answers
        assert "&lt;b&gt;bold" in answers
