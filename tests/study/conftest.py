"""Two small data sets: schematic fields of four classes, and of two."""

from __future__ import annotations

from pathlib import Path

import pytest

from leukoscope.core.files import read_csv, write_csv
from leukoscope.phantom.spec import PhantomSpec
from leukoscope.phantom.writing import write_phantoms


@pytest.fixture(scope="session")
def four_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 fields with patient ids."""
    spec = PhantomSpec(images=48, sessions=8, size_px=96, seed=3)
    return write_phantoms(spec, tmp_path_factory.mktemp("target") / "four")


@pytest.fixture(scope="session")
def two_classes(four_classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 fields, healthy or leukemic, and two of the four-class set among them."""
    spec = PhantomSpec(images=48, sessions=8, size_px=96, seed=4)
    folder = write_phantoms(spec, tmp_path_factory.mktemp("source") / "two")
    rows = [
        {
            "path": row["path"],
            "label": "hem" if row["label"] == "benign" else "all",
            "patient_id": row["patient_id"],
        }
        for row in read_csv(folder / "manifest.csv")
    ]
    rows += [
        {"path": str(four_classes / row["path"]), "label": "all", "patient_id": "guest"}
        for row in read_csv(four_classes / "manifest.csv")[1:3]
    ]
    write_csv(folder / "binary.csv", ("path", "label", "patient_id"), rows)
    return folder / "binary.csv"
