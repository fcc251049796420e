"""Distances to training images, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load, save
from sklearn.decomposition import PCA

from leukoscope.core.errors import DataError
from leukoscope.evaluation.calibration.conformal import unseen_quantile
from leukoscope.evaluation.ood import (
    OodModel,
    choose_cases,
    choose_references,
    fit_ood,
    fit_threshold,
    nearest_cases,
    neighbour_distance,
    reduce_references,
)
from leukoscope.evaluation.statistics.metrics import compute_metrics


def features(n: int, d: int = 40, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(5, d))
    return rng.normal(size=(n, 5)) @ mixing + 0.3 * rng.normal(size=(n, d)) + 2.0


def test_the_distance_equals_that_of_scikit_learns_probabilistic_pca() -> None:
    train, new = features(300), features(20, seed=1)
    pca = PCA(n_components=8).fit(train)
    centred = new - pca.mean_
    expected = np.sqrt(np.einsum("nd,de,ne->n", centred, pca.get_precision(), centred))
    model = fit_ood(train, max_dims=8)
    # scikit-learn divides the residual variance by min(n, d) − P = d − P as well
    assert model.score(new) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("n", [20, 60, 300])
def test_shifted_features_are_found_even_with_few_training_images(n: int) -> None:
    model = fit_ood(features(n))
    near = model.score(features(100, seed=2))
    direction = np.random.default_rng(3).normal(size=40)
    far = model.score(features(100, seed=4) + 6 * direction / np.linalg.norm(direction) * 2)
    y = np.repeat([0, 1], 100)
    score = np.concatenate([near, far])
    p = score / score.max()
    assert compute_metrics(y, np.column_stack([1 - p, p]), ("a", "b"))["roc_auc"] > 0.95


def test_what_lies_outside_the_subspace_counts() -> None:
    rng = np.random.default_rng(0)
    train = np.zeros((100, 30))
    train[:, :3] = rng.normal(size=(100, 3)) * 10
    train += rng.normal(size=train.shape) * 0.01
    model = fit_ood(train, max_dims=3)
    outside = np.zeros((1, 30))
    outside[0, 20] = 1.0
    assert model.score(outside)[0] > 10 * model.score(train).max()


def test_tensors_read_back_to_the_same_scores() -> None:
    model = fit_ood(features(100))
    again = OodModel.from_tensors(load(save(model.tensors())))
    new = features(5, seed=1)
    assert again.score(new) == pytest.approx(model.score(new), rel=1e-6)
    assert {name: tensor.dtype for name, tensor in model.tensors().items()} == {
        "mean": np.float32,
        "components": np.float32,
        "residual_variance": np.float32,
    }


def test_threshold_accepts_the_wanted_share_of_new_images() -> None:
    model = fit_ood(features(500))
    threshold = fit_threshold(model.score(features(1000, seed=1)), accept=0.95)
    accepted = (model.score(features(4000, seed=2)) <= threshold).mean()
    assert accepted == pytest.approx(0.95, abs=0.02)
    assert fit_threshold([3.0, 1.0], accept=0.95) == 3.0


def test_wrong_input_is_refused() -> None:
    with pytest.raises(DataError, match="4 or more images"):
        fit_ood(np.zeros((3, 5)))
    with pytest.raises(DataError, match="the same features"):
        fit_ood(np.ones((10, 5)))
    with pytest.raises(DataError, match=r"expected features \(n, 40\), got \(2, 3\)"):
        fit_ood(features(20)).score(np.zeros((2, 3)))
    for values in (np.full((9, 5), np.nan), np.ones(9)):
        with pytest.raises(DataError, match="expected finite features"):
            fit_ood(values)
    for scores in ([], [[1.0, 2.0]]):
        with pytest.raises(DataError, match="at least one score"):
            fit_threshold(scores)
    for wrong in (np.zeros((2, 3)), np.zeros(4)):
        with pytest.raises(DataError, match=r"expected features \(n, 4\), got"):
            nearest_cases(np.atleast_2d(wrong)[:, :3], np.eye(4), np.eye(4), 1)
    with pytest.raises(DataError, match=r"neighbours: expected features \(n, 6\), got \(2, 5\)"):
        neighbour_distance(np.zeros((2, 5)), np.eye(6))
    with pytest.raises(DataError, match=r"expected features \(n, 6\), got \(2, 3\)"):
        neighbour_distance(np.zeros((2, 3)), np.eye(3), np.eye(6)[:, :3])
    with pytest.raises(DataError, match="residual_variance missing"):
        OodModel.from_tensors({"mean": np.zeros(3), "components": np.zeros((3, 2))})
    with pytest.raises(DataError, match=r"got \(3,\) and \(4, 2\)"):
        OodModel.from_tensors(
            {
                "mean": np.zeros(3),
                "components": np.zeros((4, 2)),
                "residual_variance": np.ones(1),
            }
        )


@pytest.mark.parametrize(
    ("n", "d", "most", "kept"),
    [(300, 40, 8, 8), (300, 40, 64, 20), (300, 200, 64, 64), (20, 40, 64, 9), (4, 40, 64, 1)],
)
def test_directions_are_at_most_half_of_what_the_images_can_tell(
    n: int, d: int, most: int, kept: int
) -> None:
    model = fit_ood(np.random.default_rng(0).normal(size=(n, d)), max_dims=most)
    assert model.components.shape == (d, kept)
    assert (model.mean.dtype, model.components.dtype) == (np.float32, np.float32)


def test_what_never_varied_has_a_millionth_of_the_mean_variance() -> None:
    line = np.outer(np.arange(10.0), [3.0, 4.0, 0.0, 0.0])
    model = fit_ood(line)
    variance = 25 * np.arange(10.0).var(ddof=1)
    assert model.components.shape == (4, 1)
    assert model.residual_variance == pytest.approx(1e-6 * variance / 4)
    assert np.abs(model.components[:, 0]) == pytest.approx(
        np.array([0.6, 0.8, 0, 0]) / np.sqrt(variance), abs=1e-7
    )


def test_a_threshold_can_weigh_images() -> None:
    scores, weights = np.arange(50.0), np.repeat([1.0, 0.1], 25)
    found = fit_threshold(scores, accept=0.9, weights=weights)
    assert found == unseen_quantile(scores, 0.9, weights)
    assert found < fit_threshold(scores, accept=0.9)


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.parametrize("n", [1, 64, 65, 200])
def test_the_fifth_nearest_reference_is_found(n: int) -> None:
    """A batch's few rows are multiplied another way than many; both agree with all distances."""
    rng = np.random.default_rng(1)
    references, new = _unit(rng.normal(size=(30, 7))), 9 * rng.normal(size=(n, 7))
    between = np.linalg.norm(_unit(new)[:, None] - references, axis=2)
    found = neighbour_distance(new, references)
    assert found == pytest.approx(np.sort(between, axis=1)[:, 4], abs=1e-3)
    assert neighbour_distance(new, references[:3]) == pytest.approx(
        between[:, :3].max(axis=1), abs=1e-3
    )
    assert neighbour_distance(np.zeros((1, 7)), references)[0] == pytest.approx(np.sqrt(2))


