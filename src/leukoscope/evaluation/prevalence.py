"""Shares of classes in a sample of cells, adjusted for how the classifier confuses them.

Counting predicted classes is biased: a classifier that takes one lymphocyte in ten for a blast
finds blasts in every smear. Three ways to the true shares, from the answers on n cells of one
patient and from labelled cells of other patients:

* ``em``: the shares of largest likelihood given the calibrated probabilities (Saerens, Latinne &
  Decaestecker 2002), as far from the counted ones as has served on the known patients;
* ``inversion``: the shares π on the simplex with π C nearest to the predicted shares, where C is
  the confusion matrix (adjusted count: Gart & Buck 1966; Forman 2008);
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
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from leukoscope.core.errors import DataError, UnknownNameError
from leukoscope.evaluation.confusions import TINY, Confusions, FloatArray, IntArray
from leukoscope.evaluation.statistics.limits import exact_limits

Method = Literal["em", "inversion", "posterior"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
DEFAULT: Final[Method] = "em"

STEPS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How far from the counted shares to those of EM one may go."""
SPREADS: Final[FloatArray] = np.geomspace(0.003, 0.5, 16)
"""Intraclass correlations of the confusions within a patient that are considered."""
SHARE_PRIOR: Final = 0.5
"""Cells of each class that the prior of a patient's shares is worth."""
ROW_PRIOR: Final = 0.5
"""Cells that the prior of a row of the mean confusion matrix is worth, spread over its columns."""
USUAL_SPREAD: Final = 0.05
"""Intraclass correlation by which the mean confusion matrix weighs units."""
WIDENINGS: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
"""By how much the spread between patients may be widened."""
HELD: Final = 0.97
"""Share of known patients' shares that the intervals must hold."""
MIN_CELLS, MIN_UNITS, MOST_JUDGED = 20, 8, 60
"""Fewest cells of a patient by whom, and fewest and most patients by which it is judged."""
DRAWS: Final = 2000
"""Confusion matrices of a new patient that are drawn, so that the seed hardly moves a limit."""
_OF_CERTAIN: Final = 10_000  # draws where no confusion matrix has to be inverted
_CHAINS: Final = 200  # of them that start a Markov chain of ``posterior``
_BURN_IN, _KEPT, _STEP = 30, 10, 4
_JUDGING = 100  # confusion matrices of each patient that widens the spread
_MOST_ROUNDS, _TOLERANCE = 2000, 1e-7


@dataclass(frozen=True, eq=False)
class Shares:
    """Shares of K classes in one patient.

    Attributes:
        value: (K,) estimate; sums to 1.
        draws: (D, K) draws from what the shares may be among all cells of the patient: sample of
            cells and classifier.
        estimates: (M, K) what the ways to adjust say; the interval holds them all.
        cell_draws: (D, K) likewise among the very cells that were looked at: classifier alone.
        n: Number of cells.
        method: How they were adjusted.
        certain: (K,) how many of them are known to be of each class.
    """

    value: FloatArray
    estimates: FloatArray
    draws: FloatArray
    cell_draws: FloatArray
    n: int
    method: str
    certain: FloatArray

    def interval(
        self, classes: Sequence[int], confidence: float = 0.95, *, of_cells: bool = False
    ) -> tuple[float, float]:
        """Limits of the share of some classes together.

        Equal tails of the draws, stretched to what each way to adjust says and, unless
        ``of_cells``, to the exact limits of the same share of as many cells without any error of
        the classifier (Clopper & Pearson 1934): errors make no sample larger. A limit less than
        half a cell away from 0 or 1 is 0 or 1 (so that a class that is absent can be inside, as in
        Brown, Cai & DasGupta 2001), unless a cell that is known says that it cannot be.

        Args:
            classes: Their numbers.
            confidence: Level.
            of_cells: Of the very cells that were looked at, not of all cells of the patient.
        """
        draws = self.cell_draws if of_cells else self.draws
        total = draws[:, list(classes)].sum(axis=1)
        tail = (1 - confidence) / 2
        low, high = (float(limit) for limit in np.quantile(total, (tail, 1 - tail)))
        said = self.estimates[:, list(classes)].sum(axis=1)
        low, high = min(low, float(said.min())), max(high, float(said.max()))
        if not of_cells:
            share = min(1.0, float(self.value[list(classes)].sum()))
            least, most = exact_limits(self.n * share, self.n, confidence)
            low, high = min(low, least), max(high, most)
        half, seen = 0.5 / max(1, self.n), float(self.certain[list(classes)].sum())
        if low < half and not seen:
            low = 0.0
        if high > 1 - half and seen == self.certain.sum():
            high = 1.0
        return low, min(1.0, high)

    def probability_above(self, classes: Sequence[int], threshold: float) -> float:
        """Share of the draws in which these classes together reach a threshold."""
        return float((self.draws[:, list(classes)].sum(axis=1) >= threshold).mean())


