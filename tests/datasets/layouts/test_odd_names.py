"""File names that are no UTF-8, as archives of other systems unpack them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from leukoscope.cli.main import app
from leukoscope.core.files import read_csv, read_json, write_json, write_text
from leukoscope.core.records import Manifest
from leukoscope.datasets.layouts.load import load_dataset

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="other systems refuse names that are no Unicode"
)
LATIN = os.fsdecode(b"Zelle-\xe4.png")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in ("Benign", "Pro"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(4):
            image = rng.integers(0, 255, (40, 40, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "data" / label / f"{label}{number}.png"), image)
    (tmp_path / "data/Benign/Benign0.png").rename(tmp_path / "data/Benign" / LATIN)
    return tmp_path / "data"


def test_such_a_file_is_named_and_left_out(data: Path, tmp_path: Path) -> None:
    manifest = load_dataset(data)
    (left,) = manifest.unreadable
    assert left == (
        "Benign/Zelle-\\udce4.png",
        "file-name: expected a name in UTF-8, found other bytes; rename the file or its folder",
    )
    assert len(manifest.usable) == 7
    manifest.save(tmp_path / "manifest.csv")
    assert Manifest.load(tmp_path / "manifest.csv", data).unreadable == (left,)


def test_an_audit_goes_on_and_ends_with_three(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "audit"
    result = CliRunner().invoke(app, ["data", "audit", str(data), "--out", str(out)])
    assert result.exit_code == 3, result.output
    assert "rename the file or its folder" in " ".join(result.output.split())
    rows = [row for file in out.rglob("manifest.csv") for row in read_csv(file)]
    assert [row["status"] for row in rows].count("quarantined") == 1


def test_text_files_spell_out_what_is_no_unicode(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", f"{LATIN} ä")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "Zelle-\\udce4.png ä"
    write_json(tmp_path / "a.json", {"name": LATIN})
    assert read_json(tmp_path / "a.json") == {"name": LATIN}


def test_paths_that_lead_out_of_a_manifests_folder_are_said(data: Path, tmp_path: Path) -> None:
    (data / "list").mkdir()
    names = [path.name for path in sorted(data.glob("Pro/*.png"))]
    rows = [f"../Pro/{name},pro_b" for name in names] + [f"{data}/Benign/Benign1.png,benign"]
    (data / "list/manifest.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    said = f"paths that lead out of the folder of the table: 5, such as ../Pro/{names[0]}"
    manifest = load_dataset(data / "list")
    assert said in manifest.notes
    assert len(manifest.usable) == 5
    (tmp_path / "inside.csv").write_text(f"path,label\n{data.name}/Pro/{names[0]},pro_b\n")
    assert not [
        note for note in load_dataset(tmp_path / "inside.csv").notes if "lead out of" in note
    ]


def test_names_that_are_formulas_come_back_as_they_were(data: Path, tmp_path: Path) -> None:
    (data / "Pro/Pro0.png").rename(data / "Pro/=1+1.png")
    (data / "Pro/Pro1.png").rename(data / "Pro/'-x.png")
    rows = "path,label,note\n'=1+1.png,pro_b,'+5 a\n''-x.png,pro_b,-5\n"
    (data / "Pro/manifest.csv").write_text(rows)
    manifest = load_dataset(data / "Pro")
    assert [r.path for r in manifest.usable] == ["'-x.png", "=1+1.png"]
    assert [r.column("note") for r in manifest.usable] == ["-5", "+5 a"]
    manifest.save(tmp_path / "saved.csv")
    assert Manifest.load(tmp_path / "saved.csv", data / "Pro").images == manifest.images
