"""Fields whose cells are named by points: each is cut out once, and every oddity is named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from leukoscope.cli.main import app
from leukoscope.core.errors import LayoutError
from leukoscope.core.labels import near_miss
from leukoscope.datasets.layouts.inspection import inspect_dataset
from leukoscope.datasets.layouts.load import load_dataset
from leukoscope.datasets.layouts.unpacked import RED_CELLS, SIDE_PX, cells_folder
from leukoscope.imaging.decode import decode_image


@pytest.fixture
def chula(tmp_path: Path) -> Path:
    """Two fields of coloured squares around their points, one at the edge."""
    root = tmp_path / "Chula-RBC-12"
    for name, points in {"12": [(100, 200, 0), (5, 475, 3)], "7": [(300, 100, 1)]}.items():
        field = np.full((480, 640, 3), 230, np.uint8)
        for x, y, kind in points:
            field[max(0, y - 20) : y + 20, max(0, x - 20) : x + 20] = (40 + kind, 90, 160)
        (root / "Dataset").mkdir(parents=True, exist_ok=True)
        (root / "Label").mkdir(exist_ok=True)
        cv2.imwrite(str(root / f"Dataset/{name}.jpg"), field)
        lines = [f"{x} {y} {kind}" for x, y, kind in points]
        (root / f"Label/{name}.txt").write_text("\n".join(lines) + "\n")
    return root


def test_each_cell_is_an_image_of_its_type_and_its_field_is_its_group(chula: Path) -> None:
    found = inspect_dataset(chula)
    assert (found.layout, found.images) == ("chula", 3)
    assert not cells_folder(chula).exists()
    data = load_dataset(chula)
    assert data.layout == "chula"
    assert data.class_names == tuple(row.name for row in found.classes)
    assert set(data.class_names) == {"normal_red_cell", "macrocyte", "spherocyte"}
    assert {r.label: r.group_id for r in data.usable} == {
        "normal_red_cell": "12", "macrocyte": "7", "spherocyte": "12",
    }  # fmt: skip
    for record in data.usable:
        image = decode_image(data.path_of(record)).image
        assert image.shape == (SIDE_PX, SIDE_PX, 3)
        blue = image[..., 2] < 150  # the square, which no made-up border repeats
        middle = image[30:50, 30:50, 2].mean()
        assert blue.sum() <= 41 * 41
        assert (middle < 150) == (record.label != "spherocyte")  # moved inside the field
    assert load_dataset(chula).images == data.images  # what is there is used


def test_labels_that_changed_are_not_mistaken_for_the_old_ones(chula: Path) -> None:
    load_dataset(chula)
    (chula / "Label/7.txt").write_text("300 100 2\n")
    with pytest.raises(LayoutError, match="as its labels are now"):
        load_dataset(chula)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("300 100", r"7\.txt, line 2: expected x, y and a type from 0 to 15, found '300 100'"),
        ("300 100 16", "from 0 to 15, found '300 100 16'"),
        ("-1 100 0", "found '-1 100 0'"),
        ("640 100 0", r"line 2: the point 640 100 lies outside its field of 640 × 480 px"),
    ],
)
def test_a_wrong_line_is_named(chula: Path, line: str, message: str) -> None:
    with (chula / "Label/7.txt").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(LayoutError, match=message):
        load_dataset(chula)
    assert not cells_folder(chula).exists()


def test_fields_and_labels_without_each_other_are_told(chula: Path) -> None:
    (chula / "Label/9.txt").write_text("1 1 1\n")
    (chula / "Dataset/8.jpg").write_bytes((chula / "Dataset/7.jpg").read_bytes())
    warnings = inspect_dataset(chula).warnings
    assert "1 files of Label have no field in Dataset, e.g. 9" in warnings
    assert "1 fields of Dataset have no file in Label and are left out, e.g. 8" in warnings
    (chula / "Dataset/7.jpg").write_bytes(b"no picture")
    with pytest.raises(LayoutError, match=r"7\.jpg: this field cannot be read"):
        load_dataset(chula)


def test_the_command_shows_it_and_no_type_looks_misspelt(chula: Path) -> None:
    done = CliRunner().invoke(app, ["data", "inspect", str(chula)])
    assert done.exit_code == 0, done.output
    assert "chula" in done.output
    assert "macrocyte" in done.output
    assert [name for name in RED_CELLS if near_miss(name)] == []
