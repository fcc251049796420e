"""Clusters of background: nested, recovered, merged where overlaps say so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leukoscope.datasets.audit import acquisition
from leukoscope.datasets.audit.acquisition import (
    build_tree,
    contingency,
    cramers_v,
    merge_clusters,
    scale_features,
    whiten,
    why_not_applicable,
)
from leukoscope.datasets.audit.passport import adjusted_rand, class_balance
from leukoscope.datasets.groups import group_equal


def sessions(n: int = 200, groups: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, groups, n)
    centres = rng.normal(0, 6, (groups, 5))
    return centres[truth] + rng.normal(0, 0.5, (n, 5)), truth


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    return adjusted_rand(contingency(a, b))


def test_planted_sessions_are_recovered_and_clusters_nest() -> None:
    features, truth = sessions()
    tree = build_tree(features, [])
    assert agreement(tree.cut(8), truth) == 1.0
    fine, coarse = tree.cut(24), tree.cut(6)
    assert all(len(set(coarse[fine == k])) == 1 for k in range(fine.max() + 1))
    assert np.bincount(fine).tolist() == sorted(np.bincount(fine), reverse=True)


def test_overlaps_teach_which_features_vary_on_a_slide() -> None:
    """A feature that varies strongly within a slide would otherwise swamp the others."""
    rng = np.random.default_rng(2)
    slide = np.repeat(np.arange(10), 40)
    steady = rng.normal(0, 1, (10, 2))[slide] + rng.normal(0, 0.05, (400, 2))
    loud = rng.normal(0, 1, (400, 6))
    features = np.hstack([steady, loud])
    pairs = [(40 * s + k, 40 * s + k + 20) for s in range(10) for k in range(20)]
    learnt = build_tree(features, pairs)
    assert learnt.whitened
    assert not build_tree(features, pairs[: acquisition.FEWEST_PAIRS - 1]).whitened
    with_pairs = agreement(learnt.cut(10), slide)
    without = agreement(build_tree(features, []).cut(10), slide)
    assert with_pairs > 0.8 > without


def test_whitened_differences_have_unit_covariance() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(0, 20, (4000, 4)) @ (np.eye(4) + rng.normal(0, 0.3, (4, 4)))
    pairs = [(2 * k, 2 * k + 1) for k in range(2000)]
    white = whiten(features, pairs)
    difference = white[::2] - white[1::2]
    assert np.cov(difference.T) / 2 == pytest.approx(np.eye(4), abs=0.2)


def test_constant_and_rare_features_are_scaled_without_harm() -> None:
    values = np.zeros((100, 3))
    values[:, 1] = 7
    values[:2, 2] = 1
    scaled = scale_features(values)
    assert np.isfinite(scaled).all()
    assert np.abs(scaled[:, :2]).max() == 0
    assert scaled[0, 2] == 4


def test_more_images_than_can_be_linked_join_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    features, truth = sessions(300)
    monkeypatch.setattr(acquisition, "MOST_LINKED", 60)
    tree = build_tree(features, [])
    assert tree.linkage.shape == (59, 4)
    assert agreement(tree.cut(8), truth) == 1.0


def test_clusters_that_components_span_are_merged() -> None:
    labels = np.array([0] * 10 + [1] * 10 + [2] * 10)
    groups = [[0, 10], [1, 11], [12, 13], [5, 6], [20, 21]]
    merged = merge_clusters(labels, groups)
    assert len(set(merged[:20])) == 1
    assert merged[0] != merged[20]


def test_one_stray_image_moves_but_fuses_nothing() -> None:
    labels = np.array([0] * 10 + [1] * 10)
    merged = merge_clusters(labels, [[0, 1, 10], [11, 12], [2, 3]])
    assert len(set(merged)) == 2
    assert merged[10] == merged[0] != merged[11]


@settings(deadline=None)
@given(st.data())
def test_merging_never_cuts_a_component(data: st.DataObject) -> None:
    n = data.draw(st.integers(4, 40))
    labels = np.array(data.draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)))
    tied = np.array(data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)))
    merged = merge_clusters(labels, group_equal(tied.tolist()))
    for group in group_equal(tied.tolist()):
        assert len({int(merged[i]) for i in group}) == 1
    assert set(merged.tolist()) == set(range(int(merged.max()) + 1))


def test_cramers_v_without_correction_would_be_that_of_scipy() -> None:
    from scipy.stats.contingency import association

    rng = np.random.default_rng(1)
    for _ in range(5):
        table = rng.integers(5, 60, (6, 4)).astype(float)
        own = cramers_v(table)
        plain = association(table.astype(int), method="cramer")
        n, rows, columns = table.sum(), 6, 4
        phi2 = max(0.0, plain**2 * 3 - (rows - 1) * (columns - 1) / (n - 1))
        least = min(rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)) - 1
        assert own == pytest.approx(np.sqrt(phi2 / least), abs=1e-5)
    assert cramers_v(np.array([[3.0], [4.0]])) is None


def test_adjusted_rand_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import adjusted_rand_score

    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 4, 300), rng.integers(0, 6, 300)
    b[:150] = a[:150]
    assert agreement(a, b) == pytest.approx(adjusted_rand_score(a, b), abs=1e-4)


def test_class_balance_is_the_test_of_scipy() -> None:
    from scipy.stats import chisquare, entropy

    counts = [504, 985, 963, 804]
    own, theirs = class_balance(counts), chisquare(counts)
    assert own["chi2"] == pytest.approx(theirs.statistic, abs=1e-5)
    assert own["p"] == pytest.approx(theirs.pvalue)
    assert own["entropy"] == pytest.approx(entropy(counts) / np.log(4), abs=1e-5)
    assert class_balance([7])["p"] is None


def test_when_clusters_do_not_apply() -> None:
    features, _ = sessions(50)
    assert why_not_applicable(features, np.zeros(50)) == ""
    assert "cut out on black" in why_not_applicable(features, np.full(50, 0.9))
    assert "found 5" in why_not_applicable(features[:5], np.zeros(5))
    assert "equal" in why_not_applicable(np.ones((50, 5)), np.zeros(50))
