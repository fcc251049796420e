"""The keys ``model_on`` and ``shortcuts`` of ``metrics.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from leukoscope.config.study import EDITED
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.shortcuts import inflations, share_of_tables
from leukoscope.study.entries import Statistics, head_of
from leukoscope.study.protocols import UNITS

EDITED_METRICS = ("accuracy", "balanced_accuracy", "roc_auc")
MODEL_ON = "model-on-"
"""What the ``input`` of rows begins with that a model predicted on edited images."""


def model_on_entries(
    statistics: Statistics, under: PredictionTable, recipes: Sequence[str], protocol: str
) -> list[dict[str, Any]]:
    """The models on edited versions of their own test images."""
    found = [
        (recipe, name, under.select(recipe=recipe, input=MODEL_ON + name))
        for recipe in recipes
        for name in EDITED
    ]
    return [
        {
            "recipe": recipe,
            "input": name,
            **head_of(statistics, rows, protocol),
            "metrics": statistics.metrics(rows, protocol, EDITED_METRICS),
        }
        for recipe, name, rows in found
        if len(rows)
    ]


def add_verdict(
    metrics: dict[str, Any],
    statistics: Statistics,
    test: PredictionTable,
    recipe: str,
    inapplicable: Sequence[Mapping[str, str]],
    judge: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> None:
    """Add inflation, the shares that survive without stain, and the verdict.

    ``metrics`` holds all other keys of ``metrics.json`` and gets ``shortcuts`` and ``verdict``;
    ``inapplicable`` names the probes that have nothing to see, ``judge`` is the rule.
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
            found = share_of_tables(*tables, statistics.groups[protocol], **statistics.how)
            shares.append({"protocol": protocol, **found.to_json()})
    metrics["shortcuts"] = {
        "recipe": recipe,
        "inflation": inflations(metrics, recipe),
        "shares": shares,
        "inapplicable": [dict(row) for row in inapplicable],
    }
    metrics["verdict"] = judge(metrics)
    metrics["shortcuts"]["level"] = metrics["verdict"]["level"]
