"""CSV manifests: what is read, and that each fault names its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from leukoscope.core.errors import DataError, LayoutError, UnknownNameError
from leukoscope.core.records import Manifest
from leukoscope.datasets.layouts.inspection import inspect_dataset
from leukoscope.datasets.layouts.load import load_dataset, stated_roles

Put = Callable[..., Path]


def write(folder: Path, text: str, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_are_read(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "a, b.png", 1)
    put(tmp_path / "ü.png", 2)
    path = write(
        tmp_path,
        "\ufeffLabel,Path ,patient_id,split,note,cohort\n"
        'ALL,"a, b.png", 7 ,Training,x,2015 \nhem,ü.png,,,,\n\n',
    )
    records = load_dataset(path).images
    assert [(r.path, r.label, r.patient_id, r.given_part, r.cohort) for r in records] == [
        ("a, b.png", "all", "7", "train", "2015"),
        ("ü.png", "healthy", "", "", ""),
    ]


def test_a_listed_file_may_be_missing_or_unlabelled(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "a.png", 1)
    put(tmp_path / "b.png", 2)
    put(tmp_path / "c.png", 3)
    path = write(tmp_path, "path,label\na.png,all\nb.png,cat\nc.png,\ngone.png,all\n")
    records = {r.path: r for r in load_dataset(path).images}
    assert records["gone.png"].reason == "missing: no such file"
    assert (records["b.png"].status, records["b.png"].label) == ("ok", "cat")
    assert records["c.png"].reason == "no label"
    warnings = inspect_dataset(path).warnings
    assert warnings == (
        "line 4: no label; its images are excluded",
        "1 of the 4 listed files is missing: gone.png (line 5)",
        "class cat has only one image: it can be trained on or tested, not both",
    )
    mapped = load_dataset(path, class_map={"cat": "hem"})
    assert {r.path: r.label for r in mapped.usable} == {"a.png": "all", "b.png": "healthy"}


@pytest.mark.parametrize(
    ("header", "notes"),
    [
        ("path,label,Patient", ["column 'Patient' looks like patient_id: rename it"]),
        ("path,label,PatientID", ["column 'PatientID' looks like patient_id: rename it"]),
        ("path,label,patient id", ["column 'patient id' looks like patient_id: rename it"]),
        ("path,label,pateint_id", ["column 'pateint_id' looks like patient_id: rename it"]),
        ("path,label,Cell type", ["column 'Cell type' looks like cell_type: rename it"]),
        ("path,label,scanner", []),
        ("path,label,patient_id", []),
    ],
)
def test_a_column_that_is_nearly_a_known_one_is_named(
    tmp_path: Path, put: Put, header: str, notes: list[str]
) -> None:
    for k in range(4):
        put(tmp_path / f"{k}.png", k)
    rows = [f"{k}.png,{('all', 'hem')[k % 2]},p{k}" for k in range(4)]
    path = write(tmp_path, "\n".join([header, *rows]) + "\n")
    assert [n for n in inspect_dataset(path).warnings if "looks like" in n] == notes
    assert [n for n in load_dataset(path).notes if "looks like" in n] == notes


def test_rows_without_a_patient_are_counted_and_named(tmp_path: Path, put: Put) -> None:
    for k in range(4):
        put(tmp_path / f"{k}.png", k)
    rows = ["0.png,all,a", "1.png,all,b", "2.png,hem,c", "3.png,hem,"]
    path = write(tmp_path, "\n".join(["path,label,patient_id", *rows]) + "\n")
    (note,) = [n for n in inspect_dataset(path).warnings if "patient (" in n]
    assert note.startswith("1 of 4 images name no patient (3.png): ")
    assert "`grouped` is lost" in note
    assert "--layout" not in note


@pytest.mark.parametrize("sign", [";", "\t"])
def test_tables_of_spreadsheets_are_read(tmp_path: Path, put: Put, sign: str) -> None:
    put(tmp_path / "a, b.png", 1)
    put(tmp_path / "b.png", 2)
    lines = ["\ufeffpath|label|patient_id|age", "a, b.png|all|p1|4", "b.png|hem|p2|9"]
    path = write(tmp_path, "\n".join(lines).replace("|", sign) + "\n", "manifest.csv")
    for place in (path, tmp_path):
        records = load_dataset(place).images
        assert [(r.path, r.label, r.patient_id) for r in records] == [
            ("a, b.png", "all", "p1"),
            ("b.png", "healthy", "p2"),
        ]
    path = write(tmp_path, "\n".join([*lines, "c.png|all"]).replace("|", sign) + "\n")
    with pytest.raises(LayoutError, match="line 4: expected 4 values") as caught:
        load_dataset(path)
    assert {";": "semicolon", "\t": "tab"}[sign] in caught.value.hint
    path = write(tmp_path, f"file{sign}class\na.png{sign}all\n")
    with pytest.raises(LayoutError, match="path, label missing, found file, class"):
        load_dataset(path)


def test_columns_of_other_names_are_asked_for_by_name(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "a.png", 1)
    path = write(tmp_path, "Filename,class,patient\na.png,all,p\n")
    with pytest.raises(LayoutError, match="path, label missing") as caught:
        load_dataset(path)
    assert caught.value.hint == (
        "rename columns: 'Filename' looks like path; 'class' looks like label; "
        "'patient' looks like patient_id"
    )


def test_any_column_is_kept_and_can_be_the_label(tmp_path: Path, put: Put) -> None:
    for k in range(3):
        put(tmp_path / f"{k}.png", k)
    path = write(
        tmp_path,
        ",path,patient_id,Diagnosis,cell_type,Stain lot,sha256\n"
        "0,0.png,a,AML,blast,L7,x\n1,1.png,a,AML,,L7,x\n2,2.png,b,APL,monocyte,,x\n",
    )
    with pytest.raises(LayoutError, match="label missing") as caught:
        load_dataset(path)
    assert caught.value.hint.startswith("--target diagnosis takes")
    manifest = load_dataset(path, target="diagnosis")
    assert [(r.label, r.cell_type, r.further) for r in manifest.images] == [
        ("aml", "blast", (("stain lot", "L7"),)),
        ("aml", "", (("stain lot", "L7"),)),
        ("apl", "monocyte", ()),
    ]
    manifest.save(tmp_path / "run" / "manifest.csv")
    assert Manifest.load(tmp_path / "run" / "manifest.csv", tmp_path).images == manifest.images
    lots = load_dataset(path, target="Stain lot")
    assert [r.label or r.reason for r in lots.images] == ["l7", "l7", "no stain lot"]
    with pytest.raises(LayoutError, match="ward missing") as caught:
        load_dataset(path, target="ward")
    assert "names no column" in caught.value.hint


def test_a_misspelt_class_is_asked_about_by_line(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "a.png", 1)
    path = write(tmp_path, "path,label\na.png,eosinofil\n")
    with pytest.raises(LayoutError, match=r"list\.csv, line 2: 'eosinofil' \(eosinophil\?\)"):
        load_dataset(path)
    kept = load_dataset(path, class_map={"eosinofil": "eosinofil"})
    assert kept.class_names == ("eosinofil",)


def test_the_column_role_says_what_classes_stand_for(tmp_path: Path, put: Put) -> None:
    for k in range(2):
        put(tmp_path / f"{k}.png", k)
    path = write(tmp_path, "path,label,role\n0.png,cat,malignant\n1.png,dog,\n")
    assert stated_roles(path) == {"cat": "malignant"}
    assert [row.role for row in inspect_dataset(path).classes] == ["malignant", None]
    shown = inspect_dataset(path, roles={"cat": "other", "dog": "benign"}).classes
    assert [row.role for row in shown] == ["other", "benign"]
    path = write(tmp_path, "path,label,role\n0.png,cat,malignant\n1.png,cat,benign\n")
    with pytest.raises(LayoutError, match="gives the class cat two roles"):
        stated_roles(path)
    path = write(tmp_path, "path,label,role\n0.png,cat,evil\n1.png,cat,evil\n")
    with pytest.raises(UnknownNameError, match="unknown role 'evil'"):
        inspect_dataset(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,klass\na.png,all\n", r"line 1: expected the columns path, label; label missing"),
        ("", r"line 1: expected the columns path, label"),
        ("path,label\n", r"found only the header"),
        ("path,label\na.png,all\na.png,hem\n", r"line 3: a.png is already listed in line 2"),
        ("path,label,x,X\na.png,all,1,2\n", r"line 1: the column x is there twice"),
        ("path,label\na.png,all,x\n", r"line 2: expected 2 values \(path, label\), found 3"),
        ('path,label\n"a.png,all\n', r"line 2: no valid CSV"),
        ("path,label\n,all\n", r"line 2: expected the path of an image, found none"),
        ("path,label,split\na.png,all,later\n", r"line 2: expected a split of .* found 'later'"),
        ('path,label\n"a.png","all"\n"b\n.png",all\nx.png\n', r"line 5: expected 2 values"),
        ("path,label\nb.png,all\n", r"none of the 1 listed files exists, e.g. b.png"),
    ],
)
def test_a_fault_names_its_line(tmp_path: Path, put: Put, text: str, message: str) -> None:
    put(tmp_path / "a.png", 1)
    with pytest.raises(LayoutError, match=message):
        load_dataset(write(tmp_path, text))


def test_a_csv_that_is_missing_or_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"none\.csv: this table is missing"):
        load_dataset(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes("path,label\nü.png,all\n".encode("latin-1"))
    with pytest.raises(LayoutError, match="expected UTF-8") as caught:
        load_dataset(tmp_path / "latin.csv")
    assert isinstance(caught.value, DataError)


def test_a_csv_cannot_be_read_as_a_folder_layout(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="layout 'parts' needs a folder"):
        load_dataset(write(tmp_path, "path,label\n"), layout="parts")


def test_preliminary_phase_reports_what_does_not_fit(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "data" / "1.bmp", 1)
    put(tmp_path / "data" / "9.bmp", 9)
    text = "Patient_ID,new_names,labels\nUID_57_29_1_all.bmp,1.bmp,1\nUID_H3_1_1_hem.bmp,2.bmp,0\n"
    write(tmp_path, text, "labels.csv")
    records = {r.path: r for r in load_dataset(tmp_path).images}
    assert (records["data/1.bmp"].label, records["data/1.bmp"].patient_id) == ("all", "57")
    assert records["2.bmp"].status == "quarantined"
    assert records["data/9.bmp"].reason == "not listed in labels.csv"
    write(tmp_path, text + "x,3.bmp,2\n", "labels.csv")
    with pytest.raises(LayoutError, match=r"line 4: expected a label of 1 \(all\) or 0"):
        load_dataset(tmp_path)