def test_what_lies_outside_the_basis_is_orthogonal_to_the_references() -> None:
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.normal(size=(9, 4)))[0]
    references = _unit(rng.normal(size=(12, 4))) @ basis.T
    for n in (5, 80):
        new = rng.normal(size=(n, 9))
        whole = neighbour_distance(new, references)
        assert neighbour_distance(new, references @ basis, basis) == pytest.approx(whole, abs=1e-3)


def test_cases_are_found_by_their_distance() -> None:
    rng = np.random.default_rng(3)
    train, new = rng.normal(size=(40, 6)), rng.normal(size=(8, 6)) * 5
    rows, cases, basis = choose_cases(train)
    between = np.linalg.norm(_unit(new)[:, None] - _unit(train), axis=2)
    numbers, distances = nearest_cases(new, cases, basis, 4)
    assert rows.tolist() == list(range(40))
    np.testing.assert_array_equal(numbers, np.argsort(between, axis=1)[:, :4])
    np.testing.assert_allclose(distances, np.sort(between, axis=1)[:, :4], atol=1e-5)
    everything, _ = nearest_cases(new, cases[:3], basis, 4)
    assert everything.shape == (8, 3)


def test_cases_are_chosen_evenly_and_on_few_directions() -> None:
    train = np.random.default_rng(4).normal(size=(2001, 80)) + 1
    rows, cases, basis = choose_cases(train)
    assert (len(rows), rows[0], rows[-1]) == (1000, 0, 2000)
    assert set(np.diff(rows)) == {2, 3}
    assert (cases.shape, basis.shape) == ((1000, 64), (80, 64))
    assert (cases.dtype, basis.dtype, basis.flags.c_contiguous) == (np.float32, np.float32, True)
    np.testing.assert_allclose(basis.T @ basis, np.eye(64), atol=1e-5)
    np.testing.assert_allclose(cases, _unit(train[rows]) @ basis, atol=1e-5)
    kept = np.linalg.svd(_unit(train[rows]), compute_uv=False)[:64]
    np.testing.assert_allclose(np.linalg.norm(cases, axis=0), kept, rtol=1e-4)


@pytest.mark.parametrize(("d", "kept"), [(3, 1000), (2000, 1000), (4000, 500), (800_000, 5)])
def test_references_fill_four_megabytes_at_most(d: int, kept: int) -> None:
    values = np.ones((8 if d == 800_000 else 1200, d), np.float32)
    found = choose_references(values)
    assert (found.shape, found.dtype) == ((kept, d), np.float16)
    assert np.linalg.norm(found[0].astype(np.float64)) == pytest.approx(1, rel=2e-3)


def test_references_of_many_dimensions_are_projected() -> None:
    rng = np.random.default_rng(5)
    few = choose_references(rng.normal(size=(20, 256)))
    assert reduce_references(few) == (few, None)
    wide = choose_references(rng.normal(size=(300, 400)))
    reduced, basis = reduce_references(wide)
    assert basis is not None
    assert (reduced.shape, basis.shape) == ((300, 256), (400, 256))
    assert (reduced.dtype, basis.dtype) == (np.float16, np.float16)
    np.testing.assert_allclose(basis.T.astype(float) @ basis, np.eye(256), atol=5e-3)
    # Those 256 directions hold as much as the best 256 do.
    singular = np.linalg.svd(wide.astype(float), compute_uv=False)
    held = np.linalg.norm(reduced.astype(float)) ** 2
    assert held == pytest.approx((singular[:256] ** 2).sum(), rel=1e-3)
    line, along = reduce_references(np.repeat(wide[:2], 6, axis=0))
    assert along is not None
    assert line.shape == (12, 2)
