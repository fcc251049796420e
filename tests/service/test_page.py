"""The page in a real browser, as a person would use it.

With LEUKOSCOPE_PAGE_BUNDLE another bundle answers, with LEUKOSCOPE_SCREENSHOTS pictures are kept in
that folder. Those of the documentation show phantoms and a bundle trained on phantoms.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from leukoscope.phantom.render import render_phantom
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.runtime.heatmap import encode_png

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

Serving = Callable[..., AbstractContextManager[SimpleNamespace]]
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SHOTS = os.environ.get("LEUKOSCOPE_SCREENSHOTS", "")


@pytest.fixture(scope="module")
def address(serving: Serving, request: pytest.FixtureRequest) -> Iterator[str]:
    chosen = os.environ.get("LEUKOSCOPE_PAGE_BUNDLE", "")
    if not chosen:
        yield request.getfixturevalue("served")
        return
    with serving("--bundle", chosen) as server:
        request.getfixturevalue("wait_for_server")(server.address)
        yield server.address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("NO CHROMIUM on this machine: the page was not tested in a browser")
    with playwright.sync_playwright() as engine:
        found = engine.chromium.launch(executable_path=path, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Opens the page; afterwards there was no error on its console and no foreign request."""
    said: list[str] = []
    contexts = []

    def opened(width: int = 1200, height: int = 900, path: str = "/", **more: Any) -> Any:
        size = {"width": width, "height": height}
        context = browser.new_context(viewport=size, accept_downloads=True, **more)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else 0)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda r: None if _own(r.url, address) else said.append(r.url))
        page.goto(address + path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []


def _own(url: str, address: str) -> bool:
    return url.startswith((address, "data:", "blob:"))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("phantoms")
    spec = PhantomSpec(images=4, sessions=4, size_px=160, seed=7)
    for index in range(4):
        image = encode_png(render_phantom(spec, index).image)
        (folder / f"smear {index + 1}.png").write_bytes(image)
    return [str(path) for path in sorted(folder.iterdir())]


def ask(page: Any, *files: str) -> None:
    page.set_input_files("#files", list(files))
    page.wait_for_selector("#results-heading")


def shot(page: Any, name: str, **more: Any) -> None:
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}.png", **more)


def test_one_image_is_answered_with_pictures_and_reasons(
    open_page: Any, phantoms: list[str]
) -> None:
    page = open_page()
    shot(page, "page-start")
    ask(page, phantoms[0])
    card = page.locator("article.card")
    assert card.locator("h3").inner_text() == "smear 1.png"
    assert card.locator(".decision").first.inner_text().split()[1] in (
        "Accept:", "Review:", "Reject:",
    )  # fmt: skip
    pictures = card.locator("img")
    widths = [pictures.nth(i).evaluate("i => i.naturalWidth") for i in range(pictures.count())]
    assert len(widths) == 5 + card.locator(".similar img").count()
    assert all(widths)
    assert "Leukocytes found by colour" in card.inner_text()
    assert card.locator(".bars").first.locator("li").count() >= 3
    assert page.evaluate("document.activeElement.id") == "results-heading"
    assert page.locator(".disclaimer").is_visible()
    heat = card.locator(".heat")
    assert heat.evaluate("i => getComputedStyle(i).opacity") == "0.5"
    slider = card.get_by_label("Heat map opacity")
    slider.focus()
    page.keyboard.press("End")
    assert heat.evaluate("i => getComputedStyle(i).opacity") == "1"
    page.keyboard.press("Home")
    assert heat.evaluate("i => getComputedStyle(i).opacity") == "0"
    slider.fill("50")
    page.locator("#results-heading").evaluate("heading => heading.scrollIntoView()")
    shot(page, "page-answer")


@pytest.mark.skipif("LEUKOSCOPE_PAGE_BUNDLE" in os.environ, reason="another bundle has other cases")
def test_similar_training_cases_stand_under_the_answer(
    open_page: Any, red: bytes, tmp_path: Path
) -> None:
    (tmp_path / "red.png").write_bytes(red)
    page = open_page()
    ask(page, str(tmp_path / "red.png"))
    strip = page.get_by_role("list", name="Most similar training cases")
    cases = strip.get_by_role("listitem")
    assert cases.count() == 3
    first = cases.first
    assert "hematogones" in first.inner_text()
    assert first.inner_text().split("\n")[2:] == ["image 000000000000", "acquisition 1"]
    assert "The nearest is no further away than usual." in page.locator("article.card").inner_text()
    assert "acquisition" not in cases.last.inner_text()
    assert "Training case of class" in first.get_by_role("img").get_attribute("alt")
    middle = first.locator("img").evaluate(
        """i => {const c = document.createElement("canvas"); const x = c.getContext("2d");
        x.drawImage(i, 0, 0); return [...x.getImageData(8, 8, 1, 1).data]}"""
    )
    assert middle[:3] == pytest.approx([102, 51, 51], abs=8)
    assert "not in diagnosis" in page.locator("article.card").inner_text()
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download report (HTML)").click()
    report = Path(waiting.value.path()).read_text()
    assert "image 000000000000" in report


def test_many_files_a_broken_one_and_a_patient(
    open_page: Any, phantoms: list[str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(phantoms[0]).read_bytes()[:500])
    page = open_page()
    page.check("#one")
    ask(page, *phantoms, str(broken))
    assert page.locator("article.card").count() == 5
    assert "5 images" in page.locator(".count").inner_text()
    assert page.locator(".patient").is_visible()
    failed = page.locator("article.failure")
    assert "broken.png" in failed.inner_text()
    assert "could not be read" in failed.inner_text().lower()
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download table (CSV)").click()
    rows = list(csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text())))
    assert [row["image"] for row in rows] == [*(Path(p).name for p in phantoms), "broken.png"]
    assert rows[-1]["error"]
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download report (HTML)").click()
    report = Path(waiting.value.path()).read_text()
    for part in ("not a medical device", "smear 4.png", "SHA-256", "What no model here can know"):
        assert part in report
    assert 'src="/' not in report
    assert 'href="/' not in report
    assert "<script" not in report


