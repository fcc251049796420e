"""From ``predictions.csv`` and ``splits.csv`` to ``metrics.json``; no model is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from leukoscope.config.study import StudyConfig
from leukoscope.core.records import Fold
from leukoscope.evaluation.comparison import common_images, compare_predictions
from leukoscope.evaluation.leaderboard import add_p_values, exchange_test
from leukoscope.evaluation.paired_tests import paired_tests
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.verdict import judge
from leukoscope.study.decisions import PARTITIONS, decision_entries
from leukoscope.study.entries import Statistics, curve_entry, probe_entry, result_entry
from leukoscope.study.fold_results import FoldResults, calibration_entry
from leukoscope.study.operating import operating_entry
from leukoscope.study.patient_level import PROTOCOL, by_patient
from leukoscope.study.protocols import FINAL, UNITS
from leukoscope.study.shortcut_summary import add_verdict, model_on_entries


def summarise(
    table: PredictionTable,
    folds: Sequence[Fold],
    config: StudyConfig,
    *,
    inapplicable: Sequence[Mapping[str, str]],
    inapplicable_probes: Sequence[Mapping[str, str]] = (),
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """All statistics of a study.

    Args:
        table: Every prediction; statistics use the ``test`` rows, prediction sets also ``cal``.
        folds: Parts, and the unit that each protocol's intervals resample.
        config: Replicates, confidence, coverage, seed.
        inapplicable: Protocols that the data cannot support, with reasons.
        inapplicable_probes: Likewise probes.
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
    add_verdict(metrics, statistics, test, recipes[0], inapplicable_probes, judge)
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

    Those listed under one protocol are a family: their p-values are corrected together, and only
    a difference that stands after it is called one.
    """
    comparisons = []
    of_random = test.select(recipe=recipes[0], protocol="random", input="image")
    for protocol in protocols:
        if protocol not in UNITS:
            continue
        under = test.select(protocol=protocol)
        first = under.select(recipe=recipes[0], input="image")
        others = [under.select(recipe=name, input="image") for name in recipes[1:]]
        others += [under.select(input=probe) for probe in statistics.config.probes]
        pairs = [(first, other) for other in others]
        if protocol != "random":
            pairs.append((of_random, first))  # what a random split adds to the score
        # The hold-outs of two protocols may have no image in common.
        pairs = [(a, b) for a, b in pairs if np.isin(a.image_id, b.image_id).any()]
        family = [_compare(statistics, a, b, protocol) for a, b in pairs]
        add_p_values([row for row, _ in family], [p for _, p in family])
        comparisons += [row for row, _ in family]
    for row in comparisons:
        if row["p_holm"] >= 1 - statistics.config.confidence:
            row["verdict"] = "not distinguishable"
    return comparisons


def _compare(
    statistics: Statistics, a: PredictionTable, b: PredictionTable, protocol: str
) -> tuple[dict[str, Any], float]:
    """One comparison of the accuracy, and its p-value before any correction."""
    y_true, prob_a, prob_b, groups = common_images(a, b, statistics.groups[protocol])
    pair = y_true, prob_a, prob_b, a.class_names
    comparison = compare_predictions(*pair, groups=groups, **statistics.how)
    p = exchange_test(*pair, groups=groups, seed=statistics.config.seed)
    sides = {
        key: {"recipe": str(t.recipe[0]), "protocol": str(t.protocol[0]), "input": str(t.input[0])}
        for key, t in (("a", a), ("b", b))
    }
    pairs = paired_tests(a, b, statistics.groups[protocol])
    return {**sides, **comparison.to_json(), "pairs": pairs.to_json()}, p


def _promises(
    statistics: Statistics,
    table: PredictionTable,
    folds: Sequence[Fold],
    recipes: Sequence[str],
    protocols: Sequence[str],
) -> dict[str, Any]:
    """``calibration`` of every recipe, and ``decisions`` of the first."""
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
    }
