"""What two data sets share is found however it was changed, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from leukoscope.core.records import Manifest
from leukoscope.datasets.audit.links import shared_images, without_shared
from leukoscope.datasets.layouts.load import load_dataset
from leukoscope.phantom.render import write_phantoms
from leukoscope.phantom.spec import PhantomSpec


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Manifest]:
    """Sixteen fields each; the first set also holds four of the second, each changed otherwise."""
    base = tmp_path_factory.mktemp("sets")
    first = write_phantoms(PhantomSpec(images=16, sessions=4, size_px=192, seed=1), base / "a")
    second = write_phantoms(PhantomSpec(images=16, sessions=4, size_px=192, seed=2), base / "b")
    fields = sorted((second / "Early").glob("*.png"))[:4]
    images = [cv2.imread(str(path)) for path in fields]
    place = first / "Early"
    (place / "copy.png").write_bytes(fields[0].read_bytes())
    cv2.imwrite(str(place / "again.bmp"), images[1])
    cv2.imwrite(str(place / "flipped.jpg"), images[2][:, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    for folder in (first, second):
        (folder / "manifest.csv").unlink()  # the folders are the layout
    shifted = np.roll(images[3], (30, 40), axis=(0, 1))
    shifted[:30], shifted[:, :40] = 225, 225
    cv2.imwrite(str(place / "shifted.png"), shifted)
    return load_dataset(first), load_dataset(second)


def test_every_kind_of_sharing_is_found(pair: tuple[Manifest, Manifest]) -> None:
    found = {Path(s.first.path).name: s.kind for s in shared_images(*pair)}
    assert found == {
        "copy.png": "equal file",
        "again.bmp": "equal pixels",
        "flipped.jpg": "near duplicate",
        "shifted.png": "overlapping field",
    }


def test_what_lies_within_one_set_is_not_asked(pair: tuple[Manifest, Manifest]) -> None:
    first, _ = pair
    own = [r for r in first.images if r.path.endswith(("again.bmp", "flipped.jpg"))]
    assert shared_images(first, first.with_images(own))  # against itself: each image
    assert shared_images(first, first.with_images([])) == []


def test_the_images_of_the_same_patient_go_too(pair: tuple[Manifest, Manifest]) -> None:
    first, second = pair
    copy = next(s for s in shared_images(first, second) if s.kind == "equal file")
    friends = {r.image_id for r in first.usable[:3]} | {copy.first.image_id}
    with_ids = first.with_images(
        replace(r, patient_id="p1" if r.image_id in friends else "p2") for r in first.images
    )
    kept = without_shared(with_ids, [replace(copy, first=replace(copy.first, patient_id="p1"))])
    assert len(first.usable) - len(kept.usable) == len(friends)
    assert {r.patient_id for r in kept.usable} == {"p2"}
