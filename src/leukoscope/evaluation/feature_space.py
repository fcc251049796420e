"""What a model's features encode: the class, or the slide, or the patient.

A map of features shows islands, and the eye finds in them what it looks for. The numbers here are
taken in the full space, and the comparison that counts is crossed: do images find their class when
every neighbour from their own acquisition group is left out, and do they find their acquisition
group among images of their own class?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import DataError

NEIGHBOURS = 10
PERPLEXITY = 30.0


@dataclass(frozen=True)
class Purity:
    """How often neighbours share a label."""

    n: int  # images that had enough candidates
    value: float  # mean share of the k nearest that share the image's label
    chance: float  # the same if neighbours were drawn from the candidates at random
    best: float  # the same if all images of the label came first; below 1 where groups are small

    @property
    def above_chance(self) -> float | None:
        """Purity scaled to 0 by chance and 1 at best; None where both are equal.

        >>> Purity(n=5, value=0.7, chance=0.4, best=1.0).above_chance
        0.5
        """
        room = self.best - self.chance
        return round((self.value - self.chance) / room, 4) if room > 1e-9 else None


def neighbour_purity(
    distances: NDArray[np.floating],
    labels: Sequence[str],
    *,
    k: int = NEIGHBOURS,
    apart: Sequence[Sequence[str]] = (),
    within: Sequence[str] | None = None,
) -> Purity | None:
    """Share of the k nearest neighbours that have an image's own label.

    Args:
        distances: (n, n) between images.
        labels: (n,) names; an empty one takes the image out.
        apart: Labellings whose equals may not be neighbours, such as the component of overlapping
            images; an empty name is equal to none.
        within: Labelling whose equals alone may be neighbours.

    Returns:
        None where no image has more than k candidates.

    >>> line = np.abs(np.subtract.outer(np.arange(6.0), np.arange(6.0)))
    >>> neighbour_purity(line, ["a", "a", "a", "b", "b", "b"], k=2).value
    0.8333
    """
    names = np.asarray(labels)
    allowed = ~np.eye(len(names), dtype=bool) & (names != "") & (names != "")[:, None]
    for other in apart:
        array = np.asarray(other)
        allowed &= (array[:, None] != array) | (array == "")
    if within is not None:
        array = np.asarray(within)
        allowed &= array[:, None] == array
    rows = np.flatnonzero(allowed.sum(axis=1) > k)
    if not len(rows):
        return None
    allowed, same = allowed[rows], names[rows, None] == names
    order = np.argsort(np.where(allowed, distances[rows], np.inf), axis=1, kind="stable")[:, :k]
    candidates = allowed.sum(axis=1)
    equals = (allowed & same).sum(axis=1)
    return Purity(
        n=len(rows),
        value=round(float(np.take_along_axis(same, order, axis=1).mean()), 4),
        chance=round(float((equals / candidates).mean()), 4),
        best=round(float((np.minimum(equals, k) / k).mean()), 4),
    )


def silhouette(distances: NDArray[np.floating], labels: Sequence[str]) -> float | None:
    """Mean silhouette of a labelling (Rousseeuw 1987): −1 mixed, 0 touching, 1 apart.

    Args:
        distances: (n, n) between images.
        labels: (n,) names; an empty one takes the image out.

    Returns:
        None where there are fewer than two labels, or as many as images.
    """
    from sklearn.metrics import silhouette_score

    names = np.asarray(labels)
    known = np.flatnonzero(names != "")
    if not 2 <= len(set(names[known].tolist())) < len(known):
        return None
    score = silhouette_score(distances[np.ix_(known, known)], names[known], metric="precomputed")
    return round(float(score), 4)


def pairwise(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """(n, n) Euclidean distances of (n, D) features."""
    from scipy.spatial.distance import pdist, squareform

    return np.asarray(squareform(pdist(np.asarray(features, np.float64))), np.float64)


def pca_map(
    features: NDArray[np.floating],
) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """The two principal components, and the share of variance that each holds.

    Returns:
        (n, 2) coordinates; the sign of an axis is fixed by its largest loading.

    Raises:
        DataError: Fewer than three images, fewer than two dimensions, or equal features.
    """
    from sklearn.decomposition import PCA

    _check(features)
    fitted = PCA(n_components=2, svd_solver="full")
    points = fitted.fit_transform(np.asarray(features, np.float64))
    first, second = (round(float(share), 4) for share in fitted.explained_variance_ratio_)
    return np.asarray(points), (first, second)


def tsne_map(features: NDArray[np.floating], *, seed: int) -> NDArray[np.float64]:
    """t-SNE (van der Maaten & Hinton 2008), begun from the principal components.

    Distances between islands, and their sizes, mean nothing; only neighbourhood does.

    Raises:
        DataError: Fewer than three images, fewer than two dimensions, or equal features.
    """
    from sklearn.manifold import TSNE

    _check(features)
    method = TSNE(
        perplexity=min(PERPLEXITY, (len(features) - 1) / 3), init="pca", random_state=seed
    )
    return np.asarray(method.fit_transform(np.asarray(features, np.float32)), np.float64)


def why_no_map(features: NDArray[np.floating]) -> str:
    """Why (n, D) features cannot be mapped, or an empty string."""
    n, width = features.shape
    if n < 3 or width < 2:
        return f"a map needs three images and two features, got {n} images with {width} features"
    if not np.ptp(features, axis=0).any():
        return f"the features of all {n} images are equal: there is nothing to map"
    return ""


def _check(features: NDArray[np.floating]) -> None:
    reason = why_no_map(features)
    if reason:
        raise DataError(reason)
