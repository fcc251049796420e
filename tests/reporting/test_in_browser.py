"""The report in a browser: tabs, tables, gallery, both widths, both themes, print."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting.study.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def address(make_study: Callable[..., RunFolder], tmp_path_factory: pytest.TempPathFactory) -> str:
    run = make_study(tmp_path_factory.mktemp("browser"))
    write_report(run)
    return run.report_html.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("NO CHROMIUM on this machine: the report was not tested in a browser")
    with playwright.sync_playwright() as engine:
        found = engine.chromium.launch(executable_path=path, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Opens the report; afterwards nothing stood on its console."""
    said: list[str] = []
    contexts = []

    def open_at(width: int = 1280, height: int = 800, path: str = "", **more: Any) -> Any:
        size = {"width": width, "height": height}
        contexts.append(browser.new_context(viewport=size, accept_downloads=True, **more))
        page = contexts[-1].new_page()
        page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else 0)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(address + path)
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert said == []


def shown(page: Any) -> list[str]:
    """Anchors of the parts that are on the screen."""
    parts = page.locator(".tab").all()
    return [part.get_attribute("id") for part in parts if part.is_visible()]


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_first_screen_holds_the_answer(opened: Any, width: int, height: int) -> None:
    page = opened(width, height)
    for part in (".verdict", ".lead .ranges >> nth=1", ".steps"):
        box = page.locator(part).bounding_box()
        assert box["y"] + box["height"] <= height, part
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 1280:
        assert page.evaluate("document.documentElement.scrollHeight") <= 4000
        assert page.locator(".table.wide:visible").count() == 0


def test_tabs_follow_the_mouse_the_keyboard_and_links(opened: Any) -> None:
    page = opened()
    assert shown(page) == ["part-evidence"]
    page.get_by_role("tab", name="Data").click()
    assert shown(page) == ["part-data"]
    page.keyboard.press("ArrowLeft")
    assert shown(page) == ["part-calibration-and-decisions"]
    page.keyboard.press("End")
    assert shown(page) == ["part-reproduce"]
    assert shown(opened(path="#classes")) == ["part-performance"]


def test_without_the_script_everything_is_there(opened: Any) -> None:
    page = opened(java_script_enabled=False)
    assert len(shown(page)) == 6


def test_a_table_sorts_and_copies(opened: Any) -> None:
    page = opened(path="#results", permissions=["clipboard-read", "clipboard-write"])
    region = page.get_by_role("region", name=re.compile("^Results on test images"))
    page.get_by_role("button", name="Accuracy", exact=True).first.click()
    cells = region.locator("tbody tr td:nth-child(2) .value").all_inner_texts()
    numbers = [float(text.replace("\u00a0%", "").replace(" %", "")) for text in cells]
    assert numbers == sorted(numbers)
    page.locator("#results").get_by_role("button", name="Copy CSV").first.click()
    page.get_by_role("button", name="Copied").wait_for()
    lines = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert lines[0].startswith("Protocol,Accuracy,")
    assert len(lines) == 5


def test_the_gallery_filters_and_a_chart_is_downloaded(opened: Any) -> None:
    page = opened(path="#examples")
    gallery = page.locator(".cases")
    gallery.get_by_role("combobox", name="Show").select_option("mistakes")
    gallery.get_by_label("True").select_option(index=1)
    found = [item for item in gallery.locator("li").all() if item.is_visible()]
    assert found
    assert {item.get_attribute("data-kind") for item in found} == {"mistakes"}
    assert len({item.get_attribute("data-true") for item in found}) == 1
    assert gallery.get_by_role("status").inner_text().startswith(f"{len(found)} of ")
    page.get_by_role("tab", name="Performance").click()
    with page.expect_download() as waiting:
        page.locator("#classes figure").first.get_by_role("button", name="Download").click()
    assert waiting.value.suggested_filename == "confusion-quick.svg"
    assert Path(waiting.value.path()).read_text().startswith("<svg")


def test_it_prints_on_few_pages(opened: Any) -> None:
    page = opened()
    pdf = page.pdf(prefer_css_page_size=True)
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 12


OPEN = "open"
"""The class of the tab that is shown."""
AXE = """([part, rules]) => axe.run(part, {
    resultTypes: ["violations"], ...(rules && {runOnly: rules})
}).then(found => found.violations.map(v => [v.id, v.nodes[0].html]))"""


def test_axe_finds_no_barrier(opened: Any) -> None:
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("axe-playwright-python is not installed: accessibility was not checked")
    page = opened(color_scheme="light")
    page.evaluate((Path(found.origin).parent / "axe.min.js").read_text())
    assert page.evaluate(AXE, ["html", None]) == []  # as it opens: one tab of six
    page.evaluate(f"document.querySelectorAll('.tab').forEach(tab => tab.classList.add('{OPEN}'))")
    assert len(shown(page)) == 6
    for theme, rules in (("light", None), ("dark", ["color-contrast"])):  # else they are alike
        page.emulate_media(color_scheme=theme)
        assert page.evaluate(AXE, ["main", rules]) == [], theme
    page.set_viewport_size({"width": 390, "height": 900})
    page.wait_for_function("document.querySelector('.scroll.wide')")
    assert page.evaluate(AXE, ["main", ["scrollable-region-focusable"]]) == []
