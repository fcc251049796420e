"""From ``predictions.csv`` and ``splits.csv`` to ``metrics.json``; no model is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from leukoscope.config.study import StudyConfig
from leukoscope.core.records import Fold
from leukoscope.evaluation.comparison import Pair, compare
from leukoscope.evaluation.paired_tests import paired_tests
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.study.decisions import PARTITIONS, decision_entries
from leukoscope.study.entries import Statistics, curve_entry, probe_entry, result_entry
from leukoscope.study.fold_results import FoldResults, calibration_entry
from leukoscope.study.operating import operating_entry
from leukoscope.study.patient_level import PROTOCOL, by_patient
from leukoscope.study.promise import promise_entry
from leukoscope.study.protocols import FINAL, UNITS
from leukoscope.study.shortcut_summary import Evidence, add_verdict, model_on_entries


def summarise(
    table: PredictionTable,
    folds: Sequence[Fold],
    config: StudyConfig,
    *,
    inapplicable: Sequence[Mapping[str, str]],
    evidence: Evidence | None = None,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """All statistics of a study.

    Args:
        table: Every prediction; statistics use the ``test`` rows, prediction sets also ``cal``.
        folds: Parts, and the unit that each protocol's intervals resample.
        config: Replicates, confidence, coverage, seed.
        inapplicable: Protocols that the data cannot support, with reasons.
        evidence: What the verdict needs beside the tables; without it nothing is plausible.
        warnings: What a reader must know of the data and the splits.

    Returns:
        The content of ``metrics.json``.
    """
    statistics = Statistics.of(folds, config)
    test = table.select(part="test")
    protocols = [p for p in dict.fromkeys(test.protocol.tolist()) if p != FINAL]
    recipes = [recipe.name for recipe in config.recipes]
    entries = _entries(statistics, test, recipes, protocols)
    curve = entries.pop("curve")
    metrics: dict[str, Any] = {
        "schema": 1,
        "class_names": list(table.class_names),
        "confidence": config.confidence,
        **entries,
        "comparisons": _comparisons(statistics, test, recipes, protocols),
        "inapplicable": [dict(row) for row in inapplicable],
        "curve": sorted(curve, key=lambda point: (point["recipe"], point["clusters"])),
        "subjects": by_patient(table, statistics.groups.get(PROTOCOL, {}), config, inapplicable),
        "warnings": list(warnings),
        **_promises(statistics, table, folds, recipes, protocols),
    }
    add_verdict(metrics, statistics, test, recipes[0], evidence or Evidence())
    return metrics


def _entries(
    statistics: Statistics,
    test: PredictionTable,
    recipes: Sequence[str],
    protocols: Sequence[str],
) -> dict[str, list[dict[str, Any]]]:
    """Models, probes, models on edited images, both levels of classes, the curve over clusters."""
    found: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("results", "probes", "model_on", "hierarchy", "curve")
    }
    for protocol in protocols:
        under = test.select(protocol=protocol)
        for recipe in recipes:
            rows = under.select(recipe=recipe, input="image")
            if len(rows) == 0:
                continue
            if protocol in UNITS:
                found["results"].append(result_entry(statistics, rows, recipe, protocol))
                levels = statistics.hierarchy(rows, protocol)
                if levels is not None:
                    found["hierarchy"].append({"recipe": recipe, "protocol": protocol, **levels})
            if protocol.startswith("acquisition") and protocol != "acquisition-merged":
                found["curve"].append(curve_entry(statistics, rows, recipe, protocol))
        tested = [under.select(input=probe) for probe in statistics.config.probes]
        found["probes"] += [
            probe_entry(statistics, t, str(t.input[0]), protocol) for t in tested if len(t)
        ]
        found["model_on"] += model_on_entries(statistics, under, recipes, protocol)
    return found


def _comparisons(
    statistics: Statistics,
    test: PredictionTable,
    recipes: Sequence[str],
    protocols: Sequence[str],
) -> list[dict[str, Any]]:
    """On the same images: the first recipe against others and probes, and between protocols.

    What answers one question is a family, whose p-values are corrected together: the recipes of
    one protocol, its probes, and the random split against every stricter protocol.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    stricter = []
    of_random = test.select(recipe=recipes[0], protocol="random", input="image")
    for protocol in protocols:
        if protocol not in UNITS:
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
    pairs = [Pair.of_tables(a, b, statistics.groups[name]) for a, b, name in tables]
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
) -> dict[str, Any]:
    """``calibration`` of every recipe, ``decisions`` and ``promise`` of the first."""
    config = statistics.config
    tests = {
        recipe: [
            tested
            for protocol in protocols
            if protocol in UNITS
            and (tested := FoldResults.of(table, folds, recipe, protocol, config)).folds
        ]
        for recipe in recipes
    }
    first, known = tests[recipes[0]], statistics.groups
    partitions = {unit: known[name] for unit, name in PARTITIONS.items() if name in known}
    decisions = decision_entries(first, recipes[0], partitions)
    decisions["operating_point"] = operating_entry(
        first, config.operating_point, partitions.get("patient")
    )
    return {
        "calibration": [calibration_entry(t, r) for r, found in tests.items() for t in found],
        "decisions": decisions,
        "promise": promise_entry(first, recipes[0]),
    }
