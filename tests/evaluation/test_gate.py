from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from leukoscope.config.bundle import OutOfDistribution
from leukoscope.core.errors import DataError
from leukoscope.evaluation.gate import (
    GATE_SCORES,
    Gate,
    GateInputs,
    energy,
    fit_gate,
    largest,
    rescale,
    separation,
    set_threshold,
)
from leukoscope.evaluation.ood import (
    MOST_DIMENSIONS,
    choose_cases,
    nearest_cases,
    neighbour_distance,
    reduce_references,
)


def seen(n: int, seed: int, *, shift: float = 0.0, tint: float = 0.0) -> GateInputs:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(4, 24))
    features = rng.normal(size=(n, 4)) @ mixing + 0.4 * rng.normal(size=(n, 24)) + 2.0
    features[:, 0] += shift
    return GateInputs(rng.normal(size=(n, 8)) + tint, features, features[:, :3])


def test_energy_is_that_of_scipy() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4)) * 30
    assert energy(logits) == pytest.approx(-logsumexp(logits, axis=1))


def test_the_neighbours_are_those_of_scikit_learn() -> None:
    train, new = seen(300, 0).features, seen(40, 1).features
    references = normalize(train)
    expected = NearestNeighbors(n_neighbors=5).fit(references).kneighbors(normalize(new))[0][:, 4]
    assert neighbour_distance(new, references) == pytest.approx(expected, abs=1e-5)
    # float16, as in a bundle, costs little
    assert neighbour_distance(new, references.astype(np.float16)) == pytest.approx(
        expected, abs=2e-3
    )


def test_cases_close_together_are_found_as_by_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    # As features of a fine-tuned network are: each class falls together, along few directions.
    spread = rng.normal(size=(40, 100)) * 1e-3
    features = np.repeat(rng.normal(size=(4, 100)), 400, axis=0)
    features += rng.normal(size=(1600, 40)) @ spread
    seen = features[::100] + rng.normal(size=(16, 40)) @ spread * 0.1
    seen[0] += rng.normal(size=100)  # partly outside what the cases span
    rows, cases, basis = choose_cases(features)
    assert (len(rows), cases.shape, basis.shape) == (1000, (1000, 64), (100, 64))
    assert basis.flags.c_contiguous  # safetensors writes the bytes as they lie
    exact = NearestNeighbors(n_neighbors=3).fit(normalize(features[rows]))
    expected = exact.kneighbors(normalize(seen))
    numbers, distances = nearest_cases(seen, cases, basis, 3)
    assert numbers.tolist() == expected[1].tolist()
    assert distances == pytest.approx(expected[0], abs=1e-5)
    with pytest.raises(DataError, match=r"expected features \(n, 100\)"):
        nearest_cases(seen[:, :5], cases, basis, 1)


def test_neighbours_on_256_directions_are_those_on_all() -> None:
    rng = np.random.default_rng(0)
    # As features of a network are: most of their variance along few directions.
    spread = np.linspace(1, 0, 1280) ** 8 + 0.02
    train, near, far = (
        GateInputs(
            rng.normal(size=(n, 4)),
            rng.normal(size=(n, 1280)) * spread + shift,
            np.eye(3)[[0] * n],
        )
        for n, shift in ((400, 1.0), (60, 1.0), (40, 0.6))
    )  # fmt: skip
    gate, _ = fit_gate(train, near, far, ["far"] * 40)
    whole = normalize(train.features)
    reduced, basis = reduce_references(whole.astype(np.float16))
    assert basis is not None
    assert basis.shape == (1280, MOST_DIMENSIONS)
    assert reduced.shape == (400, MOST_DIMENSIONS)
    for features in (near.features, far.features):
        expected = (
            NearestNeighbors(n_neighbors=5).fit(whole).kneighbors(normalize(features))[0][:, 4]
        )
        found = neighbour_distance(features, reduced, basis)
        assert found == pytest.approx(expected, rel=0.02)
        assert np.corrcoef(found, expected)[0, 1] > 0.99
    assert gate.num_features == 1280
    assert all(
        value.shape[-1] <= 256 for key, value in load(gate.to_bytes()).items() if "mean" not in key
    )


def test_scales_are_fitted_anew_on_another_precision() -> None:
    gate, record, val = fitted()
    rough = GateInputs(val.appearance, val.features * 1.5, val.logits)
    other = rescale(gate, record, rough)
    scores = Gate.from_tensors(load(gate.to_bytes()), other).scores(rough)
    accepted = largest(scores, list(scores)) <= other.threshold
    assert accepted.mean() == pytest.approx(record.accept, abs=0.01)
    assert [s.name for s in other.scores] == [s.name for s in record.scores]
    assert (other.outliers, other.alone) == ({}, {})


def test_unseen_images_set_the_threshold_and_another_precision_keeps_it() -> None:
    gate, record, val = fitted()
    scores = np.linspace(0, 3, 200)
    weights = np.where(scores > 2, 0.25, 1.0)
    far = seen(30, 2, shift=8.0)
    moved, own = set_threshold(gate, record, scores, weights, far, ["far"] * 30)
    accepted = weights[scores <= own.threshold].sum() / weights.sum()
    assert accepted == pytest.approx(0.95, abs=0.02)
    assert (own.n_unseen, moved.threshold) == (200, own.threshold)
    assert own.scores == record.scores
    other = rescale(moved, own, GateInputs(val.appearance, val.features * 1.5, val.logits))
    assert other.threshold == own.threshold
    assert other.scores != own.scores


