"""Tables of docs/results/intervals.md: how often the intervals of a study hold the truth.

python benchmarks/intervals.py [--repetitions 240] [--part trainings]

Groups of 20–90 images (the 17 unequal ones of 5–600) whose accuracies or scores vary from group to
group are simulated. "before" is the percentile bootstrap over groups; "now" is what a study prints.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from leukoscope.evaluation.calibration.errors import ece_by_chance
from leukoscope.evaluation.statistics.forecast import cohort_interval, cohort_metric_interval
from leukoscope.evaluation.statistics.intervals import Resampling, bootstrap_metrics
from leukoscope.evaluation.statistics.limits import ece_gaps, proportion_limits
from leukoscope.evaluation.statistics.metrics import weighted_metrics

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Sample = tuple[IntArray, FloatArray, IntArray]  # true classes, probabilities, groups

SETTINGS = ("10", "17 unequal", "20", "25", "50")
ACCURACIES = (0.7, 0.8, 0.9, 0.95, 0.99)
CORRELATIONS = (0.1, 0.2, 0.3)
CLASSES = ("healthy", "all")
METRICS = ("roc_auc", "balanced_accuracy", "macro_f1", "weighted_f1", "log_loss")
RARE = (("40 and 6", 46, 40), ("60 and 22", 82, 60), ("95 and 5", 100, 95))
"""Patients of one class each: title, all, and the first that is ill."""
SIGNALS = ((1.2, 0.8), (2.2, 1.2))  # distance of the classes, spread between groups
PATIENTS = (
    1, 1, 1, .997, .974, .949, .945, .921, .88, .774, .706, .637, .395, .232,
)  # fmt: skip
DESIGNS = ((32, 4.0, 1.0), (32, 4.0, 2.0), (200, 5.0, 1.0))
"""Features, distance of the classes along the first, standard deviation of patients in each."""
REPLICATES = 400
TAILS = (0.025, 0.975)


def main() -> None:
    """Print every table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=240, help="a cell (default 240)")
    parts = {
        "proportions": (proportions, 2.0),
        "trainings": (trainings, 2.0),
        "cross-validation": (cross_validation, 0.5),
        "ranked": (ranked, 1.0),
        "next-units": (next_units, 1.0),
        "ranked-cohorts": (ranked_cohorts, 1.0),
        "calibration": (calibration, 0.5),
    }
    parser.add_argument("--part", choices=parts, action="append", help="some tables only")
    options = parser.parse_args()
    start = time.process_time()
    for part in options.part or parts:
        make, share = parts[part]
        make(int(share * options.repetitions))
    print(f"\n{time.process_time() - start:.0f} s of one core in all.")


