"""From files to rows: one for each image, and for each part of an image that was cut."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from leukoscope.runtime import bulk
from leukoscope.runtime.prediction import Failure, Prediction
from leukoscope.runtime.tiling import Part


def _answer(image: str) -> Prediction:
    return Prediction(
        image, "ab" * 32, "pro_b", {"benign": 0.25, "pro_b": 0.75}, 0.75, ("pro_b",), "accept",
        (), None, {}, "tiny@0123456789ab",
    )  # fmt: skip


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def predictor() -> Any:
    """Answers every file; those called ``large`` have two parts."""

    def predict_stream(sources: Any, *, explain: Any, on_parts: Any) -> Any:
        for source in sources:
            if isinstance(source, Failure):
                yield source
                continue
            if source.stem.startswith("large"):
                empty = np.empty((0, 0, 3), np.uint8)
                parts = [Part((x, 0, 8, 9), empty) for x in (0, 8)]
                on_parts([(part, _answer("image-1")) for part in parts])
            yield _answer(str(source))

    return SimpleNamespace(class_names=("benign", "pro_b"), predict_stream=predict_stream)


SOURCES = [
    Path("a.png"),
    Path("large-1.png"),
    Failure("b.png", "truncated", "it ends early"),
    Path("large-2.png"),
]


def test_images_and_their_parts_are_written_under_the_images_names(
    predictor: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    with bulk.beside(out, predictor.class_names) as files:
        answers = list(bulk.predict_files(predictor, SOURCES, files))
    assert [getattr(answer, "image", "") for answer in answers] == [
        "a.png", "large-1.png", "", "large-2.png",
    ]  # fmt: skip
    assert [row["image"] for row in _rows(out)] == ["a.png", "large-1.png", "b.png", "large-2.png"]
    parts = [(row["image"], row["x"]) for row in _rows(tmp_path / "out.parts.csv")]
    assert parts == [(f"large-{n}.png", x) for n in (1, 2) for x in ("0", "8")]


def test_further_values_stand_in_place_of_the_answers(predictor: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    further = [{"image": f"s3://lab/{n}.png", "row": 40 + n} for n in range(4)]
    with bulk.beside(out, predictor.class_names, ("row",)) as files:
        for _ in bulk.predict_files(predictor, SOURCES, files, further=further):
            pass
    assert [(row["image"], row["row"]) for row in _rows(out)] == [
        (f"s3://lab/{n}.png", str(40 + n)) for n in range(4)
    ]
    assert {row["image"] for row in _rows(tmp_path / "out.parts.csv")} == {
        "s3://lab/1.png", "s3://lab/3.png",
    }  # fmt: skip


def test_without_a_cut_image_there_is_no_file_of_parts(predictor: Any, tmp_path: Path) -> None:
    with bulk.beside(tmp_path / "out.csv", predictor.class_names) as files:
        list(bulk.predict_files(predictor, SOURCES[:1], files))
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_an_answer_is_on_disk_before_it_is_given(predictor: Any, tmp_path: Path) -> None:
    with bulk.beside(tmp_path / "out.csv", predictor.class_names) as files:
        answers: Iterator[object] = bulk.predict_files(predictor, SOURCES, files)
        next(answers)
        assert "a.png" in files.answers.partial.read_text().splitlines()[1]


def test_what_is_discarded_leaves_no_file(predictor: Any, tmp_path: Path) -> None:
    files = bulk.beside(tmp_path / "out.csv", predictor.class_names)
    list(bulk.predict_files(predictor, SOURCES, files))
    assert len(list(tmp_path.iterdir())) == 2
    files.discard()
    assert not list(tmp_path.iterdir())
