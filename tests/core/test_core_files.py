import csv
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukoscope.core.errors import DataError
from leukoscope.core.files import (
    atomic_path,
    iterate_csv,
    read_csv,
    read_json,
    sha256_file,
    sha256_json,
    write_csv,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    target = tmp_path / "value.txt"
    write_text(target, "old")

    def break_off() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("new, but broken")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        break_off()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_csv_round_trip_keeps_commas_quotes_and_letters(tmp_path: Path) -> None:
    rows = [{"a": 'x, "y"', "b": "größe"}, {"a": "", "b": "2"}]
    write_csv(tmp_path / "t.csv", ("a", "b"), rows)
    assert read_csv(tmp_path / "t.csv", required=("a", "b")) == rows


@given(st.lists(st.text("'=+-@\t\r1a", max_size=4), min_size=1))
def test_no_text_is_a_formula_and_every_text_is_read_back(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        rows = [{"@name": text, "n": "0"} for text in texts]
        write_csv(path, ("@name", "n"), rows)
        assert read_csv(path, required=("@name",)) == rows
        with path.open(encoding="utf-8", newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
    for cell in cells:
        if cell.startswith(tuple("=+-@\t\r")):
            float(cell)  # a number is no formula


def test_csv_with_a_missing_column_names_file_and_column(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,klass\nx,1\n")
    with pytest.raises(DataError, match=r"t\.csv: expected the columns path, label; label missing"):
        read_csv(tmp_path / "t.csv", required=("path", "label"))


def test_json_that_is_cut_off_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{"a": 1')
    with pytest.raises(DataError, match=r"m\.json: expected JSON"):
        read_json(tmp_path / "m.json")
    with pytest.raises(DataError, match="missing"):
        read_json(tmp_path / "none.json")


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "m.json", {"a": float("nan")})
    assert not (tmp_path / "m.json").exists()


def test_hashes(tmp_path: Path) -> None:
    write_text(tmp_path / "abc", "abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "abc") == known
    assert sha256_json({"b": 1, "a": 2}) == sha256_json(json.loads('{"a":2, "b":1}'))
    assert sha256_json({"a": 2}) != sha256_json({"a": 3})


def test_rows_that_end_early_or_late_or_are_blank(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1\n\n1,2,3\n'=1,'b\n")
    expected = [{"a": "1", "b": ""}, {"a": "1", "b": "2"}, {"a": "=1", "b": "'b"}]
    assert read_csv(tmp_path / "t.csv") == expected
    assert next(iterate_csv(tmp_path / "t.csv", required=("a",))) == expected[0]