def adjust_em(y_prob: ArrayLike, prior: ArrayLike) -> FloatArray:
    """Shares of largest likelihood (Saerens, Latinne & Decaestecker 2002, equation 2.9).

    Args:
        y_prob: (n, K) calibrated probabilities of n cells.
        prior: (K,) shares under which they are calibrated.

    Returns:
        (K,) shares that sum to 1.

    Nine cells in ten look like the first class with odds of 9 to 1 from even shares; then all
    cells are of the first class:

    >>> adjust_em([[0.9, 0.1]] * 9 + [[0.1, 0.9]], [0.5, 0.5]).round(2).tolist()
    [1.0, 0.0]
    >>> adjust_em([[0.9, 0.1]] * 5 + [[0.1, 0.9]] * 5, [0.5, 0.5]).round(3).tolist()
    [0.5, 0.5]
    """
    likelihood = np.maximum(np.asarray(y_prob, np.float64), TINY) / np.asarray(prior, np.float64)
    likelihood /= likelihood.max(axis=1, keepdims=True)
    n, k = likelihood.shape
    shares = np.full(k, 1 / k)
    for _ in range(_MOST_ROUNDS):
        updated = shares * (likelihood.T @ (1 / np.maximum(likelihood @ shares, TINY))) / n
        if np.abs(updated - shares).max() < _TOLERANCE:
            return np.asarray(updated)
        shares = updated
    return np.asarray(shares)


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
    wanted, matrix = np.asarray(predicted, np.float64), np.asarray(confusion, np.float64)
    return np.asarray(_inversions(wanted[None], matrix[None])[0])


def _inversions(predicted: FloatArray, confusion: FloatArray) -> FloatArray:
    """(D, K) shares of :func:`adjust_inversion`, each with its own confusion matrix (D, K, K)."""
    from scipy.optimize import nnls

    count, k = predicted.shape
    heavy = 1e3  # of the row that asks for a sum of 1
    left = np.full((count, k + 1, k), heavy)
    left[:, :k] = confusion.transpose(0, 2, 1)
    right = np.full((count, k + 1), heavy)
    right[:, :k] = predicted
    found = np.stack([nnls(*system)[0] for system in zip(left, right, strict=True)])
    return np.asarray(found / found.sum(axis=1, keepdims=True))


