from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from leukoscope.core.errors import DataError, UnknownNameError
from leukoscope.evaluation.statistics.intervals import bootstrap_metrics
from leukoscope.evaluation.statistics.limits import effective_groups
from leukoscope.evaluation.statistics.metrics import (
    METRICS,
    compute_metrics,
    confusion_matrix,
    metric_names,
    metric_of,
    weighted_metrics,
    weighted_ranking,
)
from leukoscope.evaluation.statistics.proportions import hits_and_trials

FOUR = ("benign", "early_pre_b", "pre_b", "pro_b")
TWO = ("healthy", "all")


def sample(seed: int, names: tuple[str, ...], n: int = 60, ties: bool = False):
    rng = np.random.default_rng(seed)
    k = len(names)
    y = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    prob = rng.dirichlet(np.full(k, 0.7), n)
    if ties:
        prob = rng.multinomial(4, np.full(k, 1 / k), n) / 4
    weights = rng.multinomial(n, np.full(n, 1 / n), 6).astype(float)
    weights[:, :k] += 1  # every class in every weighting
    return y, prob, weights


def with_oracle(y, prob, names, weight) -> dict[str, float]:
    """Every metric that scikit-learn has, with sample weights."""
    k = len(names)
    pred = prob.argmax(axis=1)
    options = {"sample_weight": weight, "labels": range(k)}
    onehot = np.eye(k)[y]
    values = {
        "accuracy": oracle.accuracy_score(y, pred, sample_weight=weight),
        "balanced_accuracy": oracle.balanced_accuracy_score(y, pred, sample_weight=weight),
        "macro_f1": oracle.f1_score(y, pred, average="macro", **options),
        "weighted_f1": oracle.f1_score(y, pred, average="weighted", **options),
        "log_loss": oracle.log_loss(y, prob, **options),
        "brier": oracle.brier_score_loss(y, prob if k > 2 else prob[:, 1], **options),
    }
    if all(weight[pred == i].sum() > 0 for i in range(k)):
        values["weighted_precision"] = oracle.precision_score(
            y, pred, average="weighted", **options
        )
    f1 = oracle.f1_score(y, pred, average=None, **options)
    recall = oracle.recall_score(y, pred, average=None, **options)
    areas, precisions = [], []
    for i, name in enumerate(names):
        areas.append(oracle.roc_auc_score(onehot[:, i], prob[:, i], sample_weight=weight))
        precisions.append(
            oracle.average_precision_score(onehot[:, i], prob[:, i], sample_weight=weight)
        )
        values |= {f"f1_{name}": f1[i], f"recall_{name}": recall[i]}
        values |= {f"roc_auc_{name}": areas[-1], f"pr_auc_{name}": precisions[-1]}
        values[f"specificity_{name}"] = oracle.recall_score(y != i, pred != i, sample_weight=weight)
        if weight[pred == i].sum() > 0:
            values[f"precision_{name}"] = oracle.precision_score(
                y == i, pred == i, sample_weight=weight
            )
    values["roc_auc"] = areas[-1] if k == 2 else np.mean(areas)
    values["pr_auc"] = precisions[-1] if k == 2 else np.mean(precisions)
    bad = np.arange(k) > 0  # both class sets of these tests begin with the only benign class
    malignant = prob[:, bad].sum(axis=1)
    values["roc_auc_malignant"] = oracle.roc_auc_score(y > 0, malignant, sample_weight=weight)
    values["recall_malignant"] = oracle.recall_score(y > 0, pred > 0, sample_weight=weight)
    values["specificity_malignant"] = oracle.recall_score(y == 0, pred == 0, sample_weight=weight)
    return values


@pytest.mark.parametrize("names", [TWO, FOUR])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_metric_equals_scikit_learn_with_sample_weights(names, ties, seed) -> None:
    y, prob, weights = sample(seed, names, ties=ties)
    ours = weighted_metrics(y, prob, names, weights)
    for row, weight in enumerate(weights):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = with_oracle(y, prob, names, weight)
        assert set(ours) - set(expected) - {"ece"} <= {f"precision_{name}" for name in names}
        for name, value in expected.items():
            assert ours[name][row] == pytest.approx(value, abs=1e-9), name


def test_multiclass_auc_is_scikit_learns_macro_one_versus_rest() -> None:
    y, prob, _ = sample(5, FOUR)
    expected = oracle.roc_auc_score(y, prob, multi_class="ovr", average="macro")
    assert compute_metrics(y, prob, FOUR)["roc_auc"] == pytest.approx(expected)


