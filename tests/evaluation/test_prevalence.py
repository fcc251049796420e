"""Adjusted shares: recovered bias, known cells, spread between patients, and storage."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load
from scipy.stats import binomtest

from leukoscope.core.errors import DataError, UnknownNameError
from leukoscope.evaluation.confusions import Confusions
from leukoscope.evaluation.prevalence import METHODS, PrevalenceModel, adjust_em
from leukoscope.evaluation.statistics.limits import exact_limits

CONFUSION = np.array([[0.8, 0.1, 0.1], [0.15, 0.8, 0.05], [0.0, 0.1, 0.9]])


def answers(y: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Calibrated probabilities, from even shares, of a classifier with that confusion matrix."""
    return probabilities((rng.random((len(y), 1)) > CONFUSION[y].cumsum(axis=1)).sum(axis=1))


def probabilities(called: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of the true class, given what was called."""
    column = CONFUSION[:, called].T
    return np.asarray(column / column.sum(axis=1, keepdims=True))


def known(patients: int = 20, cells: int = 90) -> Confusions:
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.ones(3), patients)
    y = np.concatenate([rng.choice(3, cells, p=p) for p in shares])
    return Confusions.of(y, answers(y, rng), np.repeat(np.arange(patients), cells).tolist())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_the_bias_of_counting_away(method: str) -> None:
    model = PrevalenceModel(known(), method=method)
    truth = np.array([0.04, 0.06, 0.9])
    called = np.repeat(np.arange(3), np.round(1000 * truth @ CONFUSION).astype(int))
    prob = probabilities(called)
    shares = model.shares(prob)
    assert (called == 1).mean() > 0.13  # one in ten of the third class is called the second
    np.testing.assert_allclose(shares.value, truth, atol=0.05)
    assert shares.value.sum() == pytest.approx(1)
    for classes in ([0], [1], [2], [0, 1]):
        low, high = shares.interval(classes)
        inner = shares.interval(classes, of_cells=True)
        assert low <= truth[classes].sum() <= high
        assert high - low >= 0.9 * (inner[1] - inner[0])
    again = model.shares(prob)
    np.testing.assert_array_equal(again.draws, shares.draws)


@pytest.mark.parametrize("method", METHODS)
def test_cells_that_a_person_named_are_certain(method: str) -> None:
    model = PrevalenceModel(known(), method=method)
    all_named = model.shares(np.empty((0, 3)), [30, 60, 10])
    np.testing.assert_allclose(all_named.value, [0.3, 0.6, 0.1], atol=0.02)
    assert all_named.interval([1], of_cells=True) == pytest.approx((0.6, 0.6), abs=0.02)
    low, high = all_named.interval([1])
    assert 0.47 < low < 0.54
    assert 0.66 < high < 0.73
    with pytest.raises(DataError, match="at least one cell"):
        model.shares(np.empty((0, 3)))


def test_a_class_that_few_cells_are_called_may_still_be_there() -> None:
    """None of six cells says little, none of six hundred much."""
    model = PrevalenceModel(known())
    highs = []
    for n in (6, 600):
        prob = np.tile([0.02, 0.49, 0.49], (n, 1))
        prob[::2] = [0.02, 0.58, 0.40]
        low, high = model.shares(prob).interval([0])
        assert low == 0
        highs.append(high)
    assert highs[0] > 0.08
    assert highs[1] < highs[0]


@pytest.mark.parametrize("method", METHODS)
def test_no_interval_is_narrower_than_that_of_a_classifier_without_errors(method: str) -> None:
    """A classifier that is always right and sure: what is left is the sample of cells."""
    y = np.tile(np.repeat(np.arange(3), 30), 20)
    sure = Confusions.of(y, np.eye(3)[y] * 0.97 + 0.01, np.repeat(np.arange(20), 90).tolist())
    for hits in (0, 3, 30):
        prob = (np.eye(3) * 0.97 + 0.01)[[0] * hits + [1] * (30 - hits)]
        for seed in range(5):
            found = PrevalenceModel(sure, seed=seed, method=method).shares(prob)
            low, high = found.interval([0])
            exact = binomtest(hits, 30).proportion_ci()
            share = found.value[0]
            if method != "posterior":  # whose mean leans on its prior
                assert share == pytest.approx(hits / 30, abs=0.01)
                assert low <= exact.low + 0.01
                assert high >= exact.high - 0.01
            least, most = exact_limits(30 * share, 30, 0.95)
            assert low <= least
            assert high >= most
            inner = found.interval([0], of_cells=True)  # the very cells are no sample
            assert inner[1] - inner[0] < high - low


def test_the_seed_hardly_moves_a_limit() -> None:
    rng = np.random.default_rng(6)
    prob = answers(np.repeat(np.arange(3), (6, 12, 12)), rng)
    models = [PrevalenceModel(known(), seed=seed) for seed in range(5)]
    assert len({model.widening for model in models}) == 1
    limits = np.array([model.shares(prob).interval([0]) for model in models])
    assert np.ptp(limits, axis=0).max() < 0.04  # 0.10 with 200 draws and a widening by the seed


def test_patients_who_differ_widen_the_interval_and_shorten_the_step() -> None:
    """In half of the patients the first class is called the second."""
    rng = np.random.default_rng(3)
    y = np.concatenate([rng.choice(3, 80, p=rng.dirichlet(np.ones(3))) for _ in range(20)])
    unit = np.repeat(np.arange(20), 80)
    prob = answers(y, rng)
    odd = (unit % 2 == 0) & (y == 0)
    prob[odd] = prob[odd][:, [1, 0, 2]]
    apart = PrevalenceModel(Confusions.of(y, prob, unit.tolist()))
    alike = PrevalenceModel(known())
    assert alike.step == 1
    assert np.median(apart.spread[:, 0]) > 3 * np.median(alike.spread[:, 0])
    cells = answers(np.repeat(np.arange(3), 40), rng)
    widths = [np.diff(m.shares(cells).interval([0]))[0] for m in (alike, apart)]
    assert widths[1] > 1.2 * widths[0]


def test_few_patients_judge_nobody() -> None:
    model = PrevalenceModel(known(patients=3))
    assert (model.widening, model.step) == (1, 1)


def test_confusions_survive_storage_and_thinning() -> None:
    found = known(patients=7, cells=5)
    again = Confusions.from_tensors(load(found.to_bytes()))
    np.testing.assert_array_equal(again.counts, found.counts)
    np.testing.assert_allclose(again.prior, found.prior, atol=1e-3)
    thinned = found.thinned(3)
    np.testing.assert_array_equal(thinned.counts, found.counts[::3])
    with pytest.raises(DataError, match="unit missing"):
        Confusions.from_tensors({"y_true": np.zeros(1), "y_prob": np.ones((1, 2))})
    with pytest.raises(DataError, match="out of range"):
        Confusions.of([2], [[0.5, 0.5]], ["a"])
    with pytest.raises(UnknownNameError, match="EM"):
        PrevalenceModel(found, method="EM")


def test_em_agrees_with_the_maximum_of_the_likelihood_on_a_grid() -> None:
    rng = np.random.default_rng(4)
    prob = answers(rng.choice(3, 80, p=[0.6, 0.3, 0.1]), rng)[:, :2]
    prob /= prob.sum(axis=1, keepdims=True)
    prior = np.array([0.3, 0.7])
    grid = np.linspace(0.0005, 0.9995, 1000)
    mixed = grid[:, None] * prob[:, 0] / prior[0] + (1 - grid[:, None]) * prob[:, 1] / prior[1]
    best = grid[np.log(mixed).sum(axis=1).argmax()]
    assert adjust_em(prob, prior)[0] == pytest.approx(best, abs=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_cells_that_were_all_looked_at_need_no_classifier(method: str) -> None:
    limits = []
    for seed in range(3):
        model = PrevalenceModel(known(), seed=seed, method=method)
        found = model.shares(np.empty((0, 3)), [2, 2, 0])
        assert found.value.tolist() == [0.5, 0.5, 0.0]
        limits.append(found.interval([0]))
        assert found.interval([0], of_cells=True) == (0.5, 0.5)
    # Two of four: neither none nor all, the exact limits whatever the seed.
    np.testing.assert_allclose(limits, [(0.068, 0.932)] * 3, atol=0.001)
    only = PrevalenceModel(known()).shares(np.empty((0, 3)), [4, 0, 0])
    low, high = only.interval([0])
    assert low == pytest.approx(0.398, abs=0.001)  # four cells are few
    assert high == 1.0
    assert only.interval([1])[0] == 0.0


def test_a_cell_that_is_known_keeps_a_share_from_nothing() -> None:
    found = PrevalenceModel(known()).shares(probabilities(np.full(6, 1)), [1, 1, 0])
    low, high = found.interval([0])
    assert low > 0
    assert high < 1
