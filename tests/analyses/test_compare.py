"""``compare`` on a tiny study of two recipes: same numbers, unfinished runs, refusals."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from leukoscope.analyses.compare.runs import ComparedRuns, compare_runs
from leukoscope.core.errors import ConfigError, DataError, UnknownNameError, UsageError
from leukoscope.core.files import read_csv, read_json, write_csv
from leukoscope.core.run_folder import HISTORY, RunFolder, frozen_folder
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.reporting.compare.page import TABLES, _head
from leukoscope.reporting.compare.result import load_comparison
from leukoscope.study.bundle_evaluation import summarise_external
from leukoscope.study.run import run_study

RECIPES = ["cnn-baseline", "leaky-cnn"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A study of two recipes under two protocols, one epoch each."""
    spec = PhantomSpec(images=72, sessions=12, size_px=96, seed=5)
    data = write_phantoms(spec, tmp_path_factory.mktemp("data") / "phantoms")
    return run_study(
        data,
        tmp_path_factory.mktemp("study") / "tiny",
        report=False,
        recipes=RECIPES,
        protocols=["random", "grouped"],
        probes=[],
        folds=1,
        overrides=[
            "preprocess.size_px=32",
            "training.epochs=1",
            "bootstrap=200",
            "control_draws=0",
            "bundle=false",
        ],
    ).run