def test_unweighted_metrics_are_weights_of_one() -> None:
    y, prob, _ = sample(3, FOUR)
    whole = weighted_metrics(y, prob, FOUR, np.ones((1, len(y))))
    assert compute_metrics(y, prob, FOUR) == {name: value[0] for name, value in whole.items()}


def test_a_weight_of_two_is_an_image_twice() -> None:
    y, prob, _ = sample(4, FOUR)
    counts = np.random.default_rng(0).integers(1, 3, len(y))
    rows = np.repeat(np.arange(len(y)), counts)
    twice = compute_metrics(y[rows], prob[rows], FOUR)
    weighted = weighted_metrics(y, prob, FOUR, counts[None].astype(float))
    for name, value in twice.items():
        assert weighted[name][0] == pytest.approx(value), name


def test_ece_equals_the_sum_over_bins() -> None:
    y, prob, _ = sample(6, FOUR, n=200)
    top, hit = prob.max(axis=1), prob.argmax(axis=1) == y
    edges = np.linspace(0, 1, 16)
    expected = 0.0
    for low, high in pairwise(edges):
        inside = (top > low) & (top <= high)
        if inside.any():
            expected += inside.mean() * abs(hit[inside].mean() - top[inside].mean())
    assert compute_metrics(y, prob, FOUR)["ece"] == pytest.approx(expected)


def test_an_absent_class_is_undefined_never_zero() -> None:
    y = np.array([0, 0, 1, 1])
    prob = np.array([[0.7, 0.2, 0.1], [0.6, 0.4, 0.0], [0.2, 0.8, 0.0], [0.9, 0.1, 0.0]])
    found = compute_metrics(y, prob, FOUR[:3])
    for name in ("recall", "f1", "precision", "roc_auc", "pr_auc"):
        assert np.isnan(found[f"{name}_pre_b"]), name
    for name in ("balanced_accuracy", "macro_f1", "roc_auc", "pr_auc"):
        assert np.isnan(found[name]), name
    assert found["accuracy"] == 0.75
    assert found["specificity_pre_b"] == 1.0
    assert found["weighted_f1"] == pytest.approx((0.8 + 2 / 3) / 2)


def test_areas_of_a_class_without_other_images_are_undefined() -> None:
    prob = np.array([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]])
    for label in (0, 1):
        y = np.full(3, label)
        found = compute_metrics(y, prob, ("healthy", "all"))
        areas = {name: value for name, value in found.items() if name.startswith(("roc_", "pr_"))}
        assert {"pr_auc", "pr_auc_all", "pr_auc_healthy", "roc_auc_all"} <= areas.keys()
        assert np.isnan([*areas.values()]).all(), areas
        intervals = bootstrap_metrics(y, prob, ("healthy", "all"), groups=["a", "b", "c"])
        assert intervals["pr_auc_all"].to_json()["value"] is None


def test_a_class_present_but_never_found_has_f1_zero_and_no_precision() -> None:
    found = compute_metrics([0, 1], [[0.9, 0.1], [0.9, 0.1]], TWO)
    assert found["f1_all"] == 0.0
    assert np.isnan(found["precision_all"])


def test_a_replicate_without_a_class_is_undefined() -> None:
    y, prob, weights = sample(7, FOUR)
    weights[0, y == 2] = 0
    found = weighted_metrics(y, prob, FOUR, weights)
    assert np.isnan(found["roc_auc"][0])
    assert np.isnan(found["recall_pre_b"][0])
    assert not np.isnan(found["accuracy"][0])
    assert not np.isnan(found["roc_auc"][1:]).any()


def test_malignant_metrics_only_where_both_branches_are_there() -> None:
    assert "recall_malignant" in metric_names(FOUR)
    assert "recall_malignant" not in metric_names(FOUR[1:])
    assert "recall_malignant" not in metric_names(("a", "b"))


def test_confusion_among_malignant_classes_is_no_missed_malignancy() -> None:
    prob = np.eye(4)[[0, 2, 3, 1]]
    found = compute_metrics([0, 1, 2, 3], prob, FOUR)
    assert (found["accuracy"], found["recall_malignant"]) == (0.25, 1.0)


