"""The tables of the documentation that are made from the code hold everything there is."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from pydantic import TypeAdapter

from leukoscope.config.preprocess import Step
from leukoscope.imaging.corruption import CORRUPTIONS

DOCS = Path(__file__).parents[2] / "docs"


def test_every_setting_is_described_with_its_default(site_hooks: ModuleType) -> None:
    page = (DOCS / "training.md").read_text(encoding="utf-8")
    written = site_hooks.on_page_markdown(page, None)
    for schema in site_hooks.SETTINGS:
        assert f"<!-- {schema.__name__} -->" in page
        for name in set(schema.model_fields) - {"method"}:
            assert f"| `{name}` | " in written, f"{schema.__name__}.{name} is not described"
    assert "| `patience` | 10 | Epochs without an improvement of `stop_on` before" in written
    assert "| `c_grid` | 0.0003, 0.003, 0.03, 0.3 | " in written
    assert "| `flips` " not in written
    assert "<!--" not in written


def test_every_step_and_every_corruption_has_its_row(site_hooks: ModuleType) -> None:
    def rows(name: str) -> list[str]:
        text = site_hooks.on_page_markdown((DOCS / name).read_text("utf-8"), None)
        return [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]

    kinds = TypeAdapter(Step).json_schema()["discriminator"]["mapping"]
    assert set(kinds) <= set(rows("preprocessing.md"))
    assert rows("robustness.md") == list(CORRUPTIONS)


def test_no_role_of_a_docstring_is_shown(site_hooks: ModuleType) -> None:
    html = "As :func:<code>leukoscope.audit</code> and :class:<code>~leukoscope.core.A</code> read."
    shown = "As <code>leukoscope.audit</code> and <code>A</code> read."
    assert site_hooks.on_page_content(html, page=None) == shown
