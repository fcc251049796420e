from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load, save
from sklearn.decomposition import PCA

from leukoscope.core.errors import DataError
from leukoscope.evaluation.ood import OodModel, fit_ood, fit_threshold
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
    with pytest.raises(DataError, match="at least one score"):
        fit_threshold([])
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
