"""Acquisition clusters of a data set's usable images, beside the components they are tied into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.records import ImageRecord
from leukoscope.datasets.acquisition import ClusterTree, build_tree, by_size, why_not_applicable
from leukoscope.datasets.links import Links
from leukoscope.datasets.measurements import Measures, black_share


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
    """Cluster the usable images by their background.

    Args:
        records: The n images, with component ids.
        measures: Their measures.
        links: Their links.
    """
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
        tree = build_tree(background, pairs)
    return Clustering(tree, reason, tuple(records[i].image_id for i in usable), tied)


def cluster_labels(found: Clustering, clusters: int) -> dict[str, str]:
    """Usable image id → cluster; with fewer images than clusters, as many as there are."""
    if found.tree is None:
        return {}
    labels = found.tree.cut(min(clusters, len(found.ids)))
    return {
        name: f"k{clusters}-{k:02d}" for name, k in zip(found.ids, labels.tolist(), strict=True)
    }
