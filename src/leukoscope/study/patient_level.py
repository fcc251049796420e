"""Results by patient: each one's images aggregated, and the patients counted, not the images."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_json
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.aggregation import (
    METHODS,
    Method,
    PatientResult,
    choose_method,
    log_losses,
    patient_result,
)
from leukoscope.evaluation.calibration import apply_calibration, fit_calibration
from leukoscope.evaluation.intervals import bootstrap_metrics
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
    then applied to its test patients; every patient is tested once. That of a bundle is chosen on
    all of them.

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
    folds, mixed = [], set[str]()
    for fold in sorted(set(table.fold.tolist())):
        of_fold = table.select(fold=fold)
        val, _ = _patients(of_fold, "val", patients)
        test, unclear = _patients(of_fold, "test", patients)
        mixed |= unclear
        known = [(of_fold.probs[patient.rows], patient.y_true) for patient in val]
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
    return {
        "n": len(found),
        "n_images": sum(result.n_images for result, _, _ in found),
        "by_class": {name: int((y == i).sum()) for i, name in enumerate(names)},
        "mixed": sorted(mixed),
        "folds": folds,
        "bundle_method": _bundle_method(table.select(part="test"), patients),
        "metrics": _metrics(y, probs, names, config) if len(found) else {},
        "patients": [
            {"true": names[truth], "fold": fold, **result.to_json(names)}
            for result, truth, fold in sorted(found, key=lambda row: (row[1], row[0].patient))
        ],
    }


def _bundle_method(test: PredictionTable, patients: Mapping[str, str]) -> str:
    """How the bundle aggregates: by log loss on the test patients of all folds together.

    Their probabilities are calibrated as the bundle's are, on these same images. No result of the
    study rests on this choice.
    """
    known = test.y_true >= 0
    probs = test.probs
    if known.any() and np.isfinite(test.logits).all():
        units = [patients.get(key, key) for key in test.image_id[known].tolist()]
        record = fit_calibration(test.logits[known], test.y_true[known], units)
        probs = apply_calibration(test.logits, record)
    found, _ = _patients(test, "test", patients)
    return choose_method(log_losses([(probs[one.rows], one.y_true) for one in found]))


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
    """Metrics over patients; as each is a group of its own, proportions have exact limits."""
    available = metric_names(names)
    wanted = [name for name in _MEASURED if name in available]
    if len(names) == 2 and "roc_auc_malignant" in wanted:
        wanted.remove("roc_auc_malignant")  # the same number
    intervals = bootstrap_metrics(y, probs, names, names=wanted, **sampling(config))
    return {name: intervals[name].to_json() for name in wanted}


def method_for_bundle(run: RunFolder, recipe: str) -> Method | None:
    """How a bundle of this run aggregates patients; None where no patient was held out."""
    try:
        subjects = read_json(run.metrics).get("subjects", {})
    except DataError:
        return None
    found = (e["bundle_method"] for e in subjects.get("results", ()) if e["recipe"] == recipe)
    return next(found, None)
