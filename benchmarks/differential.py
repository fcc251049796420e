"""Tables of docs/results/differential.md: how far adjusted shares can be trusted.

python benchmarks/differential.py [--studies 4]

Simulated cells of six classes, of which the first stands for blasts, are classified from six
measurements. The measurements of a patient are shifted as a whole and class by class, so that
the classifier errs differently on each patient; its confusions are known from other patients.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from leukoscope.evaluation.calibration.scaling import apply_temperature, fit_temperature
from leukoscope.evaluation.confusions import Confusions
from leukoscope.evaluation.prevalence import METHODS, PrevalenceModel, Shares

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
CLASSES: Final = 6
ACCURACIES: Final = (0.70, 0.85, 0.95)
SPREADS: Final = {"none": 0.0, "moderate": 0.4, "strong": 0.8}
"""Standard deviation of a patient's shift; cells of one class have 1."""
SIZES: Final = (100, 200, 500)
BLASTS: Final = (0.0, 0.05, 0.2, 0.5, 0.9)
PATIENTS: Final = (25, 60)
"""Patients of known cells, and cells of each."""
COUNTED: Final = "counted"
"""Predicted classes counted as they are, with Wilson's interval for the sample."""


@dataclass(frozen=True)
class World:
    """A classifier and the patients it meets.

    Attributes:
        means: (K, K) mean measurements of each class.
        spread: Of the shifts of patients.
    """

    means: FloatArray
    spread: float

    def cells(self, y: IntArray, rng: np.random.Generator) -> FloatArray:
        """(n, K) logits of the cells of one patient."""
        shift = rng.normal(0, self.spread / np.sqrt(2), (1 + CLASSES, CLASSES))
        return self.logits(y, shift[0] + shift[1 + y], rng)

    def logits(self, y: IntArray, shift: FloatArray, rng: np.random.Generator) -> FloatArray:
        """(n, K) logits of cells whose measurements are shifted by (n, K)."""
        seen = self.means[y] + shift + rng.normal(size=shift.shape)
        return np.asarray(seen @ self.means.T - (self.means**2).sum(axis=1) / 2)


def world_of(accuracy: float, spread: float) -> World:
    """Classes as far apart as gives this accuracy over many patients; neighbours lie closer."""
    shape = np.eye(CLASSES) + 0.6 * np.roll(np.eye(CLASSES), 1, axis=1)
    low, high = 0.1, 12.0
    for _ in range(12):
        scale = (low + high) / 2
        found = accuracy_of(World(scale * shape, spread))
        low, high = (scale, high) if found < accuracy else (low, scale)
    return World((low + high) / 2 * shape, spread)


def accuracy_of(world: World) -> float:
    """Mean over 4,000 patients of one cell."""
    rng = np.random.default_rng(5)
    y = rng.integers(0, CLASSES, 4000)
    shift = rng.normal(0, world.spread, (len(y), CLASSES))
    return float((world.logits(y, shift, rng).argmax(axis=1) == y).mean())


def study_of(world: World, rng: np.random.Generator) -> tuple[Confusions, float]:
    """The confusions on patients that the classifier was not trained on, and its temperature."""
    patients, cells = PATIENTS
    truth = [rng.choice(CLASSES, cells, p=rng.dirichlet(np.ones(CLASSES))) for _ in range(patients)]
    logits = np.concatenate([world.cells(y, rng) for y in truth])
    y, units = np.concatenate(truth), np.repeat(np.arange(patients), cells)
    temperature = fit_temperature(logits, y)
    return Confusions.of(y, apply_temperature(logits, temperature), units), temperature


