"""The statistics of a comparison: metrics, places, paired tests, spread; no model is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.analyses.compare.sources import Contest
from leukoscope.core.errors import UnknownNameError
from leukoscope.evaluation.comparison import Pair, compare
from leukoscope.evaluation.intervals import Sampling, bootstrap_metrics
from leukoscope.evaluation.leaderboard import bootstrap_places
from leukoscope.evaluation.metrics import compute_metrics, confusion_matrix, metric_names, metric_of
from leukoscope.evaluation.thresholds import roc_curves
from leukoscope.pipeline.folds import unit_of

BEST = "best"
FEWEST_FOLDS = 3  # below, a box over folds shows nothing
FEWEST_IMAGES = 5  # of a group in a box
ROC_POINTS = 150


@dataclass(frozen=True)
class Settings:
    """How a comparison is made.

    Attributes:
        metric: Ranks and is tested.
        against: Label of the recipe that all others are tested against, or ``best``.
        how: Of the intervals; 1 − their level is that of the tests.
    """

    metric: str
    against: str
    how: Sampling


def check_settings(settings: Settings, contests: Sequence[Contest]) -> None:
    """Refuse a metric or a recipe that does not exist, before anything is computed.

    Raises:
        UnknownNameError: Names the choices.
    """
    for contest in contests:
        if settings.metric not in (known := metric_names(contest.class_names)):
            raise UnknownNameError("metric", settings.metric, known)
    labels = {c.label for contest in contests for c in contest.candidates}
    if settings.against not in {BEST, *labels}:
        raise UnknownNameError("recipe", settings.against, {BEST, *labels})


def contest_results(contest: Contest, settings: Settings) -> dict[str, dict[str, Any]]:
    """Label → metrics with intervals, confusion, curves, place, spread."""
    labels = [candidate.label for candidate in contest.candidates]
    places = bootstrap_places(
        contest.y_true,
        [contest.probs[label] for label in labels],
        contest.class_names,
        metric=settings.metric,
        groups=contest.groups,
        **settings.how,
    )
    return {
        label: {**_one(contest, label, settings), "place": place.to_json()}
        for label, place in zip(labels, places, strict=True)
    }


def _one(contest: Contest, label: str, settings: Settings) -> dict[str, Any]:
    y, probs = contest.y_true, contest.probs[label]
    intervals = bootstrap_metrics(
        y, probs, contest.class_names, groups=contest.groups, **settings.how
    )
    return {
        "metrics": {name: interval.to_json() for name, interval in intervals.items()},
        "confusion": confusion_matrix(y, probs.argmax(axis=1), len(contest.class_names)).tolist(),
        "roc": _roc(y, probs, contest.class_names),
        "folds": len(set(contest.fold[label].tolist())),
    }


def _roc(
    y: NDArray[np.int64], probs: NDArray[np.float64], class_names: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    """Points of each one-vs-rest curve; thinned to what a figure can show."""
    points = {}
    for name, curve in roc_curves(y, probs, class_names).items():
        count = min(ROC_POINTS, len(curve.x))
        keep = np.unique(np.linspace(0, len(curve.x) - 1, count).round().astype(np.int64))
        points[name] = {"x": curve.x[keep].round(5).tolist(), "y": curve.y[keep].round(5).tolist()}
    return points


def contest_spread(contest: Contest, settings: Settings) -> dict[str, Any] | None:
    """The metric in each fold, or, of a hold-out, in each group of images that look alike.

    Groups are the patients where all images name one, else the acquisition clusters of the audit.

    Returns:
        ``{"over", "values": {label: [...]}}``, or None where there are too few of either.
    """
    members: Mapping[str, NDArray[Any]] = contest.fold
    over = "fold"
    if any(len(set(numbers.tolist())) < FEWEST_FOLDS for numbers in members.values()):
        if not metric_of(settings.metric).of_images:
            return None  # most groups lack a class
        over, groups = _alike(contest)
        members = dict.fromkeys(contest.probs, groups)
    values = {
        label: [
            compute_metrics(contest.y_true[rows], probs[rows], contest.class_names)[settings.metric]
            for key in sorted(set(members[label].tolist()))
            if key != "" and (rows := members[label] == key).sum() >= FEWEST_IMAGES
        ]
        for label, probs in contest.probs.items()
    }
    if min(len(found) for found in values.values()) < FEWEST_FOLDS:
        return None
    return {"over": over, "values": {k: [round(v, 5) for v in vs] for k, vs in values.items()}}


def _alike(contest: Contest) -> tuple[str, NDArray[np.str_]]:
    """What images are alike by, and (n,) its name for each, from the first run's manifest."""
    records = contest.candidates[0].source.manifest.usable
    patients = all(record.patient_id for record in records)
    of_image = {r.image_id: r.patient_id if patients else r.acquisition_id for r in records}
    names = np.array([of_image.get(image_id, "") for image_id in contest.image_id.tolist()])
    return "patient" if patients else "acquisition cluster", names


def contest_tests(
    contest: Contest, results: Mapping[str, Mapping[str, Any]], settings: Settings
) -> list[dict[str, Any]]:
    """Each recipe against the reference on the same images; together they are one family."""
    reference = reference_of(contest, results, settings)
    others = [c.label for c in contest.candidates if c.label != reference]
    family = [
        Pair(
            contest.y_true, contest.probs[label], contest.probs[reference], contest.class_names,
            groups=contest.groups, metric=settings.metric,
        )
        for label in others
    ]  # fmt: skip
    return [
        {"a": label, "b": reference, **found.to_json(), "protocol": contest.protocol}
        for label, found in zip(others, compare(family, **settings.how), strict=True)
    ]


def reference_of(
    contest: Contest, results: Mapping[str, Mapping[str, Any]], settings: Settings
) -> str:
    """The recipe that others are tested against: the one asked for, else the best."""
    labels = [candidate.label for candidate in contest.candidates]
    if settings.against in labels:
        return settings.against
    return min(labels, key=lambda label: float(results[label]["place"]["rank"]))


def contest_head(contest: Contest) -> dict[str, Any]:
    """What was tested: images, groups, classes, notes."""
    counts = np.bincount(contest.y_true, minlength=len(contest.class_names))
    return {
        "name": contest.protocol,
        "n": len(contest.image_id),
        "n_groups": len(set(contest.groups.tolist())),
        "group_unit": unit_of(contest.protocol, contest.candidates[0].source.folds),
        "per_class": dict(zip(contest.class_names, counts.tolist(), strict=True)),
        "labels": [candidate.label for candidate in contest.candidates],
        "notes": list(contest.notes),
    }
