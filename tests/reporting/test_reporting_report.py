"""The report of a made-up study: complete, self-contained, honest about what is absent."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from leukoscope.config.metrics.results import Estimate
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_json, write_json
from leukoscope.core.protocols import protocol_title
from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting import result_tables
from leukoscope.reporting.figures.data import class_balance
from leukoscope.reporting.figures.style import figure_png, house_style
from leukoscope.reporting.gallery import Gallery
from leukoscope.reporting.study.examples import _feature_map
from leukoscope.reporting.study.report import write_report
from leukoscope.reporting.study_files import load_study
from leukoscope.reporting.wording import REPORT_DISCLAIMER

MakeStudy = Callable[..., RunFolder]
NUMBERS = re.compile(r"[+−]?[\d,.]+(?: %| points)? \([−+\d.]+(?:–| to )[−+\d.]+\)†?")


class Page(HTMLParser):
    """What a browser would fetch, follow or read."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in {"meta", "img", "br", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

        if tag in {"td", "th", "p", "li", "dt", "dd", "h2", "h3", "h4", "text"}:
            self.text.append(" ")

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in {"style", "script"}:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


@pytest.fixture(scope="module")
def run(make_study: MakeStudy, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    study = make_study(tmp_path_factory.mktemp("four"))
    write_report(study)
    return study


@pytest.fixture(scope="module")
def page(run: RunFolder) -> Page:
    return Page(run.report_html.read_text(encoding="utf-8"))


def test_report_leads_with_the_verdict(run: RunFolder, page: Page) -> None:
    verdict = read_json(run.metrics)["verdict"]
    headline = " ".join(verdict["headline"].split())
    assert verdict["level"] == "unsafe"
    assert headline in page.words
    assert page.words.index("Verdict: Unsafe") < page.words.index(headline)
    for later in ("What the accuracy is made of", "Do next", "Why this verdict"):
        assert page.words.index(headline) < page.words.index(later)
    for finding in verdict["findings"]:
        assert " ".join(finding.split()) in page.words


def test_report_shows_every_protocol_and_why_others_do_not_apply(page: Page) -> None:
    for name in ("random", "deduplicated", "acquisition", "acquisition-merged", "grouped"):
        assert protocol_title(name) in page.words
    assert "no patient ids are known for these images" in page.words


def test_disclaimer_stands_at_both_ends_of_both_texts(run: RunFolder, page: Page) -> None:
    text = run.report_md.read_text(encoding="utf-8")
    for words in (page.words, text):
        assert words.count(REPORT_DISCLAIMER) == 2
        assert words.rindex(REPORT_DISCLAIMER) > 0.9 * (len(words) - len(REPORT_DISCLAIMER))
    assert REPORT_DISCLAIMER in run.model_card.read_text(encoding="utf-8")


def test_quarantined_files_are_listed_and_escaped(run: RunFolder) -> None:
    source = run.report_html.read_text(encoding="utf-8")
    assert "<b>one</b>" not in source
    assert html.escape("Pro/broken <b>one</b> & two.jpg") in source
    assert "the file ends too early" in source
    assert "A processor &lt;fast&gt;" in source


def test_page_needs_nothing_from_outside(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed"}
        assert tag != "script" or not attributes
        for name in ("src", "srcset", "data", "poster"):
            assert attributes.get(name, "data:").startswith("data:image/") or name not in attributes
        if "href" in attributes:
            assert tag == "a"
            assert attributes["href"].startswith(("#", "https://", "checklists/"))


def test_the_checklists_are_written_and_linked(run: RunFolder, page: Page) -> None:
    links = {
        a["href"] for tag, a in page.tags if tag == "a" and a["href"].startswith("checklists/")
    }
    assert links == {f"checklists/{path.name}" for path in run.checklists.iterdir()}
    assert len(links) == 3
    for link in links:
        assert f"]({link})" in run.report_md.read_text(encoding="utf-8")


def test_page_is_well_formed_and_accessible(page: Page) -> None:
    assert page.unbalanced == []
    assert page.open == []
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    charts = [a for _, a in page.tags if "chart" in a.get("class", "")]
    assert len(images) > 10
    assert len(charts) > 5
    assert all(image["alt"].strip() for image in images)
    assert all(chart["role"] == "img" and chart["aria-label"].strip() for chart in charts)
    assert ("html", {"lang": "en"}) in page.tags
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"][1:] for tag, a in page.tags if tag == "a" and a["href"].startswith("#")]
    assert set(links) <= set(ids)
    assert sum(tag == "h1" for tag, _ in page.tags) == 1


def test_every_caption_names_its_sample_size(run: RunFolder) -> None:
    source = run.report_html.read_text(encoding="utf-8")
    captions = re.findall(r"<figcaption[^>]*>(.*?)</figcaption>", source, re.S)
    panels = [text for text in captions if "heat within" in text or "no leukocyte" in text]
    charts = [text for text in captions if text not in panels]
    assert len(charts) >= 8
    for text in charts:
        assert re.search(r"n = [\d,]+|[\d,]+ usable image", text), text


def test_markdown_has_the_same_numbers(run: RunFolder, page: Page) -> None:
    text = run.report_md.read_text(encoding="utf-8")
    in_page, in_text = set(NUMBERS.findall(page.words)), set(NUMBERS.findall(text))
    assert len(in_page) > 100
    assert in_page == in_text


def test_markdown_tables_are_rectangular(run: RunFolder) -> None:
    widths: list[int] = []
    tables = 0
    for line in [*run.report_md.read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("|"):
            widths.append(len(re.findall(r"(?<!\\)\|", line)))
        elif widths:
            tables += 1
            assert len(widths) >= 3
            assert len(set(widths)) == 1
            widths = []
    assert tables > 12


def test_markdown_links_lead_to_files(run: RunFolder) -> None:
    text = run.report_md.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 10
    for link in links:
        assert (run.path / link).is_file(), link


def test_figures_are_sharp_and_the_page_moderate(run: RunFolder) -> None:
    figures = sorted(run.figures.glob("*.svg"))
    assert {path.stem for path in figures} >= {
        "cluster-curve", "class-balance", "clusters-by-class", "confusion-quick", "roc-quick",
        "reliability-quick", "training-quick", "features",
    }  # fmt: skip
    for path in figures:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert "font-family" in path.read_text()  # type stays type
    assert run.report_html.stat().st_size < 3_000_000


def test_examples_and_the_map_of_features_are_explained(page: Page) -> None:
    words = page.words
    assert "What the features encode" in words
    assert "features that the last layer reads, recipe quick" in words
    assert "The features follow the class, not the acquisition group" in words
    assert "class other groups 4" in words
    assert "Mistakes, the most confident first" in words
    kinds = [a["data-kind"] for tag, a in page.tags if tag == "li" and "data-kind" in a]
    assert set(kinds) == {"mistakes", "right, least certain", "right, usual"}
    for case in (a for tag, a in page.tags if tag == "li" and "data-kind" in a):
        wrong = case["data-true"] != case["data-predicted"]
        assert (case["data-kind"] == "mistakes") == wrong
    assert re.search(r"\d+ mistakes among \d+ test images \(recipe quick, ", words)


def test_a_damaged_map_of_features_is_named(make_study: MakeStudy, tmp_path: Path) -> None:
    run = make_study(tmp_path, images=20, protocols=("random",))
    write_json(run.explanations / "features.json", {"recipe": "quick"})
    with pytest.raises(DataError, match=r"features\.json: schema: expected this key"):
        write_report(run)


def test_a_map_of_features_without_numbers_has_no_empty_table(
    run: RunFolder, tmp_path: Path
) -> None:
    other = RunFolder(shutil.copytree(run.path, tmp_path / "run"))
    kinds = [block.kind for block in _feature_map(load_study(other), Gallery(other))]
    assert kinds == ["heading", "picture", "paragraph", "folded"]
    found = read_json(other.explanations / "features.json")
    write_json(other.explanations / "features.json", found | {"structures": []})
    kinds = [block.kind for block in _feature_map(load_study(other), Gallery(other))]
    assert kinds == ["heading", "picture", "paragraph"]


def test_missing_values_are_dashes_never_zero(run: RunFolder) -> None:
    study = load_study(run)
    missing = Estimate(value=None, low=None, high=None, reliable=False)
    for entry in study.metrics.results:
        entry.metrics["roc_auc"] = missing
        del entry.metrics["macro_f1"]
    table = result_tables.headline(study)
    assert [column.title for column in table.columns[3:5]] == ["Macro F1", "ROC AUC"]
    assert {row[3:5] for row in table.rows} == {("—", "—")}


def test_intervals_from_too_few_groups_are_marked(page: Page) -> None:
    assert re.search(r"Merged clusters held out \d+\.\d % \([^)]+\)†", page.words)
    assert "† Few groups: fewer than 20" in page.words
    assert not re.search(r"Random split \d+\.\d % \([^)]+\)†", page.words)


def test_a_bare_study_still_gets_a_report(make_study: MakeStudy, tmp_path: Path) -> None:
    run = make_study(
        tmp_path, inputs=("image",), protocols=("random",), with_images=False, images=40
    )
    for path in (run.predictions, run.passport, run.environment, run.splits):
        path.unlink()
    for path in [*run.explanations.iterdir(), *(run.path / "models").rglob("history.csv")]:
        path.unlink()
    write_report(run)
    words = Page(run.report_html.read_text(encoding="utf-8")).words
    for text in (
        "no shortcut was looked for",
        "No heat maps were made",
        "No training history was stored",
        "There is no passport",
        "There are no stored test predictions",
        "environment.json is absent",
    ):
        assert text in words


def test_absent_images_are_left_out_with_a_note(make_study: MakeStudy, tmp_path: Path) -> None:
    run = make_study(tmp_path, with_images=False, images=60, protocols=("acquisition",))
    write_report(run)
    words = Page(run.report_html.read_text(encoding="utf-8")).words
    assert re.search(r"\d+ thumbnails left out: the image is no longer where", words)
    assert "Mistakes, the most confident first" not in words


def test_binary_data_with_patients_and_two_recipes(make_study: MakeStudy, tmp_path: Path) -> None:
    run = make_study(
        tmp_path,
        images=60,
        classes=("healthy", "all"),
        protocols=("random", "grouped"),
        recipes=("quick", "cnn-baseline"),
        inapplicable={"acquisition": "fewer than 5 clusters hold both classes"},
    )
    write_report(run)
    words = Page(run.report_html.read_text(encoding="utf-8")).words
    assert "60 images in 14 patients" in words
    assert "Healthy" in words
    assert "hematogones" not in words.split("Glossary Accuracy")[0]
    assert "fewer than 5 clusters hold both classes" in words
    assert "patients could not be held out" not in words
    assert (run.figures / "training-cnn-baseline.svg").is_file()


def test_report_is_the_same_each_time(run: RunFolder) -> None:
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    write_report(run)
    assert run.report_html in before
    for path, data in before.items():
        assert path.read_bytes() == data, path


def test_settings_of_matplotlib_neither_matter_nor_change() -> None:
    import matplotlib

    def draw() -> bytes:
        with house_style():
            return figure_png(class_balance({"benign": 3, "pro_b": 4}, title="n = 7"))

    plain = draw()
    with matplotlib.rc_context({"font.size": 31, "figure.facecolor": "red"}):
        assert draw() == plain
        assert matplotlib.rcParams["font.size"] == 31


@pytest.mark.parametrize("name", ["metrics.json", "manifest.csv"])
def test_a_missing_file_is_named(make_study: MakeStudy, tmp_path: Path, name: str) -> None:
    run = make_study(tmp_path, images=20, protocols=("random",))
    (run.path / name).unlink()
    with pytest.raises(DataError, match=name):
        write_report(run)


def test_metrics_without_a_verdict_are_refused(make_study: MakeStudy, tmp_path: Path) -> None:
    run = make_study(tmp_path, images=20, protocols=("random",))
    metrics = read_json(run.metrics)
    del metrics["verdict"]
    write_json(run.metrics, metrics)
    with pytest.raises(DataError, match="verdict"):
        write_report(run)


def test_progress_and_damaged_panels_which_are_counted_not_shown(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    run = make_study(tmp_path, images=40, protocols=("random",))
    entries = read_json(run.explanations / "explanations.json")
    (run.path / entries[0]["panel"]).write_bytes(b"no picture")
    entries[1]["panel"] = "../../outside.png"
    write_json(run.explanations / "explanations.json", entries)
    seen: list[tuple[int, int]] = []
    write_report(run, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))
    words = Page(run.report_html.read_text(encoding="utf-8")).words
    assert "Right predictions (n = 2 shown)" in words
    assert "2 panels missing." in words
