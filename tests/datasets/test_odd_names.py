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
from leukoscope.datasets.layouts import load_dataset

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