def check_method(name: str) -> Method:
    """A way to adjust shares by its name.

    Raises:
        UnknownNameError: There is none of that name.
    """
    for method in METHODS:
        if method == name:
            return method
    raise UnknownNameError("way to adjust shares", name, METHODS)


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
        self.method = check_method(method)
        self.prior = confusions.prior
        self._seed = seed
        rng = np.random.default_rng(seed)
        counts = confusions.counts
        self.mean = _mean_rows(counts, np.full(len(self.prior), USUAL_SPREAD))
        self.spread = _draw_spreads(counts, self.mean, draws, rng)
        known = _judged(counts)
        self.step = _choose_step(confusions, known)
        strength = _draw_strengths(counts, self.spread, rng)
        self.widening = self._choose_widening(confusions, known)
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
        if not len(prob):  # a person has looked at every cell: no classifier has a say
            drawn = rng.standard_gamma(known + 1 / len(known), (_OF_CERTAIN, len(known)))
            value, draws = known / n, drawn / drawn.sum(axis=1, keepdims=True)
            return Shares(value, value[None], draws, value[None], n, self.method, known)
        if self.method == "posterior":
            draws, of_cells = self._gibbs(prob, known, rng)
            value = draws.mean(axis=0)
            estimates = value[None]
        else:
            estimates = self._estimates(prob, known)
            value = estimates[0]
            own = _dirichlet(self._strength, rng)
            draws, of_cells = (
                self._bootstrap(prob, known, own, rng if r else None) for r in (1, 0)
            )
        return Shares(value / value.sum(), estimates, draws, of_cells, n, self.method, known)

    def _estimates(self, prob: FloatArray, known: FloatArray) -> FloatArray:
        """(M, K) the estimate of the method first; cells that are known counted as they are."""
        n, total = len(prob), len(prob) + known.sum()
        if not n:
            return np.asarray((known / total)[None])
        counted = np.bincount(prob.argmax(axis=1), minlength=len(known)) / n
        found = [adjust_inversion(counted, self.mean)]
        if self.method == "em":
            em = adjust_em(prob, self.prior)
            found = [counted + self.step * (em - counted), em, *found]
        return np.asarray((np.stack(found) * n + known) / total)

    def _bootstrap(
        self,
        prob: FloatArray,
        known: FloatArray,
        own: FloatArray,
        rng: np.random.Generator | None,
    ) -> FloatArray:
        """(D, K) inversions with confusions of other patients.

        Args:
            prob: (n, K) of the cells.
            known: (K,) cells whose class is known.
            own: (D, K, K) confusion matrices.
            rng: Draws the shares behind the cells for each, by a Dirichlet posterior whose prior
                weighs one cell in all (Berger, Bernardo & Sun 2015), so that a class none of few
                cells is called may still be there; None takes the very cells.
        """
        k, n = len(known), len(prob)
        total = n + round(float(known.sum()))
        called = np.bincount(prob.argmax(axis=1), minlength=k) if n else np.zeros(k, np.int64)
        picked = np.tile(np.concatenate([called, known]), (len(own), 1))
        if rng is not None:
            prior = np.repeat([1 / k if n else 0.0, 0.0], k)
            drawn = rng.standard_gamma(picked[0] + prior, (len(own), 2 * k))
            picked = total * drawn / drawn.sum(axis=1, keepdims=True)
        predicted, certain = picked[:, :k], picked[:, k:]
        rest = predicted.sum(axis=1, keepdims=True)
        inverted = np.zeros_like(predicted, np.float64)
        some = rest[:, 0] > 0
        if some.any():
            inverted[some] = _inversions(predicted[some] / np.maximum(1, rest[some]), own[some])
        return np.asarray((inverted * rest + certain) / total)

    def _gibbs(
        self, prob: FloatArray, known: FloatArray, rng: np.random.Generator
    ) -> tuple[FloatArray, FloatArray]:
        """Draws of the shares, of all cells and of these, by one Markov chain a confusion matrix.

        Known cells say nothing on the confusions: a person looks at the doubtful cells first.
        """
        strength = self._strength[:_CHAINS]
        k, chains = len(known), len(strength)
        called = np.bincount(prob.argmax(axis=1), minlength=k)
        draws, of_cells = _run_chains(strength, np.tile(called, (chains, 1)), known, rng)
        return draws.reshape(-1, k), of_cells.reshape(-1, k)

    def _choose_widening(self, confusions: Confusions, known: IntArray) -> float:
        """By how much known patients differ more than the Dirichlet distributions say.

        A patient's rows do not vary independently (a dark stain moves several classes towards
        blasts), and few patients understate their spread. So each known patient is judged by the
        others: the strength of the distributions is divided by the least number up to the last of
        ``WIDENINGS`` with which the 95 % intervals of the classifier alone hold 97 % of the true
        shares, each weighted by its size: two points more than nominal, as the choice rests on few
        patients. Between two of ``WIDENINGS`` it is interpolated. The draws are the same whatever
        the seed: one patient in or out of an interval by luck would move the limits of all.
        """
        if not len(known):
            return 1.0
        rng = np.random.default_rng(0)
        spread = _draw_spreads(confusions.counts, self.mean, _JUDGING, rng)
        drawn = [
            _draw_strengths(np.delete(confusions.counts, unit, axis=0), spread, rng)
            for unit in known
        ]
        reached = 0.0
        for place, factor in enumerate(WIDENINGS):
            held = sum(
                self._held(confusions, unit, strength / factor, rng)
                for unit, strength in zip(known, drawn, strict=True)
            ) / len(known)
            if held >= HELD:
                if place == 0:
                    return factor
                before = WIDENINGS[place - 1]
                return float(before * (factor / before) ** ((HELD - reached) / (held - reached)))
            reached = held
        return WIDENINGS[-1]

    def _held(
        self, confusions: Confusions, unit: int, strength: FloatArray, rng: np.random.Generator
    ) -> float:
        """Sum of the true shares of one unit that their intervals hold."""
        prob, nobody = confusions.y_prob[confusions.unit == unit], np.zeros(len(self.prior))
        drawn = self._bootstrap(prob, nobody, _dirichlet(strength, rng), None)
        low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
        truth = confusions.counts[unit].sum(axis=1) / len(prob)
        half = 0.5 / len(prob)
        said = self._estimates(prob, nobody)
        low = np.minimum(low, said.min(axis=0))
        high = np.maximum(high, said.max(axis=0))
        inside = (np.where(low < half, 0, low) <= truth) & (truth <= high + half)
        return float(truth[inside].sum())


