"""Statistics of a model that was not made here, beside the probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leukoscope.config.study import StudyConfig
from leukoscope.core.records import Fold
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.study.entries import Statistics, probe_entry, result_entry
from leukoscope.study.protocols import UNITS
from leukoscope.study.shortcut_summary import Evidence, add_verdict, model_on_entries


def summarise_foreign(
    table: PredictionTable,
    folds: Sequence[Fold],
    config: StudyConfig,
    name: str,
    *,
    inapplicable: Sequence[Mapping[str, str]],
    evidence: Evidence,
    split: Mapping[str, Any] | None,
    probabilities: bool,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Statistics of a model that was not made here, beside the probes.

    Arguments are those of :func:`~leukoscope.study.summary.summarise`; ``name`` is the model's and
    stands for a recipe, ``split`` holds sizes and leaks of its own split (None where unknown),
    ``probabilities`` says whether there are any, beside the predicted classes.
    """
    statistics = Statistics.of(folds, config)
    test = table.select(part="test")
    protocols = [p for p in UNITS if p in set(test.protocol.tolist())]
    results, probes, model_on = [], [], []
    for protocol in protocols:
        under = test.select(protocol=protocol)
        rows = under.select(recipe=name, input="image")
        names = None if probabilities else _decided(table.class_names)
        results.append(result_entry(statistics, rows, name, protocol, names))
        tested = [under.select(input=probe) for probe in config.probes]
        probes += [probe_entry(statistics, t, str(t.input[0]), protocol) for t in tested if len(t)]
        model_on += model_on_entries(statistics, under, [name], protocol)
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
    metric = "roc_auc" if probabilities else "balanced_accuracy"
    add_verdict(metrics, statistics, test, name, evidence, metric)
    return metrics


def _decided(class_names: Sequence[str]) -> list[str]:
    """Metrics that need a decision only, no probability."""
    each = [f"{metric}_{c}" for metric in ("precision", "recall", "f1") for c in class_names]
    return ["accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", *each]
