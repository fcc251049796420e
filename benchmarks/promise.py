"""Calibrated on the training patients, or on patients nobody trained on: what holds for new ones.

`simulate` draws features with an effect of the patient and compares two ways to calibrate the model
that is fitted on everything: the way of old bundles (`cal` images of patients that were trained on)
and the present one (test images of all folds, whole patients held out). `run` measures the same on
a finished study of a linear head with patients held out.

python benchmarks/promise.py [--runs RUN ...] [--repetitions 60]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.loading import load_recipe, load_study_config
from leukoscope.config.recipe import LinearHeadTraining
from leukoscope.core.files import read_json
from leukoscope.core.records import Manifest, load_folds
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.calibration.conformal import (
    covered,
    fill_empty,
    fit_promise,
    fit_sets,
    prediction_sets,
)
from leukoscope.evaluation.calibration.scaling import apply_calibration, fit_calibration
from leukoscope.evaluation.statistics.metrics import compute_metrics
from leukoscope.learning.linear_head import fit_linear_head
from leukoscope.pipeline.features.store import InputStore
from leukoscope.pipeline.jobs import Labelled
from leukoscope.pipeline.progress import Progress

PATIENTS, IMAGES, NEW, SIZE = 28, 40, 60, 32
SIGNAL, SPREAD = 4.0, 1.0
COVERAGE, FOLDS = 0.95, 5
Fitted = tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], float, object, object]


@dataclass(frozen=True)
class Images:
    """Features (n, D), classes (n,) and patients (n,) of some images."""

    x: NDArray[np.float64]
    y: NDArray[np.int64]
    patient: NDArray[np.int64]

    def take(self, rows: NDArray[np.bool_]) -> Images:
        return Images(self.x[rows], self.y[rows], self.patient[rows])


def draw(rng: np.random.Generator, patients: int) -> Images:
    """Patients of two classes in turn: class mean + patient's effect + noise of the image."""
    patient = np.repeat(np.arange(patients), IMAGES)
    y = (patient % 2).astype(np.int64)
    mean = np.zeros((2, SIZE))
    mean[1, 0] = SIGNAL
    effect = rng.normal(0, SPREAD, (patients, SIZE))
    x = mean[y] + effect[patient] + rng.normal(0, 1, (len(y), SIZE))
    return Images(x, y, patient)


def cut(
    rng: np.random.Generator, labels: NDArray[np.int64], y: NDArray[np.int64], share: float
) -> NDArray[np.bool_]:
    """Which rows are of a share of the labels (patients, or images by number) of each class."""
    chosen = np.zeros(len(labels), dtype=bool)
    for k in np.unique(y):
        names = rng.permutation(np.unique(labels[y == k]))
        chosen |= np.isin(labels, names[: max(1, round(share * len(names)))])
    return chosen


def head_of(train: Images, val: Images, c_grid: tuple[float, ...]) -> Callable[..., NDArray]:
    """The linear head of a study: strength chosen on ``val``, then fitted on both."""
    k = int(max(train.y.max(), val.y.max())) + 1
    return fit_linear_head(
        train.x, train.y, k, c_grid=c_grid, X_val=val.x, y_val=val.y, refit_with_val=True
    ).logits


def by_image(rng: np.random.Generator, data: Images, c_grid: tuple[float, ...]) -> tuple:
    """The old way: train, val and cal by image, all patients in each."""
    number = np.arange(len(data.y))
    cal = cut(rng, number, data.y, 0.1)
    val = ~cal & cut(rng, number, data.y, 0.11)
    logits = head_of(data.take(~cal & ~val), data.take(val), c_grid)
    known = data.take(cal)
    calibration = fit_calibration(logits(known.x), known.y)
    sets = fit_sets(apply_calibration(logits(known.x), calibration), known.y, COVERAGE)
    return logits, calibration, sets


def by_patient(rng: np.random.Generator, data: Images, c_grid: tuple[float, ...]) -> tuple:
    """The present way: answers of five folds to patients they held out; then fitted on all."""
    unseen = np.empty((len(data.y), int(data.y.max()) + 1))
    order = rng.permutation(np.unique(data.patient))
    order = order[np.argsort(order % 2, kind="stable")]  # deal each class evenly
    fold = np.argsort(order)[data.patient] % FOLDS
    for k in range(FOLDS):
        test = fold == k
        rest = data.take(~test)
        val = cut(rng, rest.patient, rest.y, 0.12)
        unseen[test] = head_of(rest.take(~val), rest.take(val), c_grid)(data.x[test])
    calibration, sets = fit_promise(unseen, data.y, data.patient.astype(str), COVERAGE)
    val = cut(rng, data.patient, data.y, 0.1)
    return head_of(data.take(~val), data.take(val), c_grid), calibration, sets


def judge(fitted: tuple, new: Images, names: tuple[str, ...]) -> dict[str, float]:
    """How the answers hold on images of new patients; shares are means over patients."""
    logits, calibration, record = fitted
    probs = apply_calibration(logits(new.x), calibration)
    sets = fill_empty(prediction_sets(probs, record), probs)
    held = covered(sets, new.y)
    found = compute_metrics(new.y, probs, names)
    size = sets.sum(axis=1)
    of = [new.patient == p for p in np.unique(new.patient)]
    return {
        "T": calibration.temperature,
        "log loss": found["log_loss"],
        "ECE": found["ece"],
        "coverage": float(np.mean([held[rows].mean() for rows in of])),
        "classes per set": float(np.mean([size[rows].mean() for rows in of])),
    }


