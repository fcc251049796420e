"""Exact tests against SciPy, scikit-learn, the definition and worked examples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score

from leukoscope.core.errors import DataError
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.evaluation.statistics.comparison import delong, paired_tests


def table(right: list[bool], fold: int = 0) -> PredictionTable:
    y = np.zeros(len(right), dtype=int)
    probs = np.where(np.array(right)[:, None], [0.9, 0.1], [0.1, 0.9])
    ids = [f"i{k}" for k in range(len(right))]
    return PredictionTable.build(
        ["benign", "all"],
        ids,
        probs,
        recipe="r",
        protocol="random",
        fold=fold,
        part="test",
        y_true=y,
    )


def test_mcnemar_is_the_binomial_test_of_the_disagreements() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(80) < 0.9, rng.random(80) < 0.7
    found = paired_tests(table(a.tolist()), table(b.tolist()).take(rng.permutation(80)))
    first, second = int((a & ~b).sum()), int((~a & b).sum())
    assert found.mcnemar_p == pytest.approx(binomtest(first, first + second).pvalue)
    assert (found.only_first_right, found.only_second_right) == (first, second)


def test_mcnemar_of_a_worked_example() -> None:
    """9 against 1 disagreement: p = 2 (C(10,0) + C(10,1)) / 2^10 = 22 / 1024."""
    a = [True] * 9 + [False] + [True] * 5
    b = [False] * 9 + [True] + [True] * 5
    assert paired_tests(table(a), table(b)).mcnemar_p == pytest.approx(22 / 1024)


def test_no_disagreement_is_no_evidence_and_two_rows_are_refused() -> None:
    assert paired_tests(table([True, False]), table([True, False])).mcnemar_p == 1.0
    twice = concatenate([table([True]), table([True], fold=1)])
    with pytest.raises(DataError, match="an image has two rows"):
        paired_tests(twice, table([True]))


def test_effect_is_the_share_of_the_disagreements() -> None:
    found = paired_tests(table([True] * 9 + [False]), table([False] * 9 + [True]))
    assert found.effect == pytest.approx(0.4)
    assert paired_tests(table([True]), table([True])).effect is None


def test_images_of_one_group_get_no_exact_test() -> None:
    a, b = table([True, True, False]), table([False, True, True])
    groups = {"i0": "p", "i1": "p", "i2": "q"}
    found = paired_tests(a, b, groups)
    assert (found.independent, found.mcnemar_p, found.delong) == (False, None, None)
    assert (found.only_first_right, found.only_second_right) == (1, 1)


def test_delong_is_its_definition() -> None:
    """Areas of scikit-learn; variance from the kernel of all pairs (DeLong et al. 1988, eq. 4)."""
    rng = np.random.default_rng(4)
    y = rng.random(60) < 0.4
    scores = [np.round(y + rng.normal(size=60), 1) for _ in range(2)]
    kernels = []
    for s in scores:
        x, z = s[y][:, None], s[~y][None, :]
        kernels.append((x > z) + 0.5 * (x == z))
    areas = [k.mean() for k in kernels]
    d = kernels[0] - kernels[1]
    m, n = d.shape
    variance = d.mean(axis=1).var(ddof=1) / m + d.mean(axis=0).var(ddof=1) / n
    found = delong(y, *scores)
    assert found is not None
    assert areas == pytest.approx([roc_auc_score(y, s) for s in scores])
    assert found.difference == pytest.approx(areas[0] - areas[1])
    assert (found.high - found.low) / 2 == pytest.approx(1.959964 * np.sqrt(variance))
    assert found.p == pytest.approx(2 * norm.sf(abs(found.difference) / np.sqrt(variance)))


def test_delong_without_variance_or_images_is_none() -> None:
    assert delong([True, True, False, False], [4, 3, 2, 1], [4, 3, 2, 1]) is None
    assert delong([True, False, False], [3, 2, 1], [1, 2, 3]) is None


def test_two_classes_of_independent_images_get_delong() -> None:
    y = np.array([0, 1] * 10)
    ids, options = [f"i{k}" for k in range(20)], {"recipe": "r", "protocol": "random"}
    tables = []
    for seed in (0, 1):
        p = np.clip(0.5 + 0.2 * np.random.default_rng(seed).normal(size=20) + 0.1 * y, 0, 1)
        probs = np.stack([1 - p, p], axis=1)
        one = PredictionTable.build(
            ["benign", "all"], ids, probs, fold=0, part="test", y_true=y, **options
        )
        tables.append(one)
    found = paired_tests(*tables).delong
    assert found is not None
    assert 0 < found.p <= 1
