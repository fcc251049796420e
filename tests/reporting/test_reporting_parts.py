"""Formats, markup, palette, sources and the model card."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukoscope.config.loading import load_recipe, load_study_config, save_study_config
from leukoscope.config.metrics.results import Estimate
from leukoscope.config.study import PATIENT_PROBES, PROBES
from leukoscope.core.known_classes import CLASSES
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.statistics.metrics import compute_metrics
from leukoscope.evaluation.statistics.thresholds import reliability
from leukoscope.reporting import result_tables
from leukoscope.reporting.figures.classification import calibration_error
from leukoscope.reporting.figures.data import class_balance
from leukoscope.reporting.figures.style import (
    class_styles,
    figure_svg,
    house_style,
    luminance,
)
from leukoscope.reporting.formats import finite, interval, number
from leukoscope.reporting.markup import cell, inline, markdown, markdown_code, source_of
from leukoscope.reporting.study import data
from leukoscope.reporting.study.card import render_model_card
from leukoscope.reporting.study_files import load_study
from leukoscope.reporting.wording import PROBE_MEANING, input_title

MakeStudy = Callable[..., RunFolder]


@pytest.fixture(scope="module")
def run(make_study: MakeStudy, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_study(tmp_path_factory.mktemp("parts"), with_images=False)


@given(st.floats(0, 1), st.sampled_from(["accuracy", "roc_auc", "recall_pro_b"]))
def test_a_written_number_reads_back(value: float, metric: str) -> None:
    text = number(value, metric)
    scale, digits = (100, 1) if text.endswith(" %") else (1, 3)
    assert float(text.removesuffix(" %")) == pytest.approx(scale * value, abs=0.51 * 10**-digits)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "", "x", {}])
def test_what_is_missing_is_a_dash(value: object) -> None:
    assert finite(value) is None
    assert number(value, "accuracy") == "—"
    assert interval({"value": value, "low": 0.1, "high": 0.2}, "ece") == "—"


@given(st.text())
def test_inline_html_shows_the_text_and_nothing_else(text: str) -> None:
    shown = re.sub(r"</?code>", "", str(inline(text)))
    assert "<" not in shown
    plain = unescape(shown).replace("\u00a0%", " %")  # a number and its per cent stay together
    assert plain.replace("`", "") == text.replace("\u00a0%", " %").replace("`", "")


@given(st.text())
def test_cells_are_escaped(text: str) -> None:
    bare = re.sub(r'</?span(?: class="(?:value|ci)")?>', "", str(cell(text)))
    assert "<" not in bare
    assert unescape(bare) == text


@given(st.text())
def test_markdown_cells_cannot_break_a_table(text: str) -> None:
    for shown in (markdown(text), markdown_code(text)):
        assert "\n" not in shown
        assert re.search(r"(?<!\\)\|", shown.replace("\\\\", "")) is None


def test_each_class_has_its_own_colour() -> None:
    styles = class_styles(CLASSES)
    assert set(styles) == set(CLASSES)
    assert len({(s.colour, s.marker) for s in styles.values()}) == len(CLASSES)
    eighteen = class_styles([*list(CLASSES)[18:30], *(f"own_{i}" for i in range(6))])
    assert len({style.colour for style in eighteen.values()}) == len(eighteen)
    assert styles["all"] == class_styles(["healthy", "all"])["all"]


def _contrast(first: str, second: str) -> float:
    def light(colour: str) -> float:
        rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return luminance(np.array(rgb)) + 0.05

    high, low = sorted((light(first), light(second)), reverse=True)
    return high / low


def _themes() -> list[dict[str, str]]:
    """Custom properties of the style sheet: light, and dark as far as it changes them."""
    css = source_of("style.css")
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part))
        for part in css.partition("* { box-sizing")[0].split("prefers-color-scheme: dark")
    )
    assert set(light) == set(dark)
    return [light, dark]


@pytest.mark.parametrize("theme", _themes(), ids=["light", "dark"])
def test_type_is_legible_on_its_ground(theme: dict[str, str]) -> None:
    grounds = ("paper", "soft")
    pairs = [(theme[ink], theme[paper]) for ink in ("ink", "quiet", "accent") for paper in grounds]
    for tone in ("bad", "good", "open", "none"):
        pairs += [(theme[ink], theme[f"{tone}-bg"]) for ink in (f"{tone}-ink", "ink")]
        pairs.append((theme[f"{tone}-ink"], theme["paper"]))
    for ink, paper in pairs:
        assert _contrast(ink, paper) >= 4.5, (ink, paper)
    for tone in ("bad", "good", "open", "none"):  # dots and lines: WCAG 2.2, 1.4.11
        assert _contrast(theme[f"{tone}-line"], theme["paper"]) >= 3


def test_charts_use_the_properties_of_the_style_sheet() -> None:
    with house_style():
        figure = class_balance({"benign": 3, "pro_b": 4}, title="n = 7")
        svg = figure_svg(figure, "balance one")
    used = set(re.findall(r"var\(--([\w-]+)", svg))
    assert used
    assert used <= set(_themes()[0])
    assert "<style" not in svg
    assert not re.search(r'id="(?!balance-one-)', svg)
    assert set(re.findall(r'(?:url\(|href=")#([\w-]+)', svg)) <= set(
        re.findall(r' id="([\w-]+)"', svg)
    )


def test_style_sheet_asks_for_nothing() -> None:
    css = source_of("style.css")
    assert "url(" not in css
    assert "@import" not in css


def test_reliability_error_is_the_metric() -> None:
    rng = np.random.default_rng(3)
    probs = rng.dirichlet((1, 1, 1), 300)
    y = rng.integers(0, 3, 300)
    expected = compute_metrics(y, probs, ["healthy", "benign", "all"])["ece"]
    assert calibration_error(reliability(y, probs)) == pytest.approx(expected)


def test_a_study_of_a_table_is_called_as_its_bundle_is(run: RunFolder) -> None:
    study = load_study(run)
    assert study.name == "made-up smears"
    for table, name in (("s120.csv", "s120"), ("manifest.csv", "lab"), ("labels.tsv", "lab")):
        data = study.config.data.model_copy(update={"path": f"/data/lab/{table}"})
        named = replace(study, config=study.config.model_copy(update={"data": data}))
        assert named.name == named.config.data.name == name


def test_scores_are_the_labelled_test_rows_in_the_order_of_the_metrics(run: RunFolder) -> None:
    study = load_study(run)
    table = PredictionTable.load(run.predictions)
    table = replace(table, part=np.where(np.arange(len(table)) % 5 == 0, "cal", table.part))
    reversed_ = study.metrics.model_copy(update={"class_names": study.class_names[::-1]})
    turned = replace(study, predictions=table, metrics=reversed_)
    scores = turned.scores("quick", "random")
    wanted = table.select(recipe="quick", protocol="random", part="test", input="image")
    assert scores is not None
    assert scores.image_id == tuple(wanted.image_id.tolist())
    np.testing.assert_array_equal(scores.probs, wanted.probs[:, ::-1])
    np.testing.assert_array_equal(scores.y_true, 3 - wanted.y_true)
    assert study.scores("quick", "external") is None


def test_points_of_the_curve_do_not_stand_among_the_results(run: RunFolder) -> None:
    study = load_study(run)
    results = study.metrics.results
    point = results[0].model_copy(update={"protocol": "acquisition-k48"})
    more = replace(study, metrics=study.metrics.model_copy(update={"results": (point, *results)}))
    assert more.protocols == study.protocols
    assert study.protocols == ("random", "deduplicated", "acquisition", "acquisition-merged")


def test_a_difference_that_only_few_groups_keep_from_being_one_says_so(run: RunFolder) -> None:
    study = load_study(run)
    first = study.metrics.comparisons[0]
    sure = Estimate(value=0.21, low=0.148, high=0.292, reliable=False)
    few = first.model_copy(
        update={"difference": sure, "verdict": "not distinguishable", "p_holm": 0.002}
    )
    unclear = few.model_copy(update={"p_holm": 0.2})
    metrics = study.metrics.model_copy(update={"comparisons": (few, unclear)})
    table = result_tables.comparisons(replace(study, metrics=metrics))
    assert table is not None
    said = [column.title for column in table.columns].index("A is")
    assert [row[said] for row in table.rows] == ["too few groups", "not distinguishable"]


def test_paths_that_leave_the_data_are_not_followed(run: RunFolder) -> None:
    study = load_study(run)
    first, *rest = study.manifest.images
    for path in ("../secret.png", "/etc/hostname", "a/../../b.png"):
        bad = study.manifest.with_images([replace(first, path=path), *rest])
        assert replace(study, manifest=bad).image_path(first.image_id) is None
    assert study.image_path(first.image_id) == study.manifest.root / first.path


def test_class_table_agrees_with_the_confusion_matrix(run: RunFolder) -> None:
    study = load_study(run)
    table = result_tables.per_class(study, "quick")
    assert table is not None
    confusion = np.array(study.results[0].confusion)
    recall = np.diag(confusion) / confusion.sum(axis=1)
    for k, row in enumerate(table.rows[: len(confusion)]):
        assert row[2] == str(confusion[k].sum())
        assert row[4].startswith(f"{100 * recall[k]:.1f} %")


def test_model_card_says_what_matters(run: RunFolder) -> None:
    card = render_model_card(run)
    for heading in (
        "Intended use", "Not for", "Classes", "Data", "Results", "Known shortcuts", "Calibration",
        "Limits", "Licence", "Citation", "Provenance",
    ):  # fmt: skip
        assert f"## {heading}" in card
    assert "does not stand for healthy blood" in card
    assert "background only, leukocytes removed" in card
    assert "no patient ids are known for these images" in card
    accuracy = load_study(run).results[0].metrics["accuracy"]
    assert interval(accuracy, "accuracy") in card


def test_the_model_card_lists_the_probes_that_have_a_result(run: RunFolder, tmp_path: Path) -> None:
    other = RunFolder(shutil.copytree(run.path, tmp_path / "run"))
    config = load_study_config(other.config)
    asked = (*config.probes, "file-only", "scale-bar-only")
    save_study_config(other.config, config.model_copy(update={"probes": asked}))
    lines = render_model_card(other).splitlines()
    (probed,) = [line for line in lines if "Input with something taken away" in line]
    assert "background only" in probed
    assert input_title("file-only") not in probed
    assert input_title("scale-bar-only") not in probed
    (apart,) = [line for line in lines if "does not apply to these images" in line]
    assert f"{input_title('scale-bar-only')} (no scale bar was found)" in apart


def test_a_model_that_predicts_over_views_says_so(
    run: RunFolder, make_study: MakeStudy, tmp_path: Path
) -> None:
    assert "views of the image" not in render_model_card(run)
    other = make_study(
        tmp_path, images=20, protocols=("random",), recipes=("stable-efficientnet-b3-se",)
    )
    assert "mean over 4 views of the image (flips)" in render_model_card(other)
    table = data.recipes(load_study(other))
    assert "each prediction over 4 views (flips)" in str(table)


def test_model_card_is_written_before_the_environment(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    run = make_study(tmp_path, images=20, protocols=("random",), with_images=False)
    run.environment.unlink()
    assert "## Provenance" in render_model_card(run)


def test_every_setting_of_every_recipe_stands_under_its_key(run: RunFolder) -> None:
    study = load_study(run)
    recipes = (load_recipe("quick"), load_recipe("densenet121-clahe"))
    study = replace(study, config=study.config.model_copy(update={"recipes": recipes}))
    rows = {key: values for key, *values in data.settings(study).rows}
    assert rows["preprocess.steps"] == ["none", "clahe (clip_limit 2, tiles 8)"]
    assert rows["training.c_grid"] == ["0.0003, 0.003, 0.03, 0.3", "—"]
    assert rows["training.schedule.factor"] == ["—", "0.1"]
    assert rows["augmentation.horizontal_flip"] == ["no", "yes"]


def test_every_probe_is_explained() -> None:
    assert set(PROBES) | set(PATIENT_PROBES) <= set(PROBE_MEANING)
