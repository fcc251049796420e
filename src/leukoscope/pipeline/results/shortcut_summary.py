"""The keys ``model_on``, ``shortcuts``, ``survival`` and ``verdict`` of ``metrics.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.config.metrics.file import measurements
from leukoscope.config.metrics.results import GROUND_BIAS, GROUND_CLASS
from leukoscope.config.study import DEGRADED, OTHER_GROUND, PERTURBED, SWAPPED
from leukoscope.core.protocols import PROTOCOLS
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.verdict.rule import judge, skilled
from leukoscope.evaluation.verdict.shortcuts import (
    PAIRED,
    advantage_share,
    inflations,
    share_of_tables,
    source_of,
    transplant_hits,
)
from leukoscope.pipeline.results.entries import Statistics, head_of

PERTURBED_METRICS = ("accuracy", "balanced_accuracy", "roc_auc")
MODEL_ON = "model-on-"
"""What the ``input`` of rows begins with that a model predicted on perturbed images."""

SHARE_REPLICATES: Final = 500
"""Enough for a limit that is compared with one half; the area under the curve is costly."""


@dataclass(frozen=True)
class Evidence:
    """What a verdict needs beside the tables of predictions.

    Attributes:
        inapplicable: ``probe`` and ``reason`` of each probe that has nothing to see.
        partners: Image id → class of the image whose leukocytes were painted over as well, for
            the transplant control.
        without_leukocyte: Ids of images in which no leukocyte was found to put on a ground.
        control: The negative control, see :mod:`leukoscope.pipeline.evidence`.
        data_errors: Sentences of the audit's errors.
        scale: What the grain probe knows of the pixel size.
    """

    inapplicable: Sequence[Mapping[str, str]] = ()
    partners: Mapping[str, int] = field(default_factory=dict)
    without_leukocyte: frozenset[str] = frozenset()
    control: Mapping[str, object] | None = None
    data_errors: Sequence[str] = ()
    scale: Mapping[str, object] | None = None


def model_on_entries(
    statistics: Statistics,
    under: PredictionTable,
    recipes: Sequence[str],
    protocol: str,
    evidence: Evidence,
) -> list[dict[str, object]]:
    """The models on perturbed versions of their own test images.

    On the ground of another class ``ground_class`` is the share named after the ground, and
    ``ground_bias`` that share of the images named after either, ground or leukocytes.
    """
    found = []
    for recipe in recipes:
        for name in _seen_by_models(evidence):
            rows = under.select(recipe=recipe, input=MODEL_ON + name)
            if name in SWAPPED:
                paired = evidence.partners.keys() - evidence.without_leukocyte
                rows = rows.take(np.isin(rows.image_id, list(paired)))
            if not len(rows):
                continue
            metrics = statistics.metrics(rows, protocol, PERTURBED_METRICS)
            if name == OTHER_GROUND:
                ground = np.array([evidence.partners[key] for key in rows.image_id.tolist()])
                metrics |= _after_the_ground(statistics, rows, ground, protocol)
            entry = {"recipe": recipe, "input": name, **head_of(statistics, rows, protocol)}
            found.append(entry | {"metrics": metrics})
    return found


def _after_the_ground(
    statistics: Statistics, rows: PredictionTable, ground: NDArray[np.int64], protocol: str
) -> dict[str, object]:
    """How often images are named after the class (n,) of the ground."""
    named, said = replace(rows, y_true=ground), rows.probs.argmax(axis=1)
    either = named.take((said == ground) | (said == rows.y_true))
    tables = {GROUND_CLASS: named, GROUND_BIAS: either}
    return {
        key: statistics.metrics(table, protocol, ["accuracy"])["accuracy"]
        for key, table in tables.items()
        if len(table)
    }


def _seen_by_models(evidence: Evidence) -> Iterator[str]:
    """The perturbed inputs that say something; grounds are not swapped where none is to be seen."""
    yield from PERTURBED
    if PAIRED not in {row["probe"] for row in evidence.inapplicable}:
        yield from SWAPPED


def add_verdict(
    metrics: dict[str, object],
    statistics: Statistics,
    test: PredictionTable,
    recipe: str,
    evidence: Evidence,
    metric: str = "roc_auc",
) -> None:
    """Add shares, survival, control and verdict.

    ``metrics`` holds all other keys of ``metrics.json``; ``metric`` is what shares are of.
    """
    shares, sources, survival = [], [], []
    own = [row for row in measurements(metrics).results if row.recipe == recipe]
    skill = {row.protocol: skilled(row) for row in own}
    for protocol in dict.fromkeys(test.protocol.tolist()):
        under = test.select(protocol=protocol)
        model = under.select(recipe=recipe, input="image")
        if protocol not in PROTOCOLS or not len(model):
            continue
        colour, neutral = (under.select(input=name) for name in ("colour-only", "stain-neutral"))
        if len(colour) and len(neutral):
            found = share_of_tables(
                model, colour, neutral, statistics.groups[protocol], **statistics.how
            )
            shares.append({"protocol": protocol, **found.to_json()})
        judged = _Judged(statistics, model, protocol, metric, skill.get(protocol, False))
        sources += _sources(judged, under, evidence)
        survival += _survival(judged, under)
    scale = {} if evidence.scale is None else {"grain": dict(evidence.scale)}
    shortcuts: dict[str, object] = {
        "recipe": recipe,
        "inflation": [
            row.model_dump(mode="json")
            for row in inflations(measurements(metrics).comparisons, recipe)
        ],
        "shares": shares,
        "sources": sources,
        "inapplicable": [dict(row) for row in evidence.inapplicable],
        **scale,
    }
    metrics["shortcuts"] = shortcuts
    metrics["survival"] = survival
    metrics["control"] = None if evidence.control is None else dict(evidence.control)
    metrics["data_errors"] = list(evidence.data_errors)
    verdict = judge(measurements(metrics))
    metrics["verdict"] = verdict.model_dump(mode="json", exclude_unset=True)
    shortcuts["level"] = verdict.level


@dataclass(frozen=True)
class _Judged:
    """A model under one protocol, whose advantage others are measured against."""

    statistics: Statistics
    model: PredictionTable
    protocol: str
    metric: str
    skilled: bool

    def share(self, rows: PredictionTable, hits: ArrayLike | None = None) -> dict[str, object]:
        """The share of the model's advantage that other rows have."""
        how = self.statistics.how
        how["replicates"] = min(SHARE_REPLICATES, how.get("replicates", SHARE_REPLICATES))
        share = advantage_share(
            self.model, rows, self.statistics.groups[self.protocol],
            hits=hits, metric=self.metric, skilled=self.skilled, **how,
        )  # fmt: skip
        head = head_of(self.statistics, rows, self.protocol)
        return {"protocol": self.protocol, "group_unit": head["group_unit"], **share.to_json()}


def _sources(
    judged: _Judged, under: PredictionTable, evidence: Evidence
) -> list[dict[str, object]]:
    """The share of each probe that speaks for a source of shortcut."""
    found = []
    for probe in dict.fromkeys(under.input.tolist()):
        source = source_of(probe)
        if source is None:
            continue
        rows = under.select(input=probe)
        hits = transplant_hits(rows, evidence.partners) if probe == PAIRED else None
        found.append({"source": source, "probe": probe} | judged.share(rows, hits))
    return found


def _survival(judged: _Judged, under: PredictionTable) -> list[dict[str, object]]:
    """The share of its advantage that the model keeps on mildly degraded test images."""
    recipe = str(judged.model.recipe[0])
    tables = [(name, under.select(recipe=recipe, input=MODEL_ON + name)) for name in DEGRADED]
    return [
        {"recipe": recipe, "input": name} | judged.share(rows) for name, rows in tables if len(rows)
    ]
