from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from leukoscope.evaluation.calibration.errors import calibration_measures, ece_by_chance, mass_bin


@pytest.fixture
def four() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    prob = rng.dirichlet([0.3] * 4, 900)
    return (prob.cumsum(axis=1) > rng.random((900, 1))).argmax(axis=1), prob


def values(y, prob) -> dict[str, float]:
    found = calibration_measures(y, prob, replicates=20)["after"]
    return {name: interval.value for name, interval in found.items()}


def binned_error(y: np.ndarray, p: np.ndarray, strategy: str) -> float:
    """Mean gap between frequency and probability over the bins of scikit-learn's curve."""
    share, mean = calibration_curve(y, p, n_bins=15, strategy=strategy)
    if strategy == "quantile":
        place = mass_bin(p)
    else:
        place = np.searchsorted(np.linspace(0, 1, 16)[1:-1], p)
    size = np.bincount(place, minlength=15)
    return float((np.abs(share - mean) * size[size > 0]).sum() / len(y))


def test_binned_errors_are_those_of_sklearns_curve(four) -> None:
    y, prob = four
    found = values(y, prob)
    right, top = prob.argmax(axis=1) == y, prob.max(axis=1)
    assert found["ece"] == pytest.approx(binned_error(right, top, "uniform"))
    assert found["ece_mass"] == pytest.approx(binned_error(right, top, "quantile"))
    for name, strategy in (("ece_class", "uniform"), ("ece_adaptive", "quantile")):
        each = [binned_error(y == k, prob[:, k], strategy) for k in range(4)]
        assert found[name] == pytest.approx(np.mean(each))


def test_the_three_parts_make_up_the_brier_score(four) -> None:
    for y, prob in (four, (four[0] > 1, np.stack([four[1][:, 0], 1 - four[1][:, 0]], axis=1))):
        found = values(y.astype(int), prob)
        parts = found["reliability"] - found["resolution"] + found["uncertainty"]
        assert parts == pytest.approx(found["brier"])
    assert found["brier"] == pytest.approx(brier_score_loss(y, prob[:, 1]))


def test_murphys_parts_of_forecasts_in_tenths() -> None:
    # Ten forecasts of .2 of which 3 come true, ten of .5 (4), ten of .9 (9); by hand:
    # base rate 16/30; REL = (.1² + .1² + 0²)/3; RES = Σ (frequency − 16/30)² / 3
    p = np.repeat([0.2, 0.5, 0.9], 10)
    y = np.concatenate([np.arange(10) < k for k in (3, 4, 9)]).astype(int)
    found = values(y, np.stack([1 - p, p], axis=1))
    base = 16 / 30
    assert found["reliability"] == pytest.approx(0.02 / 3)
    assert found["uncertainty"] == pytest.approx(base * (1 - base))
    assert found["resolution"] == pytest.approx(
        np.mean([(0.3 - base) ** 2, (0.4 - base) ** 2, (0.9 - base) ** 2])
    )


def test_before_after_and_change_are_of_the_same_images(four) -> None:
    y, prob = four
    sharp = prob**3 / (prob**3).sum(axis=1, keepdims=True)
    found = calibration_measures(y, prob, sharp, groups=[str(i // 9) for i in range(900)])
    assert set(found) == {"after", "before", "change"}
    change = found["change"]["log_loss"]
    assert change.value == pytest.approx(
        found["after"]["log_loss"].value - found["before"]["log_loss"].value
    )
    assert change.low < change.value < change.high < 0
    assert found["after"]["reliability"].to_json()["low"] is None
    assert found["after"]["ece"].n_groups == 100
    assert found["change"]["ece"].to_json()["low"] is None  # differences of biased errors mislead


def test_a_calibrated_model_lies_in_its_band_even_where_groups_agree() -> None:
    """Finding 5; with labels drawn one by one, grouped ones would look miscalibrated."""
    rng, alone, together = np.random.default_rng(5), [], []
    for _ in range(60):
        groups = np.repeat(np.arange(25), 40)
        p = rng.uniform(0.55, 0.99, 1000)
        shared = np.where(rng.random(1000) < 0.6, rng.random(25)[groups], rng.random(1000))
        y = (shared > p).astype(int)
        prob = np.column_stack([p, 1 - p])
        names = [str(g) for g in groups]
        together.append(ece_by_chance(y, prob, groups=names, replicates=200)["explained"])
        alone.append(ece_by_chance(y, prob, replicates=200)["explained"])
    assert np.mean(together) > 0.85
    assert np.mean(alone) < np.mean(together) - 0.25


def test_what_remains_without_chance_is_near_the_true_error() -> None:
    rng = np.random.default_rng(6)
    for shift, n in ((0.0, 400), (0.06, 4000)):
        measured, debiased = [], []
        for _ in range(40):
            known = rng.uniform(0.55, 0.9, n)
            y = (rng.random(n) > known).astype(int)
            prob = np.column_stack([known + shift, 1 - known - shift])
            found = ece_by_chance(y, prob, replicates=200)
            measured.append(found["ece"])
            debiased.append(found["debiased"])
        assert np.mean(debiased) == pytest.approx(shift, abs=0.02 if shift == 0 else 0.006)
        assert np.mean(measured) > shift + (0.03 if shift == 0 else 0)