def counted(prob: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Shares of the predicted classes, with Wilson's limits."""
    n, z = len(prob), 1.959964
    share = np.bincount(prob.argmax(axis=1), minlength=prob.shape[1]) / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return share, centre - half, centre + half


@dataclass(frozen=True)
class Outcome:
    """One patient by one method: truth, estimate and limits of each class; blasts are first."""

    truth: FloatArray
    value: FloatArray
    low: FloatArray
    high: FloatArray

    @property
    def held(self) -> NDArray[np.bool_]:
        """(K,) whether the interval holds the truth."""
        return (self.low - 1e-9 <= self.truth) & (self.truth <= self.high + 1e-9)


def outcome(truth: FloatArray, shares: Shares, *, of_cells: bool = False) -> Outcome:
    """The shares of one patient beside the truth."""
    limits = [shares.interval([k], of_cells=of_cells) for k in range(len(truth))]
    low, high = np.array(limits).T
    return Outcome(truth, shares.value, low, high)


def simulate(accuracy: float, spread: float, studies: int) -> Iterator[tuple[str, int, Outcome]]:
    """Outcomes as (method, size, outcome): for each study one patient of each share and size."""
    world = world_of(accuracy, spread)
    rng = np.random.default_rng(int(1000 * accuracy + 10 * spread))
    for _ in range(studies):
        confusions, temperature = study_of(world, rng)
        fitted = PrevalenceModel(confusions, draws=100)
        models = [fitted.using(method) for method in METHODS]
        for blasts in BLASTS:
            others = rng.dirichlet(np.ones(CLASSES - 1))
            truth = np.concatenate([[blasts], (1 - blasts) * others])
            for size in SIZES:
                y = rng.choice(CLASSES, size, p=truth)
                prob = apply_temperature(world.cells(y, rng), temperature)
                yield COUNTED, size, Outcome(truth, *counted(prob))
                for model in models:
                    yield model.method, size, outcome(truth, model.shares(prob))


def summary(outcomes: Sequence[Outcome]) -> str:
    """Coverage of all classes · of blasts · error of blasts in points."""
    each = np.mean([one.held.mean() for one in outcomes])
    blasts = np.mean([one.held[0] for one in outcomes])
    error = 100 * np.mean([abs(one.value[0] - one.truth[0]) for one in outcomes])
    return f"{each:.3f} · {blasts:.3f} · {error:.1f}"


def table(lines: list[str], head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Append one table in Markdown."""
    lines += ["", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]


def simulated(studies: int) -> list[str]:
    """The tables of the simulation."""
    start, lines = time.process_time(), [HEAD]
    ways = (COUNTED, *METHODS)
    by_size: dict[tuple[str, int], list[Outcome]] = defaultdict(list)
    by_share: dict[tuple[str, float], list[Outcome]] = defaultdict(list)
    rows = []
    for accuracy in ACCURACIES:
        for name, spread in SPREADS.items():
            found: dict[str, list[Outcome]] = defaultdict(list)
            for method, size, one in simulate(accuracy, spread, studies):
                found[method].append(one)
                by_size[method, size].append(one)
                by_share[method, float(one.truth[0])].append(one)
            rows.append([f"{accuracy:.2f}", name, *(summary(found[m]) for m in ways)])
    lines.append(BY_SETTING)
    table(lines, ("accuracy", "spread between patients", *ways), rows)
    lines.append("\n**By number of cells**, over all of these classifiers:")
    table(lines, ("cells", *ways), [
        [str(n), *(summary(by_size[m, n]) for m in ways)] for n in SIZES
    ])  # fmt: skip
    lines.append("\n**By share of blasts**, likewise:")
    table(lines, ("blasts", *ways), [
        [f"{share:.0%}", *(summary(by_share[m, share]) for m in ways)] for share in BLASTS
    ])  # fmt: skip
    lines.append(f"\n{time.process_time() - start:.0f} s of one core.")
    return lines


HEAD = """\
Cells of six classes, of which the first stands for blasts, are told apart by a simulated classifier
that is right in 70, 85 or 95 %. Its errors are known from 25 patients of 60 cells each, and differ
between patients not at all, moderately or strongly: all measurements of a patient are shifted, as a
whole and class by class, by a standard deviation of 0, 0.4 or 0.8 of that within a class. The
patients that are judged have 0, 5, 20, 50 or 90 % of blasts (the 25 known ones mostly below 50 %)
and 100, 200 or 500 cells. *Counted* takes the predicted classes as they are, with Wilson's interval
for the sample; the others are the ways to adjust of [`count`](../counting.md).
"""
BY_SETTING = """**Coverage of the 95 % interval of each class · of blasts · mean absolute error of \
the blast share in percentage points**"""


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=4, help="of each classifier (default 4)")
    print("\n".join(simulated(parser.parse_args().studies)))


if __name__ == "__main__":
    main()
