from __future__ import annotations

import json

import numpy as np
import pytest

from leukoscope.core.errors import DataError
from leukoscope.evaluation.statistics.thresholds import net_benefit


def test_net_benefit_by_hand() -> None:
    # 10 images, 4 ill; from .2 on 3 of them and 2 others are flagged: (3 − 2 · .25) / 10
    ill = [True] * 4 + [False] * 6
    p = [0.9, 0.6, 0.3, 0.1, 0.5, 0.25, 0.1, 0.1, 0.0, 0.0]
    curve = net_benefit(ill, p, thresholds=[0.2])
    assert curve.model[0].value == pytest.approx(0.25)
    assert curve.treat_all[0] == pytest.approx((4 - 6 * 0.25) / 10)
    assert curve.gain[0].value == pytest.approx(0.0)
    assert curve.prevalence == 0.4


def test_a_useless_model_gains_nothing_and_a_good_one_does() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 10)
    ill = groups % 2 == 0
    good = net_benefit(ill, np.where(ill, 0.8, 0.2) + rng.normal(0, 0.1, 400), groups=groups)
    useless = net_benefit(ill, np.full(400, 0.5), groups=groups)
    at = good.thresholds.index(0.5)
    assert good.gain[at].low > 0.3
    assert max(row.value for row in useless.gain) == pytest.approx(0)
    everyone = json.loads(json.dumps(useless.to_json(), allow_nan=False))["treat_all"]
    assert everyone[0] == pytest.approx(0.5 - 0.5 * 0.02 / 0.98)


def test_groups_widen_the_band() -> None:
    rng = np.random.default_rng(1)
    ill, p = rng.random(100) < 0.5, rng.random(100)
    rows = np.repeat(np.arange(100), 9)
    alone, grouped = (
        net_benefit(ill[rows], p[rows], thresholds=[0.3], groups=groups).model[0]
        for groups in (None, rows)
    )
    ratio = (grouped.high - grouped.low) / (alone.high - alone.low)
    assert ratio == pytest.approx(3, rel=0.2)


def test_thresholds_outside_are_refused() -> None:
    with pytest.raises(DataError, match=r"thresholds in \(0, 1\)"):
        net_benefit([True, False], [0.1, 0.2], thresholds=[1.0])
