from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from leukoscope.core.errors import MissingExtraError, UnknownNameError
from leukoscope.runtime import outputs
from leukoscope.runtime.outputs import PredictionWriter, output_columns
from leukoscope.runtime.prediction import Failure, Prediction

CLASSES = ("benign", "pre_b")
GOOD = Prediction(
    image='Präparat, "1".png',
    sha256="ab" * 32,
    predicted="pre_b",
    probabilities={"benign": 1 / 3, "pre_b": 2 / 3},
    p_malignant=2 / 3,
    prediction_set=("benign", "pre_b"),
    decision="review",
    reasons=("First reason.", "Second reason."),
    ood_score=None,
    quality={"brightness": 120.0},
    model="tiny@0123456789ab",
)
BAD = Failure("cut.png", "truncated", "the file ends early", "copy it again")
COLUMNS = [
    "image",
    "sha256",
    "predicted",
    "p_benign",
    "p_pre_b",
    "p_malignant",
    "prediction_set",
    "decision",
    "reasons",
    "ood_score",
    "quality",
    "model",
    "heatmap",
    "tiles",
    "error",
]


def write(path: Path) -> None:
    with PredictionWriter(path, CLASSES) as writer:
        writer.write(GOOD)
        writer.write(BAD)


def test_csv_rows_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.csv"
    write(path)
    with path.open(encoding="utf-8", newline="") as handle:
        good, bad = csv.DictReader(handle)
    assert list(good) == COLUMNS == list(output_columns(CLASSES))
    assert good["image"] == GOOD.image
    assert float(good["p_benign"]) == pytest.approx(1 / 3, abs=1e-6)
    assert good["prediction_set"].split("|") == ["benign", "pre_b"]
    assert good["reasons"].split("|") == list(GOOD.reasons)
    assert json.loads(good["quality"]) == GOOD.quality
    assert (good["ood_score"], good["heatmap"], good["error"]) == ("", "", "")
    assert bad["image"] == "cut.png"
    assert bad["error"] == "truncated: the file ends early"
    assert not any(bad[name] for name in COLUMNS if name not in ("image", "error"))


def test_json_lines_read_back(tmp_path: Path) -> None:
    path = tmp_path / "out.JSONL"
    write(path)
    good, bad = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert list(good) == list(bad) == COLUMNS
    assert good["reasons"] == list(GOOD.reasons)
    assert good["ood_score"] is None
    assert good["error"] is None
    assert good["p_benign"] + good["p_pre_b"] == pytest.approx(1, abs=1e-6)
    assert bad["error"] == "truncated: the file ends early"
    assert bad["predicted"] is None


def test_rows_are_on_disk_at_once_and_the_name_comes_last(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("of an earlier run")
    writer = PredictionWriter(path, CLASSES)
    writer.write(GOOD)
    assert path.read_text() == "of an earlier run"
    assert "pre_b" in (tmp_path / "out.csv.partial").read_text().splitlines()[1]
    writer.close()
    assert "pre_b" in path.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]


def test_a_stopped_run_keeps_its_rows_apart(tmp_path: Path) -> None:
    def run() -> None:
        with PredictionWriter(tmp_path / "o.csv", CLASSES) as writer:
            writer.write(GOOD)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert [p.name for p in tmp_path.iterdir()] == ["o.csv.partial"]
    assert len((tmp_path / "o.csv.partial").read_text().splitlines()) == 2


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_names_that_are_no_utf8_can_be_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    with PredictionWriter(path, CLASSES) as writer:
        writer.write(Failure("caf\udce9.png", "missing", "gone"))
    assert "caf\\udce9.png" in path.read_text(encoding="utf-8")


def test_the_schema_of_parquet(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "out.parquet"
    with PredictionWriter(path, CLASSES, ("similar", "row", "x", "note")) as writer:
        writer.write(GOOD, row=7, x=3, note="by hand")
    types = {field.name: str(field.type) for field in pq.read_schema(path)}
    numbers = dict.fromkeys(("p_benign", "p_pre_b", "p_malignant", "ood_score"), "double")
    lists = dict.fromkeys(("prediction_set", "reasons"), "list<element: string>")
    whole = dict.fromkeys(("row", "x"), "int64")
    names = [*COLUMNS, "similar", "row", "x", "note"]
    assert list(types) == names
    assert types == dict.fromkeys(names, "string") | numbers | lists | whole


def test_the_text_of_a_table_is_that_of_its_file(tmp_path: Path) -> None:
    write(tmp_path / "out.csv")
    text = (tmp_path / "out.csv").read_text(encoding="utf-8")
    assert outputs.csv_text([GOOD, BAD], CLASSES) == text


def test_the_page_on_inputs_names_every_column() -> None:
    page = Path(__file__).parents[2] / "docs" / "inputs.md"
    text = page.read_text(encoding="utf-8")
    columns = ["p_<class>" if name.startswith("p_") else name for name in COLUMNS]
    assert all(f"`{name}`" in text for name in {*columns, "p_malignant"})


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"\.xlsx.*\n.*\.csv, \.jsonl"):
        PredictionWriter(tmp_path / "out.xlsx", CLASSES)
    assert not list(tmp_path.iterdir())


def test_parquet_holds_lists_and_null_in_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr(outputs, "ROW_GROUP", 2)
    path = tmp_path / "out.parquet"
    with PredictionWriter(path, CLASSES) as writer:
        for answer in (GOOD, BAD, replace(GOOD, image="caf\udce9.png")):
            writer.write(answer)
        assert not path.exists()
    file = pq.ParquetFile(path)
    assert file.num_row_groups == 2
    assert not list(tmp_path.glob("*.partial"))
    good, bad, odd = file.read().to_pylist()
    assert list(good) == COLUMNS
    assert good["reasons"] == list(GOOD.reasons)
    assert json.loads(good["quality"]) == GOOD.quality
    assert good["p_benign"] == pytest.approx(1 / 3, abs=1e-6)
    assert (good["ood_score"], good["error"]) == (None, None)
    assert (bad["predicted"], bad["error"]) == (None, "truncated: the file ends early")
    assert odd["image"] == "caf\\udce9.png"


@pytest.mark.parametrize("name", ["out.parquet", "out.csv"])
def test_a_stopped_run_leaves_no_file_of_that_name(name: str, tmp_path: Path) -> None:
    def stopped() -> None:
        with PredictionWriter(tmp_path / name, CLASSES) as writer:
            writer.write(GOOD)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not (tmp_path / name).exists()
    assert (tmp_path / f"{name}.partial").stat().st_size > 0


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError) as caught:
        PredictionWriter(tmp_path / "new" / "out.parquet", CLASSES)
    assert "leukoscope[parquet]" in caught.value.hint
    assert not (tmp_path / "new").exists()
