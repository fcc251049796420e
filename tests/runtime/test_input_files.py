from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from leukoscope.runtime.input_files import Inputs, expand_inputs
from leukoscope.runtime.prediction import Failure


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images in two levels, hidden files and others."""
    for name in ("b.png", "a.jpg", "sub/c.png", "sub/deep/d.tif", ".hidden.png", ".git/e.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "data" / "notes.txt").write_text("not an image")
    (tmp_path / "data" / "Thumbs.db").touch()
    (tmp_path / "data" / "answers.csv.partial").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*items: str, stdin: str = "") -> list[str]:
    return [
        f"missing {item.path}" if isinstance(item, Failure) else item.as_posix()
        for item in expand_inputs(items, io.StringIO(stdin))
    ]


EVERYTHING = [
    "data/a.jpg",
    "data/b.png",
    "data/sub/c.png",
    "data/sub/deep/d.tif",
]


def test_a_folder_stands_for_all_below_it_but_hidden_files(tree: Path) -> None:
    assert names("data") == EVERYTHING


def test_tables_and_texts_of_a_folder_are_left_out_and_counted(tree: Path) -> None:
    (tree / "data/sub/CELLS.CSV").touch()
    (tree / "data/sub/scan.xyz").touch()  # who knows: the decoder says
    inputs = Inputs(["data"])
    found = [str(path) for path in inputs]
    assert found == [*EVERYTHING[:3], "data/sub/scan.xyz", EVERYTHING[3]]
    words = "2 files that are no images were left out, e.g. data/notes.txt"
    assert inputs.left_out.words == words
    list(inputs)
    assert inputs.left_out.words == words  # of the last iteration, not of all
    assert names("data/notes.txt", "data/sub/*.CSV") == ["data/notes.txt", "data/sub/CELLS.CSV"]
    alone = Inputs(["data/sub/c.png"])
    assert len(list(alone)) == 1
    assert alone.left_out.words == ""


def test_a_missing_path_is_a_failure_in_its_place(tree: Path) -> None:
    assert names("data/b.png", "nowhere.png", "data/a.jpg") == [
        "data/b.png",
        "missing nowhere.png",
        "data/a.jpg",
    ]
    (failure,) = expand_inputs(["nowhere.png"])
    assert isinstance(failure, Failure)
    assert failure.reason == "missing"


def test_patterns_are_expanded(tree: Path) -> None:
    assert names("data/*.png") == ["data/b.png"]
    assert names("data/**/*.png") == ["data/b.png", "data/sub/c.png"]
    assert names("data/s*") == EVERYTHING[2:]
    assert names(f"{tree}/data/*.jpg") == [f"{tree}/data/a.jpg"]
    assert names("data/*.webp") == ["missing data/*.webp"]


def test_a_name_that_looks_like_a_pattern_is_a_name_first(tree: Path) -> None:
    (tree / "cell[1].png").touch()
    (tree / "cell1.png").touch()
    assert names("cell[1].png") == ["cell[1].png"]


def test_each_file_comes_once(tree: Path) -> None:
    assert names("data/b.png", "data", "./data/b.png", "data/../data/a.jpg", "data/*.png") == [
        "data/b.png",
        "data/a.jpg",
        *EVERYTHING[2:],
    ]
    assert names("x", "x") == ["missing x"]


def test_a_list_is_read_from_standard_input(tree: Path) -> None:
    listed = "data/b.png\r\n\ndata/sub\nnowhere\ncell*.png"
    assert names("-", "data/a.jpg", stdin=listed) == [
        "data/b.png",
        "data/sub/c.png",
        "data/sub/deep/d.tif",
        "missing nowhere",
        "missing cell*.png",  # a list holds names, not patterns
        "data/a.jpg",
    ]


def test_folders_that_lead_back_are_entered_once(tree: Path) -> None:
    (tree / "data/sub/up").symlink_to(tree / "data", target_is_directory=True)
    (tree / "data/twin").symlink_to("sub", target_is_directory=True)
    assert names("data") == EVERYTHING


def test_links_to_nothing_are_left_to_the_decoder(tree: Path) -> None:
    (tree / "loop.png").symlink_to("loop.png")
    (tree / "data/dead.png").symlink_to("gone.png")
    (tree / "data/loop.png").symlink_to("loop.png")
    assert names("loop.png", "data")[:6] == [
        "loop.png",
        "data/a.jpg",
        "data/b.png",
        "data/dead.png",
        "data/loop.png",
        "data/sub/c.png",
    ]


def test_the_truth_beside_phantoms_is_no_input(tree: Path) -> None:
    for name in ("truth/m.png", "truth/truth.json", "manifest.csv", "README.md", "Pre/x.png"):
        path = tree / "phantoms" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert names("phantoms") == ["phantoms/Pre/x.png"]
    (tree / "phantoms/truth/truth.json").unlink()
    assert "phantoms/truth/m.png" in names("phantoms")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_closed_folder_is_a_failure(tree: Path) -> None:
    (tree / "data/sub").chmod(0)
    try:
        assert names("data")[-1] == "missing data/sub"
    finally:
        (tree / "data/sub").chmod(0o755)


def test_a_bundle_is_no_folder_of_images(tmp_path: Path) -> None:
    for name in ("a.png", "model/bundle.json", "model/similar.jpg", "model/golden/00.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    image, refused = expand_inputs([str(tmp_path)])
    assert image == tmp_path / "a.png"
    assert isinstance(refused, Failure)
    assert (refused.path, refused.hint) == (str(tmp_path / "model"), "name it with --bundle")


def test_odd_names(tree: Path) -> None:
    for name in ("Präparat 1.png", "-dash.png", "a\nb.png"):
        (tree / "data/sub" / name).touch()
    found = names("data/sub")
    assert {"data/sub/Präparat 1.png", "data/sub/-dash.png", "data/sub/a\nb.png"} <= set(found)
    assert names("") == ["missing "]
    assert names("a\0b") == ["missing a\0b"]


def test_a_survey_counts_all_and_spreads_its_files(tmp_path: Path) -> None:
    for k in range(50):
        (tmp_path / f"{k:02d}.png").touch()
    inputs = Inputs([str(tmp_path)])
    total, chosen = inputs.survey(8)
    assert total == 50
    assert (total, chosen) == Inputs([str(tmp_path)]).survey(8)
    numbers = [int(path.stem) for path in chosen]
    assert len(numbers) == 8
    assert numbers == sorted(numbers)
    assert numbers[0] < 25 < numbers[-1]
    assert inputs.survey(99)[1] == list(inputs) == sorted(tmp_path.iterdir())


def test_a_list_on_standard_input_can_be_walked_again(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    inputs = Inputs(["-"], io.StringIO(f"{tmp_path / 'a.png'}\nnowhere.png\n"))
    assert inputs.survey(5) == (2, [tmp_path / "a.png"])
    assert [getattr(found, "reason", "") for found in inputs] == ["", "missing"]
    assert len(list(inputs)) == 2


def test_a_file_that_is_named_twice_comes_once(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    names = [str(tmp_path), str(tmp_path / "a.png"), str(tmp_path / "no*.png")]
    assert [type(found).__name__ for found in expand_inputs(names)] == ["PosixPath", "Failure"]
