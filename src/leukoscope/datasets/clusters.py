"""Acquisition clusters of a data set's usable images, beside the components they are tied into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.records import ImageRecord
from leukoscope.datasets.acquisition import (
    ClusterTree,
    build_tree,
    by_size,
    why_not_applicable,
)
from leukoscope.datasets.links import Links
from leukoscope.datasets.measurements import Measures, black_share
from leukoscope.imaging.background import BACKGROUND_FEATURES


def _steadiness(name: str) -> float:
    """How steady a background feature is on one slide, in round numbers.

    On overlapping fields of the 4-class ALL set, colours of ground and red cells kept 92–98 % of
    their variance between slides, slopes of the illumination 30–70 %, the others lay between.
    """
    if name in ("ground_l", "ground_a", "ground_b", "red_l", "red_a", "red_b"):
        return 1.0
    return 0.3 if name.endswith(("_x", "_y", "_radial")) and name[1] == "_" else 0.5


BACKGROUND_WEIGHTS = np.array([_steadiness(name) for name in BACKGROUND_FEATURES])
"""(d,) trust in each background feature where no overlapping fields tell it."""


@dataclass(frozen=True)
class Clustering:
    """Acquisition clusters of the usable images, or why there are none.

    Attributes:
        tree: None where clusters do not apply.
        reason: Why not.
        ids: Usable image ids, in the order of content.
        tied: (n,) int64 component numbers.
    """

    tree: ClusterTree | None
    reason: str
    ids: tuple[str, ...]
    tied: NDArray[np.int64]


def cluster_images(records: Sequence[ImageRecord], measures: Measures, links: Links) -> Clustering:
    """Cluster the usable images by their background."""
    usable = [i for i, record in enumerate(records) if record.status == "ok"]
    place = {i: k for k, i in enumerate(usable)}
    background = measures.background[usable]
    names = [records[i].group_id for i in usable]
    number = {name: k for k, name in enumerate(dict.fromkeys(names))}
    tied = by_size([number[name] for name in names])
    reason = why_not_applicable(background, black_share(measures)[usable])
    tree = None
    if not reason:
        pairs = [(place[i], place[j]) for i, j in links.overlap_pairs if i in place and j in place]
        tree = build_tree(background, pairs, BACKGROUND_WEIGHTS)
    return Clustering(tree, reason, tuple(records[i].image_id for i in usable), tied)


def cluster_labels(found: Clustering, clusters: int) -> dict[str, str]:
    """Usable image id → cluster; with fewer images than clusters, as many as there are."""
    if found.tree is None:
        return {}
    labels = found.tree.cut(min(clusters, len(found.ids)))
    return {
        name: f"k{clusters}-{k:02d}" for name, k in zip(found.ids, labels.tolist(), strict=True)
    }
