"""From ``predictions.csv`` and ``splits.csv`` to ``metrics.json``, by image and by patient."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.study import StudyConfig
from leukoscope.core.protocols import PROTOCOLS, base_name
from leukoscope.core.records import Fold, ImageRecord
from leukoscope.evaluation.calibration.scaling import apply_calibration, fit_calibration
from leukoscope.evaluation.combining import (
    PATIENT_METHODS,
    PatientMethod,
    PatientResult,
    choose_method,
    patient_log_losses,
    patient_result,
)
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.run_files import RunFiles
from leukoscope.evaluation.statistics.comparison import PredictorPair, compare, paired_tests
from leukoscope.evaluation.statistics.intervals import bootstrap_metrics
from leukoscope.evaluation.statistics.metrics import metric_names
from leukoscope.pipeline.folds import FINAL
from leukoscope.pipeline.jobs import Calibrations
from leukoscope.pipeline.results.decisions import PARTITIONS, decision_entries, operating_entry
from leukoscope.pipeline.results.entries import (
    FoldResults,
    Statistics,
    calibration_entry,
    curve_entry,
    probe_entry,
    result_entry,
    sampling,
)
from leukoscope.pipeline.results.out_of_fold import promise_entry
from leukoscope.pipeline.results.shortcut_summary import Evidence, add_verdict, model_on_entries
from leukoscope.pipeline.results.subgroups import subgroups_entry

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
) -> dict[str, object]:
    """The key ``subjects`` of ``metrics.json``.

    In each fold the way to aggregate is chosen by log loss on the fold's own validation patients,
    then applied to its test patients; every patient is tested once. That of a bundle is chosen on
    all of them.

    ``patients``: image id → patient, as the protocol ``grouped`` held them out.

    Returns:
        ``{"protocol", "methods", "results": […]}``, or ``{"inapplicable": reason}``.
    """
    if config.unit == "patient":
        return {"inapplicable": "every row of this study is a patient already"}
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
    return {"protocol": PROTOCOL, "methods": list(PATIENT_METHODS), "results": results}


def _of_recipe(
    table: PredictionTable, patients: Mapping[str, str], config: StudyConfig
) -> dict[str, object]:
    """One recipe: the choice in each fold, the metrics, and a row for each patient."""
    found: list[tuple[PatientResult, int, int]] = []
    folds, mixed = [], set[str]()
    for fold in sorted(set(table.fold.tolist())):
        of_fold = table.select(fold=fold)
        val, _ = _patients(of_fold, "val", patients)
        test, unclear = _patients(of_fold, "test", patients)
        mixed |= unclear
        known = [(of_fold.probs[patient.rows], patient.y_true) for patient in val]
        losses = patient_log_losses(known)
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
        "metrics": _metrics(y, probs, names, config, len(folds)) if len(found) else {},
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
    return choose_method(patient_log_losses([(probs[one.rows], one.y_true) for one in found]))


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
    y: NDArray[np.int64],
    probs: NDArray[np.float64],
    names: Sequence[str],
    config: StudyConfig,
    folds: int,
) -> dict[str, object]:
    """Metrics over patients; as each is a group of its own, proportions have exact limits."""
    available = metric_names(names, config.data.roles)
    wanted = [name for name in _MEASURED if name in available]
    if len(names) == 2 and "roc_auc_malignant" in wanted:
        wanted.remove("roc_auc_malignant")  # the same number
    intervals = bootstrap_metrics(
        y,
        probs,
        names,
        names=wanted,
        roles=config.data.roles,
        **sampling(config, folds),
    )
    return {name: intervals[name].to_json() for name in wanted}


def method_for_bundle(files: RunFiles, recipe: str) -> PatientMethod | None:
    """How a bundle of this run aggregates patients; None where no patient was held out."""
    subjects = files.metrics.subjects if files.run.metrics.is_file() else None
    found = subjects.results if subjects else ()
    return next((entry.bundle_method for entry in found if entry.recipe == recipe), None)


def summarise(
    table: PredictionTable,
    folds: Sequence[Fold],
    config: StudyConfig,
    *,
    inapplicable: Sequence[Mapping[str, str]],
    evidence: Evidence | None = None,
    warnings: Sequence[str] = (),
    calibrations: Calibrations | None = None,
    rows: Sequence[ImageRecord] = (),
) -> dict[str, object]:
    """All statistics of a study.

    Args:
        table: Every prediction; statistics use the ``test`` rows, prediction sets also ``cal``.
        folds: Parts, and the unit that each protocol's intervals resample.
        config: Replicates, confidence, coverage, seed.
        inapplicable: Protocols that the data cannot support, with reasons.
        evidence: What the verdict needs beside the tables; without it nothing is plausible.
        warnings: What a reader must know of the data and the splits.
        calibrations: Of the folds' models; one that is missing is fitted from the table.
        rows: What a manifest says of the images or patients, for subgroups.

    Returns:
        The content of ``metrics.json``.
    """
    statistics = Statistics.of(folds, config)
    test = table.select(part="test")
    protocols = [p for p in dict.fromkeys(test.protocol.tolist()) if p != FINAL]
    recipes = [recipe.name for recipe in config.recipes]
    evidence = evidence or Evidence()
    entries = _entries(statistics, test, recipes, protocols, evidence)
    curve = entries.pop("curve")
    metrics: dict[str, object] = {
        "schema": 1,
        "class_names": list(table.class_names),
        "confidence": config.confidence,
        **entries,
        "comparisons": _comparisons(statistics, test, recipes, protocols),
        "inapplicable": [dict(row) for row in inapplicable],
        "curve": sorted(curve, key=lambda point: (point["recipe"], point["clusters"])),
        "subjects": by_patient(table, statistics.groups.get(PROTOCOL, {}), config, inapplicable),
        "warnings": list(warnings),
        **_promises(statistics, table, folds, recipes, protocols, calibrations or {}),
    }
    subgroups = subgroups_entry(statistics, test, recipes[0], rows)
    metrics |= {"subgroups": subgroups} if subgroups else {}
    add_verdict(metrics, statistics, test, recipes[0], evidence)
    return metrics


def _entries(
    statistics: Statistics,
    test: PredictionTable,
    recipes: Sequence[str],
    protocols: Sequence[str],
    evidence: Evidence,
) -> dict[str, list[dict[str, object]]]:
    """Models, probes, models on perturbed images, both class levels, the curve over clusters."""
    found: dict[str, list[dict[str, object]]] = {
        name: [] for name in ("results", "probes", "model_on", "hierarchy", "curve")
    }
    for protocol in protocols:
        under = test.select(protocol=protocol)
        for recipe in recipes:
            rows = under.select(recipe=recipe, input="image")
            if len(rows) == 0:
                continue
            if protocol in PROTOCOLS:
                found["results"].append(result_entry(statistics, rows, recipe, protocol))
                levels = statistics.hierarchy(rows, protocol)
                if levels is not None:
                    found["hierarchy"].append({"recipe": recipe, "protocol": protocol, **levels})
            if base_name(protocol) == "acquisition":
                found["curve"].append(curve_entry(statistics, rows, recipe, protocol))
        tested = [under.select(input=probe) for probe in statistics.config.probes]
        found["probes"] += [
            probe_entry(statistics, t, str(t.input[0]), protocol) for t in tested if len(t)
        ]
        found["model_on"] += model_on_entries(statistics, under, recipes, protocol, evidence)
    return found


def _comparisons(
    statistics: Statistics,
    test: PredictionTable,
    recipes: Sequence[str],
    protocols: Sequence[str],
) -> list[dict[str, object]]:
    """On the same images: the first recipe against others and probes, and between protocols.

    What answers one question is a family, whose p-values are corrected together: the recipes of
    one protocol, its probes, and the random split against every stricter protocol.
    """
    rows: dict[str, list[dict[str, object]]] = {}
    stricter = []
    of_random = test.select(recipe=recipes[0], protocol="random", input="image")
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            continue
        under = test.select(protocol=protocol)
        first = under.select(recipe=recipes[0], input="image")
        others = [under.select(recipe=name, input="image") for name in recipes[1:]]
        probes = [under.select(input=probe) for probe in statistics.config.probes]
        rows[protocol] = [
            *_family(statistics, [(first, other, protocol) for other in others]),
            *_family(statistics, [(first, probe, protocol) for probe in probes]),
        ]
        if protocol != "random":
            stricter.append((of_random, first, protocol))  # what a random split adds to the score
    for row in _family(statistics, stricter):
        rows[row["b"]["protocol"]].append(row)
    return [row for found in rows.values() for row in found]


def _family(
    statistics: Statistics, tables: Sequence[tuple[PredictionTable, PredictionTable, str]]
) -> list[dict[str, Any]]:
    """Comparisons of the accuracy that answer one question; each with the protocol of its units."""
    # The hold-outs of two protocols may have no image in common.
    tables = [(a, b, name) for a, b, name in tables if np.isin(a.image_id, b.image_id).any()]
    pairs = [PredictorPair.of_tables(a, b, statistics.groups[name]) for a, b, name in tables]
    found = []
    for (a, b, name), one in zip(tables, compare(pairs, **statistics.how), strict=True):
        sides = {
            key: {
                "recipe": str(t.recipe[0]),
                "protocol": str(t.protocol[0]),
                "input": str(t.input[0]),
            }
            for key, t in (("a", a), ("b", b))
        }
        alone = paired_tests(a, b, statistics.groups[name])
        found.append({**sides, **one.to_json(), "pairs": alone.to_json()})
    return found


def _promises(
    statistics: Statistics,
    table: PredictionTable,
    folds: Sequence[Fold],
    recipes: Sequence[str],
    protocols: Sequence[str],
    calibrations: Calibrations,
) -> dict[str, object]:
    """``calibration`` of every recipe, ``decisions`` and ``promise`` of the first."""
    config = statistics.config
    tests = {
        recipe: [
            tested
            for protocol in protocols
            if protocol in PROTOCOLS
            and (
                tested := FoldResults.of(table, folds, recipe, protocol, config, calibrations)
            ).folds
        ]
        for recipe in recipes
    }
    first, known = tests[recipes[0]], statistics.groups
    partitions = {unit: known[name] for unit, name in PARTITIONS.items() if name in known}
    shown = {} if config.unit == "patient" else partitions  # a row says nothing of itself
    decisions = decision_entries(first, recipes[0], shown)
    decisions["operating_point"] = operating_entry(
        first, config.operating_point, partitions.get("patient")
    )
    return {
        "calibration": [calibration_entry(t, r) for r, found in tests.items() for t in found],
        "decisions": decisions,
        "promise": promise_entry(first, recipes[0]),
    }