@pytest.fixture(scope="module")
def compared(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compare") / "out"
    compare_runs([run.path], out, latency=False)
    return out


@pytest.fixture
def no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers only: drawing takes most of the time."""
    from leukoscope.reporting.compare import page

    monkeypatch.setattr(page, "write_comparison", lambda out, progress: None)


def _entry(result: dict[str, Any], label: str) -> dict[str, Any]:
    return next(entry for entry in result["entries"] if entry["label"] == label)


def _copy(run: RunFolder, folder: Path) -> RunFolder:
    shutil.copytree(run.path, folder, ignore=shutil.ignore_patterns("cache", "*.safetensors"))
    return RunFolder(folder)


def _files_only(*runs: Path, out: Path, **options: Any) -> dict[str, Any]:
    return compare_runs(list(runs), out, models=False, **options)


def test_a_comparison_shows_itself(compared: Path) -> None:
    result = ComparedRuns(read_json(compared / "comparison.json"))
    labels = [entry["label"] for entry in result["entries"]]
    assert all(label in repr(result) and label in result._repr_html_() for label in labels)
    assert set(result.to_frame().label) == set(labels)


def test_every_output_is_there(compared: Path) -> None:
    for name in ("comparison.json", "comparison.csv", "comparison.md", "comparison.html"):
        assert (compared / name).stat().st_size > 500, name
    tables = {path.stem for path in (compared / "tables").glob("*.csv")}
    assert tables == {*TABLES, *(f"per-class-{name}" for name in RECIPES)} - {"external"}
    figures = {path.stem for path in (compared / "figures").glob("*.svg")}
    assert figures >= {
        "metrics", "places", "radar", "f1-by-class", "roc-random", "roc-grouped",
        "confusion-cnn-baseline", "parameters-accuracy", "training-time", "curves-loss",
        "curves-accuracy", "architecture-cnn-baseline", "architecture-leaky-cnn",
    }  # fmt: skip


def test_metrics_are_those_of_the_study(run: RunFolder, compared: Path) -> None:
    result = json.loads((compared / "comparison.json").read_text())
    for row in json.loads(run.metrics.read_text())["results"]:
        found = _entry(result, row["recipe"])["results"][row["protocol"]]
        assert found["metrics"] == row["metrics"]
        assert found["confusion"] == row["confusion"]


def test_places_and_tests_name_one_reference(compared: Path) -> None:
    result = json.loads((compared / "comparison.json").read_text())
    for head in result["protocols"]:
        ranks = [_entry(result, name)["results"][head["name"]]["place"]["rank"] for name in RECIPES]
        assert sum(ranks) == 3
        (test,) = [row for row in result["tests"] if row["protocol"] == head["name"]]
        assert {test["a"], test["b"]} == set(RECIPES)
        assert 0 < test["p"] == test["p_holm"] <= 1  # a family of one


def test_what_was_not_run_as_published_is_marked(compared: Path) -> None:
    entry = _entry(json.loads((compared / "comparison.json").read_text()), "cnn-baseline")
    assert entry["marks"] == ["1 epoch, not 20", "changed: preprocess.size_px"]
    assert entry["published_epochs"] == 20
    assert entry["training"]["random"]["epochs"] == [1]
    assert entry["training"]["random"]["best_epoch"] == [1]
    assert entry["reported"] == "accuracy 89.42 %"
    text = (compared / "comparison.md").read_text()
    assert "each is first, so that the shares may add up to more than 100 %" in text
    assert "cnn-baseline §" in text
    assert "1 of 20, best 1" in text


def test_cost_is_counted(compared: Path) -> None:
    entry = _entry(json.loads((compared / "comparison.json").read_text()), "cnn-baseline")
    convolutions = 3 * 9 * 32 + 32 + 32 * 9 * 64 + 64 + 64 * 9 * 128 + 128
    dense = 128 * 16 * 128 + 128 + 128 * 4 + 4
    assert entry["complexity"]["parameters"] == convolutions + dense
    macs = 32 * 32 * 3 * 9 * 32 + 16 * 16 * 32 * 9 * 64 + 8 * 8 * 64 * 9 * 128
    assert entry["complexity"]["macs"] == macs + 128 * 16 * 128 + 128 * 4
    assert entry["layers"][0]["shape"] == [32, 32, 32]


def test_the_head_of_the_markdown_says_what_a_reader_must_know(compared: Path) -> None:
    head = (compared / "comparison.md").read_text().partition("## ")[0]
    assert "leukoscope compare tiny --out out" in head
    for text in ("**Data**: phantoms: 72 images", "**Seed**: 42", "**Epochs**: 1", "patients"):
        assert text in head, text
    assert str(compared.parent) not in (compared / "comparison.html").read_text()


def test_the_csv_has_one_row_a_recipe_and_protocol(compared: Path) -> None:
    rows = read_csv(compared / "comparison.csv")
    assert [(row["label"], row["protocol"]) for row in rows] == [
        (recipe, protocol) for recipe in RECIPES for protocol in ("random", "grouped")
    ]
    assert float(rows[0]["accuracy_low"]) <= float(rows[0]["accuracy"])


@pytest.mark.usefixtures("no_pages")
def test_an_unfinished_run_is_read_from_its_fits(run: RunFolder, tmp_path: Path) -> None:
    half = _copy(run, tmp_path / "half")
    half.predictions.unlink()
    (half.model("leaky-cnn", "grouped", 0) / "predictions.csv").unlink()
    result = _files_only(half.path, out=tmp_path / "out")
    assert any("half is not finished" in note for note in result["notes"])
    assert set(_entry(result, "leaky-cnn")["results"]) == {"random"}
    whole = _files_only(run.path, out=tmp_path / "whole")
    same = [_entry(r, "cnn-baseline")["results"]["random"] for r in (result, whole)]
    assert same[0]["metrics"] == same[1]["metrics"]


@pytest.mark.usefixtures("no_pages")
def test_both_trainings_of_a_refined_model_are_counted(run: RunFolder, tmp_path: Path) -> None:
    refined = _copy(run, tmp_path / "refined")
    model = refined.model("cnn-baseline", "random", 0)
    (row,) = read_csv(model / HISTORY)
    head = [{**row, "epoch": str(epoch)} for epoch in (1, 2, 3)]
    write_csv(frozen_folder(model) / HISTORY, list(row), head)
    training = _entry(_files_only(refined.path, out=tmp_path / "out"), "cnn-baseline")["training"]
    assert (training["random"]["epochs"], training["random"]["best_epoch"]) == ([4], [4])
    assert training["random"]["seconds"][0] == pytest.approx(4 * float(row["seconds"]))
    assert len(training["random"]["curves"][0]["val_loss"]) == 4


@pytest.mark.usefixtures("no_pages")
def test_a_fold_that_has_not_ended_is_left_out(run: RunFolder, tmp_path: Path) -> None:
    half = _copy(run, tmp_path / "half")
    rows = read_csv(half.splits)
    later = [{**row, "fold": "1"} for row in rows if row["protocol"] == "random"]
    write_csv(half.splits, list(rows[0]), [*rows, *later])
    result = _files_only(half.path, out=tmp_path / "out")
    assert [head["name"] for head in result["protocols"]] == ["grouped"]
    assert any("1 of 2 folds has not ended" in note for note in result["notes"])


@pytest.mark.usefixtures("no_pages")
def test_two_runs_are_compared_on_their_common_images(run: RunFolder, tmp_path: Path) -> None:
    other = _copy(run, tmp_path / "other")
    table = PredictionTable.load(other.predictions).select(part="test", protocol="random")
    kept = sorted(set(table.image_id.tolist()))[:9]
    table.take(table.image_id <= kept[-1]).save(other.predictions)
    result = _files_only(run.path, other.path, out=tmp_path / "out", protocols=["random"])
    (head,) = result["protocols"]
    assert head["n"] == 9
    assert "compared on the 9 test images that all share" in head["notes"][0]
    assert [entry["label"] for entry in result["entries"]] == [
        "cnn-baseline (tiny)", "leaky-cnn (tiny)", "cnn-baseline (other)", "leaky-cnn (other)",
    ]  # fmt: skip
    assert result["tests"][0]["n"] == 9


@pytest.mark.usefixtures("no_pages")
def test_the_answer_is_under_a_protocol_that_all_runs_have(run: RunFolder, tmp_path: Path) -> None:
    alone, both = tmp_path / "alone", tmp_path / "both"
    _files_only(run.path, out=alone)
    assert load_comparison(alone).decisive.name == "grouped"
    other = _copy(run, tmp_path / "other")
    PredictionTable.load(other.predictions).select(protocol="random").save(other.predictions)
    _files_only(run.path, other.path, out=both)
    found = load_comparison(both)
    assert [head.name for head in found.protocols] == ["random", "grouped"]
    assert found.decisive.name == "random"
    assert _head(found).headline.text.startswith("Random split: of 4 recipes")


@pytest.mark.usefixtures("no_pages")
def test_roles_decide_whether_malignancy_is_compared(run: RunFolder, tmp_path: Path) -> None:
    found = _files_only(run.path, out=tmp_path / "a", metric="recall_malignant")
    names = found["class_names"]
    assert "benign" in names
    ill = dict.fromkeys(names, "malignant")
    with pytest.raises(UnknownNameError, match="unknown metric 'recall_malignant'"):
        _files_only(run.path, out=tmp_path / "b", metric="recall_malignant", roles=ill)
    with pytest.raises(UnknownNameError, match="unknown class 'benig'"):
        _files_only(run.path, out=tmp_path / "c", roles={"benig": "other"})


@pytest.mark.usefixtures("no_pages")
def test_a_copy_of_a_model_is_shown_once(run: RunFolder, tmp_path: Path) -> None:
    other = _copy(run, tmp_path / "other")
    shutil.rmtree(other.path / "models")
    result = _files_only(other.path, run.path, out=tmp_path / "out")
    assert [(e["label"], e["run"]) for e in result["entries"]] == [(r, "tiny") for r in RECIPES]
    assert any("other holds copies of models of tiny" in note for note in result["notes"])


def test_runs_without_a_common_image_are_refused_by_name(run: RunFolder, tmp_path: Path) -> None:
    other = _copy(run, tmp_path / "other")
    with other.predictions.open(newline="") as file:
        header, *rows = csv.reader(file)
    changed = [dict(zip(header, ["z" + row[0], *row[1:]], strict=True)) for row in rows]
    write_csv(other.predictions, header, changed)
    with pytest.raises(DataError, match="tiny and other have no test image in common"):
        _files_only(run.path, other.path, out=tmp_path / "out")


def test_runs_without_a_common_protocol_are_refused_by_name(run: RunFolder, tmp_path: Path) -> None:
    paths = []
    for name in ("random", "grouped"):
        copy = _copy(run, tmp_path / name)
        PredictionTable.load(copy.predictions).select(protocol=name).save(copy.predictions)
        paths.append(copy.path)
    with pytest.raises(DataError, match="random shares no protocol with grouped"):
        _files_only(*paths, out=tmp_path / "out")


def test_a_damaged_file_is_named_with_its_line(run: RunFolder, tmp_path: Path) -> None:
    other = _copy(run, tmp_path / "other")
    lines = other.predictions.read_text().splitlines()
    other.predictions.write_text("\n".join([*lines[:3], lines[3].rpartition(",")[0]]) + "\n")
    with pytest.raises(DataError, match=r"other/predictions\.csv:4: expected \d+ cells"):
        _files_only(other.path, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metric": "acuracy"}, UnknownNameError, "unknown metric"),
        ({"against": "resnet"}, UnknownNameError, "unknown recipe"),
        ({"protocols": ["acquisition"]}, DataError, "no run has complete results"),
    ],
)
def test_wrong_options_are_refused_before_work(
    run: RunFolder, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _files_only(run.path, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_pages")
def test_folders_may_be_texts_but_not_one_text(run: RunFolder, tmp_path: Path) -> None:
    found = compare_runs([str(run.path)], str(tmp_path / "out"), models=False)
    assert found.content.runs[0].name == run.path.name
    with pytest.raises(UsageError, match=r"expected a list of folders, got 'run'\n.*\[RUN, OTHER"):
        compare_runs("run", tmp_path / "none")
    with pytest.raises(UsageError, match=r"names as protocols, got 'random'\n.*\['random'\]"):
        compare_runs([run.path], tmp_path / "none", protocols="random")
    assert not (tmp_path / "none").exists()


def test_wrong_folders_are_refused(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is one of the runs"):
        _files_only(run.path, out=run.path)
    with pytest.raises(DataError, match="given twice"):
        _files_only(run.path, run.path, out=tmp_path / "out")
    with pytest.raises(DataError, match="no such folder"):
        _files_only(tmp_path / "none", out=tmp_path / "out")
    other = _copy(run, tmp_path / "other")
    other.config.write_text("protocols = 3\n")
    with pytest.raises(ConfigError, match=r"config\.toml"):
        _files_only(other.path, out=tmp_path / "out")
    other.config.write_text(run.config.read_text())
    other.splits.unlink()
    with pytest.raises(DataError, match=r"splits\.csv: this file is missing"):
        _files_only(other.path, out=tmp_path / "out")


@pytest.mark.usefixtures("bare_charts")
def test_an_evaluation_on_other_data_stands_in_its_own_table(
    run: RunFolder, tmp_path: Path
) -> None:
    table = PredictionTable.load(run.predictions)
    table = table.select(part="test", protocol="random", recipe="cnn-baseline")
    metrics = summarise_external(
        table, table.image_id.tolist(), "patient", ["made for a test"], None, ["accept"]
    )
    folder = RunFolder(tmp_path / "elsewhere")
    metrics.save(folder.metrics)
    table.save(folder.predictions)
    result = _files_only(run.path, folder.path, out=tmp_path / "out")
    assert [entry["name"] for entry in result["external"]] == ["elsewhere"]
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "On other data" in text
    assert "made for a test" in text
    with pytest.raises(DataError, match="no study to compare"):
        _files_only(folder.path, out=tmp_path / "out")
