"""The audit on planted faults: found, counted, said in words, stored and read again."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from leukoscope.core.errors import DataError, SplitError, UsageError
from leukoscope.core.records import Manifest
from leukoscope.datasets.audit.contact_sheet import contact_sheet
from leukoscope.datasets.audit.findings import findings
from leukoscope.datasets.audit.run import Audit, audit, load_audit, save_audit
from leukoscope.datasets.layouts.load import load_dataset

Image = NDArray[np.uint8]
Draw = Callable[..., Image]
Put = Callable[..., Path]

GROUNDS = [(247, 238, 249), (244, 246, 214), (218, 234, 246)]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, smear: Draw, put: Put) -> Path:
    """Three sessions of two classes in two parts, with one fault of each kind."""
    root = tmp_path_factory.mktemp("planted")
    for k in range(24):
        part, folder = ("train", "test")[k % 4 == 3], ("Benign", "Pro")[k % 3 == 1]
        put(root / part / folder / f"s{k:02d}.png", smear(500 + k, 144, GROUNDS[k % 3]))
    slide = smear(600, 300, GROUNDS[0])
    put(root / "train" / "Benign" / "wide-a.png", slide[0:144, 0:144])
    put(root / "test" / "Benign" / "wide-b.png", slide[30:174, 40:184])
    twice = smear(601, 144, GROUNDS[1])
    put(root / "train" / "Pro" / "twice-a.png", twice)
    (root / "train" / "Pro" / "twice-b.png").write_bytes(
        (root / "train" / "Pro" / "twice-a.png").read_bytes()
    )
    put(root / "train" / "Pro" / "twice-c.bmp", twice)
    put(root / "train" / "Pro" / "mirrored.png", np.ascontiguousarray(twice[:, ::-1]))
    both = smear(602, 144, GROUNDS[2])
    put(root / "train" / "Benign" / "both.png", both)
    put(root / "train" / "Pro" / "both.png", both)
    (root / "train" / "Pro" / "broken.jpg").write_bytes(b"nothing")
    return root


@pytest.fixture(scope="module")
def found(planted: Path) -> Audit:
    return audit(load_dataset(planted), clusters=3)


def names(found: Audit, ids: list[str]) -> set[str]:
    paths = {r.image_id: Path(r.path).name for r in found.manifest.images}
    return {paths[image_id] for image_id in ids}


def test_every_planted_fault_is_found(found: Audit) -> None:
    passport = found.passport
    assert (passport["n_files"], passport["n_usable"]) == (33, 32)
    assert passport["quarantined"][0]["path"] == "train/Pro/broken.jpg"
    assert {*map(len, passport["exact_duplicates"]["groups"])} == {2}
    assert passport["exact_duplicates"]["pairs"] == 2
    (pixels,) = passport["pixel_duplicates"]["groups"]
    assert names(found, pixels) == {"twice-a.png", "twice-b.png", "twice-c.bmp"}
    (near,) = passport["near_duplicates"]["groups"]
    assert "mirrored.png" in names(found, near)
    assert passport["near_duplicates"]["turned"] == 3
    (pair,) = passport["overlaps"]["pairs"]
    assert names(found, pair[:2]) == {"wide-a.png", "wide-b.png"}
    assert {abs(pair[2]), abs(pair[3])} == {40, 30}
    (conflict,) = passport["label_conflicts"]
    assert conflict["labels"] == ["benign", "pro_b"]
    assert conflict["paths"] == ["train/Benign/both.png", "train/Pro/both.png"]
    (leak,) = passport["given_parts"]["leaking_components"]
    assert names(found, leak) == {"wide-a.png", "wide-b.png"}
    assert passport["twins"]["pairs"] == 0


def test_components_hold_what_is_linked_and_nothing_else(found: Audit) -> None:
    groups: dict[str, set[str]] = {}
    for record in found.manifest.usable:
        groups.setdefault(record.group_id, set()).add(record.path)
    large = sorted(sorted(group) for group in groups.values() if len(group) > 1)
    assert large == [
        ["test/Benign/wide-b.png", "train/Benign/wide-a.png"],
        ["train/Benign/both.png", "train/Pro/both.png"],
        [f"train/Pro/{name}" for name in ("mirrored.png", "twice-a.png", "twice-b.png")]
        + ["train/Pro/twice-c.bmp"],
    ]
    assert all(record.group_id for record in found.manifest.usable)
    assert {r.group_id for r in found.manifest.images if r.status == "quarantined"} == {""}


def test_findings_are_sentences_with_errors_first(found: Audit) -> None:
    findings = found.passport["findings"]
    levels = [finding["level"] for finding in findings]
    assert levels == sorted(levels, key=["error", "warning", "info"].index)
    text = {finding["code"]: finding["text"] for finding in findings}
    assert set(text) >= {
        "label-conflict",
        "given-parts-leak",
        "exact-duplicates",
        "pixel-duplicates",
        "near-duplicates",
        "overlaps",
        "quarantined",
        "no-patients",
        "benign-means-hematogones",
    }
    assert "train/Benign/both.png, train/Pro/both.png" in text["label-conflict"]
    balance = found.passport["class_balance"]
    assert f"χ² = {balance['chi2']:.1f}, p" in text["class-sizes"]
    assert text["overlaps"].startswith("2 images in 1 group show")
    assert all(finding["text"].endswith(".") for finding in findings)


@pytest.mark.parametrize(
    ("images", "level", "words"),
    [
        (1, "info", "1 of 480 images (0.2 %) has what looks like a burned-in scale bar."),
        (120, "warning", "120 of 480 images (25.0 %) have a burned-in scale bar."),
    ],
)
def test_a_scale_bar_is_told_with_its_share(
    found: Audit, images: int, level: str, words: str
) -> None:
    passport = copy.deepcopy(found.passport)
    passport["n_usable"] = 480
    passport["scale_bars"] |= {"images": images, "cramers_v": None}
    bar = next(one for one in findings(passport) if one["code"] == "scale-bar")
    assert bar["level"] == level
    assert bar["text"].startswith(words)


def test_sessions_are_found_without_labels(found: Audit) -> None:
    clusters = found.acquisition_labels(3)
    ground = {
        r.image_id: int(Path(r.path).stem[1:]) % 3
        for r in found.manifest.usable
        if Path(r.path).stem.startswith("s")
    }
    pairs = {(clusters[image_id], session) for image_id, session in ground.items()}
    assert len(pairs) == 3
    assert {r.acquisition_id for r in found.manifest.usable} == {"k3-00", "k3-01", "k3-02"}
    merged = found.merged_labels(12)
    for record in found.manifest.usable:
        same = [r for r in found.manifest.usable if r.group_id == record.group_id]
        assert len({merged[r.image_id] for r in same}) == 1
    with pytest.raises(SplitError, match="expected 2 to 32 acquisition clusters"):
        found.acquisition_labels(33)


def test_the_same_files_give_the_same_passport(planted: Path, found: Audit) -> None:
    manifest = load_dataset(planted)
    again = audit(manifest.with_images(manifest.images[::-1]), clusters=3, threads=1)
    assert again.passport["sha256"] == found.passport["sha256"]
    assert {r.image_id: r for r in again.manifest.images} == {
        r.image_id: r for r in found.manifest.images
    }
    assert again.merged_labels(5) == found.merged_labels(5)


def test_progress_ends_at_its_total(planted: Path) -> None:
    calls: list[tuple[int, int]] = []
    audit(load_dataset(planted), clusters=3, progress=lambda d, t: calls.append((d, t)))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1][0] == calls[-1][1]
    assert len({total for _, total in calls}) == 1


def test_a_stored_audit_is_read_again(found: Audit, planted: Path, tmp_path: Path) -> None:
    save_audit(found, tmp_path)
    again = load_audit(tmp_path, planted)
    assert again.passport == found.passport == json.loads((tmp_path / "passport.json").read_text())
    assert again.manifest.images == found.manifest.images
    assert again.acquisition_labels(7) == found.acquisition_labels(7)
    assert again.merged_labels(7) == found.merged_labels(7)


@pytest.mark.parametrize("fault", ["passport", "tree", "missing", "manifest"])
def test_a_damaged_store_is_refused(
    found: Audit, planted: Path, tmp_path: Path, fault: str
) -> None:
    save_audit(found, tmp_path)
    if fault == "passport":
        path = tmp_path / "passport.json"
        path.write_text(path.read_text().replace('"n_files": 33', '"n_files": 34'))
    elif fault == "tree":
        path = tmp_path / "tree.npz"
        path.write_bytes(path.read_bytes()[:200])
    elif fault == "missing":
        (tmp_path / "tree.npz").unlink()
    else:
        manifest = Manifest.load(tmp_path / "manifest.csv", planted)
        manifest.with_images(manifest.images[4:]).save(tmp_path / "manifest.csv")
    with pytest.raises(DataError):
        load_audit(tmp_path, planted)


def test_contact_sheet_draws_each_group(found: Audit, tmp_path: Path) -> None:
    pages = contact_sheet(found.manifest, found, tmp_path / "overlaps", columns=4, rows=1)
    assert [page.name for page in pages] == [f"overlaps-{k}.png" for k in (1, 2)]
    drawn = cv2.imread(str(pages[0]))
    assert drawn.std() > 20
    assert len(contact_sheet(found.manifest, found, tmp_path / "one", columns=4, pages=1)) == 1


def test_nothing_linked_draws_nothing(tmp_path: Path, smear: Draw, put: Put) -> None:
    for k in range(4):
        put(tmp_path / "data" / ("Pro", "Pre")[k % 2] / f"{k}.png", smear(k))
    found = audit(load_dataset(tmp_path / "data"))
    assert contact_sheet(found.manifest, found, tmp_path / "sheet") == []
    assert not found.passport["acquisition"]["applicable"]
    with pytest.raises(SplitError, match="at least 12 usable images, found 4"):
        found.merged_labels(3)
    save_audit(found, tmp_path / "stored")
    assert load_audit(tmp_path / "stored", tmp_path / "data").tree is None


def cell_on_black(seed: int, size: int = 120) -> Image:
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(rng.normal(0, 60, (size, size)), (0, 0), 3) * 4
    image = np.zeros((size, size, 3), np.float64)
    image[...] = np.array([110, 60, 150]) + texture[:, :, None]
    mask = np.zeros((size, size), np.uint8)
    cv2.ellipse(mask, (60, 60), (int(rng.integers(26, 34)), 30), seed * 20, 0, 360, 1, -1)
    return np.clip(image * mask[:, :, None], 0, 255).astype(np.uint8)


def test_patients_that_share_a_cell_are_one(tmp_path: Path, put: Put) -> None:
    for k in range(14):
        folder, patient = ("all", f"{k % 4}") if k < 8 else ("hem", f"H{k % 3}")
        put(tmp_path / f"UID_{patient}_{k}_1_{folder}.png", cell_on_black(k))
    refocused = cv2.GaussianBlur(cell_on_black(1), (0, 0), 0.8)
    put(tmp_path / "UID_9_1_1_all.png", np.asarray(refocused, np.uint8))
    found = audit(load_dataset(tmp_path))
    passport = found.passport
    assert passport["patients"]["merged"] == [["1", "9"]]
    assert (passport["patients"]["n_given"], passport["patients"]["n"]) == (8, 7)
    by_path = {r.path: r.patient_id for r in found.manifest.images}
    assert by_path["UID_9_1_1_all.png"] == by_path["UID_1_5_1_all.png"] == "1+9"
    assert by_path["UID_2_2_1_all.png"] == "2"
    assert passport["acquisition"] == {
        "applicable": False,
        "reason": passport["acquisition"]["reason"],
    }
    assert "black" in passport["acquisition"]["reason"]
    assert any(f["code"] == "patients-merged" for f in passport["findings"])


def test_patient_ids_that_are_spelled_alike_are_one(tmp_path: Path, smear: Draw, put: Put) -> None:
    ids = ("P_01", "p-01", "Patient 7", "PATIENT_7", "P1-2", "P12")
    lines = ["path,label,patient_id"]
    for k in range(12):
        put(tmp_path / f"{k}.png", smear(k))
        lines.append(f"{k}.png,{('Pro', 'Pre')[k % 2]},{ids[k % 6]}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines), encoding="utf-8")
    found = audit(load_dataset(tmp_path))
    patients = found.passport["patients"]
    assert patients["merged"] == [["PATIENT_7", "Patient 7"], ["P_01", "p-01"]]
    assert (patients["n_given"], patients["n"]) == (6, 4)
    held_out = [r.patient_id for r in sorted(found.manifest.images, key=lambda r: int(r.path[:-4]))]
    assert held_out[:6] == ["P_01+p-01"] * 2 + ["PATIENT_7+Patient 7"] * 2 + ["P1-2", "P12"]
    (finding,) = [f for f in found.passport["findings"] if f["code"].startswith("patients-")]
    assert finding["code"] == "patients-spelled-alike"
    named = "2 patients are written in several ways (PATIENT_7 = Patient 7; P_01 = p-01)"
    assert named in finding["text"]


def test_groups_and_sessions_of_a_manifest_are_respected(
    tmp_path: Path, smear: Draw, put: Put
) -> None:
    lines = ["path,label,group_id,acquisition_id"]
    for k in range(15):
        put(tmp_path / f"{k}.png", smear(k, 96, GROUNDS[k % 3]))
        lines.append(f"{k}.png,{('all', 'hem')[k % 2]},{'g' if k < 2 else ''},session{k % 3}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    found = audit(load_dataset(tmp_path), clusters=3)
    groups = {r.path: r.group_id for r in found.manifest.images}
    assert groups["0.png"] == groups["1.png"] != groups["2.png"]
    assert len(set(groups.values())) == 14
    assert found.passport["acquisition"]["given"] == {"ids": 3, "adjusted_rand": 1.0}


def test_a_data_set_without_usable_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "Pro").mkdir()
    (tmp_path / "Pro" / "a.png").write_bytes(b"")
    words = r"its one file cannot be used: Pro/a.png \(empty: "
    with pytest.raises(DataError, match=words):
        audit(load_dataset(tmp_path))
    for name in "bcde":
        (tmp_path / "Pro" / f"{name}.png").write_bytes(b"no image")
    words = r"none of its 5 files can be used: Pro/a.png .*, Pro/b.png .*, Pro/c.png .* and 2 more"
    with pytest.raises(DataError, match=words):
        audit(load_dataset(tmp_path))


@pytest.mark.real_data
def test_copies_of_the_pro_class(data_root: Path) -> None:
    manifest = load_dataset(data_root / "aria_all" / "Pro")
    copies = {r.sha256 for r in manifest.images if r.image_id.endswith("-2")}
    assert len(copies) == 40
    picked = [r for r in manifest.images if r.sha256 in copies]
    picked += [r for r in manifest.images if r.path[-7:-4] in ("435", "436", "484", "485", "486")]
    found = audit(manifest.with_images(picked), clusters=4)
    assert found.passport["exact_duplicates"]["pairs"] == 40
    assert found.passport["scale_bars"]["images"] == 85
    x0, y0 = (found.passport["scale_bars"]["boxes"][key][0] for key in ("x0", "y0"))
    assert x0 >= 172
    assert y0 >= 192
    groups = {r.path[-7:-4]: r.group_id for r in found.manifest.images}
    assert groups["484"] == groups["486"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("d", r"got 'd'\n.*audit\(load_dataset\('d'\)\)"),
        (None, r"got a value of type NoneType\n.*load_dataset\(DATA"),
    ],
)
def test_what_is_no_manifest_is_refused(wrong: object, words: str) -> None:
    with pytest.raises(UsageError, match="expected a manifest, " + words):
        audit(wrong)  # type: ignore[arg-type]
