"""The statistics of a comparison: metrics, places, paired tests, spread; no model is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from leukoscope.analyses.compare.sources import Leaderboard
from leukoscope.config.comparison import (
    CurvePoints,
    PairedTest,
    Place,
    ProtocolHead,
    RecipeResult,
    Spread,
)
from leukoscope.core.errors import UnknownNameError
from leukoscope.evaluation.statistics.comparison import PredictorPair, compare
from leukoscope.evaluation.statistics.intervals import Sampling, bootstrap_metrics
from leukoscope.evaluation.statistics.leaderboard import bootstrap_ranks
from leukoscope.evaluation.statistics.metrics import (
    compute_metrics,
    confusion_matrix,
    metric_names,
    metric_of,
)
from leukoscope.evaluation.statistics.thresholds import roc_curves
from leukoscope.pipeline.folds import unit_of

BEST = "best"
FEWEST_FOLDS = 3  # below, a box over folds shows nothing
FEWEST_IMAGES = 5  # of a group in a box
ROC_POINTS = 150


@dataclass(frozen=True)
class ComparisonSettings:
    """How a comparison is made.

    Attributes:
        metric: Ranks and is tested.
        against: Label of the recipe that all others are tested against, or ``best``.
        how: Of the intervals; 1 − their level is that of the tests.
    """

    metric: str
    against: str
    how: Sampling


def check_settings(settings: ComparisonSettings, boards: Sequence[Leaderboard]) -> None:
    """Refuse a metric or a recipe that does not exist, before anything is computed.

    Raises:
        UnknownNameError: Names the choices.
    """
    for board in boards:
        if settings.metric not in (known := metric_names(board.class_names, board.roles)):
            raise UnknownNameError("metric", settings.metric, known)
    labels = {c.label for board in boards for c in board.candidates}
    if settings.against not in {BEST, *labels}:
        raise UnknownNameError("recipe", settings.against, {BEST, *labels})


def leaderboard_results(
    board: Leaderboard, settings: ComparisonSettings
) -> dict[str, RecipeResult]:
    """Label → metrics with intervals, confusion, curves, place, spread."""
    labels = [candidate.label for candidate in board.candidates]
    places = bootstrap_ranks(
        board.y_true,
        [board.probs[label] for label in labels],
        board.class_names,
        metric=settings.metric,
        groups=board.groups,
        roles=board.roles,
        **settings.how,
    )
    return {
        label: _one(board, label, settings, Place(**asdict(place)))
        for label, place in zip(labels, places, strict=True)
    }


def _one(
    board: Leaderboard, label: str, settings: ComparisonSettings, place: Place
) -> RecipeResult:
    y, probs, folds = board.y_true, board.probs[label], len(set(board.fold[label].tolist()))
    how: Sampling = {**settings.how, "folds": folds}
    intervals = bootstrap_metrics(
        y, probs, board.class_names, groups=board.groups, roles=board.roles,
        **how,
    )  # fmt: skip
    confusion = confusion_matrix(y, probs.argmax(axis=1), len(board.class_names)).tolist()
    return RecipeResult(
        metrics={name: interval.estimate for name, interval in intervals.items()},
        confusion=tuple(map(tuple, confusion)),
        roc=_roc(y, probs, board.class_names),
        folds=folds,
        place=place,
    )


def _roc(
    y: NDArray[np.int64], probs: NDArray[np.float64], class_names: Sequence[str]
) -> dict[str, CurvePoints]:
    """Points of each one-vs-rest curve; thinned to what a figure can show."""
    points = {}
    for name, curve in roc_curves(y, probs, class_names).items():
        count = min(ROC_POINTS, len(curve.x))
        keep = np.unique(np.linspace(0, len(curve.x) - 1, count).round().astype(np.int64))
        points[name] = CurvePoints(
            x=tuple(curve.x[keep].round(5).tolist()), y=tuple(curve.y[keep].round(5).tolist())
        )
    return points


def leaderboard_spread(board: Leaderboard, settings: ComparisonSettings) -> Spread | None:
    """The metric in each fold, or, of a hold-out, in each group of images that look alike.

    Groups are the patients where all images name one, else the acquisition clusters of the audit.

    Returns:
        None where there are too few of either.
    """
    members: Mapping[str, NDArray[np.generic]] = board.fold
    over = "fold"
    if any(len(set(numbers.tolist())) < FEWEST_FOLDS for numbers in members.values()):
        if not metric_of(settings.metric).of_images:
            return None  # most groups lack a class
        over, groups = _alike(board)
        members = dict.fromkeys(board.probs, groups)
    values = {
        label: [
            compute_metrics(board.y_true[rows], probs[rows], board.class_names, board.roles)[
                settings.metric
            ]
            for key in sorted(set(members[label].tolist()))
            if key != "" and (rows := members[label] == key).sum() >= FEWEST_IMAGES
        ]
        for label, probs in board.probs.items()
    }
    if min(len(found) for found in values.values()) < FEWEST_FOLDS:
        return None
    return Spread(over=over, values={k: tuple(round(v, 5) for v in vs) for k, vs in values.items()})


def _alike(board: Leaderboard) -> tuple[str, NDArray[np.str_]]:
    """What images are alike by, and (n,) its name for each, from the first run's manifest."""
    records = board.candidates[0].source.files.manifest.usable
    patients = all(record.patient_id for record in records)
    of_image = {r.image_id: r.patient_id if patients else r.acquisition_id for r in records}
    names = np.array([of_image.get(image_id, "") for image_id in board.image_id.tolist()])
    return "patient" if patients else "acquisition cluster", names


def leaderboard_tests(
    board: Leaderboard, results: Mapping[str, RecipeResult], settings: ComparisonSettings
) -> list[PairedTest]:
    """Each recipe against the reference on the same images; together they are one family."""
    reference = reference_of(board, results, settings)
    others = [c.label for c in board.candidates if c.label != reference]
    family = [
        PredictorPair(
            board.y_true, board.probs[label], board.probs[reference], board.class_names,
            groups=board.groups, metric=settings.metric, roles=board.roles,
        )
        for label in others
    ]  # fmt: skip
    return [
        PairedTest(
            a=label,
            b=reference,
            metric=found.metric,
            difference=found.difference.estimate,
            verdict=found.verdict,
            n=found.n,
            n_groups=found.difference.n_groups,
            p=round(found.p, 5),
            p_holm=round(found.p_holm, 5),
            protocol=board.protocol,
        )
        for label, found in zip(others, compare(family, **settings.how), strict=True)
    ]


def reference_of(
    board: Leaderboard, results: Mapping[str, RecipeResult], settings: ComparisonSettings
) -> str:
    """The recipe that others are tested against: the one asked for, else the best."""
    labels = [candidate.label for candidate in board.candidates]
    if settings.against in labels:
        return settings.against
    return min(labels, key=lambda label: results[label].place.rank)


def leaderboard_head(board: Leaderboard, settings: ComparisonSettings) -> ProtocolHead:
    """What was tested: images, groups, classes, notes, and how the metric spreads."""
    counts = np.bincount(board.y_true, minlength=len(board.class_names))
    return ProtocolHead(
        name=board.protocol,
        n=len(board.image_id),
        n_groups=len(set(board.groups.tolist())),
        group_unit=unit_of(board.protocol, board.candidates[0].source.files.splits),
        per_class=dict(zip(board.class_names, counts.tolist(), strict=True)),
        labels=tuple(candidate.label for candidate in board.candidates),
        notes=tuple(board.notes),
        spread=leaderboard_spread(board, settings),
    )
