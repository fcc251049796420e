"""How much of a model's skill a shortcut gives, and the status of each source of shortcut."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final, Literal, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.config.metrics.evidence import Inflation, Shortcuts, SourceShare, SourceVerdict
from leukoscope.config.metrics.results import Comparison, Estimate, SourceStatus
from leukoscope.core.errors import DataError
from leukoscope.core.protocols import SEPARATING
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.statistics.drawn import drawn_metric
from leukoscope.evaluation.statistics.intervals import (
    MIN_CLASS_GROUPS,
    MIN_GROUPS,
    Interval,
    Resampling,
    Sampling,
)
from leukoscope.evaluation.statistics.metrics import weighted_metrics
from leukoscope.evaluation.verdict.sentences import Score, of_random_split

_LEAST_PROBABILITY = 1e-12
_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")
FloatArray = NDArray[np.float64]
SOURCES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "ground": ("ground-only",),
        "grain": ("grain-only",),
        "frame": ("frame-only", "scale-bar-only"),
        "file": ("file-only",),
        "stain": ("stain-only",),
    }
)
"""Each source of shortcut, and the probes that see nothing else."""
PAIRED: Final = "ground-only"
"""The probe whose rows are judged by pairs of classes: its holes belong to both."""
HALF: Final = 0.5
FEWEST_TO_SHOW: Final = 10
"""Groups below which no source is called shown, whatever its interval says."""
ENOUGH_TO_REFUTE: Final = f"of at least {MIN_GROUPS} groups, {MIN_CLASS_GROUPS} of each class"
"""What an upper limit must rest on to refute a source, in words."""


@dataclass(frozen=True)
class SurvivingShare:
    """How much of an advantage over colour statistics is left without stain.

    Attributes:
        share: (stain-neutral − colour-only) / (model − colour-only) with its interval; NaN where
            it is not defined.
        advantage: The model's accuracy minus that of the colour-only probe.
    """

    share: Interval
    advantage: Interval
    n: int

    @property
    def defined(self) -> bool:
        """Whether the model is shown to be better than the colour statistics."""
        return self.advantage.low > 0

    def to_json(self) -> dict[str, object]:
        """For ``metrics.json``."""
        return {
            "defined": self.defined,
            "share": self.share.to_json(),
            "advantage": self.advantage.to_json(),
            "n": self.n,
            "n_groups": self.share.n_groups,
        }


def surviving_share(
    model: ArrayLike,
    colour: ArrayLike,
    neutral: ArrayLike,
    *,
    groups: Sequence[str] | NDArray[np.generic] | None = None,
    y_true: ArrayLike | None = None,
    **how: Unpack[Sampling],
) -> SurvivingShare:
    """The share of a model's advantage over colour-only that a stain-neutral classifier keeps.

    With accuracies a: (a_neutral − a_colour) / (a_model − a_colour), percentile bootstrap over
    groups; the same resamples for all three. A ratio is not defined where its denominator may be
    0 or less (the advantage's interval does not lie above 0); replicates in which it is are left
    out. The share is not cut at 0 or 1: below 0 the stain-neutral classifier does worse than
    colour statistics, above 1 better than the model.

    Args:
        model: (n,) bool, whether the model is right.
        colour: (n,) bool, likewise the ``colour-only`` probe.
        neutral: (n,) bool, likewise the ``stain-neutral`` probe.
        y_true: (n,) classes by which groups are stratified; None means not at all.

    >>> model, colour, neutral = [1] * 9 + [0], [1] * 5 + [0] * 5, [1] * 7 + [0] * 3
    >>> found = surviving_share(model * 9, colour * 9, neutral * 9)
    >>> round(found.share.value, 3), round(found.advantage.value, 3)
    (0.5, 0.4)
    """
    hits = np.stack([np.asarray(one, np.float64) for one in (model, colour, neutral)], axis=1)
    classes = np.zeros(len(hits), np.int64) if y_true is None else np.asarray(y_true, np.int64)
    resampling = Resampling.of(groups, classes, **how)
    drawn = np.concatenate([w @ hits / w.sum(axis=1)[:, None] for w in resampling.weights()])
    whole = hits.mean(axis=0)
    advantage = resampling.interval(float(whole[0] - whole[1]), drawn[:, 0] - drawn[:, 1])
    value = math.nan
    shares = np.full(len(drawn), np.nan)
    if advantage.low > 0:
        value = float((whole[2] - whole[1]) / (whole[0] - whole[1]))
        above = drawn[:, 0] > drawn[:, 1]
        parts = drawn[above]
        shares[above] = (parts[:, 2] - parts[:, 1]) / (parts[:, 0] - parts[:, 1])
    return SurvivingShare(resampling.interval(value, shares), advantage, len(hits))


def share_of_tables(
    model: PredictionTable,
    colour: PredictionTable,
    neutral: PredictionTable,
    groups: Mapping[str, str],
    **how: Unpack[Sampling],
) -> SurvivingShare:
    """:func:`surviving_share` on the images that three tables of one protocol have in common.

    Args:
        colour: Likewise of the ``colour-only`` probe.
        neutral: Likewise of the ``stain-neutral`` probe.

    Raises:
        DataError: They have no image in common.
    """
    right = [
        dict(zip(t.image_id.tolist(), (t.probs.argmax(1) == t.y_true).tolist(), strict=True))
        for t in (model, colour, neutral)
    ]
    keep = [i for i, name in enumerate(model.image_id.tolist()) if all(name in r for r in right)]
    if not keep:
        raise DataError("the model and its probes have no test image in common")
    ids = model.image_id[keep].tolist()
    return surviving_share(
        *([one[name] for name in ids] for one in right),
        groups=[groups.get(name, name) for name in ids],
        y_true=model.y_true[keep],
        **how,
    )


def inflations(comparisons: Sequence[Comparison], recipe: str | None) -> list[Inflation]:
    """Accuracy on random splits minus that of each protocol that separates, with its interval.

    Args:
        comparisons: Paired differences on the same images, resampled by the groups of the
            stricter protocol.
        recipe: Whose.

    Returns:
        One entry per protocol; ``better`` where the random split is shown to overstate.
    """
    found = {
        entry.b.protocol: Inflation(
            protocol=entry.b.protocol,
            difference=entry.difference,
            p_holm=entry.p_holm,
            verdict=entry.verdict,
            n=entry.n,
            n_groups=entry.n_groups,
        )
        for entry in of_random_split(comparisons, recipe)
    }
    return [found[name] for name in SEPARATING if name in found]


def transplant_hits(
    table: PredictionTable, partner_class: Mapping[str, int]
) -> NDArray[np.float64]:
    """How often the ground of an image speaks for its own class rather than for its partner's.

    In the transplant control the leukocytes of an image and those of a partner image of another
    class are painted over alike, so the holes say nothing about which of the two classes is right.
    An image of class a with a partner of b is therefore compared with those of b with a partner of
    a, whose holes are of the same kind: by log p(a) − log p(b), within a test fold (of all folds
    where one lacks the other side). Its value is the share of them that it ranks above, its
    *placement* (DeLong et al. 1988), and the mean is the area under the ROC curve between the two
    classes: 0.5 where the ground tells nothing, however frequent each class is.

    Args:
        table: Rows of the probe ``ground-only``, one an image.
        partner_class: Image id → class index of its partner.

    Returns:
        (n,) in [0, 1]; 0.5 for an image that has none to be compared with.

    Raises:
        DataError: An image has no partner.

    >>> table = PredictionTable.build(("healthy", "all"), ["a", "b", "c"],
    ...     [[0.9, 0.1], [0.8, 0.2], [0.95, 0.05]],
    ...     recipe="r", protocol="random", fold=0, part="test", y_true=[0, 1, 1])
    >>> transplant_hits(table, {"a": 1, "b": 0, "c": 0}).tolist()
    [0.5, 1.0, 0.0]
    """
    ids = table.image_id.tolist()
    lacking = [name for name in ids if name not in partner_class]
    if lacking:
        raise DataError(f"transplant control: {len(lacking)} images have no partner")
    partner = np.array([partner_class[name] for name in ids], np.int64)
    rows = np.arange(len(table))
    logs = np.log(np.maximum(table.probs, _LEAST_PROBABILITY))
    margin = logs[rows, table.y_true] - logs[rows, partner]
    found = np.full(len(table), 0.5)
    for a, b in sorted(set(zip(table.y_true.tolist(), partner.tolist(), strict=True))):
        own = np.flatnonzero((table.y_true == a) & (partner == b))
        other = np.flatnonzero((table.y_true == b) & (partner == a))
        for fold in np.unique(table.fold[own]):
            mine = own[table.fold[own] == fold]
            near = other[table.fold[other] == fold]
            # The other side's margin is for b, so that for a is its negative.
            against = np.sort(-margin[near if len(near) else other])
            if len(against):
                below = [np.searchsorted(against, margin[mine], side) for side in _SIDES]
                found[mine] = 0.5 * (below[0] + below[1]) / len(against)
    return found


@dataclass(frozen=True)
class AdvantageShare:
    """The advantage of a probe, or of a model on other images, as a share of the model's own.

    Attributes:
        metric: ``roc_auc``, or ``balanced_accuracy`` where there are no probabilities;
            ``paired_auc`` where the probe's value is that of :func:`transplant_hits` (the model's
            is its ``roc_auc``).
        value: Metric of the probe; NaN where these images have none, because a class is missing.
        model: Metric of the model on the same images, likewise.
        chance: What both have without any information.
        share: (value − chance) / (model − chance) with its interval; NaN where the model's
            advantage may be 0, because its interval does not lie above chance.
    """

    metric: str
    value: float
    model: float
    chance: float
    share: Interval
    n: int

    def to_json(self) -> dict[str, object]:
        """For ``metrics.json``."""
        return {
            "metric": self.metric,
            "value": None if math.isnan(self.value) else round(self.value, 6),
            "model": None if math.isnan(self.model) else round(self.model, 6),
            "chance": self.chance,
            "share": self.share.to_json(),
            "n": self.n,
            "n_groups": self.share.n_groups,
        }


def advantage_share(
    model: PredictionTable,
    other: PredictionTable,
    groups: Mapping[str, str],
    *,
    hits: ArrayLike | None = None,
    metric: str = "roc_auc",
    skilled: bool = True,
    **how: Unpack[Sampling],
) -> AdvantageShare:
    """The share of a model's advantage that another table has, on the images of both.

    Args:
        model: Test rows of the model, one an image.
        other: Test rows of a probe, or of the model on perturbed images.
        hits: (n,) for each row of ``other`` 1 where it puts the true class above the other
            class of its pair, 0.5 on ties, 0 else; their mean is then the value (Hanley & McNeil
            1982). None means ``metric``.
        metric: ``roc_auc`` or ``balanced_accuracy``.
        skilled: Whether the model's own limits show an advantage at all.

    Raises:
        DataError: The tables have no image in common.

    >>> y, names = [0, 1] * 30, ("healthy", "all")
    >>> ids = list(map(str, range(60)))
    >>> one = {"recipe": "r", "protocol": "grouped", "fold": 0, "part": "test", "y_true": y}
    >>> right = PredictionTable.build(names, ids, np.eye(2)[y], **one)
    >>> half = PredictionTable.build(names, ids, [[0.5, 0.5]] * 60, **one)
    >>> advantage_share(right, half, {}).share.value
    0.0
    """
    ids, rows, rows_other = np.intersect1d(
        model.image_id, other.image_id, assume_unique=True, return_indices=True
    )
    if len(ids) == 0:
        raise DataError("the model and its probe have no test image in common")
    y, class_names = model.y_true[rows], model.class_names
    resampling = Resampling.of([groups.get(name, name) for name in ids.tolist()], y, **how)
    chance = 0.5 if metric == "roc_auc" else 1 / len(class_names)
    of_image = None if hits is None else np.asarray(hits, np.float64)[rows_other]

    def measured(probs: FloatArray) -> tuple[FloatArray, FloatArray]:
        one = weighted_metrics(y, probs, class_names, np.ones((1, len(y))), [metric])[metric]
        return one, drawn_metric(resampling, y, probs, class_names, metric)

    whole, drawn_whole = measured(model.probs[rows])
    if of_image is None:
        part, drawn_part = measured(other.probs[rows_other])
    else:
        part = np.ones((1, len(y))) @ of_image / len(y)
        drawn_part = np.concatenate([w @ of_image / w.sum(axis=1) for w in resampling.weights()])
    shown = skilled and resampling.interval(float(whole[0]), drawn_whole).low > chance
    value, drawn = (
        _above(p, w, chance if shown else math.inf)
        for p, w in ((part, whole), (drawn_part, drawn_whole))
    )
    share = resampling.interval(float(value[0]), drawn)
    name = metric if of_image is None else "paired_auc"
    return AdvantageShare(name, float(part[0]), float(whole[0]), chance, share, len(y))


def _above(part: FloatArray, whole: FloatArray, chance: float) -> FloatArray:
    """Advantages over chance of ``part`` as shares of those of ``whole``; NaN where it has none."""
    found = np.full(len(whole), np.nan)
    has = whole > chance
    found[has] = (part[has] - chance) / (whole[has] - chance)
    return found


def source_of(probe: str) -> str | None:
    """The source that a probe speaks for, None where it is for information only.

    >>> source_of("scale-bar-only"), source_of("colour-only")
    ('frame', None)
    """
    return next((source for source, probes in SOURCES.items() if probe in probes), None)


_NO_ADVANTAGE = "the model has no advantage that is shown, so none to explain"


def judge_sources(shortcuts: Shortcuts | None, judged: Sequence[Score]) -> list[SourceVerdict]:
    """The status of each source under the judged protocols.

    Args:
        shortcuts: What the probes say; None where none was run.
        judged: Scores of the judged protocols, the strictest first.
    """
    rows = shortcuts.sources if shortcuts else ()
    reasons = {row.probe: row.reason for row in shortcuts.inapplicable} if shortcuts else {}
    return [_source(name, rows, reasons, [s.protocol for s in judged]) for name in SOURCES]


def _source(
    name: str,
    rows: Sequence[SourceShare],
    reasons: Mapping[str, str],
    protocols: Sequence[str],
) -> SourceVerdict:
    """One source: shown by any of its probes, refuted only by all that apply."""
    without = partial(SourceVerdict, source=name, probe="", protocol="", share=None, needed=None)
    wanted = [probe for probe in SOURCES[name] if probe not in reasons]
    if not wanted:
        why = "; ".join(dict.fromkeys(reasons[probe] for probe in SOURCES[name]))
        return without(status="inapplicable", reason=why)
    own = [row for row in rows if source_of(row.probe) == name]
    found = [row for p in protocols for row in own if row.protocol == p]
    main = SOURCES[name][0]
    lacking = [probe for probe in wanted if probe not in {row.probe for row in found}]
    # A scale bar is looked for only where it was asked for; the main probe must have been run.
    if not found or (main in lacking and main in wanted):
        why = f"the probe {main} was not run on held-out groups"
        return without(status="open", reason=why)
    shown = [row for row in found if status_of(row) == "shown"]
    unclear = [row for row in found if status_of(row) == "open"]
    decisive = max(shown or unclear or found, key=_upper)
    status: SourceStatus = "shown" if shown else "open" if unclear else "refuted"
    return SourceVerdict(
        source=name,
        status=status,
        reason="" if decisive.share.value is not None else _NO_ADVANTAGE,
        probe=decisive.probe,
        protocol=decisive.protocol,
        share=decisive.share,
        needed=groups_needed(decisive.share, decisive.n_groups) if status == "open" else None,
    )


def status_of(row: SourceShare) -> SourceStatus:
    """What one share says: ``shown``, ``refuted`` or ``open``, which few groups leave it."""
    low, high = row.share.low, row.share.high
    if low is None or high is None:
        return "open"
    if low > HALF:
        return "shown" if row.n_groups >= FEWEST_TO_SHOW else "open"
    return "refuted" if high < HALF and row.share.reliable else "open"


def _upper(row: SourceShare) -> float:
    return float("inf") if row.share.high is None else row.share.high


def groups_needed(share: Estimate, n_groups: int) -> int | None:
    """How many groups would close an open share, if its value stays what it is.

    The distance of the value from its limits shrinks with the square root of the number of
    groups. None where the value lies within 0.02 of one half, or is not known.

    >>> groups_needed(Estimate(value=0.3, low=0.0, high=0.7), 25)
    100
    """
    value, low, high = share.value, share.low, share.high
    if value is None or low is None or high is None or abs(value - HALF) < 0.02:
        return None
    reach = high - value if value < HALF else value - low
    needed = float(n_groups * (reach / abs(value - HALF)) ** 2)
    return max(MIN_GROUPS, math.ceil(round(needed, 6)))
