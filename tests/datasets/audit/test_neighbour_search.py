"""The index finds what all pairs find, says that it was used, and what to install without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from leukoscope import audit, load_dataset
from leukoscope.datasets.audit import neighbour_search
from leukoscope.datasets.audit.duplicates import near_duplicates, twins_by_content
from leukoscope.datasets.audit.measurements import Measures, dihedral, measure_images
from leukoscope.datasets.audit.neighbour_search import (
    NeighbourIndex,
    allocate_array,
    inverse_variant,
    low_frequencies,
    patches,
    shifted_pictures,
    turned_frequencies,
)
from leukoscope.datasets.audit.overlap import find_overlaps

pytest.importorskip("faiss")
Image = NDArray[np.uint8]
Links = tuple[set[Any], set[Any], set[Any]]
SIZE = 160


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    smear: Callable[..., Image],
    put: Callable[..., Path],
) -> Path:
    """Twelve fields, one darker, one turned, two shifted, one cut out."""
    root = tmp_path_factory.mktemp("indexed")
    slide = smear(50, 300)
    images = [smear(seed, SIZE) for seed in range(12)]
    cells = cv2.circle(np.zeros((SIZE, SIZE, 1), np.uint8), (70, 80), 40, 1, -1)[..., None]
    images += [
        (images[0] * 0.9).astype(np.uint8),
        np.asarray(dihedral(images[1], 6)),
        slide[20 : 20 + SIZE, 20 : 20 + SIZE],
        slide[60 : 60 + SIZE, 90 : 90 + SIZE],
        images[2] * cells.reshape(SIZE, SIZE, 1),
    ]
    for k, image in enumerate(images):
        put(root / ("benign" if k % 2 else "early") / f"{k:02d}.png", image)
    return root


@pytest.fixture(scope="module")
def measured(folder: Path) -> tuple[list[Path], Measures]:
    paths = sorted(folder.rglob("*.png"), key=lambda path: path.name)
    return paths, measure_images(paths)


def links(paths: list[Path], measures: Measures, between: int = 0) -> Links:
    sizes = [(SIZE, SIZE)] * len(paths)
    near = near_duplicates(paths, measures, between=between)
    return (
        set(near),
        set(find_overlaps(paths, sizes, measures, between=between)),
        set() if between else set(twins_by_content(paths, measures)),
    )


@pytest.mark.parametrize("between", [0, 13])
def test_a_forced_index_finds_the_links_of_all_pairs(
    measured: tuple[list[Path], Measures], monkeypatch: pytest.MonkeyPatch, between: int
) -> None:
    exact = links(*measured, between)
    planted = {(1, 13)} if between else {(0, 12), (1, 13)}
    assert {(pair.first, pair.second) for pair in exact[0]} == planted
    monkeypatch.setattr(neighbour_search, "INDEX_FROM", 0)
    assert links(*measured, between) == exact
    assert (14, 15) in {(found.first, found.second) for found in exact[1]} or between
    assert exact[2] == (set() if between else {(2, 16)})


def test_the_passport_differs_only_in_naming_the_search(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = audit(load_dataset(folder), clusters=3).passport
    monkeypatch.setattr(neighbour_search, "INDEX_FROM", 5)
    indexed = audit(load_dataset(folder), clusters=3).passport
    assert "search" not in exact
    assert indexed.pop("search")["library"].startswith("faiss-cpu ")
    assert [f["code"] for f in indexed["findings"] if f not in exact["findings"]] == ["search"]
    for passport in (exact, indexed):
        del passport["findings"], passport["sha256"]
    assert exact == indexed


def test_without_the_library_every_pair_is_compared_and_it_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbour_search, "INDEX_FROM", 5)
    monkeypatch.setattr(neighbour_search, "index_library", lambda: "")
    passport = audit(load_dataset(folder), clusters=3).passport
    assert passport["search"] == {"method": "every pair", "library": "", "index_from": 5}
    (text,) = [f["text"] for f in passport["findings"] if f["code"] == "search"]
    assert "pip install 'leukoscope[scale]'" in text
    assert "pip install 'leukoscope[scale]'" in neighbour_search.search_note(6)
    assert neighbour_search.search_note(5) == ""


@pytest.mark.parametrize("spread", [1.0, 0.2])
def test_the_index_agrees_with_brute_force_on_random_and_clustered_vectors(spread: float) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 32))
    points = centres[rng.integers(0, 40, 4000)] * (1 - spread) + spread * rng.normal(
        size=(4000, 32)
    )
    points = points.astype(np.float32)
    asked = (points[:200] + 0.05 * rng.normal(size=(200, 32))).astype(np.float32)
    distance = ((asked[:, None] - points[None]) ** 2).sum(axis=2)
    answers = []
    for threads in (1, 2):
        index = NeighbourIndex(points[:2000], len(points), threads)
        index.add(points[:1500])
        index.add(points[1500:])
        answers.append(index.search(asked, 4))
    assert (answers[0] == answers[1]).all()
    assert (answers[0][:, 0] == distance.argmin(axis=1)).mean() >= 0.99
    index.clear()
    assert (index.search(asked, 2) == -1).all()


@pytest.mark.parametrize("variant", range(8))
def test_waves_of_a_turned_picture_are_turned_waves(variant: int) -> None:
    picture = np.random.default_rng(1).integers(-100, 100, (1, 64, 64)).astype(np.int8)
    turned = np.ascontiguousarray(dihedral(picture[0], variant))[None]
    assert turned_frequencies(low_frequencies(picture), variant) == pytest.approx(
        turned_frequencies(low_frequencies(turned), 0), abs=1e-5
    )
    assert (dihedral(turned[0], inverse_variant(variant)) == picture[0]).all()


def test_patches_vote_for_the_shift() -> None:
    rng = np.random.default_rng(3)
    scene = cv2.GaussianBlur(rng.normal(size=(6, 90, 90)).transpose(1, 2, 0), (0, 0), 2.0)
    scene = (scene / scene.std() * 40).clip(-127, 127).astype(np.int8).transpose(2, 0, 1)
    relief = np.stack([*(plane[:64, :64] for plane in scene), scene[0, 10:74, 20:84]])
    side = np.arange(7) < 6
    for found in (shifted_pictures(relief), shifted_pictures(relief, side)):
        count, dx, dy = found[0, 6]
        assert (dx, dy) == (-20, -10)
        assert count >= 3
    assert shifted_pictures(relief, np.ones(7, np.bool_)) == {}


def test_a_flat_picture_has_no_patches() -> None:
    vectors, places = patches(np.zeros((64, 64), np.int8))
    assert (vectors.shape, places.shape) == ((0, 27), (0, 2))


def test_many_images_are_kept_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert allocate_array((3, 2), np.int8).base is None
    monkeypatch.setattr(neighbour_search, "_FILE_FROM", 2)
    kept = allocate_array((3, 2), np.int8)
    kept[:] = 7
    assert isinstance(kept.base, np.memmap)
    assert (kept == 7).all()