def _judged(counts: IntArray) -> IntArray:
    """Numbers of the known patients on whom choices rest; none where there are too few."""
    units = np.flatnonzero(counts.sum(axis=(1, 2)) >= MIN_CELLS)
    if len(units) < MIN_UNITS:
        return units[:0]
    return units[:: -(-len(units) // MOST_JUDGED)]


def _choose_step(confusions: Confusions, known: IntArray) -> float:
    """How far to go from counted shares to those of EM, by the error on the known patients.

    Where patients differ little, EM takes the bias away; where they differ much, its probabilities
    are wrong for a whole patient, and half of the way is better than all of it. The whole way is
    the rule: it is the largest step whose mean error is within one standard error of the
    smallest (Breiman et al. 1984, section 3.4.3).
    """
    if not len(known):
        return 1.0
    errors = np.zeros((len(known), len(STEPS)))
    for row, unit in enumerate(known):
        cells = confusions.unit == unit
        prob, k = confusions.y_prob[cells], confusions.y_prob.shape[1]
        truth = np.bincount(confusions.y_true[cells], minlength=k) / len(prob)
        counted = np.bincount(prob.argmax(axis=1), minlength=k) / len(prob)
        way = adjust_em(prob, confusions.prior) - counted
        errors[row] = [np.abs(counted + step * way - truth).sum() for step in STEPS]
    more = errors - errors[:, [errors.mean(axis=0).argmin()]]
    tolerated = more.mean(axis=0) <= more.std(axis=0, ddof=1) / len(known) ** 0.5
    return max(step for step, fits in zip(STEPS, tolerated, strict=True) if fits)


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


def _dirichlet(strength: FloatArray, rng: np.random.Generator) -> FloatArray:
    """One draw for each vector along the last axis."""
    drawn = np.maximum(rng.standard_gamma(np.maximum(strength, 1e-6)), 1e-300)
    return np.asarray(np.maximum(drawn / drawn.sum(axis=-1, keepdims=True), TINY))


def _effective(counts: IntArray, spread: ArrayLike) -> FloatArray:
    """(K, K) cells that the rows rest on, once cells of one unit count less (design effect)."""
    size = counts.sum(axis=2)  # (U, K)
    weight = 1 / (1 + np.maximum(size - 1, 0) * np.asarray(spread)[None, :])
    return np.asarray((counts * weight[:, :, None]).sum(axis=0))


def _mean_rows(counts: IntArray, spread: ArrayLike) -> FloatArray:
    """(K, K) mean confusion matrix over units; rows sum to 1."""
    rows = _effective(counts, spread) + ROW_PRIOR / counts.shape[1]
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))


def _draw_strengths(counts: IntArray, spread: FloatArray, rng: np.random.Generator) -> FloatArray:
    """(D, K, K) Dirichlet parameters of a new patient: one for each of the (D, K) ``spread``.

    The mean confusion matrix of each is drawn from those that the labelled cells allow.
    """
    rows = np.stack([_effective(counts, rho) for rho in spread]) + ROW_PRIOR / counts.shape[1]
    return np.asarray(_dirichlet(rows, rng) * ((1 - spread) / spread)[:, :, None])


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
