"""The keys ``model_on`` and ``shortcuts`` of ``metrics.json``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from leukoscope.config.study import EDITED, StudyConfig
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.shortcuts import inflations, share_of_tables
from leukoscope.study.protocols import UNITS

EDITED_METRICS = ("accuracy", "balanced_accuracy", "roc_auc")
MODEL_ON = "model-on-"
"""What the ``input`` of rows begins with that a model predicted on edited images."""

Measure = Callable[[PredictionTable, str, Sequence[str]], dict[str, Any]]


def model_on_entries(
    measure: Measure, under: PredictionTable, recipes: Sequence[str], protocol: str
) -> Iterator[tuple[PredictionTable, dict[str, Any]]]:
    """The models on edited versions of their own test images, with the rows of each.

    Args:
        measure: From rows, protocol and names to metrics with intervals.
        under: Test rows of the protocol.
        recipes: Whose models.
        protocol: Its name.
    """
    for recipe in recipes:
        for name in EDITED:
            rows = under.select(recipe=recipe, input=MODEL_ON + name)
            if len(rows):
                metrics = measure(rows, protocol, EDITED_METRICS)
                yield rows, {"recipe": recipe, "input": name, "metrics": metrics}


def shortcut_summary(
    metrics: Mapping[str, Any],
    test: PredictionTable,
    recipe: str,
    groups: Mapping[str, Mapping[str, str]],
    config: StudyConfig,
    inapplicable: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """Inflation, the shares that survive without stain, and probes that do not apply.

    Args:
        metrics: With its ``comparisons``.
        test: All test rows.
        recipe: Whose inflation and shares.
        groups: Protocol → image id → unit that is resampled.
        config: Replicates, confidence, seed.
        inapplicable: ``{"probe", "reason"}`` of each probe that has nothing to see.
    """
    shares = []
    for protocol in dict.fromkeys(test.protocol.tolist()):
        under = test.select(protocol=protocol)
        tables = (
            under.select(recipe=recipe, input="image"),
            under.select(input="colour-only"),
            under.select(input="stain-neutral"),
        )
        if protocol in UNITS and all(len(table) for table in tables):
            found = share_of_tables(
                *tables,
                groups[protocol],
                replicates=config.bootstrap,
                confidence=config.confidence,
                seed=config.seed,
            )
            shares.append({"protocol": protocol, **found.to_json()})
    return {
        "recipe": recipe,
        "inflation": inflations(metrics, recipe),
        "shares": shares,
        "inapplicable": [dict(row) for row in inapplicable],
    }
