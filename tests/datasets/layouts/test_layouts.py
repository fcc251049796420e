"""One contract over all layouts; then what each must get right."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from leukoscope.config.study import DataConfig
from leukoscope.core.errors import LayoutError, UnknownNameError
from leukoscope.core.records import Manifest
from leukoscope.datasets.layouts.inspection import inspect_dataset
from leukoscope.datasets.layouts.load import LAYOUTS, load_dataset

Put = Callable[..., Path]


def four_classes(root: Path, put: Put) -> None:
    for k, (folder, name) in enumerate(
        [
            ("Benign", "WBC-Benign-001.jpg"),
            ("Early", "WBC-Malignant-Early-001.jpg"),
            ("Pre", "WBC-Malignant-Pre-001.jpg"),
            ("Pro", "WBC-Malignant-Pro-001.jpg"),
        ]
    ):
        put(root / folder / name, k)


def s0_twins(root: Path, put: Put) -> None:
    for k, name in enumerate(["Benign", "Early", "Pre", "Pro"]):
        put(root / "Original" / name / f"WBC-{name}-001.jpg", k)
        put(root / "Segmented" / name / f"WBC-{name}-001.jpg", 100 + k)


def s1(root: Path, put: Put) -> None:
    top = root / "Blood cell Cancer [ALL]"
    names = ["Benign", "[Malignant] early Pre-B", "[Malignant] Pre-B", "[Malignant] Pro-B"]
    for k, name in enumerate(names):
        put(top / name / "Snap_031 - Copy.jpg", k)


def s2(root: Path, put: Put) -> None:
    for k, part in enumerate(["train", "val", "test"]):
        put(root / part / "Benign" / "a.png", 10 * k)
        put(root / part / "Pro" / "a.png", 10 * k + 1)


def s3_parts(root: Path, put: Put) -> None:
    for k, part in enumerate(["Training", "Validation", "Testing"]):
        put(root / "images" / part / "Normal" / "a.png", 10 * k)
        put(root / "images" / part / "Early" / "a.png", 10 * k + 1)


def s4(root: Path, put: Put) -> None:
    for k, part in enumerate(["train", "test"]):
        put(root / "dataset" / "processado" / part / "ALL" / "a.bmp", 10 * k)
        put(root / "dataset" / "processado" / part / "HEM" / "a.bmp", 10 * k + 1)


def cnmc(root: Path, put: Put) -> None:
    for fold in (0, 1, 2):
        put(root / f"fold_{fold}" / "all" / f"UID_{11 + fold}_3_1_all.bmp", fold)
        put(root / f"fold_{fold}" / "hem" / f"UID_H{10 + fold}_3_1_hem.webp", 10 + fold)


def preliminary(root: Path, put: Put) -> None:
    for k in (1, 2, 3):
        put(root / "C-NMC_test_prelim_phase_data" / f"{k}.bmp", k)
    (root / "C-NMC_test_prelim_phase_data_labels.csv").write_text(
        "Patient_ID,new_names,labels\nUID_57_29_1_all.bmp,1.bmp,1\n"
        "UID_H30_6_2_hem.bmp,2.bmp,0\nUID_57_22_9_all.bmp,3.bmp,1\n"
    )


def manifest_csv(root: Path, put: Put) -> None:
    for k in range(4):
        put(root / "pictures" / f"{k}.png", k)
    put(root / "truth" / "0_mask.png", 50)
    (root / "manifest.csv").write_text(
        "path,label,patient_id,group_id,split,acquisition_id\n"
        "pictures/0.png,benign,p1,g1,train,s1\n"
        'pictures/1.png,"[Malignant] Pro-B",p2,g1,test,s1\n'
        "pictures\\2.png,hematogone,p1,,Validation,s2\n"
        "pictures/3.png,pro_b,p3,,fold_1,s2\n"
    )


def patient_class(root: Path, put: Put) -> None:
    for k, patient in enumerate(["Patient_0", "Patient_1", "Patient_2"]):
        put(root / patient / "monocyte" / "a.png", 10 * k)
        put(root / patient / "Hairy cell" / "a.png", 10 * k + 1)


def class_patient(root: Path, put: Put) -> None:
    for k, folder in enumerate(["aml/P1", "aml/P2", "apl/P3", "apl/P4"]):
        put(root / "data" / folder / "a.png", k)


def split_class_patient(root: Path, put: Put) -> None:
    for k, folder in enumerate(["train/odd/S1", "train/even/S2", "test/odd/S3", "test/even/S4"]):
        put(root / folder / "a.png", k)


def unknown_names(root: Path, put: Put) -> None:
    for k, name in enumerate(["Gelb", "Grün", "Rot & Blau"]):
        put(root / name / "a.png", 2 * k)
        put(root / name / "b.png", 2 * k + 1)


def surnames(root: Path, put: Put) -> None:
    for k, patient in enumerate(["Adler", "Bauer", "Clement", "Dorn"]):
        put(root / patient / "yellow" / "a.png", 2 * k)
        put(root / patient / "green" / "a.png", 2 * k + 1)


def deepapl(root: Path, put: Put) -> None:
    kinds = ["Blast, no lineage spec/BL_1.jpg", "Lymphocyte, variant/VLY_2.jpg"]
    for patient in ("Patient_00", "Patient_1"):
        for k, kind in enumerate(kinds):
            put(root / "Data" / "All" / patient / "Signed slides" / kind, k + 5 * len(patient))
        put(root / "Data" / "All" / patient / "Unsigned slides" / "BL_9.jpg", 90 + len(patient))
    (root / "Data" / "All" / "Patient_00" / "Signed slides" / "Thumbs.db").write_bytes(b"x")
    (root / "Data" / "master.csv").write_text(
        "Patient_ID,Diagnosis,Cohort,Age\nPatient 0,APL,Discovery,41\nPatient_1,AML,Validation,\n"
    )


def munich(root: Path, put: Put) -> None:
    codes = ["BAS", "MYO", "LYT"]
    for k, code in enumerate(codes):
        put(root / "AML-Cytomorphology" / code / f"{code}_0001.tiff", k)
    lines = [f"{code}/{code}_0001.tiff {code} nan MOB" for code in codes]
    (root / "annotations.dat").write_text("\n".join(lines) + "\n")


def wbcbench(root: Path, put: Put) -> None:
    for k, name in enumerate(["phase1/1.jpg", "phase2/train/2.jpg", "phase2/eval/3.jpg"]):
        put(root / name, k)
    put(root / "phase2" / "test" / "4.jpg", 9)
    for table, row in (
        ("phase1_label", "1.jpg,BNE"), ("phase2_train", "2.jpg,VLY"),
        ("phase2_eval", "3.jpg,BNE"), ("phase2_test", "4.jpg,"),
    ):  # fmt: skip
        (root / f"{table}.csv").write_text(f"ID,labels\n{row}\n")


PBC = ("basophil/BA", "eosinophil/EO", "erythroblast/ERB", "ig/MMY", "lymphocyte/LY",
       "monocyte/MO", "neutrophil/SNE", "platelet/PLATELET")  # fmt: skip


def pbc(root: Path, put: Put) -> None:
    for k, name in enumerate(PBC):
        put(root / "PBC_dataset_normal_DIB" / f"{name}_{k}.jpg", k)


def raabin(root: Path, put: Put) -> None:
    for k, part in enumerate(["Train", "TestA", "TestB"]):
        put(root / part / "Neutrophil" / "a.jpg", 10 * k)
        put(root / part / "Lymphocyte" / "a.jpg", 10 * k + 1)


def all_idb(root: Path, put: Put) -> None:
    for k, name in enumerate(["Im001_1.tif", "Im002_1.tif", "Im131_0.tif"]):
        put(root / "ALL_IDB2" / "img" / name, k)


FOUR = {"benign": 1, "early_pre_b": 1, "pre_b": 1, "pro_b": 1}
THREE_PARTS = {"train": 2, "val": 2, "test": 2}

# name: (writer, layout, {class: n}, {part: n}, patients)
CASES = {
    "aria": (four_classes, "class-folders", FOUR, {}, 0),
    "s0": (s0_twins, "original-segmented", FOUR, {}, 0),
    "s1": (s1, "class-folders", FOUR, {}, 0),
    "s2": (s2, "parts", {"benign": 3, "pro_b": 3}, THREE_PARTS, 0),
    "s3": (s3_parts, "parts", {"healthy": 3, "early_pre_b": 3}, THREE_PARTS, 0),
    "s4": (s4, "parts", {"healthy": 2, "all": 2}, {"train": 2, "test": 2}, 0),
    "cnmc": (cnmc, "cnmc", {"healthy": 3, "all": 3}, {"fold_0": 2, "fold_1": 2, "fold_2": 2}, 6),
    "preliminary": (preliminary, "cnmc-preliminary", {"healthy": 1, "all": 2}, {}, 2),
    "csv": (
        manifest_csv,
        "csv-manifest",
        {"benign": 2, "pro_b": 2},
        {"train": 1, "test": 1, "val": 1, "fold_1": 1},
        3,
    ),
    "patient/class": (patient_class, "class-folders", {"monocyte": 3, "hairy_cell": 3}, {}, 3),
    "class/patient": (class_patient, "class-folders", {"aml": 2, "apl": 2}, {}, 4),
    "split/class/patient": (
        split_class_patient, "parts", {"odd": 2, "even": 2}, {"train": 2, "test": 2}, 4,
    ),
    "open": (unknown_names, "class-folders", {"gelb": 2, "grün": 2, "rot_blau": 2}, {}, 0),
    "surnames": (surnames, "class-folders", {"yellow": 4, "green": 4}, {}, 4),
    "deepapl": (deepapl, "deepapl", {"blast": 2, "variant_lymphocyte": 2}, {}, 2),
    "munich": (munich, "annotations", {"basophil": 1, "myeloblast": 1, "lymphocyte": 1}, {}, 0),
    "wbcbench": (
        wbcbench, "wbcbench", {"band_neutrophil": 2, "variant_lymphocyte": 1},
        {"train": 2, "val": 1}, 0,
    ),
    "pbc": (
        pbc, "pbc",
        dict.fromkeys(("basophil", "eosinophil", "erythroblast", "immature_granulocyte",
                       "lymphocyte", "monocyte", "neutrophil", "thrombocyte"), 1),
        {}, 0,
    ),
    "all-idb": (all_idb, "all-idb", {"all": 2, "healthy": 1}, {}, 0),
    "raabin": (
        raabin, "parts", {"neutrophil": 3, "lymphocyte": 3}, {"train": 2, "test": 4}, 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_contract(case: str, tmp_path: Path, put: Put) -> None:
    write, layout, classes, parts, patients = CASES[case]
    write(tmp_path, put)
    manifest = load_dataset(tmp_path)
    found = inspect_dataset(tmp_path)
    assert found.layout == manifest.layout == layout
    assert found.why
    assert Counter(r.label for r in manifest.usable) == classes
    assert Counter(r.given_part for r in manifest.usable if r.given_part) == parts == found.parts
    assert len({r.patient_id for r in manifest.usable} - {""}) == patients == found.patients
    assert [r.path for r in manifest.images] == sorted(r.path for r in manifest.images)
    assert all(manifest.path_of(r).is_file() and len(r.sha256) == 64 for r in manifest.images)
    assert {(r.width, r.height) for r in manifest.images} == {(16, 16)}
    assert len({r.image_id for r in manifest.images}) == len(manifest.images)
    assert found.images == len(manifest.usable) == sum(classes.values())
    json.dumps(asdict(found))
    again = load_dataset(tmp_path, layout=layout, threads=1)
    assert again.images == manifest.images
    manifest.save(tmp_path / "saved" / "m.csv")
    assert Manifest.load(tmp_path / "saved" / "m.csv", tmp_path).images == manifest.images


def test_every_automatic_layout_has_a_case() -> None:
    tested = {layout for _, layout, *_ in CASES.values()} | {"chula"}  # test_points.py has its own
    assert tested == {name for name, layout in LAYOUTS.items() if layout.automatic}


def test_all_idb_sorted_into_class_folders_is_read_by_them(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "train" / "ALL" / "Im001_1.tif", 1)
    put(tmp_path / "test" / "Healthy" / "Im131_0.tif", 2)
    assert inspect_dataset(tmp_path).layout == "parts"


def test_both_sets_of_all_idb_at_once_are_named(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "ALL_IDB1" / "im" / "Im001_1.jpg", 1)
    put(tmp_path / "ALL_IDB2" / "img" / "Im131_0.tif", 2)
    (tmp_path / "ALL_IDB1" / "xyc").mkdir()
    (tmp_path / "ALL_IDB1" / "xyc" / "Im001_1.xyc").write_text("446 164\n")
    assert "read one set at a time" in " ".join(load_dataset(tmp_path).notes)


def test_early_comes_before_pre_b(tmp_path: Path, put: Put) -> None:
    s1(tmp_path, put)
    labels = {r.path.split("/")[1]: r.label for r in load_dataset(tmp_path).images}
    assert labels["[Malignant] early Pre-B"] == "early_pre_b"
    assert labels["[Malignant] Pre-B"] == "pre_b"


def test_patients_of_c_nmc_keep_their_published_names(tmp_path: Path, put: Put) -> None:
    cnmc(tmp_path, put)
    patients = {r.path: r.patient_id for r in load_dataset(tmp_path).images}
    assert patients["fold_0/all/UID_11_3_1_all.bmp"] == "11"
    assert patients["fold_0/hem/UID_H10_3_1_hem.webp"] == "H10"


def test_c_nmc_name_against_folder_is_excluded(tmp_path: Path, put: Put) -> None:
    cnmc(tmp_path, put)
    put(tmp_path / "fold_0" / "hem" / "UID_11_9_1_all.bmp", 77)
    manifest = load_dataset(tmp_path)
    odd = next(r for r in manifest.images if r.path.endswith("UID_11_9_1_all.bmp"))
    assert odd.status == "excluded"
    assert "the file name all" in odd.reason
    assert any("disagree" in note for note in manifest.notes)


def test_segmented_twins_are_kept_but_not_used(tmp_path: Path, put: Put) -> None:
    s0_twins(tmp_path, put)
    put(tmp_path / "Segmented" / "Pro" / "lonely.jpg", 900)
    records = {r.path: r for r in load_dataset(tmp_path).images}
    twin = records["Segmented/Early/WBC-Early-001.jpg"]
    assert twin.status == "excluded"
    assert twin.reason == "segmented twin of Original/Early/WBC-Early-001.jpg"
    assert records["Segmented/Pro/lonely.jpg"].reason == "segmented picture without its twin"
    other = {r.path: r.status for r in load_dataset(tmp_path, layout="segmented").images}
    assert other["Segmented/Early/WBC-Early-001.jpg"] == "ok"
    assert other["Original/Early/WBC-Early-001.jpg"] == "excluded"


@pytest.mark.parametrize("folder", ["Original", "Segmented"])
def test_one_of_two_sisters_alone_is_used(tmp_path: Path, put: Put, folder: str) -> None:
    four_classes(tmp_path / folder, put)
    assert len(load_dataset(tmp_path).usable) == 4


def test_a_folder_that_cannot_be_opened_is_not_called_empty(
    tmp_path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    four_classes(tmp_path, put)
    scandir = os.scandir

    def closed(path: str | Path) -> object:
        if Path(path).name == "Pro":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    notes = "\n".join(load_dataset(tmp_path).notes)
    assert "1 folder could not be opened, e.g. Pro: what lies below is missing" in notes
    assert "holds no image" not in notes


def test_missing_empty_and_unknown_classes_shift_no_other(tmp_path: Path, put: Put) -> None:
    four_classes(tmp_path, put)
    for path in (tmp_path / "Early").iterdir():
        path.unlink()
    put(tmp_path / "Aardvarks" / "a.png", 60)
    put(tmp_path / ".ipynb_checkpoints" / "b.png", 61)
    put(tmp_path / "Pre" / ".ipynb_checkpoints" / "WBC-copy.png", 62)
    put(tmp_path / "__MACOSX" / "Benign" / "._a.png", 63)
    put(tmp_path / "Pro" / "._hidden.png", 64)
    put(tmp_path / "loose.png", 65)
    put(tmp_path / "masks" / "a_mask.png", 66)
    put(tmp_path / "0012" / "a.png", 67)
    manifest = load_dataset(tmp_path)
    labels = {r.path: r.label for r in manifest.usable}
    assert labels == {
        "Aardvarks/a.png": "aardvarks",
        "Benign/WBC-Benign-001.jpg": "benign",
        "Pre/WBC-Malignant-Pre-001.jpg": "pre_b",
        "Pro/WBC-Malignant-Pro-001.jpg": "pro_b",
    }
    reasons = {r.path: r.reason for r in manifest.images if r.status == "excluded"}
    assert reasons == {
        "0012/a.png": "in no class folder",
        "masks/a_mask.png": "no class folder: 'masks'",
        "loose.png": "in no class folder",
    }
    notes = "\n".join(manifest.notes)
    assert "the folder Early (Early pre-B ALL) holds no image" in notes
    assert "--class 'masks=CLASS'" in notes
    assert ".ipynb_checkpoints were skipped (files: 2)" in notes
    assert "__MACOSX were skipped (files: 1)" in notes
    assert "hidden files were skipped (files: 1)" in notes


def test_class_map(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "Blasts A" / "a.png", 1)
    put(tmp_path / "neutrophil" / "a.png", 2)
    with pytest.raises(LayoutError, match=r"'Blasts A' \(all\?\)") as caught:
        load_dataset(tmp_path)
    assert "--class 'Blasts A=Blasts A' keeps it" in caught.value.hint
    kept = load_dataset(tmp_path, class_map={"Blasts A": "Blasts A"})
    assert kept.class_names == ("neutrophil", "blasts_a")
    mapping = {"Blasts A": "all", "neutrophil": "healthy"}
    assert load_dataset(tmp_path, class_map=mapping).class_names == ("healthy", "all")
    rows = {row.found: row for row in inspect_dataset(tmp_path, class_map=mapping).folders}
    assert rows["Blasts A"].why == "mapped by you"
    with pytest.raises(UnknownNameError, match="unknown class 'monocite'"):
        load_dataset(tmp_path, class_map={"Blasts A": "monocite"})
    unused = inspect_dataset(tmp_path, class_map={**mapping, "Blasts B": "all"}).warnings
    assert any("'Blasts B', which is no folder or value of this data" in text for text in unused)


def test_names_that_the_sets_share_are_decided_by_their_company(tmp_path: Path, put: Put) -> None:
    for name in ("Blast", "Monocyte"):
        put(tmp_path / "cells" / name / "a.png", len(name))
    for name in ("Blast", "HEM"):
        put(tmp_path / "all" / name / "a.png", len(name))
    assert load_dataset(tmp_path / "cells").class_names == ("blast", "monocyte")
    assert load_dataset(tmp_path / "all").class_names == ("healthy", "all")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["red/left", "red/right", "blue/left", "blue/right"], "can be read in 2 ways"),
        (["P1", "P2", "P3"], "look like identifiers"),
        ([f"name {k * 'x'}" for k in range(12)], "too few for classes"),
    ],
)
def test_folders_that_cannot_be_told_apart(
    tmp_path: Path, put: Put, folders: list[str], message: str
) -> None:
    for k, folder in enumerate(folders):
        put(tmp_path / folder / "a.png", k)
    with pytest.raises(LayoutError, match=message) as caught:
        load_dataset(tmp_path)
    assert "--layout '{" in caught.value.hint


def test_a_pattern_says_what_each_folder_is(tmp_path: Path, put: Put) -> None:
    for k, folder in enumerate(["red/left", "red/right", "blue/left", "train/blue/right"]):
        put(tmp_path / folder / "a.png", k)
    put(tmp_path / "red" / "b.png", 9)
    manifest = load_dataset(tmp_path, layout="{class}/{patient}")
    assert {(r.label, r.patient_id, r.given_part) for r in manifest.usable} == {
        ("red", "left", ""), ("red", "right", ""), ("blue", "left", ""), ("blue", "right", "train"),
    }  # fmt: skip
    assert any("1 image that the layout" in note for note in manifest.notes)
    other = load_dataset(tmp_path, layout="{site}/{cell_type}", target="site")
    assert {(r.label, r.cell_type) for r in other.usable} >= {("red", "left"), ("blue", "right")}
    with pytest.raises(UnknownNameError, match="unknown field of a layout 'klass'"):
        load_dataset(tmp_path, layout="{klass}")
    with pytest.raises(LayoutError, match="none of its 5 images fits"):
        load_dataset(tmp_path, layout="{class}/*/*/*")
    with pytest.raises(LayoutError, match="one that can be the label"):
        load_dataset(tmp_path, layout="{patient}/*")
    with pytest.raises(LayoutError, match="found 'blue'"):
        load_dataset(tmp_path, layout="{split}/{class}")


def test_a_last_star_can_stand_for_the_files(tmp_path: Path, put: Put) -> None:
    for k, folder in enumerate(["red/left", "red/right", "blue/left"]):
        put(tmp_path / folder / "a.png", k)
    manifest = load_dataset(tmp_path, layout="{class}/{patient}/*")
    assert {(r.label, r.patient_id) for r in manifest.usable} == {
        ("red", "left"), ("red", "right"), ("blue", "left"),
    }  # fmt: skip
    put(tmp_path / "green" / "b.png", 8)
    with pytest.raises(LayoutError, match="none of its 4 images") as caught:
        load_dataset(tmp_path, layout="{class}/{patient}/*")
    assert "none for the file" in caught.value.hint
    put(tmp_path / "blue" / "left" / "field" / "c.png", 9)  # now * is a folder
    manifest = load_dataset(tmp_path, layout="{class}/{patient}/*")
    assert [r.path for r in manifest.usable] == ["blue/left/field/c.png"]


def test_folders_without_a_patient_are_named_with_the_layout_that_helps(
    tmp_path: Path, put: Put
) -> None:
    for k, folder in enumerate(["aml/patient_1", "aml/patient_2", "apl/patient_3", "apl/Öz Ü"]):
        put(tmp_path / folder / "a.png", k)
    notes = load_dataset(tmp_path).notes
    assert any(
        note.startswith("1 of 4 images name no patient (apl/Öz Ü/): ")
        and note.endswith("--layout '{class}/{patient}' names one for each")
        for note in notes
    )
    assert notes[-1] in inspect_dataset(tmp_path).warnings
    assert not load_dataset(tmp_path, layout="{class}/{patient}").notes


def test_deepapl_by_cell_and_by_patient(tmp_path: Path, put: Put) -> None:
    deepapl(tmp_path, put)
    cells = load_dataset(tmp_path / "Data" / "All")  # the table of patients lies above
    by_patient = {r.patient_id: r for r in cells.usable}
    assert by_patient["Patient_00"].diagnosis == "APL"
    assert by_patient["Patient_00"].cohort == "Discovery"
    assert by_patient["Patient_00"].column("age") == "41"
    assert Counter(r.reason for r in cells.images if r.reason) == {
        "unsigned: not confirmed by experts": 2
    }
    patients = load_dataset(tmp_path, target="diagnosis")
    assert {(r.patient_id, r.label) for r in patients.usable} == {
        ("Patient_00", "apl"), ("Patient_1", "aml"),
    }  # fmt: skip
    assert {r.column("given_label") for r in patients.usable} == {
        "Blast, no lineage spec", "Lymphocyte, variant",
    }  # fmt: skip
    assert {r.cell_type for r in patients.usable} == {"blast_no_lineage_spec", "lymphocyte_variant"}


def test_columns_of_published_sets(tmp_path: Path, put: Put) -> None:
    munich(tmp_path / "m", put)
    assert load_dataset(tmp_path / "m").images[0].further == (("second_reannotation", "MOB"),)
    pbc(tmp_path / "p", put)
    fine = load_dataset(tmp_path / "p", target="cell_type")
    assert {"metamyelocyte", "segmented_neutrophil"} < set(fine.class_names)
    raabin(tmp_path / "r", put)
    assert {r.column("part_folder") for r in load_dataset(tmp_path / "r").images} == {
        "Train", "TestA", "TestB",
    }  # fmt: skip


def test_numbers_that_stand_for_two_patients_are_told(tmp_path: Path, put: Put) -> None:
    for k, folder in enumerate(["aml/1", "aml/2", "apl/1", "apl/3"]):
        put(tmp_path / folder / "a.png", k)
    assert any(
        "the same number in several classes: 1, e.g. 1;" in w
        for w in inspect_dataset(tmp_path).warnings
    )


def test_a_class_folder_itself(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "Pro" / "a.png", 1)
    manifest = load_dataset(tmp_path / "Pro")
    assert [r.label for r in manifest.usable] == ["pro_b"]


def test_nested_data_set_is_told(tmp_path: Path, put: Put) -> None:
    four_classes(tmp_path, put)
    four_classes(tmp_path / "archive" / "copy", put)
    manifest = load_dataset(tmp_path)
    assert any("(top), archive/copy" in note for note in manifest.notes)
    ids = [r.image_id for r in manifest.images]
    assert sum(name.endswith("-2") for name in ids) == 4
    assert next(r for r in manifest.images if r.path.startswith("Benign/")).image_id[-2:] != "-2"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "no image, nothing else"),
        (["notes.txt"], "no image, 1 other files"),
        ([".hidden/a.png"], "no image, nothing else, 1 hidden"),
    ],
)
def test_nothing_to_read(tmp_path: Path, content: list[str], message: str) -> None:
    for name in content:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with pytest.raises(LayoutError, match=message):
        load_dataset(tmp_path)


def test_a_path_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="does not exist"):
        load_dataset(tmp_path / "nowhere")
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(LayoutError, match="is a file"):
        inspect_dataset(tmp_path / "a.zip")
    (tmp_path / "a.txt").write_text("path\tlabel\n")
    with pytest.raises(LayoutError) as caught:
        inspect_dataset(tmp_path / "a.txt")
    assert "name the table .csv or .tsv" in caught.value.hint


def test_a_manifest_may_be_called_tsv(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "1.png")
    (tmp_path / "cells.tsv").write_text("path\tlabel\n1.png\tpro\n")
    found = load_dataset(tmp_path / "cells.tsv")
    assert (found.root, found.layout) == (tmp_path, "csv-manifest")
    assert [(r.path, r.label) for r in found.usable] == [("1.png", "pro_b")]
    assert DataConfig(path=str(tmp_path / "cells.tsv")).root == tmp_path


def test_one_class_folder_is_said_to_be_one(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "a" / "1.png")
    words = r"only one class folder, a \(1 image\): a study needs two or more"
    with pytest.raises(LayoutError, match=words) as caught:
        load_dataset(tmp_path)
    assert "put the images of each class into a folder of its name" in caught.value.hint
    put(tmp_path / "2.png")
    with pytest.raises(LayoutError, match="no known layout"):
        load_dataset(tmp_path)


def test_a_mapped_name_that_is_not_there_is_said_beside_another_fault(
    tmp_path: Path, put: Put
) -> None:
    words = r"misspelt; --class names 'mono', which is no folder or value of this data"
    put(tmp_path / "eosinofil" / "1.png")
    put(tmp_path / "monos" / "2.png")
    with pytest.raises(LayoutError, match=words):
        load_dataset(tmp_path, class_map={"mono": "monocyte"})
    with pytest.raises(LayoutError, match=r"misspelt\n"):
        load_dataset(tmp_path, class_map={"monos": "monocyte"})
    put(tmp_path / "one" / "a" / "3.png")
    with pytest.raises(LayoutError, match=r"two or more; --class names 'b', which is no folder"):
        load_dataset(tmp_path / "one", class_map={"b": "monocyte"})


def test_a_layout_that_does_not_fit(tmp_path: Path, put: Put) -> None:
    four_classes(tmp_path, put)
    with pytest.raises(
        LayoutError, match=r"layout 'cnmc' expects images named UID_.*found 4 images"
    ):
        load_dataset(tmp_path, layout="cnmc")
    with pytest.raises(UnknownNameError, match="unknown layout 'cnmcc'") as caught:
        load_dataset(tmp_path, layout="cnmcc")
    assert "Did you mean 'cnmc'" in caught.value.hint


def test_links_do_not_loop_and_keep_true_paths(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "data" / "Pro" / "a.png", 1)
    put(tmp_path / "elsewhere" / "b.png", 2)
    put(tmp_path / "data" / "Benign" / "c.png", 3)
    (tmp_path / "data" / "Benign" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "Again").symlink_to(tmp_path / "data" / "Pro")
    (tmp_path / "data" / "Early").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "Pro" / "self.png").symlink_to("self.png")
    manifest = load_dataset(tmp_path / "data")
    assert {r.path: r.label for r in manifest.usable} == {
        "Benign/c.png": "benign",
        "Early/b.png": "early_pre_b",
        "Pro/a.png": "pro_b",
    }
    broken = next(r for r in manifest.images if r.status == "quarantined")
    assert broken.reason.startswith("symlink-loop: ")
    assert broken.sha256 == ""
    assert len(broken.image_id) == 12
    assert any("2 links" in note for note in manifest.notes)


def test_broken_files_are_quarantined_with_a_reason(tmp_path: Path, put: Put) -> None:
    four_classes(tmp_path, put)
    (tmp_path / "Pro" / "notes.pdf").write_text("not an image")
    (tmp_path / "Pro" / "empty.jpg").write_bytes(b"")
    whole = put(tmp_path / "Pro" / "cut.png", 8).read_bytes()
    (tmp_path / "Pro" / "cut.png").write_bytes(whole[: len(whole) // 2])
    manifest = load_dataset(tmp_path)
    reasons = {r.path: r.reason.partition(": ")[0] for r in manifest.images if r.reason}
    assert reasons == {
        "Pro/cut.png": "truncated",
        "Pro/empty.jpg": "empty",
        "Pro/notes.pdf": "not-an-image",
    }
    assert all(r.status == "quarantined" for r in manifest.images if r.reason)


def test_tables_and_texts_in_class_folders_are_left_out_and_counted(
    tmp_path: Path, put: Put
) -> None:
    four_classes(tmp_path, put)
    (tmp_path / "Pro" / "cells.CSV").write_text("cell,x,y")
    manifest = load_dataset(tmp_path)
    assert "1 file that is no image was left out, e.g. Pro/cells.CSV" in manifest.notes
    for name in ("README.txt", "Pro/README", "Pro/notes.md", "Benign/counts.xlsx"):
        (tmp_path / name).write_text("no image")
    manifest = load_dataset(tmp_path)
    assert [r.path for r in manifest.images if r.reason] == []
    assert len(manifest.images) == 4
    words = "5 files that are no images were left out, e.g. Benign/counts.xlsx"
    assert words in manifest.notes


def test_progress_counts_every_file(tmp_path: Path, put: Put) -> None:
    four_classes(tmp_path, put)
    calls: list[tuple[int, int]] = []
    load_dataset(tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(k, 4) for k in (1, 2, 3, 4)]


@pytest.mark.real_data
def test_the_published_sets_are_recognised(data_root: Path) -> None:
    aria = inspect_dataset(data_root / "aria_all")
    assert [(row.label, row.images) for row in aria.folders] == [
        ("benign", 504),
        ("early_pre_b", 985),
        ("pre_b", 963),
        ("pro_b", 804),
    ]
    cells = inspect_dataset(data_root / "cnmc_2019")
    assert (cells.layout, cells.images, cells.patients) == ("cnmc", 2002, 28)
    other = inspect_dataset(data_root / "pbc_cells")
    assert [(row.name, row.images) for row in other.classes][:2] == [
        ("immature_granulocyte", 10),
        ("neutrophil", 10),
    ]
    folder = inspect_dataset(data_root / "deepapl")
    assert [(row.name, row.images, row.patients) for row in folder.classes] == [
        ("aml", 3600, 60),
        ("apl", 1312, 22),
    ]
    cells = inspect_dataset(data_root / "deepapl" / "discovery.csv", target="cell_type")
    assert (len(cells.classes), cells.patients, cells.excluded) == (17, 82, {})
