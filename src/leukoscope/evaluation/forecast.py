"""What a study forecasts for as many new patients as another data set has, and whether it held."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from leukoscope.core.errors import DataError
from leukoscope.evaluation.next_unit import cohort_interval, cohort_metric_interval
from leukoscope.evaluation.predictions import PredictionTable

INSIDE, OUTSIDE = "inside the forecast", "outside the forecast"


def forecasts(
    inside: PredictionTable,
    groups: Sequence[str],
    unit: str,
    outside: PredictionTable,
    new_groups: Sequence[str],
    new_unit: str,
    found: Mapping[str, Mapping[str, Any]],
    *,
    how: Mapping[str, Any],
) -> dict[str, Any]:
    """Prediction intervals of the other data's accuracy and ROC AUC, from the study's own images.

    The accuracy is that of the images of as many new groups, of the sizes that the other data has
    (:func:`~leukoscope.evaluation.next_unit.cohort_interval`), the ROC AUC that of as many new
    groups. Only images of classes that both have are used.

    Args:
        inside: Test rows of the study, one an image.
        groups: (n,) unit of each.
        unit: What it is, e.g. ``patient``.
        outside: Predictions on the other data.
        new_groups: (m,) unit of each of these.
        new_unit: What it is.
        found: Metric → value with interval on the other data.
        how: ``replicates``, ``confidence`` and ``seed``.

    Returns:
        ``unit``, ``n_units``, and by metric ``value``, ``low``, ``high``, ``reliable``,
        ``verdict``; or ``{"reason"}`` where nothing can be forecast.
    """
    if inside.class_names != outside.class_names:
        return {"reason": "only malignant against not malignant could be measured there"}
    if unit != new_unit:
        return {
            "reason": f"the study held out {unit}s, and the other data is known by {new_unit}: how "
            f"many new {unit}s it holds is not known"
        }
    shared = sorted(set(inside.y_true.tolist()) & set(outside.y_true.tolist()))
    rows = np.isin(inside.y_true, shared)
    y, probs, labels = inside.y_true[rows], inside.probs[rows], np.array(groups)[rows]
    sizes = list(Counter(new_groups).values())
    result: dict[str, Any] = {"unit": unit, "n_units": len(sizes)}
    plain = {"confidence": how["confidence"], "seed": how["seed"]}
    try:
        forecast = cohort_interval(
            probs.argmax(axis=1) == y, labels, count=len(sizes), images=sizes, **plain
        ).to_json()
    except DataError as error:
        return {"reason": str(error.message)}
    result["accuracy"] = _judged(forecast, found["accuracy"])
    try:
        auc = cohort_metric_interval(
            y, probs, inside.class_names, labels, count=len(sizes), metric="roc_auc", **how
        ).to_json()
    except DataError:
        return result  # fewer new groups than classes: there is no ranking to forecast
    if auc["low"] is not None and (found.get("roc_auc") or {}).get("value") is not None:
        result["roc_auc"] = _judged(auc, found["roc_auc"])
    return result


def _judged(forecast: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """A forecast with what came out of it."""
    value = found["value"]
    held = (
        value is not None and not math.isnan(value) and forecast["low"] <= value <= forecast["high"]
    )
    kept = {key: forecast[key] for key in ("value", "low", "high", "reliable")}
    return {**kept, "verdict": INSIDE if held else OUTSIDE}
