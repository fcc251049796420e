"""Two figures of a shortcut audit: inflation, and the share that survives without stain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError
from leukoscope.evaluation.intervals import Interval, Resampling, Sampling
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.verdict_text import SEPARATING

_LEAST_PROBABILITY = 1e-12
_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")
_INFLATION = ("difference", "p_holm", "verdict", "n", "n_groups")


@dataclass(frozen=True)
class SurvivingShare:
    """How much of an advantage over colour statistics is left without stain.

    Attributes:
        share: (stain-neutral − colour-only) / (model − colour-only) with its interval; NaN where
            it is not defined.
        advantage: The model's accuracy minus that of the colour-only probe.
        n: Number of images.
    """

    share: Interval
    advantage: Interval
    n: int

    @property
    def defined(self) -> bool:
        """Whether the model is shown to be better than the colour statistics."""
        return self.advantage.low > 0

    def to_json(self) -> dict[str, Any]:
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
    groups: Sequence[str] | NDArray[Any] | None = None,
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
        groups: (n,) label of the group of each image; None means every image for itself.
        y_true: (n,) classes by which groups are stratified; None means not at all.
        **how: See :class:`~leukoscope.evaluation.intervals.Sampling`.

    Raises:
        DataError: There is no image, or shapes do not fit.

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
        model: Test rows of the model.
        colour: Likewise of the ``colour-only`` probe.
        neutral: Likewise of the ``stain-neutral`` probe.
        groups: Image id → group; images that it lacks stand for themselves.
        **how: See :class:`~leukoscope.evaluation.intervals.Sampling`.

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


def inflations(metrics: Mapping[str, Any], recipe: str | None) -> list[dict[str, Any]]:
    """Accuracy on random splits minus that of each protocol that separates, with its interval.

    Args:
        metrics: The contents of ``metrics.json`` with its ``comparisons``: paired differences on
            the same images, resampled by the groups of the stricter protocol.
        recipe: Whose.

    Returns:
        One entry per protocol: ``protocol``, ``difference``, ``p_holm`` of the exchange test,
        ``verdict`` (``better`` where the random split is shown to overstate), ``n``, ``n_groups``.
    """
    found = {}
    for entry in metrics.get("comparisons", ()):
        sides = [(entry[s]["recipe"], entry[s]["input"]) for s in "ab"]
        if sides != [(recipe, "image")] * 2 or entry["metric"] != "accuracy":
            continue
        if entry["a"]["protocol"] == "random":
            found[entry["b"]["protocol"]] = {
                "protocol": entry["b"]["protocol"],
                **{key: entry[key] for key in _INFLATION},
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
