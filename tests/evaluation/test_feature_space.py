"""Neighbours, silhouettes and maps on spaces whose structure is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors

from leukoscope.core.errors import DataError
from leukoscope.evaluation.feature_space import (
    Purity,
    neighbour_purity,
    pairwise,
    pca_map,
    silhouette,
    tsne_map,
)


@pytest.fixture
def features() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(120, 5))


def _names(values: np.ndarray) -> list[str]:
    return [f"g{value}" for value in values]


def test_purity_is_what_scikit_learns_neighbours_give(features: np.ndarray) -> None:
    labels = _names(np.random.default_rng(1).integers(0, 3, 120))
    features[:, 0] += np.unique(labels, return_inverse=True)[1]
    found = neighbour_purity(pairwise(features), labels, k=7)
    assert found is not None
    index = NearestNeighbors(n_neighbors=8).fit(features).kneighbors(return_distance=False)[:, :7]
    expected = np.mean(np.asarray(labels)[index] == np.asarray(labels)[:, None])
    assert found.value == pytest.approx(expected, abs=1e-4)
    sizes = np.unique(labels, return_counts=True)[1]
    assert found.chance == pytest.approx((sizes * (sizes - 1)).sum() / 120 / 119, abs=1e-4)
    assert (found.n, found.best) == (120, 1.0)


def _by_hand(
    distances: np.ndarray, labels: list[str], k: int, apart: list[list[str]], within: list[str]
) -> Purity:
    """One image after the other, in plain Python."""
    shares, chances, bests = [], [], []
    for i, own in enumerate(labels):
        candidates = [
            j
            for j, other in enumerate(labels)
            if j != i
            and own
            and other
            and within[i] == within[j]
            and all(not group[i] or group[i] != group[j] for group in apart)
        ]
        if len(candidates) <= k:
            continue
        nearest = sorted(candidates, key=lambda j: distances[i, j])[:k]
        shares.append(np.mean([labels[j] == own for j in nearest]))
        equals = sum(labels[j] == own for j in candidates)
        chances.append(equals / len(candidates))
        bests.append(min(equals, k) / k)
    means = (round(float(np.mean(values)), 4) for values in (shares, chances, bests))
    return Purity(len(shares), *means)


def test_who_may_be_a_neighbour(features: np.ndarray) -> None:
    """Two labellings apart, one within, some names empty, and images with just k candidates."""
    rng = np.random.default_rng(5)
    distances = pairwise(features)
    labels, slides, copies, patients = (
        _names(rng.integers(0, kinds, 120)) for kinds in (3, 9, 40, 4)
    )
    for names in (labels, slides, copies):
        for number in rng.integers(0, 120, 15):
            names[number] = ""
    sizes = set()
    for k in (3, 8, 20, 21, 22, 23):
        found = neighbour_purity(distances, labels, k=k, apart=[slides, copies], within=patients)
        assert found == _by_hand(distances, labels, k, [slides, copies], patients)
        assert found is not None
        sizes.add(found.n)
    assert len(sizes) > 2  # some have too few candidates


def test_of_equally_near_images_the_first_ones_count() -> None:
    rng = np.random.default_rng(6)
    distances = pairwise(rng.integers(0, 3, (120, 2)).astype(float))
    labels = _names(rng.integers(0, 3, 120))
    everyone = ["one"] * 120
    assert neighbour_purity(distances, labels) == _by_hand(distances, labels, 10, [], everyone)


def test_random_labels_are_as_by_chance(features: np.ndarray) -> None:
    labels = _names(np.random.default_rng(2).integers(0, 4, 120))
    found = neighbour_purity(pairwise(features), labels)
    assert found is not None
    assert found.above_chance == pytest.approx(0, abs=0.06)


def test_crossing_tells_the_slide_from_the_class() -> None:
    """Features that know only the slide seem to know the class, until slides are crossed."""
    rng = np.random.default_rng(3)
    slide = np.repeat(np.arange(8), 30)
    classes, slides = _names(slide // 4), _names(slide)
    centres = rng.normal(size=(8, 6)) * 5
    distances = pairwise(centres[slide] + rng.normal(size=(240, 6)))
    plain = neighbour_purity(distances, classes)
    crossed = neighbour_purity(distances, classes, apart=[slides])
    within = neighbour_purity(distances, slides, within=classes)
    assert plain is not None
    assert plain.above_chance > 0.95
    assert crossed is not None
    assert crossed.above_chance < 0.6
    assert within is not None
    assert within.above_chance > 0.95


def test_small_groups_are_measured_against_the_best_they_could_reach() -> None:
    labels = _names(np.repeat(np.arange(10), 4))
    points = np.repeat(np.arange(10.0), 4)[:, None] + np.tile([0, 0.1, 0.2, 0.3], 10)[:, None]
    found = neighbour_purity(pairwise(points), labels, k=10)
    assert found is not None
    assert found.value == found.best == 0.3
    assert found.above_chance == 1.0


def test_images_without_a_label_or_candidates_are_left_out(features: np.ndarray) -> None:
    distances = pairwise(features)
    labels = ["", *_names(np.arange(119) % 2)]
    found = neighbour_purity(distances, labels)
    assert found is not None
    assert found.n == 119
    assert neighbour_purity(distances, labels, apart=[["one"] * 120]) is None
    assert neighbour_purity(distances[:8, :8], labels[:8]) is None
    alone = neighbour_purity(distances, ["a"] * 120)
    assert alone is not None
    assert alone.above_chance is None


def test_silhouette_is_scikit_learns(features: np.ndarray) -> None:
    labels = _names(np.arange(120) % 3)
    distances = pairwise(features)
    expected = silhouette_score(features[:60], labels[:60])
    assert silhouette(distances, [*labels[:60], *[""] * 60]) == pytest.approx(expected, abs=1e-4)
    two = _names(np.arange(120) % 2)
    assert silhouette(distances, two) == round(float(silhouette_score(features, two)), 4)
    assert silhouette(distances, ["a"] * 120) is None
    assert silhouette(distances, [str(i) for i in range(120)]) is None


def test_maps(features: np.ndarray) -> None:
    features[:60, 2] += 12
    points, shares = pca_map(features)
    fitted = PCA().fit(features)
    np.testing.assert_allclose(shares, fitted.explained_variance_ratio_[:2], atol=1e-4)
    assert abs(np.corrcoef(points[:, 0], features[:, 2])[0, 1]) > 0.99
    first, again = tsne_map(features, seed=1), tsne_map(features, seed=1)
    np.testing.assert_array_equal(first, again)
    found = neighbour_purity(pairwise(first), ["a"] * 60 + ["b"] * 60)
    assert found is not None
    assert found.value > 0.95


def test_maps_of_few_images(features: np.ndarray) -> None:
    """The perplexity must be below their number; single precision is enough to place points."""
    few = features[:9]
    method = TSNE(perplexity=8 / 3, init="pca", random_state=1)
    found = tsne_map(few, seed=1)
    np.testing.assert_array_equal(found, method.fit_transform(few.astype(np.float32)))
    assert found.dtype == np.float64
    points, shares = pca_map(few[:3, :2].astype(np.float32))
    assert (points.shape, points.dtype) == ((3, 2), np.float64)
    expected = (
        PCA().fit(few[:3, :2].astype(np.float32).astype(np.float64)).explained_variance_ratio_
    )
    assert shares == tuple(round(float(share), 4) for share in expected)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.zeros((2, 5)), "got 2 images"),
        (np.zeros((5, 1)), "5 images with 1 features"),
        (np.ones((9, 4)), "9 images are equal"),
        (np.tile([1.0, 2.0, 3.0], (9, 1)), "9 images are equal"),
    ],
)
def test_what_cannot_be_mapped_is_refused(values: np.ndarray, match: str) -> None:
    for make in (pca_map, lambda x: tsne_map(x, seed=0)):
        with pytest.raises(DataError, match=match):
            make(values)