def test_names_limit_what_is_computed_and_unknown_ones_are_refused() -> None:
    y, prob, weights = sample(8, TWO)
    assert list(weighted_metrics(y, prob, TWO, weights, ["brier", "accuracy"])) == [
        "accuracy",
        "brier",
    ]
    with pytest.raises(UnknownNameError, match="accurracy"):
        weighted_metrics(y, prob, TWO, weights, ["accurracy"])


@pytest.mark.parametrize(
    ("y", "prob", "message"),
    [
        ([], np.zeros((0, 2)), "at least one image"),
        ([0, -1], [[1, 0], [1, 0]], "true class of 1 images is unknown"),
        ([0], [[1, 0, 0]], r"y_prob \(n, 2\)"),
        ([0], [[np.nan, 0]], "NaN"),
    ],
)
def test_wrong_input_is_refused(y, prob, message) -> None:
    with pytest.raises(DataError, match=message):
        compute_metrics(y, prob, TWO)


@settings(max_examples=60, deadline=None)
@given(
    data=st.lists(
        st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=25
    )
)
def test_auc_is_the_mann_whitney_statistic_whatever_the_ties(data) -> None:
    positive, score, weight = (np.array(column) for column in zip(*data, strict=True))
    area, _ = weighted_ranking(positive, score.astype(float), weight[None].astype(float))
    wins = np.sign(score[positive][:, None] - score[~positive][None]) / 2 + 0.5
    pairs = weight[positive][:, None] * weight[~positive][None]
    if pairs.sum() == 0:
        assert np.isnan(area[0])
    else:
        assert area[0] == pytest.approx((wins * pairs).sum() / pairs.sum())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(4, 40))
def test_metrics_do_not_depend_on_the_order_of_images_and_stay_in_range(seed, n) -> None:
    y, prob, _ = sample(seed, FOUR, n=n, ties=bool(seed % 2))
    found = compute_metrics(y, prob, FOUR)
    order = np.random.default_rng(seed).permutation(n)
    again = compute_metrics(y[order], prob[order], FOUR)
    for name, value in found.items():
        assert again[name] == pytest.approx(value, nan_ok=True)
        if name == "brier":
            assert 0 <= value <= 2
        elif name != "log_loss":
            assert np.isnan(value) or -1e-12 <= value <= 1 + 1e-12


def test_confusion_matrix_equals_scikit_learn() -> None:
    y, prob, _ = sample(9, FOUR)
    pred = prob.argmax(axis=1)
    assert np.array_equal(confusion_matrix(y, pred, 4), oracle.confusion_matrix(y, pred))
    assert confusion_matrix([0], [0], 3).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_the_registry_answers_for_every_metric_of_a_study() -> None:
    for name in metric_names(FOUR):
        assert metric_of(name).name in METRICS
    assert not metric_of("log_loss").higher_is_better
    with pytest.raises(UnknownNameError, match="metric"):
        metric_of("recal_pro")


def test_a_proportion_of_an_unknown_class_is_refused() -> None:
    y, prob = np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]])
    names = ["benign", "pro_b"]
    assert hits_and_trials("recall_malignant", y, prob, names) is not None
    with pytest.raises(DataError, match=r"recall_prob: expected .* benign, pro_b, got prob"):
        hits_and_trials("recall_prob", y, prob, names)


@pytest.mark.parametrize("called", [[0, 1, 2], [0, 1], [1, 2]])
def test_hits_over_trials_are_the_metric(called: list[int]) -> None:
    """With classes that are never called, and with one that has no image."""
    names = ("healthy", "early_pre_b", "pro_b")
    rng = np.random.default_rng(0)
    for classes in ([0, 1, 2], [0, 2]):
        y = rng.choice(classes, 60)
        prob = np.eye(3)[np.where(rng.random(60) < 0.6, y, rng.choice(called, 60))] * 0.7 + 0.1
        values = compute_metrics(y, prob, names)
        seen = 0
        for name, value in values.items():
            found = hits_and_trials(name, y, prob, names)
            if found is None:
                assert metric_of(name).interval not in ("proportion", "by class")
                continue
            hits, trials = found
            seen += 1
            assert (hits <= trials + 1e-12).all()
            share = hits.sum() / trials.sum() if trials.any() else np.nan
            assert share == pytest.approx(value, nan_ok=True), name
            if metric_of(name).interval == "by class" and trials.any():
                assert trials.sum() == pytest.approx(effective_groups(trials)), name
        assert seen == 5 + 4 * 3 + 2
