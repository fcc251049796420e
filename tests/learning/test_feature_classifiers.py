"""Classifiers on features against scikit-learn, and as graphs that need none of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from leukoscope.config.loading import load_recipe
from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.recipe import ModelConfig
from leukoscope.config.training import (
    BoostingClassifier,
    FeatureClassifierTraining,
    FuzzyClassifier,
    KnnClassifier,
    SvmClassifier,
)
from leukoscope.core.errors import TrainingError
from leukoscope.evaluation.calibration.scaling import log_loss
from leukoscope.learning.attribution import grad_cam
from leukoscope.learning.backbones import Network
from leukoscope.learning.checkpoint import load_checkpoint, save_checkpoint
from leukoscope.learning.feature_classifiers import SelectedModel, fit_feature_classifier
from leukoscope.learning.feature_models import (
    FeatureHead,
    FeatureSet,
    PrincipalComponents,
    ProbabilityMapping,
)
from leukoscope.learning.graphs.export import onnx_bytes

K = 3
CLASSES = ("benign", "pre_b", "pro_b")
RBF = SvmClassifier(kernels=("rbf",), c=(1.0,), gamma=(0.5,))
LINEAR = SvmClassifier(kernels=("linear",), c=(0.3,))
KNN = KnnClassifier(neighbours=(4,), temperature=(0.1,))
TREES = BoostingClassifier(components=8, leaves=(4,), rounds=15)
RULES = FuzzyClassifier(components=(2, 3), terms=(3,))


@pytest.fixture(scope="module")
def samples() -> tuple[FeatureSet, FeatureSet, FeatureSet]:
    """Train, validation and test images with 20 unequally scaled features."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(K, 20)) * 0.8
    y = rng.integers(0, K, 330)
    X = ((centres[y] + rng.normal(size=(330, 20))) * rng.gamma(1, 3, 20) + 5).astype(np.float32)
    X[:, 7] = 2.5  # constant
    parts = (slice(0, 200), slice(200, 270), slice(270, 330))
    train, val, test = (FeatureSet(X[part], y[part]) for part in parts)
    return train, val, test


def fit(
    samples: tuple[FeatureSet, FeatureSet, FeatureSet], classifier: object, **options: bool
) -> SelectedModel:
    training = FeatureClassifierTraining.model_validate({"classifier": classifier, **options})
    return fit_feature_classifier(samples[0], samples[1], K, training, seed=1)


def standardised(
    samples: tuple[FeatureSet, FeatureSet, FeatureSet],
) -> tuple[NDArray[np.float64], ...]:
    scaler = StandardScaler().fit(samples[0].X.astype(np.float64))
    return tuple(scaler.transform(s.X.astype(np.float64)) for s in samples)


@pytest.mark.parametrize(("config", "kernel"), [(RBF, "rbf"), (LINEAR, "linear")])
def test_svm_is_sklearns_one_against_the_rest(
    samples: tuple[FeatureSet, FeatureSet, FeatureSet], config: SvmClassifier, kernel: str
) -> None:
    Z, _, Z_test = standardised(samples)
    chosen = fit(samples, config, refit_with_val=False)
    width = Z.shape[1]
    cost = config.c[0] / width if kernel == "linear" else config.c[0]
    machine = SVC(kernel=kernel, C=cost, gamma=0.5 / width)
    oracle = OneVsRestClassifier(machine).fit(Z, samples[0].y)
    link = chosen.model.link
    assert link is not None
    expected = link.apply(oracle.decision_function(Z_test))
    np.testing.assert_allclose(chosen.model.logits(samples[2].X), expected, atol=0.02)


def test_knn_is_sklearns_with_weighted_cosines(
    samples: tuple[FeatureSet, FeatureSet, FeatureSet],
) -> None:
    Z, _, Z_test = standardised(samples)
    chosen = fit(samples, KNN, refit_with_val=False)
    oracle = KNeighborsClassifier(
        4, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.1)
    ).fit(Z, samples[0].y)
    distance, index = oracle.kneighbors(Z_test)
    votes = np.ones((len(Z_test), K))
    for k in range(K):
        votes[:, k] += (np.exp((1 - distance) / 0.1) * (samples[0].y[index] == k)).sum(axis=1)
    probs = np.exp(chosen.model.logits(samples[2].X))
    np.testing.assert_allclose(probs, votes / votes.sum(1, keepdims=True), atol=1e-4)
    np.testing.assert_array_equal(probs.argmax(1), oracle.predict(Z_test))


@pytest.mark.parametrize("config", [RBF, LINEAR, KNN, TREES, RULES], ids=lambda c: c.kind)
def test_each_learns_and_answers_with_log_probabilities(
    samples: tuple[FeatureSet, FeatureSet, FeatureSet], config: object
) -> None:
    chosen = fit(samples, config)
    logits = chosen.model.logits(samples[2].X)
    np.testing.assert_allclose(np.exp(logits).sum(axis=1), 1, atol=1e-5)
    assert (logits.argmax(axis=1) == samples[2].y).mean() > 0.7
    best = min(row["val_loss"] for row in chosen.history)
    assert log_loss(chosen.val_logits, samples[1].y) == pytest.approx(best)
    assert chosen.model.logits(samples[2].X[:0]).shape == (0, K)