def test_the_table_sorts_filters_and_saves_corrections(open_page: Any, phantoms: list[str]) -> None:
    page = open_page()
    ask(page, *phantoms)
    rows = page.locator(".summary tbody tr")
    assert rows.count() == 4
    assert page.locator("article details[open]").count() == 0  # many cards are folded
    page.get_by_role("button", name="Image", exact=True).click()
    names = rows.locator("th").all_inner_texts()
    assert names == sorted(names)
    caption = page.locator(".summary caption")
    assert caption.inner_text().startswith("All images, sorted by Image. Click a heading")
    page.get_by_role("button", name="Image", exact=True).click()
    assert rows.locator("th").all_inner_texts() == names[::-1]
    chip = page.locator("button.chip").first
    chip.click()
    kind = chip.get_attribute("data-filter")
    shown = [row.is_visible() for row in rows.all()]
    which = "All images" if all(shown) else f"{sum(shown)} of 4 images"
    assert caption.inner_text().startswith(f"{which}, sorted by Image.")
    width = page.viewport_size["width"]
    page.set_viewport_size({"width": 390, "height": 800})
    assert caption.locator("span").bounding_box()["width"] <= 390 - 28
    page.set_viewport_size({"width": width, "height": 800})
    assert shown == [row.get_attribute("data-decision") == kind for row in rows.all()]
    chip.click()
    rows.first.get_by_role("link").click()
    assert page.locator("article > details[open]").count() == 1
    page.get_by_role("button", name="Save corrections.csv").click()
    assert "Name the reviewer first" in page.locator("#say").inner_text()
    rows.first.get_by_role("combobox").select_option("exclude")
    page.get_by_label("Reviewer").fill("A. Reviewer")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save corrections.csv").click()
    (row,) = csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text()))
    assert row["path"] == names[-1]
    assert (row["decision"], row["by"], row["queue_sha256"]) == ("exclude", "A. Reviewer", "")
    assert len(row["image_id"]) == 12
    shot(page, "page-table")


def test_earlier_answers_of_the_tab_can_be_seen_again(open_page: Any, phantoms: list[str]) -> None:
    page = open_page()
    ask(page, *phantoms[:2])
    assert not page.locator("#history").is_visible()
    page.set_input_files("#files", phantoms[2:3])
    page.locator("article h3", has_text="smear 3.png").wait_for()
    entries = page.locator("#history button")
    assert entries.count() == 2
    entries.last.click()
    page.locator("article h3", has_text="smear 1.png").wait_for()


def test_a_foreign_picture_is_rejected_in_words(
    open_page: Any, foreign: bytes, tmp_path: Path
) -> None:
    (tmp_path / "dark.png").write_bytes(foreign)
    page = open_page()
    ask(page, str(tmp_path / "dark.png"))
    assert "Reject: " in page.locator("article .decision").inner_text()
    assert page.locator("article .reasons li").count() >= 1


def test_examples_paste_and_drop(open_page: Any) -> None:
    page = open_page()
    page.locator(".example").first.click()
    page.wait_for_selector("#results-heading")
    assert page.locator("article h3").inner_text() == "Drawn smear 1.png"
    give = """async (kind) => {
        const picture = await (await fetch(document.querySelector(".example img").src)).blob();
        const data = new DataTransfer();
        data.items.add(new File([picture], kind + ".png", {type: "image/png"}));
        const about = {bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data};
        const Kind = kind === "drop" ? DragEvent : ClipboardEvent;
        const event = new Kind(kind, about);
        document.body.dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        page.evaluate(give, kind)
        page.locator("article h3", has_text=f"{kind}.png").wait_for()


def test_a_phone(open_page: Any, phantoms: list[str]) -> None:
    page = open_page(375, 740)
    ask(page, phantoms[1])
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    shot(page, "page-phone")


def test_without_the_script_it_is_a_form(open_page: Any, phantoms: list[str]) -> None:
    page = open_page(java_script_enabled=False)
    page.set_input_files("#files", phantoms[:1])
    page.get_by_role("button", name="Analyse").click()
    page.wait_for_selector("#results-heading")
    assert "smear 1.png" in page.locator("article h3").inner_text()


def test_the_keyboard_alone_suffices(open_page: Any) -> None:
    page = open_page()
    order = []
    for _ in range(9):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert order[:4] == ["skip", "files", "one", ""]  # the button has neither
    assert "example" in order
    page.locator(".example").nth(1).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#results-heading")


@pytest.mark.parametrize("path", ["/", "/docs", "/card"])
def test_axe_finds_no_barrier(open_page: Any, phantoms: list[str], path: str) -> None:
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("axe-playwright-python is not installed: accessibility was not checked")
    page = open_page(path=path.replace("/card", "/"))
    if path == "/":
        ask(page, *phantoms[:2])
    if path == "/card":
        page.get_by_role("link", name="Model card").first.click()
        page.wait_for_selector("main.prose")
    page.evaluate((Path(found.origin).parent / "axe.min.js").read_text())
    wrong = page.evaluate("axe.run().then(r => r.violations.map(v => [v.id, v.nodes[0].html]))")
    assert wrong == []
