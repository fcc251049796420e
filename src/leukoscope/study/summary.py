"""From ``predictions.csv`` and ``splits.csv`` to ``metrics.json``; no model is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leukoscope.config.study import StudyConfig
from leukoscope.core.records import Fold
from leukoscope.evaluation.comparison import compare_tables
from leukoscope.evaluation.hierarchy import hierarchy_metrics
from leukoscope.evaluation.intervals import bootstrap_mean, bootstrap_metrics
from leukoscope.evaluation.metrics import confusion_matrix
from leukoscope.evaluation.paired_tests import paired_tests
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.verdict import judge
from leukoscope.evaluation.verdict_foreign import judge_foreign
from leukoscope.study.decisions import PARTITIONS, decision_entries
from leukoscope.study.fold_results import FoldResults, calibration_entry
from leukoscope.study.operating import operating_entry
from leukoscope.study.patient_level import PROTOCOL, by_patient
from leukoscope.study.protocols import FINAL, UNITS, unit_of
from leukoscope.study.shortcut_summary import model_on_entries, shortcut_summary

CURVE_METRICS = ("accuracy", "balanced_accuracy")
PROBE_METRICS = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "weighted_f1",
    "roc_auc",
    "log_loss",
    "ece",
)


@dataclass(frozen=True)
class _Statistics:
    """How intervals are made in this study.

    Attributes:
        groups: Protocol → image id → unit that is resampled.
        config: Replicates, confidence, seed.
    """

    groups: Mapping[str, Mapping[str, str]]
    config: StudyConfig

    def units(self, table: PredictionTable, protocol: str) -> list[str]:
        """(n,) unit of each row."""
        mapping = self.groups[protocol]
        return [mapping.get(image_id, image_id) for image_id in table.image_id.tolist()]

    def metrics(
        self, table: PredictionTable, protocol: str, names: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Every metric with its interval."""
        intervals = bootstrap_metrics(
            table.y_true,
            table.probs,
            table.class_names,
            groups=self.units(table, protocol),
            replicates=self.config.bootstrap,
            confidence=self.config.confidence,
            seed=self.config.seed,
            names=names,
        )
        return {name: interval.to_json() for name, interval in intervals.items()}

    def hierarchy(self, table: PredictionTable, protocol: str) -> dict[str, Any] | None:
        """Both levels: malignant or not, which subtype if malignant."""
        return hierarchy_metrics(
            table.y_true,
            table.probs,
            table.class_names,
            groups=self.units(table, protocol),
            replicates=self.config.bootstrap,
            confidence=self.config.confidence,
            seed=self.config.seed,
        )


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
    groups: dict[str, dict[str, str]] = {}
    for fold in folds:
        groups.setdefault(fold.protocol, {}).update(fold.groups)
    statistics = _Statistics(groups, config)
    test = table.select(part="test")
    protocols = [p for p in dict.fromkeys(test.protocol.tolist()) if p != FINAL]
    recipes = [recipe.name for recipe in config.recipes]
    results, curve, probes, model_on, hierarchy = [], [], [], [], []
    for protocol in protocols:
        under = test.select(protocol=protocol)
        for recipe in recipes:
            rows = under.select(recipe=recipe, input="image")
            if len(rows) == 0:
                continue
            if protocol in UNITS:
                results.append(_result(statistics, rows, recipe, protocol))
                levels = statistics.hierarchy(rows, protocol)
                if levels is not None:
                    hierarchy.append({"recipe": recipe, "protocol": protocol, **levels})
            if protocol.startswith("acquisition") and protocol != "acquisition-merged":
                curve.append(_curve_point(statistics, rows, recipe, protocol))
        for probe in config.probes:
            rows = under.select(input=probe)
            if len(rows):
                probes.append(_probe(statistics, rows, probe, protocol))
        model_on += [
            {**_head(rows, statistics, protocol), **entry}
            for rows, entry in model_on_entries(statistics.metrics, under, recipes, protocol)
        ]
    metrics: dict[str, Any] = {
        "schema": 1,
        "class_names": list(table.class_names),
        "confidence": config.confidence,
        "results": results,
        "probes": probes,
        "model_on": model_on,
        "hierarchy": hierarchy,
        "comparisons": _comparisons(statistics, test, recipes, protocols),
        "inapplicable": [dict(row) for row in inapplicable],
        "curve": sorted(curve, key=lambda point: (point["recipe"], point["clusters"])),
        "subjects": by_patient(table, groups.get(PROTOCOL, {}), config, inapplicable),
        "warnings": list(warnings),
        **_promises(statistics, table, folds, recipes, protocols),
    }
    metrics["shortcuts"] = shortcut_summary(
        metrics, test, recipes[0], groups, config, inapplicable_probes
    )
    metrics["verdict"] = judge(metrics)
    metrics["shortcuts"]["level"] = metrics["verdict"]["level"]
    return metrics