def test_the_refit_has_seen_the_validation_images_and_their_logits_have_not(
    samples: tuple[FeatureSet, FeatureSet, FeatureSet],
) -> None:
    one = KnnClassifier(neighbours=(1,), temperature=(0.03,))
    chosen = fit(samples, one)
    y = samples[1].y
    assert (chosen.model.logits(samples[1].X).argmax(1) == y).all()  # itself is its neighbour
    assert (chosen.val_logits.argmax(1) == y).mean() < 1


def test_the_best_number_of_rounds_is_taken(
    samples: tuple[FeatureSet, FeatureSet, FeatureSet],
) -> None:
    chosen = fit(samples, TREES, refit_with_val=False)
    assert 1 <= int(chosen.settings["rounds"]) <= 15
    alone = BoostingClassifier(components=8, leaves=(4,), rounds=int(chosen.settings["rounds"]))
    again = fit(samples, alone, refit_with_val=False)
    np.testing.assert_array_equal(again.val_logits, chosen.val_logits)


def test_a_class_without_training_images_is_never_predicted(
    samples: tuple[FeatureSet, FeatureSet, FeatureSet],
) -> None:
    for config in (RBF, LINEAR, KNN, TREES, RULES):
        training = FeatureClassifierTraining.model_validate({"classifier": config})
        chosen = fit_feature_classifier(samples[0], samples[1], K + 1, training, seed=1)
        logits = chosen.model.logits(samples[2].X)
        assert logits.shape == (60, K + 1)
        assert (logits.argmax(axis=1) < K).all(), config


def test_components_are_those_of_sklearn(
    samples: tuple[FeatureSet, FeatureSet, FeatureSet],
) -> None:
    from sklearn.decomposition import PCA

    Z, _, Z_test = standardised(samples)
    ours = PrincipalComponents.of(samples[0].X, 5).apply(samples[2].X)
    theirs = PCA(5, whiten=True).fit(Z).transform(Z_test)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), rtol=0.01, atol=1e-3)


def test_the_mapping_makes_scores_honest() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, K, 3000)
    scores = 0.1 * (np.eye(K)[y] + rng.normal(size=(3000, K)))  # logits are 100 times that
    probs = np.exp(ProbabilityMapping.fit(scores, y).apply(scores))
    assert probs.max(axis=1).mean() == pytest.approx((probs.argmax(1) == y).mean(), abs=0.02)


def test_what_cannot_be_fitted_is_said(samples: tuple[FeatureSet, FeatureSet, FeatureSet]) -> None:
    train, val, _ = samples
    none = FeatureSet(val.X[:0], val.y[:0])
    training = FeatureClassifierTraining()
    with pytest.raises(TrainingError, match="a svm classifier was asked for, but there are no val"):
        fit_feature_classifier(train, none, K, training, seed=1)
    broken = FeatureSet(np.where(train.X > 9, np.nan, train.X), train.y)
    with pytest.raises(TrainingError, match="not finite"):
        fit_feature_classifier(broken, val, K, training, seed=1)


@pytest.mark.parametrize("config", [RBF, LINEAR, KNN], ids=["rbf", "linear", "knn"])
def test_the_graph_and_the_checkpoint_answer_the_same(
    config: object,
    tiny: Network,
    spec: PreprocessSpec,
    images: np.ndarray,
    tmp_path: Path,
    parity: Callable[..., float],
) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, K, 60)
    X = (rng.normal(size=(60, tiny.num_features)) + y[:, None]).astype(np.float32)
    training = FeatureClassifierTraining.model_validate({"classifier": config})
    chosen = fit_feature_classifier(
        FeatureSet(X[:40], y[:40]), FeatureSet(X[40:], y[40:]), K, training, seed=1
    )
    recipe = load_recipe("features-svm").model_copy(
        update={"model": ModelConfig(backbone="test_resnet", weights="none"), "preprocess": spec,
                "training": training}
    )  # fmt: skip
    network = copy.deepcopy(tiny)
    network.head = torch.nn.Linear(tiny.num_features, K)
    head = chosen.model.head
    assert head is not None
    if isinstance(head, FeatureHead):
        network.set_feature_head(head)
    else:
        network.set_linear_head(*head)
    graph = onnx_bytes(network, spec, CLASSES)
    assert parity(network, graph, images, spec) < np.inf
    save_checkpoint(tmp_path, network, recipe, CLASSES)
    loaded, _ = load_checkpoint(tmp_path)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        expected = network(batch)
        torch.testing.assert_close(loaded(batch), expected)
        features = network.features(batch).numpy()
    ours = torch.log_softmax(expected, 1).numpy()
    np.testing.assert_allclose(ours, chosen.model.logits(features), atol=1e-3)
    heat = grad_cam(network, batch, expected.argmax(1))
    assert np.isfinite(heat).all()


def test_the_mapping_of_an_image_is_fitted_on_others() -> None:
    rng = np.random.default_rng(2)
    y = rng.integers(0, K, 60)
    noise = rng.normal(size=(60, K))  # says nothing of the class
    own = log_loss(ProbabilityMapping.fit(noise, y).apply(noise), y)
    crossed = log_loss(ProbabilityMapping.cross_fitted(noise, y), y)
    assert own < crossed
    mapped = ProbabilityMapping.fit(noise, y).apply(noise)
    np.testing.assert_allclose(
        ProbabilityMapping.cross_fitted(mapped, y),
        ProbabilityMapping.cross_fitted(noise, y),
        atol=0.05,
    )
    assert ProbabilityMapping.cross_fitted(noise[:1], y[:1]).tolist() == noise[:1].tolist()
