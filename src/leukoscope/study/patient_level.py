"""Results by patient: each one's images aggregated, and the patients counted, not the images."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_json
from leukoscope.core.labels import malignant_mask
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.aggregation import (
    METHODS,
    Method,
    PatientResult,
    choose_method,
    log_losses,
    patient_result,
)
from leukoscope.evaluation.intervals import (
    MIN_GROUPS,
    Interval,
    bootstrap_metrics,
    proportion_interval,
)
from leukoscope.evaluation.metrics import metric_names
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.study.entries import sampling

PROTOCOL = "grouped"
_MEASURED = (
    "accuracy", "recall_malignant", "specificity_malignant", "roc_auc", "roc_auc_malignant",
    "log_loss",
)  # fmt: skip


@dataclass(frozen=True)
class _Patient:
    """The images of one patient in one part of one fold: their rows, and the true class."""

    name: str
    rows: NDArray[np.int64]
    y_true: int


def by_patient(
    table: PredictionTable,
    patients: Mapping[str, str],
    config: StudyConfig,
    inapplicable: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """The key ``subjects`` of ``metrics.json``.

    In each fold the way to aggregate is chosen by log loss on the fold's own validation patients,
    then applied to its test patients; every patient is tested once.

    ``patients``: image id → patient, as the protocol ``grouped`` held them out.

    Returns:
        ``{"protocol", "methods", "results": […]}``, or ``{"inapplicable": reason}``.
    """
    if not patients:
        known = {row["protocol"]: row["reason"] for row in inapplicable}
        asked = f"no protocol of this study holds patients out (`{PROTOCOL}` was not asked for)"
        return {"inapplicable": known.get(PROTOCOL, asked)}
    results = []
    for recipe in (recipe.name for recipe in config.recipes):
        rows = table.select(recipe=recipe, protocol=PROTOCOL, input="image")
        if len(rows):
            results.append({"recipe": recipe, **_of_recipe(rows, patients, config)})
    if not any(entry["n"] for entry in results):
        return {"inapplicable": "every patient has images of several classes"}
    return {"protocol": PROTOCOL, "methods": list(METHODS), "results": results}


def _of_recipe(
    table: PredictionTable, patients: Mapping[str, str], config: StudyConfig
) -> dict[str, Any]:
    """One recipe: the choice in each fold, the metrics, and a row for each patient."""
    found: list[tuple[PatientResult, int, int]] = []
    folds, mixed, all_val = [], set[str](), []
    for fold in sorted(set(table.fold.tolist())):
        of_fold = table.select(fold=fold)
        val, _ = _patients(of_fold, "val", patients)
        test, unclear = _patients(of_fold, "test", patients)
        mixed |= unclear
        known = [(of_fold.probs[patient.rows], patient.y_true) for patient in val]
        all_val += known
        losses = log_losses(known)
        method = choose_method(losses)
        folds.append({"fold": fold, "method": method, "n_val": len(val), "val_log_loss": losses})
        for patient in test:
            seed = zlib.crc32(f"{config.seed}:{patient.name}".encode())
            result = patient_result(
                patient.name, of_fold.probs[patient.rows], method,
                confidence=config.confidence, seed=seed,
            )  # fmt: skip
            found.append((result, patient.y_true, fold))
    names = table.class_names
    y = np.array([truth for _, truth, _ in found], dtype=np.int64)
    probs = np.array([result.probs for result, _, _ in found]).reshape(len(found), len(names))
    overall = log_losses(all_val)
    return {
        "n": len(found),
        "n_images": sum(result.n_images for result, _, _ in found),
        "by_class": {name: int((y == i).sum()) for i, name in enumerate(names)},
        "mixed": sorted(mixed),
        "folds": folds,
        "bundle_method": choose_method(overall),
        "metrics": _metrics(y, probs, names, config) if len(found) else {},
        "patients": [
            {"true": names[truth], "fold": fold, **result.to_json(names)}
            for result, truth, fold in sorted(found, key=lambda row: (row[1], row[0].patient))
        ],
    }


def _patients(
    table: PredictionTable, part: str, patients: Mapping[str, str]
) -> tuple[list[_Patient], set[str]]:
    """The patients of a part, and those that have no single class."""
    chosen = np.flatnonzero((table.part == part) & (table.y_true >= 0))
    of_row = np.array([patients.get(key, key) for key in table.image_id[chosen].tolist()])
    found, mixed = [], set()
    for name in np.unique(of_row).tolist():
        rows = chosen[of_row == name]
        classes = set(table.y_true[rows].tolist())
        if len(classes) > 1:
            mixed.add(name)
        else:
            found.append(_Patient(name, rows, classes.pop()))
    return found, mixed


def _metrics(
    y: NDArray[np.int64], probs: NDArray[np.float64], names: Sequence[str], config: StudyConfig
) -> dict[str, Any]:
    """Metrics over patients: exact intervals for proportions, a bootstrap for the others."""
    available = metric_names(names)
    wanted = [name for name in _MEASURED if name in available]
    if len(names) == 2 and "roc_auc_malignant" in wanted:
        wanted.remove("roc_auc_malignant")  # the same number
    intervals = bootstrap_metrics(y, probs, names, names=wanted, **sampling(config))
    enough = all((y == i).sum() >= MIN_GROUPS for i in range(len(names)))
    hits = _hits(y, probs.argmax(axis=1), names)
    return {
        name: _exact(name, intervals[name], hits, config.confidence, enough).to_json()
        for name in wanted
    }


def _hits(
    y: NDArray[np.int64], y_pred: NDArray[np.int64], names: Sequence[str]
) -> dict[str, NDArray[np.bool_]]:
    """For each proportion its trials: whether each patient concerned was got right."""
    mask = np.array(malignant_mask(names))
    return {
        "accuracy": y_pred == y,
        "recall_malignant": mask[y_pred[mask[y]]],
        "specificity_malignant": ~mask[y_pred[~mask[y]]],
    }


def _exact(
    name: str,
    interval: Interval,
    hits: Mapping[str, NDArray[np.bool_]],
    confidence: float,
    enough: bool,
) -> Interval:
    """Patients are independent, so proportions have Clopper–Pearson limits."""
    trials = hits.get(name)
    if trials is not None and len(trials):
        low, high = proportion_interval(int(trials.sum()), len(trials), confidence=confidence)
        return replace(interval, low=low, high=high, reliable=enough)
    if interval.low == interval.high:  # perfectly ranked: resampling cannot see the spread
        return replace(interval, low=float("nan"), high=float("nan"), reliable=False)
    return replace(interval, reliable=interval.reliable and enough)


def method_for_bundle(run: RunFolder, recipe: str) -> Method | None:
    """How a bundle of this run aggregates patients; None where no patient was held out."""
    try:
        subjects = read_json(run.metrics).get("subjects", {})
    except DataError:
        return None
    found = (e["bundle_method"] for e in subjects.get("results", ()) if e["recipe"] == recipe)
    return next(found, None)