def table(
    caption: str, repetitions: int, head: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """One table with its number of repetitions and the Monte-Carlo error that goes with it."""
    error = (0.95 * 0.05 / repetitions) ** 0.5
    print(f"\n**{caption}** ({repetitions:,} repetitions a cell; Monte-Carlo error ±{error:.3f} "
          f"at .95)\n\n| {' | '.join(head)} |\n|{' --- |' * len(head)}")  # fmt: skip
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def sizes_of(setting: str, rng: np.random.Generator) -> IntArray:
    """(G,) images of each group."""
    if setting in {name for name, *_ in RARE}:
        return rng.integers(20, 91, next(number for name, number, _ in RARE if name == setting))
    if setting == "17 unequal":
        return np.round(np.exp(rng.normal(3.5, 0.9, 17))).clip(5, 600).astype(np.int64)
    return rng.integers(20, 91, int(setting))


def proportions(repetitions: int) -> None:
    """Accuracy: beta-distributed per group."""
    rows = []
    for accuracy in ACCURACIES:
        cells = [f"{accuracy:.2f}"]
        for setting in SETTINGS:
            found = [_proportion(setting, accuracy, c, repetitions) for c in CORRELATIONS]
            cells.append(" · ".join(f"{min(column):.3f}" for column in zip(*found, strict=True)))
        rows.append(cells)
    table("Accuracy, before · now: lowest coverage among intraclass correlations of .1, .2, .3",
          repetitions, ("accuracy", *(f"{s} groups" for s in SETTINGS)), rows)  # fmt: skip


def _proportion(setting: str, accuracy: float, icc: float, repetitions: int) -> tuple[float, float]:
    rng, held = np.random.default_rng(int(1000 * accuracy + 10 * icc)), []
    common = 1 / icc - 1
    for _ in range(repetitions):
        n = sizes_of(setting, rng)
        k = rng.binomial(n, rng.beta(accuracy * common, (1 - accuracy) * common, len(n)))
        drawn = rng.multinomial(len(n), np.full(len(n), 1 / len(n)), REPLICATES)
        old = np.quantile(drawn @ k / (drawn @ n), TAILS)
        new = proportion_limits(
            k.astype(float), n.astype(float), [np.arange(len(n))], confidence=0.95
        )
        held.append([low <= accuracy <= high for low, high in (old, new)])
    before, now = np.mean(held, axis=0)
    return float(before), float(now)


def trainings(repetitions: int) -> None:
    """Accuracy where each of five models, by the luck of its training, is better or worse."""
    rows = []
    for spread in (0.0, 0.3, 0.6):
        found = [_training(groups, spread, repetitions) for groups in (10, 20, 25, 50)]
        rows.append([f"{spread:.1f}", *(f"{a:.3f} · {b:.3f} ({w:.2f})" for a, b, w in found)])
    table(
        "Accuracy .9 by five models whose log odds of being right vary: coverage by groups alone · "
        "with the training (and how much wider)",
        repetitions, ("standard deviation", "10 groups", "20 groups", "25 groups", "50 groups"),
        rows,
    )  # fmt: skip


def _training(groups: int, spread: float, repetitions: int) -> tuple[float, float, float]:
    rng, held, widths = np.random.default_rng(17), [], []
    spreads = (spread, 0.7)  # of models, and of groups
    many = 2.2 + rng.normal(0, np.hypot(*spreads), 1_000_000)
    truth = float((1 / (1 + np.exp(-many))).mean())
    for _ in range(repetitions):
        n, model = sizes_of(str(groups), rng), np.arange(groups) % 5
        odds = 2.2 + rng.normal(0, spread, 5)[model] + rng.normal(0, spreads[1], groups)
        k = rng.binomial(n, 1 / (1 + np.exp(-odds)))
        own = model == np.arange(5)[:, None]
        without = (k.sum() - own @ k) / (n.sum() - own @ n)
        hits, trials, strata = k.astype(float), n.astype(float), [np.arange(groups)]
        limits = [
            proportion_limits(hits, trials, strata, confidence=0.95, without_fit=fits)
            for fits in (None, without)
        ]
        held.append([low <= truth <= high for low, high in limits])
        widths.append([high - low for low, high in limits])
    plain, both = np.mean(held, axis=0)
    width = np.mean(widths, axis=0)
    return float(plain), float(both), float(width[1] / width[0])


def scores(
    setting: str, signal: tuple[float, float], rng: np.random.Generator, groups: int = 0
) -> Sample:
    """Two classes mixed in every group, but of patients of one class; each shifts its scores."""
    distance, between = signal
    sizes = np.concatenate([sizes_of(setting, rng) for _ in range(max(1, groups))])
    member = np.repeat(np.arange(len(sizes)), sizes)
    y = rng.integers(0, 2, len(member))
    for name, number, first in RARE:
        y = (member % number >= first).astype(np.int64) if setting == name else y
    shift = rng.normal(0, between, len(sizes))[member]
    score = (2 * y - 1) * distance + shift + rng.normal(0, 1, len(member))
    p = 1 / (1 + np.exp(-2 * distance / (1 + between**2) * score))
    return y, np.column_stack([1 - p, p]), member


def cross_validation(repetitions: int) -> None:
    """Accuracy and ROC AUC pooled over folds, whose models share patients: does it hold a new one?

    The truth of a repetition is what the model fitted on all patients has on 600 new ones.
    """
    rows = []
    for patients, folds in ((24, 10), (48, 2), (48, 5), (48, 10), (48, 24), (120, 10)):
        cells = [f"{patients} patients, {folds} folds"]
        for width, signal, spread in DESIGNS:
            held = _cross_validated(patients, folds, width, (signal, spread), repetitions)
            cells += [f"{a:.2f} · {b:.2f}" for a, b in held]
        rows.append(cells)
    columns = [
        f"{metric}, {width} features, patients {spread:g} apart"
        for width, _, spread in DESIGNS
        for metric in ("accuracy", "ROC AUC")
    ]
    table("Cross-validated values, by the spread between groups · with the factor for shared "
          "training: coverage of what the model of all patients has", repetitions,
          ("study", *columns), rows)  # fmt: skip


def _cross_validated(
    patients: int, folds: int, width: int, effect: tuple[float, float], repetitions: int
) -> FloatArray:
    """(2, 2) coverage of accuracy and ROC AUC, without and with the factor."""
    rng, found = np.random.default_rng([patients, folds, width]), []
    new = _cells(600, width, effect, rng)
    for _ in range(repetitions):
        x, y, member = _cells(patients, width, effect, rng)
        turn = np.empty(patients, np.int64)
        turn[np.concatenate([rng.permutation(np.arange(k, patients, 2)) for k in (0, 1)])] = (
            np.arange(patients) % folds
        )
        p = np.empty((len(y), 2))
        for fold in range(folds):
            test = turn[member] == fold
            p[test] = _answers(x[~test], y[~test], x[test])
        names = ("accuracy", "roc_auc")
        truth = weighted_metrics(
            new[1], _answers(x, y, new[0]), CLASSES, np.ones((1, len(new[1]))), names
        )
        ways = [
            bootstrap_metrics(y, p, CLASSES, groups=member, names=names, folds=n)
            for n in (1, folds)
        ]
        found.append([[w[n].low <= truth[n][0] <= w[n].high for w in ways] for n in names])
    return np.mean(found, axis=0)


def _cells(
    patients: int, width: int, effect: tuple[float, float], rng: np.random.Generator
) -> tuple[FloatArray, IntArray, IntArray]:
    """Eight cells of each patient: features, classes, and whose they are."""
    signal, spread = effect
    member = np.repeat(np.arange(patients), 8)
    own = rng.normal(0, spread, (patients, width))
    own[:, 0] += signal * (np.arange(patients) % 2)
    return own[member] + rng.normal(0, 1, (len(member), width)), member % 2, member


def _answers(x: FloatArray, y: IntArray, new: FloatArray) -> FloatArray:
    """(m, 2) probabilities of a ridge classifier."""
    from scipy.special import expit
    from sklearn.linear_model import RidgeClassifier

    p = expit(2 * RidgeClassifier(alpha=10.0).fit(x, y).decision_function(new))
    return np.column_stack([1 - p, p])


def ranked(repetitions: int) -> None:
    """Other metrics than accuracy, of groups that mix classes and of patients of one class."""
    _ranked_table("Other metrics, before · now: coverage", SETTINGS, "groups", repetitions)
    settings = [name for name, *_ in RARE]
    title = "The same metrics of healthy and ill patients, before · now: coverage"
    _ranked_table(title, settings, "patients", repetitions)


def _ranked_table(title: str, settings: Sequence[str], unit: str, repetitions: int) -> None:
    rows = []
    for signal in SIGNALS:
        found = {}
        for s in settings:
            y, p, _ = scores("50" if unit == "groups" else s, signal, np.random.default_rng(7), 100)
            whole = weighted_metrics(y, p, CLASSES, np.ones((1, len(y))), METRICS)
            truth = {name: float(value[0]) for name, value in whole.items()}
            held = _ranked(s, signal, truth, repetitions)
            found[s] = {n: (truth[n], *held[n]) for n in METRICS}
        for name in METRICS:
            cells = [found[s][name] for s in settings]
            if unit == "groups":
                texts = [f"{cells[0][0]:.3f}", *(f"{o:.3f} · {n:.3f}" for _, o, n in cells)]
            else:
                texts = [f"{t:.3f}: {o:.3f} · {n:.3f}" for t, o, n in cells]
            rows.append([name, *texts])
    head = ("metric", "truth") if unit == "groups" else ("metric, its truth in each cell",)
    table(title, repetitions, (*head, *(f"{s} {unit}" for s in settings)), rows)


def _ranked(
    setting: str, signal: tuple[float, float], truth: dict[str, float], repetitions: int
) -> dict[str, tuple[float, float]]:
    rng = np.random.default_rng(11)
    held: dict[str, list[list[bool]]] = {name: [] for name in truth}
    for _ in range(repetitions):
        y, p, member = scores(setting, signal, rng)
        how = {"replicates": REPLICATES // 2, "seed": int(rng.integers(1 << 30))}
        new = bootstrap_metrics(y, p, CLASSES, groups=member, names=METRICS, **how)
        drawn = [
            weighted_metrics(y, p, CLASSES, w, METRICS)
            for w in Resampling.of(member, y, **how).weights()
        ]
        for name, value in truth.items():
            old = np.quantile(np.concatenate([d[name] for d in drawn]), TAILS)
            limits = (old, (new[name].low, new[name].high))
            held[name].append([bool(low <= value <= high) for low, high in limits])
    return {name: tuple(np.mean(rows, axis=0)) for name, rows in held.items()}


def spreads() -> Iterator[tuple[str, Callable[[np.random.Generator, int], FloatArray]]]:
    """How accuracies vary between groups."""
    for mean, icc in ((0.8, 0.2), (0.9, 0.1), (0.95, 0.3)):
        yield f"beta, mean {mean}, correlation {icc}", partial(_beta, mean, 1 / icc - 1)
    yield "logit-normal, median .95", lambda rng, n: 1 / (1 + np.exp(-rng.normal(3, 2, n)))
    yield (
        "four of five .97, one .4",
        lambda rng, n: np.where(rng.random(n) < 0.8, rng.beta(60, 2, n), rng.beta(5, 7, n)),
    )
    yield "14 patients of C-NMC, drawn from", lambda rng, n: rng.choice(PATIENTS, n)


def _beta(mean: float, common: float, rng: np.random.Generator, n: int) -> FloatArray:
    return rng.beta(mean * common, (1 - mean) * common, n)


def next_units(repetitions: int) -> None:
    """The next group, and the mean over the next eight."""
    rows = []
    for name, draw in spreads():
        cells = [name]
        for setting in ("10", "20", "25", "50"):
            pair = (_next(setting, draw, count, repetitions) for count in (1, 8))
            cells += [" · ".join(pair)]
        rows.append(cells)
    table(
        "Prediction interval for the accuracy on the next group · on the next eight: coverage "
        "(mean width)",
        repetitions,
        ("accuracies of groups", "10 groups", "20 groups", "25 groups", "50 groups"),
        rows,
    )


def _next(
    setting: str,
    draw: Callable[[np.random.Generator, int], FloatArray],
    count: int,
    repetitions: int,
) -> str:
    rng, held, width = np.random.default_rng(5), [], []
    for _ in range(repetitions):
        n = sizes_of(setting, rng)
        k = rng.binomial(n, draw(rng, len(n)))
        right = np.concatenate([np.arange(size) < hits for size, hits in zip(n, k, strict=True)])
        found = cohort_interval(
            right, np.repeat(np.arange(len(n)), n), count=count, seed=int(rng.integers(1 << 30))
        )
        images = rng.integers(20, 91, (20, count))
        hits = rng.binomial(images, draw(rng, 20 * count).reshape(20, count))
        accuracy = hits.sum(axis=1) / images.sum(axis=1)
        held.append(((found.low <= accuracy) & (accuracy <= found.high)).mean())
        width.append(found.high - found.low)
    return f"{np.mean(held):.3f} ({np.mean(width):.2f})"


def ranked_cohorts(repetitions: int) -> None:
    """ROC AUC pooled over the next ten groups."""
    rows = []
    for signal in SIGNALS:
        cells = [f"classes {signal[0]} apart, groups {signal[1]}"]
        for setting in ("10", "20", "25", "50"):
            rng, held = np.random.default_rng(3), []
            for _ in range(repetitions):
                y, p, member = scores(setting, signal, rng)
                found = cohort_metric_interval(y, p, CLASSES, member, count=10)
                for _ in range(5):
                    new = scores("10", signal, rng)
                    area = weighted_metrics(new[0], new[1], CLASSES, np.ones((1, len(new[0]))),
                                            ["roc_auc"])["roc_auc"][0]  # fmt: skip
                    held.append(found.low <= area <= found.high)
            cells.append(f"{np.mean(held):.3f}")
        rows.append(cells)
    table("Prediction interval for the ROC AUC over the next ten groups: coverage", repetitions,
          ("scores", "10 groups", "20 groups", "25 groups", "50 groups"), rows)  # fmt: skip


def calibration(repetitions: int) -> None:
    """ECE: calibrated models, and those that are too sure."""
    rows = []
    for name, sure, between in (
        ("calibrated", 1.0, 0.0), ("calibrated, groups vary", 1.0, 0.8), ("too sure", 2.0, 0.0),
        ("too sure, groups vary", 2.0, 0.8),
    ):  # fmt: skip
        for groups in (10, 25, 50):
            cells = _calibration(sure, between, groups, repetitions)
            rows += [[name, str(groups), *cells]]
    table("ECE with 15 bins, groups of 80 images", repetitions,
          ("model", "groups", "true ECE", "measured", "debiased", "covered before · now",
           "within the band of a calibrated model"), rows)  # fmt: skip


def _confident(
    sure: float, between: float, groups: int, rng: np.random.Generator
) -> tuple[Sample, FloatArray]:
    """Right with the probability that the model, ``sure`` times too sure, says; and that truth."""
    member = np.repeat(np.arange(groups), 80)
    base = rng.normal(1.5, 1, len(member))
    shift = rng.normal(0, between, groups)[member]
    # Averaged over groups the outcomes follow the probit curve, which the model knows.
    from scipy.stats import norm

    chance = norm.cdf(base * (1 + between**2) ** 0.5 + shift)
    known = norm.cdf(np.abs(base))
    right = np.where(base > 0, rng.random(len(member)) < chance, rng.random(len(member)) > chance)
    odds = (known / (1 - known)) ** sure
    said = np.minimum(odds / (1 + odds), 1 - 1e-9)
    return ((~right).astype(np.int64), np.column_stack([said, 1 - said]), member), known


def _calibration(sure: float, between: float, groups: int, repetitions: int) -> list[str]:
    rng, found = np.random.default_rng(13), []
    (_, p, _), known = _confident(sure, between, 5000, rng)
    truth = _binned(p, known)
    for _ in range(repetitions):
        (y, p, member), _ = _confident(sure, between, groups, rng)
        how = {"replicates": REPLICATES, "seed": int(rng.integers(1 << 30))}
        new = bootstrap_metrics(y, p, CLASSES, groups=member, names=["ece"], **how)["ece"]
        band = ece_by_chance(y, p, groups=[str(g) for g in member], **how)
        draws = Resampling.of(member, y, **how)
        gaps = ece_gaps(y, p)
        old = np.quantile(
            np.concatenate([np.abs(w @ gaps).sum(axis=1) / len(y) for w in draws.weights()]), TAILS
        )
        found.append([
            band["ece"], band["debiased"], old[0] <= truth <= old[1],
            new.low <= truth + 1e-9 and truth <= new.high, band["explained"],
        ])  # fmt: skip
    measured, debiased, before, now, explained = np.mean(found, axis=0)
    return [f"{truth:.3f}", f"{measured:.3f}", f"{debiased:.3f}", f"{before:.3f} · {now:.3f}",
            f"{explained:.3f}"]  # fmt: skip


def _binned(p: FloatArray, known: FloatArray) -> float:
    """The ECE without chance: probabilities said against those that are true."""
    place = np.clip(np.ceil(p.max(axis=1) * 15).astype(int) - 1, 0, 14)
    top = p[:, 0]
    gap = np.bincount(place, weights=known - top, minlength=15)
    return float(np.abs(gap).sum() / len(top))


if __name__ == "__main__":
    main()