def test_separation_is_the_area_under_the_roc_curve() -> None:
    rng = np.random.default_rng(2)
    inside, outside = rng.integers(0, 8, 70), rng.integers(3, 12, 50)
    truth = np.repeat([0, 1], [70, 50])
    expected = roc_auc_score(truth, np.concatenate([inside, outside]))
    assert separation(inside, outside) == pytest.approx(expected)


def fitted() -> tuple[Gate, OutOfDistribution, GateInputs]:
    """Outliers of two kinds: strange features, and strange colours."""
    val = seen(200, 1)
    far, tinted = seen(30, 2, shift=8.0), seen(30, 3, tint=6.0)
    outliers = GateInputs(
        *(np.concatenate(pair) for pair in zip(*map(_arrays, (far, tinted)), strict=True))
    )
    gate, record = fit_gate(seen(300, 0), val, outliers, ["far"] * 30 + ["tinted"] * 30)
    return gate, record, val


def _arrays(found: GateInputs) -> tuple[np.ndarray, ...]:
    return found.appearance, found.features, found.logits


def test_scores_are_chosen_that_find_every_kind_and_accept_jointly() -> None:
    gate, record, val = fitted()
    names = {scale.name for scale in record.scores}
    assert "appearance" in names
    assert names & {"mahalanobis", "knn"}
    assert not names & {"energy", "softmax"}
    assert set(record.alone) == set(GATE_SCORES)
    assert record.outliers == {"far": 0.0, "tinted": 0.0}
    highest = largest(gate.scores(val), list(names))
    assert (highest <= gate.threshold).mean() >= 0.95
    assert (highest < gate.threshold).mean() < 0.97  # no more than the rank asks for
    for name, values in gate.scores(val).items():  # 0 is the median, 1 what 95 % do not exceed
        assert np.median(values) == pytest.approx(0, abs=1e-6), name
        assert (values <= 1 + 1e-9).mean() == pytest.approx(0.95, abs=0.01), name
    new = largest(gate.scores(seen(3000, 9)), list(names))
    assert (new <= gate.threshold).mean() == pytest.approx(0.95, abs=0.03)


def test_the_tensors_read_back_to_the_same_scores_and_hold_only_what_decides() -> None:
    gate, record, val = fitted()
    tensors = load(gate.to_bytes())
    again = Gate.from_tensors(tensors, record)
    for name, values in gate.scores(val).items():
        assert again.scores(val)[name] == pytest.approx(values, rel=1e-5, abs=1e-5)
    assert ("references" in tensors) == any(scale.name == "knn" for scale in record.scores)
    assert again.num_features == 24
    with pytest.raises(DataError, match=r"expected features \(n, 24\), got \(5, 3\)"):
        again.scores(GateInputs(val.appearance[:5], np.zeros((5, 3)), val.logits[:5]))


def test_too_few_validation_images_choose_nothing() -> None:
    _, record = fit_gate(seen(50, 0), seen(18, 1), seen(20, 2, shift=8.0), ["far"] * 20)
    assert [scale.name for scale in record.scores] == ["mahalanobis", "knn", "appearance"]
    assert record.alone == {}
    _, record = fit_gate(seen(50, 0), seen(19, 1), seen(20, 2, shift=8.0), ["far"] * 20)
    assert record.alone


def test_a_saturated_score_cannot_decide() -> None:
    val = seen(100, 1)
    val = GateInputs(val.appearance, val.features, np.tile([1000.0, 0.0], (100, 1)))
    outliers = seen(20, 2, shift=8.0)
    outliers = GateInputs(outliers.appearance, outliers.features, np.zeros((20, 2)))
    _, record = fit_gate(seen(100, 0), val, outliers, ["far"] * 20)
    assert set(record.alone) == {"mahalanobis", "knn", "appearance"}


def test_a_record_of_an_older_version_means_the_plain_distance() -> None:
    _, _, val = fitted()
    old = OutOfDistribution(accept=0.95, threshold=7.0, n_fit=10, n_val=10)
    model = fit_gate(seen(300, 0), val, seen(0, 0), [])[0].features
    assert model is not None
    again = Gate.from_tensors(model.tensors(), old)
    assert again.scores(val)["mahalanobis"] == pytest.approx(model.score(val.features), rel=1e-6)


def test_wrong_tensors_are_refused() -> None:
    scale = {"median": 0.0, "limit": 1.0}
    base = {"accept": 0.95, "threshold": 1.0, "n_fit": 1, "n_val": 1}
    for name, message in (("nonsense", "nonsense unknown"), ("knn", r"references \(R, P\)")):
        record = OutOfDistribution.model_validate(base | {"scores": [{"name": name, **scale}]})
        with pytest.raises(DataError, match=message):
            Gate.from_tensors({}, record)
