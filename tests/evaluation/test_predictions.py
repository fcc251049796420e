from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukoscope.core.errors import DataError
from leukoscope.evaluation.predictions import PredictionTable, concatenate

CLASSES = ("healthy", "all")
COLUMNS = (
    "image_id", "recipe", "protocol", "fold", "part", "input", "y_true", "logits", "probs",
)  # fmt: skip


def table(n: int = 3, **changes: object) -> PredictionTable:
    rng = np.random.default_rng(n)
    probs = rng.dirichlet([1.0, 1.0], n)
    values: dict[str, object] = {
        "class_names": CLASSES,
        "image_id": [f"a{i}" for i in range(n)],
        "probs": probs,
        "recipe": "quick",
        "protocol": "random",
        "fold": 0,
        "part": "test",
        "y_true": [i % 3 - 1 for i in range(n)],
        "logits": np.log(probs),
    }
    return PredictionTable.build(**(values | changes))  # type: ignore[arg-type]


def same(a: PredictionTable, b: PredictionTable) -> bool:
    return a.class_names == b.class_names and all(
        np.array_equal(getattr(a, c), getattr(b, c), equal_nan=c == "logits") for c in COLUMNS
    )


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 12), seed=st.integers(0, 999), with_logits=st.booleans())
def test_saved_table_reads_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, n: int, seed: int, with_logits: bool
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 2)) * 10.0 ** rng.integers(-12, 12)
    original = table(
        n,
        image_id=[f'bild ü,"{i}' for i in range(n)],
        logits=logits if with_logits else None,
        fold=rng.integers(0, 5, n),
        part=rng.choice(["train", "val", "cal", "test"], n),
    )
    path = tmp_path_factory.mktemp("p") / "predictions.csv"
    original.save(path)
    assert same(PredictionTable.load(path), original)


def test_the_columns_are_those_of_the_design(tmp_path: Path) -> None:
    table(1, y_true=[1]).save(tmp_path / "p.csv")
    header, row = (tmp_path / "p.csv").read_text().splitlines()
    assert header == (
        "image_id,recipe,protocol,fold,part,input,y_true,logit_healthy,logit_all,p_healthy,p_all"
    )
    assert row.startswith("a0,quick,random,0,test,image,all,")


def test_a_probe_without_logits_leaves_them_empty(tmp_path: Path) -> None:
    table(1, logits=None).save(tmp_path / "p.csv")
    assert "test,image,,,,0." in (tmp_path / "p.csv").read_text()
    assert np.isnan(PredictionTable.load(tmp_path / "p.csv").logits).all()


def test_select_by_one_value_by_several_and_by_none() -> None:
    both = concatenate([table(3), table(3, protocol="grouped", fold=[0, 1, 2])])
    assert len(both.select(protocol="grouped")) == 3
    assert both.select(protocol="grouped", fold=[1, 2]).image_id.tolist() == ["a1", "a2"]
    assert len(both.select(fold=0)) == 4
    assert len(both.select(protocol=["random", "grouped"], part="test", input="image")) == 6
    assert len(both.select(recipe="other")) == 0


def test_concatenate_refuses_another_class_order() -> None:
    with pytest.raises(DataError, match="expected healthy, all, got all, healthy"):
        concatenate([table(), table(class_names=("all", "healthy"))])


def test_concatenate_refuses_a_row_that_stands_twice() -> None:
    with pytest.raises(DataError, match="row 3: image a0 stands twice"):
        concatenate([table(), table()])


def test_concatenate_of_nothing_is_an_error() -> None:
    with pytest.raises(DataError, match="at least one table"):
        concatenate([])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probs": [[0.5, 0.5], [0.5, 0.6], [1, 0]]}, "row 1: the probabilities do not sum to 1"),
        ({"probs": [[0.5, 0.5], [1.5, -0.5], [1, 0]]}, r"row 1: a p_ is not in \[0, 1\]"),
        ({"probs": [[np.nan, 0.5], [0.5, 0.5], [1, 0]]}, r"row 0: a p_ is not"),
        ({"y_true": [0, 1, 2]}, "row 2: y_true is not in −1 … 1"),
        ({"part": "purged"}, "row 0: the part is none of train, val, cal, test"),
        ({"fold": -1}, "row 0: the fold is negative"),
        ({"logits": [[0, 1], [np.nan, 1], [0, 1]]}, "row 1: some logits of the row are missing"),
        ({"logits": [[0, 1], [0, 1], [np.inf, 1]]}, "row 2: a logit is infinite"),
        ({"probs": np.full((3, 3), 1 / 3)}, r"probs: expected shape \(3, 2\), got \(3, 3\)"),
        ({"fold": [1, 2]}, "expected one value or 3 per column"),
        ({"image_id": ["a", "", "b"]}, "row 1: the image_id is empty"),
        ({"class_names": ("all", "all")}, "distinct classes"),
    ],
)
def test_a_wrong_value_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        table(**changes)


HEADER = "image_id,recipe,protocol,fold,part,input,y_true,logit_healthy,logit_all,p_healthy,p_all"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a header line"),
        ("image_id,p_all\n", r"p\.csv:1: expected the columns .* missing: .*recipe"),
        (HEADER + ",extra\n", "unknown: extra"),
        (f"{HEADER}\na,q,r,0,test,image,,0,0,0.5,0.5\nb,q,r\n", r"p\.csv:3: expected 11 cells"),
        (f"{HEADER}\na,q,r,x,test,image,,0,0,0.5,0.5\n", r"p\.csv:2: fold 'x' is not a whole"),
        (f"{HEADER}\na,q,r,0,test,image,cat,0,0,0.5,0.5\n", r"p\.csv:2: y_true 'cat' is none of"),
        (f"{HEADER}\na,q,r,0,test,image,,0,0,half,0.5\n", r"p\.csv:2: p_healthy 'half' is not a n"),
        (f"{HEADER}\na,q,r,0,test,image,,0,0,,0.5\n", r"p\.csv:2: p_healthy '' is not a number"),
        (
            f"{HEADER}\na,q,r,0,test,image,,0,0,.5,.5\nb,q,r,0,test,image,,0,0,.5,.6\n",
            r"p\.csv:3: the probabilities do not sum to 1",
        ),
    ],
)
def test_load_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        PredictionTable.load(tmp_path / "p.csv")


def test_load_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: this file is missing"):
        PredictionTable.load(tmp_path / "none.csv")


def test_a_table_that_is_read_in_parts_is_the_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.csv"
    original = table(7, image_id=["=1", "a,b", '"', "ccccccccc", "d", "e", "f"])
    original.save(path)
    text = path.read_bytes()
    monkeypatch.setattr("leukoscope.evaluation.predictions._ROWS", 3)
    assert same(PredictionTable.load(path), original)
    original.save(path)
    assert path.read_bytes() == text
    lines = text.decode().splitlines()
    path.write_text("\n".join([*lines, lines[2]]))
    with pytest.raises(DataError, match=r"p\.csv:9: image a,b stands twice"):
        PredictionTable.load(path)
    path.write_text("\n".join([*lines[:6], lines[6].replace("random,0", "random,zero")]))
    with pytest.raises(DataError, match=r"p\.csv:7: fold 'zero' is not a whole number"):
        PredictionTable.load(path)


def test_rows_that_are_taken_twice_are_refused() -> None:
    whole = table(3)
    assert same(whole.take(np.array([True, False, True])), whole.take(np.array([0, 2])))
    with pytest.raises(DataError, match="stands twice"):
        whole.take(np.array([1, 1]))
