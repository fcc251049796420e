"""The operating point of a study: a threshold from each fold's ``cal`` part, measured on test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.operating import OperatingTarget, parse_operating_point
from leukoscope.evaluation.hierarchy import BRANCHES
from leukoscope.evaluation.intervals import bootstrap_mean, bootstrap_metrics, proportion_interval
from leukoscope.evaluation.metrics import malignant_classes
from leukoscope.evaluation.operating_point import ChosenPoint, choose_threshold
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.study.fold_results import FoldResults


def fit_point(
    probs: NDArray[np.float64],
    y: NDArray[np.int64],
    mask: NDArray[np.bool_],
    target: OperatingTarget,
    patients: Sequence[str] | None,
    weights: NDArray[np.float64] | None = None,
) -> ChosenPoint:
    """The threshold that calibration images support.

    Args:
        probs: (n, K) calibrated probabilities of the ``cal`` part.
        y: (n,) class indices.
        mask: (K,) malignant classes.
        target: What was asked for.
        patients: (n,) ids, needed where the target is about patients.
        weights: (n,) what each image counts for where it is about images.
    """
    ill = mask[y]
    own = None
    if target.unit == "patient" and patients is not None:
        own = np.asarray(patients)[ill]
    counts = None if weights is None else weights[ill]
    return choose_threshold(probs[ill][:, mask].sum(axis=1), target, own, counts)


def refusal(point: ChosenPoint, target: OperatingTarget) -> str:
    """Why there is no threshold, and how many images or patients would be needed.

    >>> target = parse_operating_point("miss at most 1 % of malignant fields, with 95 % confidence")
    >>> refusal(ChosenPoint(None, 275, 0, 0.0108, 299), target)  # doctest: +NORMALIZE_WHITESPACE
    'Not attainable with 275 malignant calibration fields: even with none of them missed, up to
    1.08 % might be; 299 are needed.'
    """
    return (
        f"Not attainable with {point.n} malignant calibration {target.noun}: even with none of "
        f"them missed, up to {100 * point.bound:.3g} % might be; {point.needed} are needed."
    )


def operating_entry(
    tests: Sequence[FoldResults], words: str, patients: Mapping[str, str] | None
) -> dict[str, Any]:
    """``decisions.operating_point`` of ``metrics.json``.

    ``words`` may be empty; ``patients``: image id → patient, None where unknown.
    """
    mask = malignant_classes(tests[0].test[0].class_names) if tests else None
    if mask is None:
        reason = "the classes do not divide into malignant and others"
        return {"words": words, "inapplicable": reason}
    if not words:
        counts = {t.protocol: min(int(mask[c.y_true].sum()) for c in t.cal) for t in tests}
        return {"words": "", "n": counts}
    target = parse_operating_point(words)
    if target.unit == "patient" and patients is None:
        reason = "the images have no patient ids, or the protocol `grouped` was not run"
        return {"words": words, "inapplicable": reason}
    found = {t.protocol: _under(t, mask, target, patients or {}) for t in tests}
    return {"words": words, "unit": target.unit, "miss": target.miss, "protocol": found}


def _under(
    tested: FoldResults,
    mask: NDArray[np.bool_],
    target: OperatingTarget,
    patients: Mapping[str, str],
) -> dict[str, Any]:
    def of_patient(table: PredictionTable) -> list[str]:
        return [patients.get(i, i) for i in table.image_id.tolist()]

    points = [fit_point(t.probs, t.y_true, mask, target, of_patient(t)) for t in tested.cal]
    thinnest = min(points, key=lambda point: point.n)
    head = {"n_cal": [point.n for point in points], "needed": thinnest.needed}
    if any(point.threshold is None for point in points):
        return {**head, "refused": refusal(thinnest, target)}
    thresholds = [float(point.threshold or 0.0) for point in points]
    pairs = zip(tested.test, thresholds, strict=True)
    flagged = np.concatenate([t.probs[:, mask].sum(axis=1) >= limit for t, limit in pairs])
    ill, options = mask[tested.y], tested.options
    two = np.stack([~flagged, flagged], axis=1).astype(np.float64)
    names = [f"recall_{BRANCHES[1]}", f"recall_{BRANCHES[0]}"]
    rates = bootstrap_metrics(ill.astype(int), two, BRANCHES, names=names, **options)
    entry: dict[str, Any] = {
        **head,
        "thresholds": [round(limit, 6) for limit in thresholds],
        "sensitivity": rates[names[0]].to_json(),
        "specificity": rates[names[1]].to_json(),
        "flagged": bootstrap_mean(flagged, **options).to_json(),
        "n_malignant": int(ill.sum()),
        "n_other": int((~ill).sum()),
    }
    if target.unit == "patient":
        ids = np.array([name for t in tested.test for name in of_patient(t)])
        caught = [bool(flagged[ill & (ids == name)].any()) for name in np.unique(ids[ill])]
        n, share = len(caught), float(np.mean(caught))
        low, high = proportion_interval(sum(caught), n, confidence=tested.config.confidence)
        entry["patients_found"] = {"value": share, "low": low, "high": high, "n": n}
    kept = entry.get("patients_found", entry["sensitivity"])["value"] >= 1 - target.miss
    return {**entry, "kept": bool(kept)}
