"""The exact test against SciPy and a worked example."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from leukoscope.core.errors import DataError
from leukoscope.evaluation.mcnemar import mcnemar
from leukoscope.evaluation.predictions import PredictionTable, concatenate


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
    found = mcnemar(table(a.tolist()), table(b.tolist()).take(rng.permutation(80)))
    first, second = int((a & ~b).sum()), int((~a & b).sum())
    assert found.p == pytest.approx(binomtest(first, first + second).pvalue)
    assert (found.only_first, found.only_second) == (first, second)


def test_mcnemar_of_a_worked_example() -> None:
    """9 against 1 disagreement: p = 2 (C(10,0) + C(10,1)) / 2^10 = 22 / 1024."""
    a = [True] * 9 + [False] + [True] * 5
    b = [False] * 9 + [True] + [True] * 5
    assert mcnemar(table(a), table(b)).p == pytest.approx(22 / 1024)


def test_no_disagreement_is_no_evidence_and_two_rows_are_refused() -> None:
    assert mcnemar(table([True, False]), table([True, False])).p == 1.0
    twice = concatenate([table([True]), table([True], fold=1)])
    with pytest.raises(DataError, match="an image has two rows"):
        mcnemar(twice, table([True]))
