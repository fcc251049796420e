"""Both levels of the hierarchy against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score

from leukoscope.evaluation.statistics.hierarchy import hierarchy_metrics, split_levels

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
