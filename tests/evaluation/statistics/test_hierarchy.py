"""Both levels of the hierarchy against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score

from leukoscope.core.errors import DataError
from leukoscope.evaluation.statistics.hierarchy import (
    BINARY_METRICS,
    BRANCHES,
    SUBTYPE_METRICS,
    hierarchy_metrics,
    split_levels,
)
from leukoscope.evaluation.statistics.intervals import Sampling, bootstrap_mean, bootstrap_metrics
from leukoscope.evaluation.statistics.metrics import compute_metrics

CLASSES = ("benign", "early_pre_b", "pre_b", "pro_b")


def made() -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 160)
    prob = rng.dirichlet(np.ones(4), 160) + 0.6 * np.eye(4)[y]
    return y, prob / prob.sum(1, keepdims=True), [f"g{i // 4}" for i in range(160)]


def test_both_levels_are_sklearns_metrics() -> None:
    y, prob, groups = made()
    found = hierarchy_metrics(y, prob, CLASSES, groups=groups, replicates=100)
    assert found is not None
    malignant, p = y > 0, prob[:, 1:].sum(1)
    binary = found["binary"]["metrics"]
    assert binary["accuracy"]["value"] == pytest.approx(accuracy_score(malignant, p > 0.5))
    assert binary["roc_auc"]["value"] == pytest.approx(roc_auc_score(malignant, p))
    assert binary["log_loss"]["value"] == pytest.approx(log_loss(malignant, p))
    assert binary["accuracy"]["low"] <= binary["accuracy"]["value"] <= binary["accuracy"]["high"]
    subtype = prob[malignant, 1:] / p[malignant, None]
    truth = y[malignant] - 1
    metrics = found["subtype"]["metrics"]
    assert found["subtype"]["n"] == malignant.sum()
    assert metrics["accuracy"]["value"] == pytest.approx(accuracy_score(truth, subtype.argmax(1)))
    assert metrics["macro_f1"]["value"] == pytest.approx(
        f1_score(truth, subtype.argmax(1), average="macro")
    )
    assert metrics["log_loss"]["value"] == pytest.approx(log_loss(truth, subtype))
    steps = np.where(p > 0.5, 1 + prob[:, 1:].argmax(1), 0)
    assert found["two_step_accuracy"]["value"] == pytest.approx(accuracy_score(y, steps))


def test_levels_that_do_not_exist_are_left_out() -> None:
    y, prob, groups = made()
    pair = np.stack([prob[:, 0], prob[:, 1:].sum(1)], axis=1)
    two = hierarchy_metrics(y > 0, pair, ("healthy", "all"), groups=groups, replicates=100)
    assert two is not None
    assert "subtype" not in two
    assert hierarchy_metrics(y[y > 0] - 1, prob[y > 0, 1:] / prob[y > 0, 1:].sum(1, keepdims=True),
                             CLASSES[1:], groups=["a"] * int((y > 0).sum())) is None  # fmt: skip
    none = y == 0
    benign = hierarchy_metrics(y[none], prob[none], CLASSES, groups=["a"] * int(none.sum()),
                               replicates=100)  # fmt: skip
    assert benign is not None
    assert "subtype" not in benign
    assert benign["binary"]["metrics"]["roc_auc"]["value"] is None


def test_a_certain_benign_image_has_even_subtypes() -> None:
    p, subtype, names = split_levels([[1.0, 0.0, 0.0, 0.0]], CLASSES)
    assert (p.tolist(), names) == ([0.0], CLASSES[1:])
    np.testing.assert_allclose(subtype, 1 / 3)
    _, alone, _ = split_levels([[1.0, 0.0]], ("healthy", "all"))
    assert alone.tolist() == [[1.0]]


def test_a_sum_that_rounds_above_one_is_one() -> None:
    row = [0.0, 0.1, 0.2, 0.3, 0.4]
    parts = [0.0, *(part / sum(row) for part in row[1:])]
    names = ("benign", "early_pre_b", "pre_b", "pro_b", "apl")
    for scale in (1.0, 1 + 2**-50):
        malignant, _, _ = split_levels([[part * scale for part in parts]], names)
        assert 1 - 2**-50 < malignant[0] <= 1.0


def test_two_malignant_classes_are_two_subtypes() -> None:
    y, prob, groups = made()
    rows = np.isin(y, (0, 2, 3))
    three = prob[rows][:, [0, 2, 3]]
    found = hierarchy_metrics(
        np.searchsorted([0, 2, 3], y[rows]), three / three.sum(1, keepdims=True),
        ("benign", "pre_b", "pro_b"), groups=np.array(groups)[rows], replicates=20,
    )  # fmt: skip
    assert found["subtype"]["n"] == (y[rows] > 0).sum()


def test_classes_of_one_side_or_of_an_unknown_one_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="hierarchy: the classes do not divide"):
        split_levels([[0.5, 0.5]], ("early_pre_b", "pre_b"))
    with pytest.raises(DataError, match="hierarchy: it is not known what strange stands for"):
        split_levels([[0.5, 0.5]], ("odd", "strange"), {"odd": "healthy"})


def test_both_levels_resample_whole_groups_as_they_are_told() -> None:
    y, prob, groups = made()
    units = np.array(groups)
    how: Sampling = {"replicates": 60, "confidence": 0.6, "seed": 3, "folds": 4}
    found = hierarchy_metrics(y, prob, CLASSES, groups=groups, **how)
    malignant, p = y > 0, prob[:, 1:].sum(1)
    rows = {
        "binary": (malignant.astype(int), np.stack([1 - p, p], 1), BRANCHES, units, BINARY_METRICS),
        "subtype": (
            y[malignant] - 1, prob[malignant, 1:] / p[malignant, None], CLASSES[1:],
            units[malignant], SUBTYPE_METRICS,
        ),
    }  # fmt: skip
    for level, (truth, probs, names, of_rows, wanted) in rows.items():
        oracle = bootstrap_metrics(truth, probs, names, groups=of_rows, names=wanted, **how)
        assert found[level] == {
            "n": len(truth),
            "n_groups": len(set(of_rows)),
            "metrics": {name: oracle[name].to_json() for name in wanted},
        }
    right = np.where(p > 0.5, 1 + prob[:, 1:].argmax(1), 0) == y
    assert found["two_step_accuracy"] == bootstrap_mean(right, groups=units, **how).to_json()
    assert set(found) == {"binary", "subtype", "two_step_accuracy"}


def test_roles_divide_classes_of_the_users_own() -> None:
    y, prob, groups = made()
    own = ("odd", "strange", "pre_b", "pro_b")
    roles = {"odd": "healthy", "strange": "malignant"}
    assert hierarchy_metrics(y, prob, own, groups=groups, replicates=20) is None
    found = hierarchy_metrics(y, prob, own, groups=groups, roles=roles, replicates=20)
    known = hierarchy_metrics(y, prob, CLASSES, groups=groups, replicates=20)
    assert found["subtype"]["metrics"] == known["subtype"]["metrics"]
    two_benign = {"odd": "healthy", "strange": "benign"}
    found = hierarchy_metrics(y, prob, own, groups=groups, roles=two_benign, replicates=20)
    assert found["binary"]["metrics"]["accuracy"]["value"] == pytest.approx(
        accuracy_score(y > 1, prob[:, 2:].sum(1) > 0.5)
    )
    assert "two_step_accuracy" not in found


@pytest.mark.parametrize("names", [("aml", "benign_cell"), ("healthy", "all")])
def test_an_exact_tie_is_called_as_the_predicted_class_is(names: tuple[str, str]) -> None:
    truth, tied = [0, 0, 0, 1], [[0.5, 0.5]] * 4
    found = hierarchy_metrics(truth, tied, names, groups=[*"abcd"], replicates=20, seed=0)
    assert found is not None
    assert compute_metrics(truth, tied, names)["accuracy"] == 0.75  # the first class
    assert found["binary"]["metrics"]["accuracy"]["value"] == 0.75
    assert found["two_step_accuracy"]["value"] == 0.75


def test_a_benign_image_that_is_called_malignant_is_wrong_whatever_the_subtype() -> None:
    prob = [[0.5, 0.5, 0.0, 0.0], [0.4, 0.6, 0.0, 0.0], [0.0, 0.6, 0.4, 0.0]]
    found = hierarchy_metrics([0, 0, 2], prob, CLASSES, groups=["a", "b", "c"], replicates=20)
    assert found["two_step_accuracy"]["value"] == pytest.approx(1 / 3)  # 0.5 is not above 0.5
