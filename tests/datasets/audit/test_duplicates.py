"""Planted copies are found, unlike smears are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from leukoscope.core.records import ImageRecord
from leukoscope.datasets.audit import duplicates
from leukoscope.datasets.audit.duplicates import (
    near_duplicates,
    pixel_duplicates,
    twins_by_content,
    twins_by_name,
)
from leukoscope.datasets.audit.measurements import (
    Measures,
    dihedral,
    measure_images,
    perceptual_hashes,
)
from leukoscope.datasets.audit.neighbour_search import inverse_variant
from leukoscope.datasets.groups import component_labels, components, correlation

Image = NDArray[np.uint8]
Draw = Callable[..., Image]
Put = Callable[..., Path]


@pytest.mark.parametrize("variant", range(8))
def test_hashes_of_a_turned_picture_are_those_of_the_picture(smear: Draw, variant: int) -> None:
    luma = cv2.cvtColor(smear(1), cv2.COLOR_RGB2GRAY)
    own = perceptual_hashes(luma)
    turned = perceptual_hashes(np.ascontiguousarray(dihedral(luma, variant)))
    assert np.bitwise_count(own[variant] ^ turned[0]) <= 2


def test_the_eight_variants_differ() -> None:
    picture = np.arange(6).reshape(2, 3)
    seen = {dihedral(picture, variant).tobytes() for variant in range(8)}
    shapes = [dihedral(picture, variant).shape for variant in range(8)]
    assert len(seen) == 8
    assert shapes == [(2, 3)] * 4 + [(3, 2)] * 4


@pytest.mark.parametrize("variant", range(8))
def test_every_variant_is_undone(variant: int) -> None:
    picture = np.arange(9).reshape(3, 3)
    undone = dihedral(np.asarray(dihedral(picture, variant)), inverse_variant(variant))
    assert np.array_equal(undone, picture)


def test_pairs_are_compared_at_once_as_one_by_one(smear: Draw, tmp_path: Path, put: Put) -> None:
    pictures = [smear(1), np.ascontiguousarray(np.rot90(smear(1))), smear(2), smear(2)[:, ::-1]]
    paths = [put(tmp_path / f"{k}.png", one) for k, one in enumerate(pictures)]
    measures = measure_images(paths)
    found = sorted(duplicates._near_hashes(measures, 0, 1))
    assert found == sorted(_one_by_one(measures))
    assert {(i, j) for i, j, _ in found} == {(0, 1), (2, 3)}


def test_round_cells_on_plain_ground_are_no_copies_of_each_other(tmp_path: Path, put: Put) -> None:
    first, second = (_round_cell(seed) for seed in (0, 1))
    copy = cv2.GaussianBlur(np.ascontiguousarray(first[:, ::-1]), (0, 0), 1.5)
    paths = [put(tmp_path / f"{k}.png", one) for k, one in enumerate((first, second, copy))]
    measures = measure_images(paths)
    fine = [duplicates._fine_structure(paths, k) for k in range(2)]
    assert duplicates._likeness(*fine, variant=0) > duplicates.LEAST_LIKENESS
    (found,) = near_duplicates(paths, measures)
    assert (found.first, found.second) == (0, 2)


def _round_cell(seed: int) -> Image:
    """A dark ellipse with faint texture of its own in the middle of a plain picture."""
    rng = np.random.default_rng(seed)
    picture = np.full((360, 360), 220, np.float32)
    cv2.ellipse(picture, (170, 190), (95 - 4 * seed, 75 + 2 * seed), 30, 0, 360, (90.0,), -1)
    picture = cv2.GaussianBlur(picture, (0, 0), 3)
    texture = cv2.GaussianBlur(rng.standard_normal(picture.shape).astype(np.float32), (0, 0), 5)
    picture += 4 * texture / texture.std() * (picture < 150)
    picture += rng.standard_normal(picture.shape).astype(np.float32)
    return np.repeat(np.clip(picture, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.parametrize("black", [False, True])
def test_sketches_of_very_many_pairs_lose_no_copy(
    smear: Draw, tmp_path: Path, put: Put, monkeypatch: pytest.MonkeyPatch, black: bool
) -> None:
    pictures = [cut_out(smear(k)) if black else smear(k) for k in range(8)]
    rng = np.random.default_rng(0)
    for k in range(0, 8, 2):
        lit = pictures[k].max(axis=2, keepdims=True) > 0
        noisy = pictures[k] * 0.9 + lit * rng.normal(0, 3, pictures[k].shape)
        turned = np.asarray(dihedral(np.clip(noisy, 0, 255).astype(np.uint8), k))
        pictures.append(np.ascontiguousarray(turned))
    paths = [put(tmp_path / f"{k}.png", one) for k, one in enumerate(pictures)]
    measures = measure_images(paths)
    few = near_duplicates(paths, measures)
    assert len(few) == 4
    proposed = [(i, j, variant) for i, j in ((0, 1), (0, 8), (2, 9)) for variant in range(8)]
    kept = duplicates._alike_in_sketches(proposed, paths, measures.cut_out, 1)
    assert kept == (proposed if black else [(0, 8, 0), (2, 9, 2)])
    monkeypatch.setattr(duplicates, "_MANY_PROPOSED", 0)
    assert near_duplicates(paths, measures) == few


def _one_by_one(measures: Measures) -> list[tuple[int, int, int]]:
    n = len(measures.hashes)
    return [
        (i, j, variant)
        for i in range(n)
        for j in range(i + 1, n)
        for variant in range(8)
        if np.bitwise_count(measures.hashes[i, 0] ^ measures.hashes[j, variant]) <= 10
        and correlation(measures.relief[i], dihedral(measures.relief[j], variant)) >= 0.85
    ]


def jpeg(image: Image, quality: int) -> Image:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


CHANGES: dict[str, tuple[int, Callable[[Image], Image]]] = {
    "jpeg": (0, lambda image: jpeg(image, 60)),
    "flip": (1, lambda image: image[:, ::-1]),
    "quarter turn": (5, np.rot90),
    "half turn": (3, lambda image: np.rot90(image, 2)),
    "darker": (0, lambda image: (image * 0.8).astype(np.uint8)),
    "smaller": (0, lambda image: cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_changed_copy_among_others_is_found(
    tmp_path: Path, smear: Draw, put: Put, change: str
) -> None:
    variant, function = CHANGES[change]
    images = [smear(seed) for seed in range(6)]
    images.append(np.ascontiguousarray(function(images[2])))
    paths = [put(tmp_path / f"{k}.png", image) for k, image in enumerate(images)]
    found = near_duplicates(paths, measure_images(paths))
    assert [(pair.first, pair.second) for pair in found] == [(2, 6)]
    back = np.asarray(dihedral(images[6], found[0].variant))
    assert np.asarray(dihedral(images[6], variant)).tobytes() == back.tobytes()


def test_unlike_smears_and_noise_are_no_duplicates(tmp_path: Path, smear: Draw, put: Put) -> None:
    rng = np.random.default_rng(0)
    images = [smear(seed) for seed in range(100, 140)]
    images += [rng.integers(0, 256, (64, 64, 3)).astype(np.uint8) for _ in range(20)]
    images += [np.full((64, 64, 3), level, np.uint8) for level in (0, 90, 91, 255)]
    paths = [put(tmp_path / f"{k}.png", image) for k, image in enumerate(images)]
    assert near_duplicates(paths, measure_images(paths)) == []


def test_equal_pixels_in_different_files(tmp_path: Path, smear: Draw, put: Put) -> None:
    image = smear(3)
    paths = [put(tmp_path / "a.png", image), put(tmp_path / "b.bmp", image)]
    records = [ImageRecord("a", "a.png", "1" * 64), ImageRecord("b", "b.bmp", "2" * 64)]
    measures = measure_images(paths)
    assert pixel_duplicates(records, measures) == [[0, 1]]
    assert near_duplicates(paths, measures) == []


def cut_out(image: Image) -> Image:
    """The leukocytes on black, as segmented sister folders have them."""
    violet = image[:, :, 1] < 130
    mask = cv2.dilate(violet.astype(np.uint8), np.ones((3, 3), np.uint8))
    return image * mask[:, :, None]


def test_twins_are_found_by_content(tmp_path: Path, smear: Draw, put: Put) -> None:
    fields = [smear(seed) for seed in range(8)]
    images = [*fields, cut_out(fields[5]), cut_out(smear(99))]
    paths = [put(tmp_path / f"{k}.png", image) for k, image in enumerate(images)]
    measures = measure_images(paths)
    assert measures.cut_out.tolist() == [False] * 8 + [True] * 2
    assert twins_by_content(paths, measures) == [(5, 8)]


def test_twins_are_found_by_name() -> None:
    names = [
        "Original/Pro/a.jpg",
        "Original/Pro/b.jpg",
        "Segmented/Pro/A.png",
        "Segmented/Pre/b.jpg",
    ]
    records = [ImageRecord(str(k), name) for k, name in enumerate(names)]
    assert twins_by_name(records) == [[0, 2]]


def test_components_are_those_of_scipy() -> None:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rng = np.random.default_rng(4)
    pairs = rng.integers(0, 200, (120, 2))
    graph = coo_array((np.ones(120), (pairs[:, 0], pairs[:, 1])), shape=(200, 200))
    count, labels = connected_components(graph, directed=False)
    own = component_labels(200, pairs.tolist())
    assert len(set(own)) == count
    assert len({*zip(own, labels.tolist(), strict=True)}) == count
    sizes = sorted(len(group) for group in components(200, pairs.tolist()))
    assert sizes == sorted(n for n in np.bincount(labels).tolist() if n > 1)


def test_pictures_without_structure_are_not_compared_pair_by_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All hashes of flat pictures are equal: n² pairs, of which none can be a near duplicate."""
    paths = []
    for number in range(60):
        paths.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(paths[-1]), np.full((8, 8, 3), number, np.uint8))
    compared = []
    monkeypatch.setattr(
        duplicates, "correlation", lambda a, b: compared.append(1) or correlation(a, b)
    )
    assert near_duplicates(paths, measure_images(paths)) == []
    assert not compared
