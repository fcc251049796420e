"""New images put together by patient: by a table, by folders, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from leukoscope.cli.main import app
from leukoscope.core.errors import DataError, UsageError
from leukoscope.core.files import read_csv
from leukoscope.evaluation.combining import aggregate
from leukoscope.runtime.bundle import save_bundle
from leukoscope.runtime.by_patient import check_patients, patients_of_folders, patients_of_table
from leukoscope.runtime.predictor import load_bundle


@pytest.fixture
def smears(tmp_path: Path, tiny: SimpleNamespace) -> Path:
    """Three patients; one image of the third is black and so rejected, one file is broken."""
    colours = {"P1/a": (150, 40, 40), "P1/slide 2/b": (140, 60, 40), "P2/a": (40, 150, 40),
               "P3/dark": (0, 0, 0)}  # fmt: skip
    for name, colour in colours.items():
        path = tmp_path / "smears" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = 0 if colour == (0, 0, 0) else 6
        cv2.imwrite(str(path), tiny.colour(*colour, noise=noise)[..., ::-1])
    (tmp_path / "smears/P2/broken.png").write_bytes(b"no image")
    return tmp_path / "smears"


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    assert done.exit_code in (0, 3), done.output
    return done.stdout


def test_folders_name_the_patients(smears: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.csv"
    options = (smears, "-b", tiny_bundle, "--out", out, "--by-patient", smears)
    assert "3 patients: " in run(*options)
    rows = {row["patient"]: row for row in read_csv(tmp_path / "p.patients.csv")}
    assert list(rows) == ["P1", "P2", "P3"]
    assert (rows["P1"]["n_images"], rows["P1"]["method"]) == ("2", "mean-logit")
    assert rows["P2"]["n_unreadable"] == "1"
    assert (rows["P3"]["predicted"], rows["P3"]["n_images"], rows["P3"]["n_rejected"]) == (
        "",
        "0",
        "1",
    )
    single = load_bundle(tiny_bundle).predict(sorted(smears.rglob("P1/**/*.png")))
    expected = aggregate([list(answer.probabilities.values()) for answer in single])
    assert rows["P1"]["predicted"] == "benign"
    np.testing.assert_allclose([float(rows["P1"][f"p_{n}"]) for n in single[0].probabilities],
                               expected, atol=1e-6)  # fmt: skip


def test_a_table_names_the_patients_and_the_bundle_the_method(
    smears: Path, tiny: SimpleNamespace, tmp_path: Path
) -> None:
    bundle = tmp_path / "voting"
    save_bundle(bundle, tiny.record(subject_method="vote"), tiny.files())
    table = tmp_path / "who.csv"
    table.write_text("image,patient_id\nsmears/P1/a.png,x\nb.png,y\nsmears/P2/a.png,y\n")
    files = [smears / "P1/a.png", smears / "P1/slide 2/b.png", smears / "P2/a.png"]
    found = json.loads(run(*files, "-b", bundle, "--by-patient", table, "--json"))
    assert [row["patient"] for row in found["patients"]] == ["x", "y"]
    assert len(found["predictions"]) == 3
    y = found["patients"][1]
    assert (y["method"], y["n_images"], y["agreement"]) == ("vote", 2, 0.5)
    assert y["p_benign"] == pytest.approx((1 + 1 / 3) / 3, abs=1e-6)
    text = run(*files, "-b", bundle, "--by-patient", table)
    assert "patient y" in text
    assert "vote of 2 images" in text


def test_images_of_nobody_are_refused_before_anything_is_predicted(
    smears: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    table = tmp_path / "who.csv"
    table.write_text("image,patient_id\nsmears/P1/a.png,x\n")
    out = tmp_path / "p.csv"
    command = ["predict", str(smears), "-b", str(tiny_bundle), "-o", str(out), "--by-patient"]
    done = CliRunner().invoke(app, [*command, str(table)])
    assert done.exit_code == 1
    assert "no patient is known for 3 of the images" in done.output
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,patient\na.png,1\n", "patient_id missing"),
        ("file,patient_id\na.png,1\n", "image \\(or path\\)"),
        ("image,patient_id\na.png,1\n,2\n", ":3: expected an image and a patient_id"),
        ("image,patient_id\na.png,1\na.png,2\n", ":3: a.png already belongs to patient 1"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "who.csv"
    table.write_text(text)
    with pytest.raises(DataError, match=message):
        patients_of_table(table)


def test_a_name_that_two_patients_share_is_found_by_its_path_alone(tmp_path: Path) -> None:
    table = tmp_path / "who.csv"
    table.write_text("path,patient_id\nP1/a.png,1\nP2/a.png,2\n")
    patient_of = patients_of_table(table)
    assert patient_of(str(tmp_path / "P2/a.png")) == "2"
    assert patient_of("elsewhere/a.png") == ""
    with pytest.raises(UsageError, match="subfolders"):
        patients_of_folders(tmp_path / "nothing")


def test_a_spreadsheet_may_have_written_the_table(tmp_path: Path) -> None:
    table = tmp_path / "who.csv"
    table.write_text("Image;Patient_ID\na.png;7\n", encoding="utf-8-sig")
    assert patients_of_table(table)("a.png") == "7"


def _files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def test_patients_below_class_folders_are_found_as_inspect_finds_them(tmp_path: Path) -> None:
    root = _files(tmp_path, "aml/patient_1/a.png", "aml/patient_2/a.png", "apl/patient_3/a.png",
                  "apl/patient_3/notes.txt")  # fmt: skip
    patient_of = patients_of_folders(root)
    found = {path: patient_of(str(root / path)) for path in
             ("aml/patient_1/a.png", "aml/patient_2/a.png", "apl/patient_3/notes.txt")}  # fmt: skip
    assert list(found.values()) == ["patient_1", "patient_2", "patient_3"]
    assert patient_of("elsewhere/a.png") == ""
    _files(root, "apl/Öz Ü/b.png")
    lost = str(root / "apl/Öz Ü/b.png")
    with pytest.raises(DataError, match="no patient is known for 1 of the images"):
        check_patients([lost], patients_of_folders(root))


def test_classes_of_one_patient_each_are_still_classes(tmp_path: Path) -> None:
    root = _files(tmp_path, "aml/patient_1/a.png", "apl/patient_3/a.png")
    assert patients_of_folders(root)(str(root / "aml/patient_1/a.png")) == "patient_1"


@pytest.mark.parametrize(
    "names",
    [
        ("anna/a.png", "ben/b.png"),
        ("patient_1/blast/a.png", "anna/blast/b.png", "ben/monocyte/c.png"),
        ("P1/slide 2/b.png", "P2/a.png"),
    ],
)
def test_folders_of_patients_stay_the_patients(tmp_path: Path, names: tuple[str, ...]) -> None:
    patient_of = patients_of_folders(_files(tmp_path, *names))
    tops = [name.partition("/")[0] for name in names]
    assert [patient_of(str(tmp_path / name)) for name in names] == tops


def test_class_folders_are_no_patients(tmp_path: Path) -> None:
    root = _files(tmp_path, "monocyte/a.png", "lymphocyte/b.png", "neutrophil/c.png")
    with pytest.raises(UsageError, match="named after classes") as caught:
        patients_of_folders(root)
    assert "patient_id" in caught.value.hint
