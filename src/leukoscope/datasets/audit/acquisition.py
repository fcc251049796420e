"""Acquisition clusters: images probably taken in one session, found without labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.records import ImageRecord
from leukoscope.datasets.audit.links import Links
from leukoscope.datasets.audit.measurements import Measures, black_share
from leukoscope.datasets.groups import Pair, component_labels
from leukoscope.imaging.background import BACKGROUND_FEATURES

MOST_LINKED = 10_000
"""Ward's linkage needs memory for all pairs; images beyond this join the nearest one's cluster."""

FEWEST_PAIRS = 100
"""Overlapping pairs from which the variation within a slide is estimated."""

FEWEST_IMAGES = 12
BLACK_GROUND = 0.5
"""Share of black outside the cells from which a picture shows nothing of its slide."""

_CLIP = 4.0
_RIDGE = 0.05  # of the variance over all images; keeps constant features from dominating
_FEWEST_LINKS = 2
_LINK_SHARE = 0.1
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class ClusterTree:
    """Nested clusters of n images."""

    linkage: FloatArray  # (m − 1, 4) float64, SciPy's linkage of m images
    place: IntArray  # (n,) int64, for each image its own place among the m, or its nearest one's
    whitened: bool  # whether overlapping fields set the scale of the features

    def cut(self, clusters: int) -> IntArray:
        """(n,) numbers from 0, by size; at most ``clusters`` of them."""
        from scipy.cluster.hierarchy import fcluster

        flat = fcluster(self.linkage, clusters, "maxclust").astype(np.int64)[self.place]
        return number_by_size(flat)


def number_by_size(labels: Sequence[int] | IntArray) -> IntArray:
    """Number labels from 0, the most frequent first; equals in the order in which they come.

    >>> number_by_size([7, 3, 3]).tolist()
    [1, 0, 0]
    """
    values = np.asarray(labels).tolist()
    first = {value: i for i, value in reversed(list(enumerate(values)))}
    counts = Counter(values)
    order = sorted(counts, key=lambda value: (-counts[value], first[value]))
    number = {value: k for k, value in enumerate(order)}
    return np.array([number[value] for value in values], np.int64)


def why_not_applicable(background: FloatArray, black_share: FloatArray) -> str:
    """Why acquisition clusters cannot be found, or an empty string.

    Args:
        black_share: (n,) share of black outside the leukocytes.
    """
    if len(background) < FEWEST_IMAGES:
        return f"expected at least {FEWEST_IMAGES} usable images, found {len(background)}"
    share = float((black_share > BLACK_GROUND).mean())
    if share > 0.5:
        return (
            f"{share:.0%} of the images show cells cut out on black: nothing of the slide's "
            "background is left to tell sessions apart"
        )
    if float(np.ptp(background, axis=0).max()) < 1e-9:
        return "all backgrounds are equal"
    return ""


def build_tree(
    background: FloatArray, overlaps: Sequence[Pair], weights: FloatArray | None = None
) -> ClusterTree:
    """Cluster images by their background.

    Args:
        background: (n, d) features, n ≥ 2.
        overlaps: Pairs of indices that show the same place of a slide.
        weights: (d,) trust in each feature where there are too few pairs; None means equal.
    """
    from scipy.cluster.hierarchy import linkage

    scaled = scale_features(background)
    whitened = len(overlaps) >= FEWEST_PAIRS
    if whitened:
        scaled = whiten(scaled, overlaps)
    elif weights is not None:
        scaled = scaled * weights
    n = len(scaled)
    chosen = np.arange(n) if n <= MOST_LINKED else np.arange(MOST_LINKED) * n // MOST_LINKED
    place = np.arange(n) if n <= MOST_LINKED else _nearest(scaled, scaled[chosen])
    return ClusterTree(linkage(scaled[chosen], "ward"), place, whitened)


def scale_features(values: FloatArray) -> FloatArray:
    """Median 0, interquartile range that of a standard normal, clipped at ±4.

    A feature with no interquartile range (a rare bar, say) is scaled by its standard deviation;
    one that is constant becomes 0.
    """
    low, middle, high = np.percentile(values, [25, 50, 75], axis=0)
    spread = (high - low) / 1.349
    spread = np.where(spread > 1e-9, spread, values.std(axis=0))
    spread = np.where(spread > 1e-9, spread, np.inf)
    return np.asarray(np.clip((values - middle) / spread, -_CLIP, _CLIP))


def whiten(scaled: FloatArray, pairs: Sequence[Pair]) -> FloatArray:
    """Scale so that differences within the pairs have unit covariance.

    Args:
        scaled: (n, d) features.
    """
    index = np.array(pairs)[:, :2]
    difference = scaled[index[:, 0]] - scaled[index[:, 1]]
    within = difference.T @ difference / (2 * len(difference))
    ridge = _RIDGE * np.eye(scaled.shape[1])
    return np.asarray(scaled @ np.linalg.cholesky(np.linalg.inv(within + ridge)))


def _nearest(rows: FloatArray, points: FloatArray) -> IntArray:
    from scipy.spatial import cKDTree

    return np.asarray(cKDTree(points).query(rows)[1], np.int64)


def merge_clusters(labels: IntArray, groups: Sequence[Sequence[int]]) -> IntArray:
    """Join clusters that overlapping fields show to be one slide, cut in two.

    Two clusters are joined where at least two components of overlapping fields, and a tenth of
    those of the cluster with fewer, have images in both: a single stray image does not fuse two
    slides. Then each component goes as a whole to where most of it lies, so none is cut.

    Returns:
        (n,) numbers from 0, by size.
    """
    touched: Counter[int] = Counter()
    spanned: Counter[Pair] = Counter()
    for group in groups:
        names = sorted({int(labels[i]) for i in group})
        touched.update(names)
        spanned.update((a, b) for k, a in enumerate(names) for b in names[k + 1 :])
    links = [
        (a, b)
        for (a, b), count in spanned.items()
        if count >= max(_FEWEST_LINKS, _LINK_SHARE * min(touched[a], touched[b]))
    ]
    joined = np.array(component_labels(int(labels.max()) + 1, links), np.int64)
    merged = joined[labels]
    for group in groups:
        members = list(group)
        counts = Counter(merged[members].tolist())
        merged[members] = min(counts, key=lambda value: (-counts[value], value))
    return number_by_size(merged)


def contingency(rows: Sequence[int] | IntArray, columns: Sequence[int] | IntArray) -> FloatArray:
    """Table of counts of two labellings.

    >>> contingency([0, 0, 1], [1, 1, 0]).tolist()
    [[0.0, 2.0], [1.0, 0.0]]
    """
    a, b = np.asarray(rows, np.int64), np.asarray(columns, np.int64)
    table = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    np.add.at(table, (a, b), 1)
    return table


def cramers_v(table: FloatArray) -> float | None:
    """Association of two labellings, corrected for chance (Bergsma 2013).

    Args:
        table: (R, C) counts.

    Returns:
        0 (none) to 1 (one tells the other); None where a labelling has fewer than two values.

    >>> cramers_v(np.array([[50.0, 0.0], [0.0, 50.0]]))
    1.0
    >>> cramers_v(np.array([[25.0, 25.0], [25.0, 25.0]]))
    0.0
    """
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    n, (rows, columns) = table.sum(), table.shape
    if min(rows, columns) < 2 or n < 2:
        return None
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / n
    phi2 = float(((table - expected) ** 2 / expected).sum() / n)
    phi2 = max(0.0, phi2 - (rows - 1) * (columns - 1) / (n - 1))
    rows_c = rows - (rows - 1) ** 2 / (n - 1)
    columns_c = columns - (columns - 1) ** 2 / (n - 1)
    least = min(rows_c - 1, columns_c - 1)
    return round(float(np.sqrt(min(1.0, phi2 / least))), 6) if least > 0 else None


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
    """Acquisition clusters of the usable images, or why there are none."""

    tree: ClusterTree | None  # None where clusters do not apply
    reason: str
    ids: tuple[str, ...]  # usable image ids, in the order of content
    tied: NDArray[np.int64]  # (n,) int64 component numbers


def cluster_images(records: Sequence[ImageRecord], measures: Measures, links: Links) -> Clustering:
    """Cluster the usable images by their background."""
    usable = [i for i, record in enumerate(records) if record.status == "ok"]
    place = {i: k for k, i in enumerate(usable)}
    background = measures.background[usable]
    names = [records[i].group_id for i in usable]
    number = {name: k for k, name in enumerate(dict.fromkeys(names))}
    tied = number_by_size([number[name] for name in names])
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
