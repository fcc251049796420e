"""MedMNIST files: read by their headers, written once as PNG, bounded, nothing unpickled."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from leukoscope.core.errors import DataError, LayoutError
from leukoscope.core.records import Manifest
from leukoscope.datasets.layouts.inspection import inspect_dataset
from leukoscope.datasets.layouts.load import load_dataset
from leukoscope.datasets.layouts.unpacked import images_folder
from leukoscope.imaging.decode import decode_image


def arrays(size: int = 64) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(size)
    found: dict[str, np.ndarray] = {}
    for part, n in (("train", 16), ("val", 8), ("test", 8)):
        found[f"{part}_images"] = rng.integers(0, 256, (n, size, size, 3), np.uint8)
        found[f"{part}_labels"] = np.arange(n, dtype=np.uint8)[:, None] % 8
    return found


@pytest.mark.parametrize("size", [28, 64, 128, 224])
def test_bloodmnist_of_every_size(tmp_path: Path, size: int) -> None:
    made = arrays(size)
    path = tmp_path / f"bloodmnist_{size}.npz"
    np.savez_compressed(path, **made)
    found = inspect_dataset(path)
    assert not images_folder(path).exists()
    manifest = load_dataset(path)
    assert found.layout == manifest.layout == "npz"
    assert [row.name for row in found.classes] == list(manifest.class_names)
    assert found.parts == Counter(r.given_part for r in manifest.usable)
    assert set(manifest.class_names) == {
        "basophil", "eosinophil", "erythroblast", "immature_granulocyte", "lymphocyte",
        "monocyte", "neutrophil", "thrombocyte",
    }  # fmt: skip
    first = manifest.root / "train" / "basophil" / "train_00000.png"
    assert (decode_image(first).image == made["train_images"][0]).all()
    manifest.save(tmp_path / "run" / "manifest.csv")
    again = load_dataset(path)  # what is there is used
    assert again.images == manifest.images
    assert Manifest.load(tmp_path / "run" / "manifest.csv", again.root).images == manifest.images


def test_grey_images_and_numbers_of_another_set(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, train_images=np.zeros((4, 9, 8), np.uint8), train_labels=np.array([0, 1, 0, 1]))
    assert load_dataset(path).class_names == ("label_0", "label_1")
    named = load_dataset(path, class_map={"label 0": "monocyte", "label 1": "Hairy cell"})
    assert named.class_names == ("monocyte", "hairy_cell")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"x": np.zeros(3)}, "expected the arrays train_images and train_labels .* found x"),
        ({"train_images": np.zeros((2, 4, 4, 3))}, "train_images is .* float64; expected"),
        ({"train_images": np.zeros((2, 4, 4, 3), np.uint8)}, "train_labels.npy"),
        (
            {
                "train_images": np.zeros((2, 4, 4, 3), np.uint8),
                "train_labels": np.zeros((2, 3), int),
            },
            "expected a whole number for each of the 2 images",
        ),
        (
            {"train_images": np.array([{}, {}], object), "train_labels": np.zeros(2, int)},
            "train_images is .* object; expected",
        ),
        (
            {"train_images": np.zeros((2, 4, 2000, 3), np.uint8), "train_labels": np.zeros(2, int)},
            "at most 1024 px",
        ),
    ],
)
def test_other_content_is_refused(
    tmp_path: Path, made: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "a.npz", allow_pickle=True, **made)
    for read in (inspect_dataset, load_dataset):
        with pytest.raises(LayoutError, match=message):
            read(tmp_path / "a.npz")
    assert not images_folder(tmp_path / "a.npz").exists()


def test_a_header_that_promises_more_than_is_there(tmp_path: Path) -> None:
    made = arrays(28)
    np.savez(tmp_path / "a.npz", **made)
    with (
        zipfile.ZipFile(tmp_path / "a.npz") as whole,
        zipfile.ZipFile(tmp_path / "b.npz", "w") as forged,
    ):
        for name in whole.namelist():
            data = whole.read(name).replace(b"(16, 28, 28, 3)", b"(99, 99, 28, 3)")
            forged.writestr(name, data)
    with pytest.raises(LayoutError, match="as many bytes as that shape has"):
        load_dataset(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:3000])
    with pytest.raises(LayoutError, match="not a zip file"):
        load_dataset(tmp_path / "c.npz")


def test_another_file_of_the_same_name(tmp_path: Path) -> None:
    path = tmp_path / "bloodmnist.npz"
    np.savez(path, **arrays(28))
    load_dataset(path)
    np.savez(path, **{**arrays(28), "val_images": np.zeros((8, 28, 28, 3), np.uint8)})
    with pytest.raises(LayoutError, match="as it is now, found others"):
        load_dataset(path)


def test_a_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bloodmnist.npz"
    np.savez(path, **arrays(28))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DataError, match="Read-only") as caught:
        load_dataset(path)
    assert "copy the data to a folder" in caught.value.hint
