"""Shares of classes in a sample of cells, adjusted for how the classifier confuses them.

Counting predicted classes is biased: a classifier that takes one lymphocyte in ten for a blast
finds blasts in every smear. Three ways to the true shares, from the answers on n cells of one
patient and from the confusions on labelled cells of other patients:

* ``inversion``: the shares π on the simplex with π C nearest to the predicted shares, where C is
  the confusion matrix (adjusted count: Gart & Buck 1966; Forman 2008);
* ``em``: the shares of largest likelihood given the calibrated probabilities (Saerens, Latinne &
  Decaestecker 2002);
* ``posterior``: a Bayesian model of the predicted classes, whose confusion matrix differs from
  patient to patient: each row is drawn for each patient from a Dirichlet distribution.

Every interval allows for the sample of cells, for the finite number of labelled cells that the
confusion matrix rests on, and for its spread between patients. ``docs/results/differential.md``
measures how often they hold the truth, and chose the default.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError, UnknownNameError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Method = Literal["posterior", "em", "inversion"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
DEFAULT: Final[Method] = "posterior"

SPREADS: Final[FloatArray] = np.geomspace(0.003, 0.5, 16)
"""Intraclass correlations of the confusions within a patient that are considered."""
SHARE_PRIOR: Final = 0.5
"""Cells of each class that the prior of a patient's shares is worth."""
ROW_PRIOR: Final = 0.5
"""Cells that the prior of a row of the mean confusion matrix is worth, spread over its columns."""
USUAL_SPREAD: Final = 0.05
"""Intraclass correlation by which the mean confusion matrix weighs units."""
WIDENINGS: Final = (1.0, 2.0, 4.0, 8.0)
"""By how much the spread between patients may be widened."""
HELD: Final = 0.97
"""Share of known patients' shares that the intervals must hold."""
MIN_CELLS, MIN_UNITS, MOST_JUDGED = 20, 8, 60
"""Fewest cells of a patient by whom, and fewest and most patients by which it is judged."""
DRAWS: Final = 200
"""Confusion matrices of a new patient that are drawn; each is a Markov chain of ``posterior``."""
_BURN_IN, _KEPT, _STEP = 30, 10, 4
_JUDGING = 24  # chains of each patient that widens the spread
_MOST_ROUNDS, _ROUGHLY = 2000, 1e-4
_TINY: Final = 1e-12


