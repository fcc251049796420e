"""Phantoms on disk."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from leukoscope.core.errors import ConfigError, UsageError
from leukoscope.core.files import read_csv, read_json, sha256_file
from leukoscope.datasets.layouts.load import load_dataset
from leukoscope.phantom import PhantomSpec, render_phantom, write_phantoms

SPEC = PhantomSpec(images=8, sessions=2, size_px=96, seed=11)


def _hashes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def test_same_spec_same_bytes_whatever_the_threads(tmp_path):
    one = write_phantoms(SPEC, tmp_path / "one", threads=1, backgrounds=True)
    two = write_phantoms(SPEC, tmp_path / "two", threads=3, backgrounds=True)
    assert _hashes(one) == _hashes(two)
    assert len(_hashes(one)) == 3 * 8 + 3


def test_folder_manifest_and_truth_agree(tmp_path):
    seen = []
    out = write_phantoms(SPEC, tmp_path / "set", progress=lambda *step: seen.append(step))
    assert seen == [(done, 8) for done in range(1, 9)]
    names = sorted(p.name for p in out.iterdir())
    assert names == ["Benign", "Early", "Pre", "Pro", "README.md", "manifest.csv", "truth"]
    rows = read_csv(out / "manifest.csv")
    assert list(rows[0]) == ["path", "label", "patient_id", "acquisition_id"]
    truth = read_json(out / "truth" / "truth.json")
    assert truth["spec"]["seed"] == 11
    assert [row["path"] for row in rows] == [image["path"] for image in truth["images"]]
    on_disk = {p.relative_to(out).as_posix() for p in out.glob("[BEP]*/*.png")}
    assert on_disk == {row["path"] for row in rows}
    for index, (row, image) in enumerate(zip(rows, truth["images"], strict=True)):
        phantom = render_phantom(SPEC, index)
        assert row["label"] == phantom.case.label == image["label"]
        pixels = cv2.imread(str(out / row["path"]))[..., ::-1]
        assert np.array_equal(pixels, phantom.image)
        mask = cv2.imread(str(out / "truth" / image["mask"]), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(mask, phantom.mask)
        assert [tuple(box) for box in image["boxes"]] == list(phantom.boxes)
        assert len(image["attributes"]) == len(phantom.boxes)


def test_jpeg_stays_close_to_the_rendered_field(tmp_path):
    out = write_phantoms(SPEC, tmp_path / "set", image_format="jpeg")
    path = out / read_csv(out / "manifest.csv")[0]["path"]
    assert path.read_bytes()[:3] == b"\xff\xd8\xff"
    difference = cv2.imread(str(path))[..., ::-1].astype(int) - render_phantom(SPEC, 0).image
    assert np.abs(difference).mean() < 4


def test_readme_says_what_was_planted(tmp_path):
    plain = write_phantoms(SPEC, tmp_path / "a")
    spec = PhantomSpec(images=4, sessions=4, size_px=96, confound="stain")
    planted = write_phantoms(spec, tmp_path / "b")
    assert "Confounder. None" in (plain / "README.md").read_text(encoding="utf-8")
    assert "Confounder. Stain" in (planted / "README.md").read_text(encoding="utf-8")


def test_never_writes_into_a_folder_that_holds_something(tmp_path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="new or empty folder"):
        write_phantoms(SPEC, tmp_path)
    with pytest.raises(UsageError, match="png or jpeg"):
        write_phantoms(SPEC, tmp_path / "x", image_format="gif")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_three_levels_read_as_folders_and_as_a_manifest(tmp_path):
    spec = PhantomSpec(images=36, sessions=4, size_px=96, seed=3, patients=6, smears=2)
    out = write_phantoms(spec, tmp_path / "set")
    rows = read_csv(out / "manifest.csv")
    by_patient = {name: [r for r in rows if r["patient_id"] == name] for name in
                  sorted({row["patient_id"] for row in rows})}  # fmt: skip
    assert len(by_patient) == 6
    for own in by_patient.values():
        assert len(own) == 6
        assert len({row["session"] for row in own}) == 2
        assert len({(row["diagnosis"], row["age"], row["sex"]) for row in own}) == 1
        (diagnosis,) = {row["diagnosis"] for row in own}
        blasts = sum(row["label"] != "benign" for row in own)
        assert blasts == 0 if diagnosis == "healthy" else 1 <= blasts < 6
    # A session has smears of both kinds of patients: its stain tells nothing.
    both = {(row["acquisition_id"], row["diagnosis"]) for row in rows}
    assert len(both) == 2 * len({row["acquisition_id"] for row in rows})
    assert rows[0]["path"].split("/")[:2] == [rows[0]["patient_id"], rows[0]["session"]]

    (out / "manifest.csv").unlink()
    records = load_dataset(out).usable
    found = {r.path: (r.patient_id, r.session, r.label) for r in records}
    expected = {r["path"]: (r["patient_id"], r["session"], r["label"]) for r in rows}
    assert found == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patients": 0}, "at least 2 patients"),
        ({"patients": 6, "images": 8}, "6 × 2 smears"),
        ({"patients": 4, "confound": "stain", "sessions": 8}, "confounder none"),
        ({"patients": 2, "class_names": ("benign",), "images": 8}, "two classes of cells"),
    ],
)
def test_levels_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        PhantomSpec(**{"images": 36, "sessions": 4, "smears": 2, **options})
