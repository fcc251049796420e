"""How much of a model's advantage over chance a source of shortcut gives by itself.

The advantage is that of the area under the ROC curve (one-vs-rest, macro average) over its chance
value of 0.5, because it needs no threshold and no class is frequent enough to hide behind. The
share of a source is the advantage of its probe divided by that of the model, on the same images
and under the same folds; whole groups are resampled jointly for both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError
from leukoscope.evaluation.intervals import Interval, Resampling, Sampling
from leukoscope.evaluation.metrics import weighted_metrics
from leukoscope.evaluation.predictions import PredictionTable

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


@dataclass(frozen=True)
class Share:
    """The advantage of a probe, or of a model on other images, as a share of the model's own.

    Attributes:
        metric: ``roc_auc``, or ``balanced_accuracy`` where there are no probabilities.
        value: Metric of the probe.
        model: Metric of the model on the same images.
        chance: What both have without any information.
        share: (value − chance) / (model − chance) with its interval; NaN where the model has no
            advantage.
        n: Number of images.
    """

    metric: str
    value: float
    model: float
    chance: float
    share: Interval
    n: int

    def to_json(self) -> dict[str, Any]:
        """For ``metrics.json``."""
        return {
            "metric": self.metric,
            "value": round(self.value, 6),
            "model": round(self.model, 6),
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
    **how: Unpack[Sampling],
) -> Share:
    """The share of a model's advantage that another table has, on the images of both.

    Args:
        model: Test rows of the model, one an image.
        other: Test rows of a probe, or of the model on edited images.
        groups: Image id → group; images that it lacks stand for themselves.
        hits: (n,) for each row of ``other`` 1 where it puts the true class above the other
            class of its pair, 0.5 on ties, 0 else; their mean is then the value (the
            two-alternative form of the area under the curve, Hanley & McNeil 1982). None means
            ``metric``.
        metric: ``roc_auc`` or ``balanced_accuracy``.
        **how: See :class:`~leukoscope.evaluation.intervals.Sampling`.

    Raises:
        DataError: The tables have no image in common.

    >>> y, names = [0, 1] * 30, ("healthy", "all")
    >>> ids = [f"i{k}" for k in range(60)]
    >>> one = {"recipe": "r", "protocol": "grouped", "fold": 0, "part": "test", "y_true": y}
    >>> right = PredictionTable.build(names, ids, np.eye(2)[y], **one)
    >>> half = PredictionTable.build(names, ids, [[0.5, 0.5]] * 60, **one)
    >>> found = advantage_share(right, half, {})
    >>> found.value, found.model, found.share.value
    (0.5, 1.0, 0.0)
    """
    ids, rows, rows_other = np.intersect1d(
        model.image_id, other.image_id, assume_unique=True, return_indices=True
    )
    if len(ids) == 0:
        raise DataError("the model and its probe have no test image in common")
    y, class_names = model.y_true[rows], model.class_names
    units = [groups.get(name, name) for name in ids.tolist()]
    resampling = Resampling.of(units, y, **how)
    chance = 0.5 if metric == "roc_auc" else 1 / len(class_names)
    of_image = None if hits is None else np.asarray(hits, np.float64)[rows_other]

    def measured(weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        whole = weighted_metrics(y, model.probs[rows], class_names, weights, [metric])[metric]
        if of_image is not None:
            return whole, weights @ of_image / weights.sum(axis=1)
        part = weighted_metrics(y, other.probs[rows_other], class_names, weights, [metric])[metric]
        return whole, part

    whole, part = measured(np.ones((1, len(y))))
    blocks = [measured(weights) for weights in resampling.weights()]
    drawn_whole, drawn_part = (np.concatenate([block[i] for block in blocks]) for i in (0, 1))
    value = float((part[0] - chance) / (whole[0] - chance)) if whole[0] > chance else math.nan
    drawn = np.full(len(drawn_whole), np.nan)
    above = drawn_whole > chance
    drawn[above] = (drawn_part[above] - chance) / (drawn_whole[above] - chance)
    share = resampling.interval(value, drawn)
    return Share(metric, float(part[0]), float(whole[0]), chance, share, len(y))


def source_of(probe: str) -> str | None:
    """The source that a probe speaks for, None where it is for information only.

    >>> source_of("scale-bar-only"), source_of("colour-only")
    ('frame', None)
    """
    return next((source for source, probes in SOURCES.items() if probe in probes), None)