def simulate(repetitions: int) -> list[str]:
    """Rows of the table of the simulation."""
    c_grid = load_recipe("quick").training.c_grid
    found: dict[str, list[dict[str, float]]] = {
        "on training patients": [],
        "on unseen patients": [],
    }
    for seed in range(repetitions):
        rng = np.random.default_rng([seed, 15])
        data, new = draw(rng, PATIENTS), draw(rng, NEW)
        for name, way in zip(found, (by_image, by_patient), strict=True):
            found[name].append(judge(way(rng, data, c_grid), new, ("healthy", "all")))
    return table(found)


def table(found: dict[str, list[dict[str, float]]]) -> list[str]:
    """Mean of every figure over repetitions or folds, and the standard deviation of coverage."""
    keys = list(next(iter(found.values()))[0])
    lines = [f"| calibrated | {' | '.join(keys)} | coverage, s.d. |", "|---|" + "---|" * 6]
    for name, rows in found.items():
        means = [float(np.mean([row[key] for row in rows])) for key in keys]
        spread = float(np.std([row["coverage"] for row in rows], ddof=1))
        lines.append(f"| {name} | {' | '.join(f'{m:.3f}' for m in means)} | {spread:.3f} |")
    return lines


def measure_run(run: RunFolder) -> list[str]:
    """The old way in every fold, beside what the study itself measured of its bundle's promise."""
    config, metrics = load_study_config(run.config), read_json(run.metrics)
    recipe, promise = config.recipes[0], metrics["promise"]
    training = recipe.training
    if not isinstance(training, LinearHeadTraining) or promise["protocol"] != "grouped":
        raise SystemExit(f"{run.path}: expected a linear head with patients held out")
    manifest = Manifest.load(run.manifest, config.data.root)
    data = Labelled(manifest.usable, manifest.class_names)
    store = InputStore(run, manifest, data, Progress(lambda *_: None))
    x = store.features(recipe, "image", config.seed).astype(np.float64)
    patients = np.unique([r.patient_id for r in data.records], return_inverse=True)[1]
    images, rows = Images(x, data.y, patients), []
    for fold in (f for f in load_folds(run.splits) if f.protocol == "grouped"):
        test = np.zeros(len(data.y), dtype=bool)
        test[data.rows(fold, "test")] = True
        rng = np.random.default_rng([fold.fold, 15])
        fitted = by_image(rng, images.take(~test), training.c_grid)
        held = images.take(test)
        rows.append((judge(fitted, held, data.class_names), len(np.unique(held.patient))))
    share = np.array([n for _, n in rows], dtype=float) / sum(n for _, n in rows)
    old = {k: float(sum(w * row[k] for w, (row, _) in zip(share, rows, strict=True)))
           for k in rows[0][0]}  # fmt: skip
    new = {
        "T": float(np.mean(promise["temperature"])),
        "log loss": promise["after"]["log_loss"]["value"],
        "ECE": promise["after"]["ece"]["value"],
        "coverage": promise["coverage"]["value"],
        "classes per set": promise["mean_set_size"]["value"],
    }
    lines = [f"| calibrated | {' | '.join(old)} |", "|---|" + "---|" * len(old)]
    for name, row in (("on training patients", old), ("on unseen patients", new)):
        lines.append(f"| {name} | {' | '.join(f'{value:.3f}' for value in row.values())} |")
    limits = promise["coverage"]
    lines += [
        "",
        f"{promise['n']} images of {promise['n_groups']} patients, {promise['folds']} folds; "
        f"coverage on unseen patients {limits['value']:.3f} "
        f"({limits['low']:.3f}–{limits['high']:.3f}, patients resampled).",
    ]
    return lines


HEAD = """\
Prediction sets aim at 95 %. *On training patients* is how bundles were calibrated before: a tenth
of the images, whose patients are trained on too. *On unseen patients* is how they are now: the test
images of folds that hold whole patients out, pooled
([decision 19](../decisions/0019-promises-for-new-patients.md)).

## Simulated patients

{patients} training patients of two classes, {images} images each, {size} features: class means
{signal:g} apart, effect of the patient with standard deviation {spread:g} in every feature, that of
the image 1. Tested on {new} new patients; mean of {repetitions} repetitions. T: temperature;
coverage and size: mean over patients.
"""
OF_RUN = """
## The study `{name}`

Made by `leukoscope study {data} {recipes} {protocols} --out {name}`; the first recipe.
On training patients: in each fold a plain linear head, without degraded copies and penalties on
units, is fitted, selected and calibrated by image on the patients outside its test part. On unseen
patients: each fold is judged by what the test images of the other folds gave (`promise` in
`metrics.json`). T is a mean over folds, and so, weighted by patients, are the figures of the first
row.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", nargs="*", type=Path, default=[])
    parser.add_argument("--repetitions", type=int, default=60)
    args = parser.parse_args()
    print(
        HEAD.format(
            patients=PATIENTS,
            images=IMAGES,
            size=SIZE,
            signal=SIGNAL,
            spread=SPREAD,
            new=NEW,
            repetitions=args.repetitions,
        )
    )
    print("\n".join(simulate(args.repetitions)))
    for path in args.runs:
        config = load_study_config(RunFolder(path).config)
        print(
            OF_RUN.format(
                name=path.name,
                data=Path(config.data.path).name,
                recipes=" ".join(f"-r {recipe.name}" for recipe in config.recipes),
                protocols=" ".join(f"-p {name}" for name in config.protocols),
            )
        )
        print("\n".join(measure_run(RunFolder(path))))


if __name__ == "__main__":
    main()
