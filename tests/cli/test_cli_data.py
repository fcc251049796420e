"""``data inspect|audit`` on open classes, columns and patterns, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from leukoscope.cli.main import app
from leukoscope.core.files import read_csv, read_json


@pytest.fixture
def smears(tmp_path: Path) -> Path:
    """Three levels: patient, smear, cell type; one site for each diagnosis."""
    rng = np.random.default_rng(0)
    for patient in range(12):
        for smear in ("smear 1", "smear 2"):
            for kind in ("Blast", "Hairy cell"):
                folder = tmp_path / "data" / f"Patient_{patient:02d}" / smear / kind
                folder.mkdir(parents=True)
                image = rng.integers(0, 256, (40, 40, 3), np.uint8)
                cv2.imwrite(str(folder / "1.png"), image)
    rows = [f"patient_{p},{('aml', 'hcl')[p % 2]},{'NS'[p % 2]},{40 + p}" for p in range(12)]
    (tmp_path / "data" / "patients.csv").write_text(
        "patient_id,diagnosis,site,age\n" + "\n".join(rows) + "\n"
    )
    return tmp_path / "data"


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["data", *words], terminal_width=200)
    assert result.exit_code == 0, result.output
    return result.output


def test_inspect_says_what_each_class_is(smears: Path) -> None:
    text = run("inspect", str(smears))
    assert "no known name: a class of its own" in text
    assert "--role hairy_cell=malignant states a role that is not known" in text
    assert "further columns: site, session, diagnosis, age" in text
    found = json.loads(run("inspect", str(smears), "--role", "hairy_cell=malignant", "--json"))
    assert [(row["name"], row["role"], row["patients"]) for row in found["classes"]] == [
        ("blast", "malignant", 12),
        ("hairy_cell", "malignant", 12),
    ]


def test_another_column_as_label_is_audited_by_patient(smears: Path, tmp_path: Path) -> None:
    run("audit", str(smears), "--target", "diagnosis", "--out", str(tmp_path / "audit"))
    rows = read_csv(tmp_path / "audit" / "manifest.csv")
    assert {(row["label"], row["given_label"], row["session"], row["site"]) for row in rows} == {
        (label, kind, smear, site)
        for label, site in (("aml", "N"), ("hcl", "S"))
        for kind in ("Blast", "Hairy cell")
        for smear in ("smear 1", "smear 2")
    }
    columns = {c["column"]: c for c in read_json(tmp_path / "audit" / "passport.json")["columns"]}
    assert (columns["site"]["unit"], columns["site"]["effect"]) == ("patient", 1.0)
    assert columns["site"]["p_holm"] < 0.05 <= columns["session"]["p_holm"]


def test_a_pattern_chooses_the_class(smears: Path) -> None:
    found = json.loads(run("inspect", str(smears), "--layout", "{patient}/{class}/*", "--json"))
    assert [row["name"] for row in found["classes"]] == ["smear_1", "smear_2"]
