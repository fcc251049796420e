from __future__ import annotations

import numpy as np
import pytest

from leukoscope.core.errors import DataError
from leukoscope.evaluation.statistics.thresholds import aurc, risk_coverage


def test_the_area_is_the_mean_of_the_risks() -> None:
    rng = np.random.default_rng(0)
    sure, wrong = rng.random(200), rng.random(200) < 0.2
    order = np.argsort(-sure)
    risks = [wrong[order[: k + 1]].mean() for k in range(200)]
    best = [max(0, wrong.sum() - (200 - k)) / k for k in range(1, 201)]
    area, excess = aurc(sure, wrong, replicates=200)
    assert area.value == pytest.approx(np.mean(risks))
    assert excess.value == pytest.approx(np.mean(risks) - np.mean(best))
    assert area.low < area.value < area.high
    share, risk = risk_coverage(sure, wrong)
    assert risk == pytest.approx(risks)
    assert share[-1] == 1


def test_a_perfect_order_has_no_excess_and_no_order_the_error_rate() -> None:
    wrong = np.repeat([0, 1], [80, 20])
    assert aurc(-wrong - np.arange(100) / 200, wrong, replicates=20)[1].value == pytest.approx(0)
    area, _ = aurc(np.ones(100), wrong, replicates=20)
    assert area.value == pytest.approx(0.2)
    assert risk_coverage(np.ones(100), wrong)[1] == pytest.approx(np.full(100, 0.2))


def test_a_resample_is_the_sample_it_repeats() -> None:
    rng = np.random.default_rng(1)
    sure, wrong = rng.random(30).round(1), rng.random(30) < 0.3
    one = aurc(sure, wrong, groups=["all"] * 30, replicates=5)[0]
    assert one.low == pytest.approx(one.value) == one.high


def test_wrong_input_is_refused() -> None:
    with pytest.raises(DataError, match="n ≥ 1"):
        risk_coverage([], [])
    with pytest.raises(DataError, match="expected confidence"):
        aurc([0.1, 0.2], [0])
