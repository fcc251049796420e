"""Several OOD scores as one gate: scaled, chosen, stored and read again."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from leukoscope.config.bundle import OutOfDistribution, ScoreScale
from leukoscope.core.errors import DataError
from leukoscope.evaluation.gate import (
    GATE_SCORES,
    Gate,
    GateInputs,
    choose_scores,
    energy,
    false_accepts,
    fit_gate,
    largest,
    rescale,
    separation,
    set_threshold,
)
from leukoscope.evaluation.ood import (
    MOST_DIMENSIONS,
    choose_cases,
    fit_ood,
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
    record = OutOfDistribution.model_validate(base | {"scores": [{"name": "knn", **scale}]})
    for shape in ((5, 3), (5, 4)):
        tensors = {"references": np.zeros((9, 4)), "basis": np.zeros(shape)}
        if shape == (5, 4):
            assert Gate.from_tensors(tensors, record).num_features == 5
            continue
        with pytest.raises(DataError, match="references and basis do not fit"):
            Gate.from_tensors(tensors, record)
    with pytest.raises(DataError, match="references"):
        Gate.from_tensors({"references": np.zeros(9)}, record)


def test_appearance_can_be_asked_alone() -> None:
    gate, _, val = fitted()
    alone = gate.appearance_scores(val.appearance)
    np.testing.assert_array_equal(alone, gate.scores(val)["appearance"])
    without = Gate(tuple(s for s in gate.scales if s.name != "appearance"), 1.0)
    with pytest.raises(DataError, match="appearance: not among the deciding ones"):
        without.appearance_scores(val.appearance)
    with pytest.raises(DataError, match="appearance: unknown, or its tensors are missing"):
        Gate(gate.scales[-1:], 1.0).scores(val)
    assert without.num_features is None


def test_a_score_of_the_softmax_is_what_the_best_class_lacks() -> None:
    scale = ScoreScale(name="softmax", median=0.25, limit=0.75)
    logits = np.log([[0.7, 0.3], [0.5, 0.5]])
    found = Gate((scale,), 1.0).scores(GateInputs(np.zeros((2, 1)), np.zeros((2, 1)), logits))
    assert found["softmax"] == pytest.approx([0.1, 0.5])


def test_some_of_the_images() -> None:
    whole = seen(6, 0)
    taken = whole.take(np.array([4, 1]))
    for some, every in zip(_arrays(taken), _arrays(whole), strict=True):
        np.testing.assert_array_equal(some, every[[4, 1]])


def test_the_record_says_what_was_fitted_and_on_what() -> None:
    val = seen(100, 1)
    far = seen(40, 2, shift=2.0)
    kinds = ["far"] * 25 + ["near"] * 15
    gate, record = fit_gate(seen(80, 0), val, far, kinds, accept=0.9)
    assert (record.accept, record.n_fit, record.n_val) == (0.9, 80, 100)
    assert (record.scores, record.threshold) == (gate.scales, gate.threshold)
    scores = gate.scores(far)
    accepted = largest(scores, list(scores)) <= gate.threshold
    assert record.outliers == {
        "far": round(float(accepted[:25].mean()), 4),
        "near": round(float(accepted[25:].mean()), 4),
    }
    names = {scale.name for scale in gate.scales}
    assert (gate.features is not None) == ("mahalanobis" in names)
    assert (gate.appearance is not None) == ("appearance" in names)
    assert (gate.references is not None) == ("knn" in names)
    below = (largest(gate.scores(val), sorted(names)) <= gate.threshold).sum()
    assert below == 91  # the ⌈101 × .9⌉-th smallest


def test_every_tensor_comes_back() -> None:
    rng = np.random.default_rng(4)
    model, colours = fit_ood(rng.normal(size=(30, 6))), fit_ood(rng.normal(size=(30, 4)))
    names = ("mahalanobis", "knn", "appearance")
    scales = tuple(ScoreScale(name=name, median=0.5, limit=2.0) for name in names)
    references, basis = np.eye(6, 3, dtype=np.float16), np.eye(6, 3, dtype=np.float16)
    gate = Gate(scales, 1.25, model, colours, references, basis)
    record = OutOfDistribution(accept=0.9, threshold=1.25, n_fit=30, n_val=9, scores=scales)
    again = Gate.from_tensors(load(gate.to_bytes()), record)
    assert (again.scales, again.threshold, again.num_features) == (scales, 1.25, 6)
    np.testing.assert_array_equal(again.references, references)
    np.testing.assert_array_equal(again.basis, basis)
    some = GateInputs(rng.normal(size=(5, 4)), rng.normal(size=(5, 6)), np.zeros((5, 2)))
    for name, values in gate.scores(some).items():
        np.testing.assert_allclose(again.scores(some)[name], values, rtol=1e-6)
    only = OutOfDistribution(accept=0.9, threshold=1, n_fit=30, n_val=9, scores=scales[:1])
    plain = Gate.from_tensors(load(gate.to_bytes()), only)
    assert (plain.appearance, plain.references, plain.basis) == (None, None, None)


def test_shares_of_accepted_outliers() -> None:
    found = false_accepts(np.array([0.5, 1.0, 2.0, 0.1]), ["b", "b", "b", "a"], 1.0)
    assert list(found.items()) == [("b", 0.6667), ("a", 1.0)]


INSIDE = np.linspace(0, 1, 1000)


def _choose(**outside: tuple[float, float]) -> tuple[tuple[str, ...], dict[str, float]]:
    """Two kinds of ten outliers each; a score's value for the first kind, and for the second."""
    return choose_scores(
        dict.fromkeys(outside, INSIDE),
        {name: np.repeat(values, 10) for name, values in outside.items()},
        ["x"] * 10 + ["y"] * 10,
    )


def test_two_scores_that_find_different_kinds_decide_together() -> None:
    chosen, alone = _choose(blind=(0.5, 0.5), first=(2.0, 0.75), second=(0.75, 2.0))
    assert chosen == ("first", "second")
    assert alone == {"blind": 0.5, "first": 0.875, "second": 0.875}


def test_one_score_that_is_nearly_as_good_decides_alone() -> None:
    assert _choose(all=(2.0, 0.9985), first=(2.0, 0.8), second=(0.8, 2.0))[0] == ("all",)
    chosen, _ = _choose(all=(2.0, 0.985), first=(2.0, 0.8), second=(0.8, 2.0))
    assert chosen == ("all", "second")


def test_a_score_below_seven_tenths_does_not_decide_even_where_it_would_help() -> None:
    assert _choose(good=(2.0, 0.5), weak=(0.0, 1.4))[0] == ("good",)
    assert _choose(poor=(0.3, 0.3), poorer=(0.2, 0.2))[0] == ("poor",)  # the best there is


def test_no_threshold_lies_below_the_median() -> None:
    gate, record, _ = fitted()
    far = seen(30, 2, shift=8.0)
    moved, own = set_threshold(gate, record, -np.ones(40), np.ones(40), far, ["far"] * 30)
    assert (moved.threshold, own.threshold, own.n_unseen) == (0.0, 0.0, 40)
    assert own.outliers == {"far": 0.0}