@dataclass(frozen=True, eq=False)
class Confusions:
    """How a classifier answered on labelled cells of units (patients) that it was not trained on.

    Attributes:
        counts: (U, K, K) cells of each unit: rows are true classes, columns predicted ones.
        prior: (K,) mean of their calibrated probabilities: the shares that the classifier takes
            for granted.

    Raises:
        DataError: The shapes do not fit, a count is negative or all are 0.
    """

    counts: IntArray
    prior: FloatArray

    def __post_init__(self) -> None:
        shape = self.counts.shape
        k = self.prior.size
        if shape[1:] != (k, k):
            raise DataError(f"confusions: expected counts (units, {k}, {k}), got {shape}")
        if not self.counts.size or self.counts.min() < 0 or not self.counts.sum():
            raise DataError("confusions: expected counts of 0 and more, and some above 0")
        if not (np.isfinite(self.prior).all() and (self.prior > 0).all()):
            raise DataError("confusions: expected a prior above 0 for each class")

    @classmethod
    def of(cls, y_true: ArrayLike, y_prob: ArrayLike, units: Sequence[Any]) -> Confusions:
        """Count them.

        Args:
            y_true: (n,) true classes, 0 … K - 1.
            y_prob: (n, K) calibrated probabilities.
            units: (n,) patient, or what else was held out as a whole.

        >>> found = Confusions.of([0, 0, 1], [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], ["a", "a", "b"])
        >>> found.counts.tolist(), found.prior.round(3).tolist()
        ([[[1, 1], [0, 0]], [[0, 0], [0, 1]]], [0.5, 0.5])
        """
        truth, prob = np.asarray(y_true, np.int64), np.asarray(y_prob, np.float64)
        names, member = np.unique(np.asarray(units), return_inverse=True)
        k = prob.shape[1]
        counts = np.zeros((len(names), k, k), np.int64)
        np.add.at(counts, (member, truth, prob.argmax(axis=1)), 1)
        return cls(counts, np.maximum(prob.mean(axis=0), _TINY))

    def thinned(self, most: int) -> Confusions:
        """At most so many units, evenly chosen."""
        step = -(-len(self.counts) // most)
        return Confusions(self.counts[::step], self.prior)

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        from safetensors.numpy import save

        numbers = {"counts": self.counts.astype(np.int32), "prior": self.prior}
        return bytes(save({name: np.ascontiguousarray(x) for name, x in numbers.items()}))


@dataclass(frozen=True, eq=False)
class Shares:
    """Shares of K classes in one patient.

    Attributes:
        value: (K,) estimate; sums to 1.
        draws: (D, K) draws from what the shares may be among all cells of the patient: sample of
            cells and classifier.
        cell_draws: (D, K) likewise among the very cells that were looked at: classifier alone.
        n: Number of cells.
        method: How they were adjusted.
    """

    value: FloatArray
    draws: FloatArray
    cell_draws: FloatArray
    n: int
    method: str

    def interval(
        self, classes: Sequence[int], confidence: float = 0.95, *, of_cells: bool = False
    ) -> tuple[float, float]:
        """Limits of the share of some classes together.

        Equal tails; a limit less than half a cell away from 0 or 1 is 0 or 1 (so that a class
        that is absent can be inside, as in Brown, Cai & DasGupta 2001).

        Args:
            classes: Their numbers.
            confidence: Level.
            of_cells: Of the very cells that were looked at, not of all cells of the patient.
        """
        draws = self.cell_draws if of_cells else self.draws
        total = draws[:, list(classes)].sum(axis=1)
        tail = (1 - confidence) / 2
        low, high = (float(limit) for limit in np.quantile(total, (tail, 1 - tail)))
        half = 0.5 / max(1, self.n)
        return (0.0 if low < half else low), (1.0 if high > 1 - half else min(1.0, high))

    def probability_above(self, classes: Sequence[int], threshold: float) -> float:
        """Share of the draws in which these classes together reach a threshold."""
        return float((self.draws[:, list(classes)].sum(axis=1) >= threshold).mean())


def adjust_em(y_prob: ArrayLike, prior: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """Shares of largest likelihood (Saerens, Latinne & Decaestecker 2002, equation 2.9).

    Args:
        y_prob: (n, K) calibrated probabilities of n cells.
        prior: (K,) shares under which they are calibrated.
        weights: (n,) what each cell counts for; 1 by default.

    Returns:
        (K,) shares that sum to 1.

    Nine cells in ten look like the first class with odds of 9 to 1 from even shares; then all
    cells are of the first class:

    >>> adjust_em([[0.9, 0.1]] * 9 + [[0.1, 0.9]], [0.5, 0.5]).round(3).tolist()
    [1.0, 0.0]
    >>> adjust_em([[0.9, 0.1]] * 5 + [[0.1, 0.9]] * 5, [0.5, 0.5]).round(3).tolist()
    [0.5, 0.5]
    """
    likelihood = _likelihood(y_prob, prior)[None]
    count = None if weights is None else np.asarray(weights, np.float64)[None]
    return _em(likelihood, count)[0]


def adjust_inversion(predicted: ArrayLike, confusion: ArrayLike) -> FloatArray:
    """Shares π ≥ 0 with sum 1 that make π C nearest to the predicted shares (least squares).

    Args:
        predicted: (K,) shares of the predicted classes.
        confusion: (K, K) rows are true classes and sum to 1.

    >>> adjust_inversion([0.26, 0.74], [[0.9, 0.1], [0.1, 0.9]]).round(3).tolist()
    [0.2, 0.8]
    >>> adjust_inversion([0.05, 0.95], [[0.9, 0.1], [0.1, 0.9]]).round(3).tolist()
    [0.0, 1.0]
    """
    from scipy.optimize import nnls

    matrix = np.asarray(confusion, np.float64)
    k = len(matrix)
    heavy = 1e3  # of the row that asks for a sum of 1
    left = np.vstack([matrix.T, np.full(k, heavy)])
    found, _ = nnls(left, np.append(np.asarray(predicted, np.float64), heavy))
    return np.asarray(found / found.sum())


class PrevalenceModel:
    """Adjusts the shares of new patients, by the confusions of known ones.

    Args:
        confusions: Of units that the classifier was not trained on.
        seed: Of the draws; the same cells give the same answer.
        method: ``posterior``, ``em`` or ``inversion``.
        draws: Number of confusion matrices that are drawn.

    Raises:
        UnknownNameError: No such method.

    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 4000)
    >>> p = np.where(rng.random(4000) < 0.9, y, 1 - y)[:, None] == np.arange(2)
    >>> model = PrevalenceModel(Confusions.of(y, np.where(p, 0.9, 0.1), np.arange(4000) // 100))
    >>> shares = model.shares([[0.9, 0.1]] * 26 + [[0.1, 0.9]] * 74)
    >>> low, high = shares.interval([0])
    >>> 0.15 < float(shares.value[0]) < 0.25, low < 0.12, high > 0.28
    (True, True, True)
    """

    def __init__(
        self,
        confusions: Confusions,
        *,
        seed: int = 0,
        method: str = DEFAULT,
        draws: int = DRAWS,
    ) -> None:
        if method not in METHODS:
            raise UnknownNameError("way to adjust shares", method, METHODS)
        self.method = method
        self.prior = confusions.prior
        self._seed = seed
        rng = np.random.default_rng(seed)
        counts = confusions.counts
        self.mean = _mean_rows(counts, np.full(len(self.prior), USUAL_SPREAD))
        self.spread = _draw_spreads(counts, self.mean, draws, rng)
        centres = np.stack([_draw_rows(counts, rho, rng) for rho in self.spread])
        strength = centres * ((1 - self.spread) / self.spread)[:, :, None]
        self.widening = _widening(counts, self.spread, rng)
        self._strength = strength / self.widening

    def using(self, method: Method) -> PrevalenceModel:
        """The same model of the classifier, with another way to adjust."""
        other = copy(self)
        other.method = method
        return other

    def shares(self, y_prob: ArrayLike, certain: ArrayLike | None = None) -> Shares:
        """Shares of the classes in one patient.

        Args:
            y_prob: (n, K) calibrated probabilities of the cells that the classifier names.
            certain: (K,) further cells whose class is known, as a person has looked at them.

        Raises:
            DataError: There is no cell, or the number of classes is another.
        """
        prob = np.asarray(y_prob, np.float64).reshape(-1, len(self.prior))
        known = np.zeros(len(self.prior)) if certain is None else np.asarray(certain, np.float64)
        n = len(prob) + round(float(known.sum()))
        if n == 0:
            raise DataError("shares: expected at least one cell")
        rng = np.random.default_rng([self._seed, n])
        if self.method == "posterior":
            draws, of_cells = self._gibbs(prob, known, rng)
            value = draws.mean(axis=0)
        else:
            value = self._estimate(prob, known)
            draws, of_cells = (self._bootstrap(prob, known, rng, resample=r) for r in (True, False))
        return Shares(value / value.sum(), draws, of_cells, n, self.method)

    def _estimate(self, prob: FloatArray, known: FloatArray) -> FloatArray:
        """The estimate of ``em`` or ``inversion``, cells that are known counted as they are."""
        if not len(prob):
            return known / known.sum()
        if self.method == "em":
            found = adjust_em(prob, self.prior)
        else:
            shares = np.bincount(prob.argmax(axis=1), minlength=len(known)) / len(prob)
            found = adjust_inversion(shares, self.mean)
        return (found * len(prob) + known) / (len(prob) + known.sum())

    def _bootstrap(
        self, prob: FloatArray, known: FloatArray, rng: np.random.Generator, *, resample: bool
    ) -> FloatArray:
        """(D, K) estimates with confusions of other patients, of a drawn sample if asked for."""
        n, total, k = len(prob), len(prob) + round(float(known.sum())), len(known)
        own = _dirichlet(self._strength, rng)
        everyone = np.concatenate([np.arange(n), np.repeat(n + np.arange(k), known.astype(int))])
        picked = np.tile(everyone, (len(own), 1))
        if resample:
            picked = everyone[rng.integers(0, total, picked.shape)]
        times = np.stack([np.bincount(row, minlength=n + k) for row in picked]).astype(float)
        certain, of_cells = times[:, n:], times[:, :n]
        called = prob.argmax(axis=1) if n else np.zeros(0, np.int64)
        if self.method == "em" and n:
            ratio = (own / self.mean)[:, :, called].transpose(0, 2, 1)
            start = (self._estimate(prob, known * 0) + 1 / n) / (1 + k / n)
            found = _em(_likelihood(prob, self.prior)[None] * ratio, of_cells, start, _ROUGHLY)
        else:
            predicted = of_cells @ np.eye(k)[called]
            rest = np.maximum(predicted.sum(axis=1, keepdims=True), 1)
            pairs = zip(predicted / rest, own, strict=True)
            found = np.stack([adjust_inversion(q, c) if q.sum() else q for q, c in pairs])
        unknown = of_cells.sum(axis=1, keepdims=True)
        return np.asarray((found * unknown + certain) / total)

    def _gibbs(
        self, prob: FloatArray, known: FloatArray, rng: np.random.Generator
    ) -> tuple[FloatArray, FloatArray]:
        """Draws of the shares, of all cells and of these, by one Markov chain a confusion matrix.

        Known cells say nothing on the confusions: a person looks at the doubtful cells first.
        """
        k, chains = len(known), len(self._strength)
        called = np.bincount(prob.argmax(axis=1), minlength=k)
        draws, of_cells = _run_chains(self._strength, np.tile(called, (chains, 1)), known, rng)
        return draws.reshape(-1, k), of_cells.reshape(-1, k)


def _run_chains(
    strength: FloatArray, predicted: IntArray, known: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Gibbs sampling of the shares behind predicted classes.

    In turn: the true classes of the cells of each predicted class, given shares and confusions;
    the shares given the true classes; the patient's confusion matrix given both.

    Args:
        strength: (B, K, K) Dirichlet parameters of the rows of each chain's confusion matrix.
        predicted: (B, K) cells of each predicted class.
        known: (K,) further cells of each true class.

    Returns:
        (D, B, K) shares, and (D, B, K) shares among the very cells.
    """
    own = _dirichlet(strength, rng)
    shares = _dirichlet(predicted + known + 1.0, rng)
    kept, kept_cells = [], []
    for turn in range(_BURN_IN + _KEPT * _STEP):
        weight = (shares[:, :, None] * own).transpose(0, 2, 1)  # (B, predicted, true)
        pairs = rng.multinomial(predicted, weight / weight.sum(axis=2, keepdims=True))
        counts = pairs.sum(axis=1) + known
        shares = _dirichlet(counts + SHARE_PRIOR, rng)
        own = _dirichlet(strength + pairs.transpose(0, 2, 1), rng)
        if turn >= _BURN_IN and (turn - _BURN_IN) % _STEP == 0:
            kept.append(shares)
            kept_cells.append(counts / counts.sum(axis=1, keepdims=True))
    return np.stack(kept), np.stack(kept_cells)


def _widening(counts: IntArray, spread: FloatArray, rng: np.random.Generator) -> float:
    """By how much known patients differ more than the Dirichlet distributions say.

    A patient's rows do not vary independently (a dark stain moves several classes towards
    blasts), and few patients understate their spread. So each known patient is judged by the
    others: the strength of the distributions is divided by the smallest of ``WIDENINGS`` with
    which the 95 % intervals of the classifier alone hold 97 % of the true shares, each weighted
    by its size: two points more than nominal, as the choice rests on few patients.
    """
    size = counts.sum(axis=(1, 2))
    units = np.flatnonzero(size >= MIN_CELLS)
    if len(units) < MIN_UNITS:
        return 1.0
    units = units[:: -(-len(units) // MOST_JUDGED)]
    picked = rng.integers(0, len(spread), (len(units), _JUDGING))
    centres = np.stack([
        _draw_rows(counts - counts[u] * _is(u, len(counts)), spread[row], rng)
        for u, rows in zip(units, picked, strict=True) for row in rows
    ])  # fmt: skip
    rho = spread[picked].reshape(-1, spread.shape[1], 1)
    predicted = np.repeat(counts[units].sum(axis=1), _JUDGING, axis=0)
    truth = counts[units].sum(axis=2) / size[units][:, None]
    none = np.zeros(counts.shape[1])
    for factor in WIDENINGS:
        _, cells = _run_chains(centres * (1 - rho) / rho / factor, predicted, none, rng)
        drawn = cells.reshape(len(cells), len(units), _JUDGING, -1).transpose(0, 2, 1, 3)
        low, high = np.quantile(drawn.reshape(-1, *truth.shape), (0.025, 0.975), axis=0)
        held = (low <= truth) & (truth <= high)
        if (held * truth).sum() >= HELD * len(units):
            return factor
    return WIDENINGS[-1]


def _is(unit: int, n: int) -> IntArray:
    """(n, 1, 1) one for a unit, zero for the others."""
    return (np.arange(n) == unit).astype(np.int64)[:, None, None]


def _likelihood(y_prob: ArrayLike, prior: ArrayLike) -> FloatArray:
    """(n, K) likelihood of each class, up to a factor a cell."""
    found = np.maximum(np.asarray(y_prob, np.float64), _TINY) / np.asarray(prior, np.float64)
    return np.asarray(found / found.max(axis=1, keepdims=True)) if len(found) else found


def _em(
    likelihood: FloatArray,
    weights: FloatArray | None,
    start: FloatArray | None = None,
    tolerance: float = 1e-8,
) -> FloatArray:
    """(B, K) shares from likelihoods (B or 1, n, K) and weights (B, n)."""
    n, k = likelihood.shape[1:]
    count = np.ones((len(likelihood), n)) if weights is None else weights
    total = np.maximum(count.sum(axis=1, keepdims=True), _TINY)
    shares = np.tile(np.full(k, 1 / k) if start is None else start, (len(count), 1))
    for _ in range(_MOST_ROUNDS):
        mixed = np.maximum((likelihood @ shares[:, :, None])[:, :, 0], _TINY)
        responsible = ((count / mixed)[:, None, :] @ likelihood)[:, 0] * shares / total
        if np.abs(responsible - shares).max() < tolerance:
            return np.asarray(responsible)
        shares = responsible
    return np.asarray(shares)


def _dirichlet(strength: FloatArray, rng: np.random.Generator) -> FloatArray:
    """One draw for each vector along the last axis."""
    drawn = np.maximum(rng.standard_gamma(np.maximum(strength, 1e-6)), 1e-300)
    return np.asarray(np.maximum(drawn / drawn.sum(axis=-1, keepdims=True), _TINY))


def _effective(counts: IntArray, spread: ArrayLike) -> FloatArray:
    """(K, K) cells that the rows rest on, once cells of one unit count less (design effect)."""
    size = counts.sum(axis=2)  # (U, K)
    weight = 1 / (1 + np.maximum(size - 1, 0) * np.asarray(spread)[None, :])
    return np.asarray((counts * weight[:, :, None]).sum(axis=0))


def _mean_rows(counts: IntArray, spread: ArrayLike) -> FloatArray:
    """(K, K) mean confusion matrix over units; rows sum to 1."""
    rows = _effective(counts, spread) + ROW_PRIOR / counts.shape[1]
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))


def _draw_rows(counts: IntArray, spread: FloatArray, rng: np.random.Generator) -> FloatArray:
    """(K, K) a mean confusion matrix that the labelled cells allow."""
    return _dirichlet(_effective(counts, spread) + ROW_PRIOR / counts.shape[1], rng)


def _draw_spreads(
    counts: IntArray, mean: FloatArray, draws: int, rng: np.random.Generator
) -> FloatArray:
    """(D, K) intraclass correlations of each row, as the units allow.

    The likelihood of a row is that of the Dirichlet-multinomial distribution; rows of few cells
    borrow from the others, which together count as much as one row.
    """
    from scipy.special import gammaln

    k = len(mean)
    fits = np.zeros((k, len(SPREADS)))
    for place, rho in enumerate(SPREADS):
        strength = mean * (1 - rho) / rho  # (K, K)
        total, size = strength.sum(axis=1), counts.sum(axis=2)
        rows = gammaln(strength + counts) - gammaln(strength)
        fits[:, place] = (rows.sum(axis=2) + gammaln(total) - gammaln(total + size)).sum(axis=0)
    fits += fits.mean(axis=0)
    chance = np.exp(fits - fits.max(axis=1, keepdims=True))
    edges = (chance / chance.sum(axis=1, keepdims=True)).cumsum(axis=1)
    place = (rng.random((draws, k, 1)) >= edges[None, :, :-1]).sum(axis=2)
    return np.asarray(SPREADS[place])