def _head(rows: PredictionTable, statistics: _Statistics, protocol: str) -> dict[str, Any]:
    return {
        "protocol": protocol,
        "n": len(rows),
        "n_groups": len(set(statistics.units(rows, protocol))),
        "group_unit": unit_of(protocol),
        "folds": len(set(rows.fold.tolist())),
    }


def _result(
    statistics: _Statistics,
    rows: PredictionTable,
    recipe: str,
    protocol: str,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    confusion = confusion_matrix(rows.y_true, rows.probs.argmax(axis=1), len(rows.class_names))
    return {
        "recipe": recipe,
        **_head(rows, statistics, protocol),
        "metrics": statistics.metrics(rows, protocol, names),
        "confusion": confusion.tolist(),
        "calibrated": True,
    }


def _curve_point(
    statistics: _Statistics, rows: PredictionTable, recipe: str, protocol: str
) -> dict[str, Any]:
    _, _, number = protocol.partition("-k")
    clusters = int(number) if number else statistics.config.splits.clusters
    return {
        "recipe": recipe,
        "clusters": clusters,
        **_head(rows, statistics, protocol),
        **statistics.metrics(rows, protocol, CURVE_METRICS),
    }


def _probe(
    statistics: _Statistics, rows: PredictionTable, probe: str, protocol: str
) -> dict[str, Any]:
    return {
        "probe": probe,
        "recipe": str(rows.recipe[0]),
        **_head(rows, statistics, protocol),
        "metrics": statistics.metrics(rows, protocol, PROBE_METRICS),
    }


def _comparisons(
    statistics: _Statistics,
    test: PredictionTable,
    recipes: Sequence[str],
    protocols: Sequence[str],
) -> list[dict[str, Any]]:
    """On the same images: the first recipe against others and probes, and between protocols."""
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
        comparisons += [_compare(statistics, a, b, protocol) for a, b in pairs]
    return comparisons


def _compare(
    statistics: _Statistics, a: PredictionTable, b: PredictionTable, protocol: str
) -> dict[str, Any]:
    comparison = compare_tables(
        a,
        b,
        groups=statistics.groups[protocol],
        replicates=statistics.config.bootstrap,
        confidence=statistics.config.confidence,
        seed=statistics.config.seed,
    )
    sides = {
        key: {"recipe": str(t.recipe[0]), "protocol": str(t.protocol[0]), "input": str(t.input[0])}
        for key, t in (("a", a), ("b", b))
    }
    pairs = paired_tests(a, b, statistics.groups[protocol])
    return {**sides, **comparison.to_json(), "pairs": pairs.to_json()}


def _promises(
    statistics: _Statistics,
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


def summarise_external(
    table: PredictionTable,
    groups: Sequence[str],
    unit: str,
    warnings: Sequence[str],
    sets: Sequence[Sequence[str]] | None,
    decisions: Sequence[str],
) -> dict[str, Any]:
    """Statistics of a bundle on other data: one result, coverage, decisions.

    Args:
        table: Predictions, protocol ``external``.
        groups: (n,) unit of each row.
        unit: What it is.
        warnings: What a reader must know.
        sets: (n,) prediction set of each row, class names; None where the classes differ.
        decisions: (n,) ``accept``, ``review`` or ``reject``.
    """
    intervals = bootstrap_metrics(
        table.y_true, table.probs, table.class_names, groups=list(groups), seed=0
    )
    confusion = confusion_matrix(table.y_true, table.probs.argmax(axis=1), len(table.class_names))
    coverage = None
    if sets is not None:
        truth = [table.class_names[i] for i in table.y_true]
        held = np.array([name in names for name, names in zip(truth, sets, strict=True)])
        coverage = bootstrap_mean(held, groups=list(groups)).to_json()
    levels = hierarchy_metrics(table.y_true, table.probs, table.class_names, groups=list(groups))
    return {
        "schema": 1,
        "class_names": list(table.class_names),
        "confidence": 0.95,
        "results": [
            {
                "recipe": "bundle",
                "protocol": "external",
                "n": len(table),
                "n_groups": len(set(groups)),
                "group_unit": unit,
                "folds": 1,
                "metrics": {name: interval.to_json() for name, interval in intervals.items()},
                "confusion": confusion.tolist(),
                "calibrated": True,
            }
        ],
        "probes": [],
        "hierarchy": [{"recipe": "bundle", "protocol": "external", **levels}] if levels else [],
        "comparisons": [],
        "inapplicable": [],
        "curve": [],
        "decisions": {
            "share": {
                name: round(list(decisions).count(name) / max(1, len(decisions)), 4)
                for name in ("accept", "review", "reject")
            },
            "coverage": coverage,
        },
        "warnings": list(warnings),
    }


def summarise_foreign(
    table: PredictionTable,
    folds: Sequence[Fold],
    config: StudyConfig,
    name: str,
    *,
    inapplicable: Sequence[Mapping[str, str]],
    inapplicable_probes: Sequence[Mapping[str, str]],
    split: Mapping[str, Any] | None,
    probabilities: bool,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Statistics of a model that was not made here, beside the probes.

    Args:
        table: The model's fixed predictions under each protocol's name, and the probes'.
        folds: Units that each protocol's intervals resample.
        config: Replicates, confidence, seed, probes.
        name: The model's, which stands for a recipe.
        inapplicable: Protocols that the data cannot support.
        inapplicable_probes: Likewise probes.
        split: Sizes and leaks of the model's own split, None where it is unknown.
        probabilities: Whether there are any, beside the predicted classes.
        warnings: What a reader must know.
    """
    groups: dict[str, dict[str, str]] = {}
    for fold in folds:
        groups.setdefault(fold.protocol, {}).update(fold.groups)
    statistics = _Statistics(groups, config)
    test = table.select(part="test")
    protocols = [p for p in UNITS if p in set(test.protocol.tolist())]
    results, probes, model_on = [], [], []
    for protocol in protocols:
        under = test.select(protocol=protocol)
        rows = under.select(recipe=name, input="image")
        names = None if probabilities else _decided(table.class_names)
        results.append(_result(statistics, rows, name, protocol, names))
        tested = [under.select(input=probe) for probe in config.probes]
        probes += [_probe(statistics, t, str(t.input[0]), protocol) for t in tested if len(t)]
        model_on += [
            {**_head(own, statistics, protocol), **entry}
            for own, entry in model_on_entries(statistics.metrics, under, [name], protocol)
        ]
    metrics: dict[str, Any] = {
        "schema": 1,
        "class_names": list(table.class_names),
        "confidence": config.confidence,
        "results": results,
        "probes": probes,
        "model_on": model_on,
        "comparisons": [],
        "inapplicable": [dict(row) for row in inapplicable],
        "curve": [],
        "split": split,
        "warnings": list(warnings),
    }
    metrics["shortcuts"] = shortcut_summary(
        metrics, test, name, groups, config, inapplicable_probes
    )
    metrics["verdict"] = judge_foreign(metrics)
    metrics["shortcuts"]["level"] = metrics["verdict"]["level"]
    return metrics


def _decided(class_names: Sequence[str]) -> list[str]:
    """Metrics that need a decision only, no probability."""
    each = [f"{metric}_{c}" for metric in ("precision", "recall", "f1") for c in class_names]
    return ["accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", *each]
