"""How far an image's features lie from those of the training images; OOD scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError
from leukoscope.evaluation.calibration.conformal import unseen_quantile

Float32Array = NDArray[np.float32]
NEIGHBOURS = 5
MOST_REFERENCES = 1000
MOST_DIMENSIONS = 256
_MOST_BYTES = 4_000_000
_FEW_ROWS = 64
_CASE_DIMENSIONS = 64


@dataclass(frozen=True, eq=False)
class OodModel:
    """Mean and principal directions of the training images' features.

    Attributes:
        mean: (D,) float32.
        components: (D, P) float32; column p is the principal direction uₚ divided by √λₚ.
        residual_variance: σ² > 0, variance of each direction outside the subspace.
    """

    mean: Float32Array
    components: Float32Array
    residual_variance: float

    def score(self, features: ArrayLike) -> NDArray[np.float64]:
        """Distances of images.

        Args:
            features: (n, D) features of the model's graph.

        Returns:
            (n,) float64 ≥ 0; about √D for images like the training images.

        Raises:
            DataError: The number of features is another one.
        """
        values = np.asarray(features, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.mean):
            raise DataError(
                f"out-of-distribution score: expected features (n, {len(self.mean)}), "
                f"got {values.shape}"
            )
        centred = values - self.mean
        whitened = centred @ self.components.astype(np.float64)
        variances = 1 / (self.components.astype(np.float64) ** 2).sum(axis=0)
        inside = (whitened**2 * variances).sum(axis=1)
        outside = np.maximum((centred**2).sum(axis=1) - inside, 0.0)
        return np.asarray(np.sqrt((whitened**2).sum(axis=1) + outside / self.residual_variance))

    def tensors(self) -> dict[str, Float32Array]:
        """Everything as arrays, for a safetensors file."""
        return {
            "mean": self.mean,
            "components": np.ascontiguousarray(self.components),
            "residual_variance": np.array([self.residual_variance], dtype=np.float32),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.floating]]) -> OodModel:
        """The model that :meth:`tensors` described.

        Raises:
            DataError: A tensor is missing or has the wrong shape.
        """
        missing = {"mean", "components", "residual_variance"} - tensors.keys()
        if missing:
            raise DataError(f"out-of-distribution tensors: {', '.join(sorted(missing))} missing")
        mean, components = tensors["mean"], tensors["components"]
        if mean.ndim != 1 or components.ndim != 2 or len(components) != len(mean):
            raise DataError(
                f"out-of-distribution tensors: expected mean (D,) and components (D, P), "
                f"got {mean.shape} and {components.shape}"
            )
        return cls(mean, components, float(tensors["residual_variance"][0]))


def fit_ood(features: ArrayLike, *, max_dims: int = 64) -> OodModel:
    """Fit mean, principal directions and residual variance.

    Args:
        features: (n, D) features of training images.
        max_dims: Largest P; at most half of the degrees of freedom are used, so that σ² is
            estimated from the other half.

    Raises:
        DataError: Fewer than 4 images, a value is not finite, or all images are alike.

    >>> rng = np.random.default_rng(0)
    >>> train = rng.normal(size=(200, 8)) * [5, 1, 1, 1, 1, 1, 1, 1]
    >>> near, far = fit_ood(train).score([[5, 0, 0, 0, 0, 0, 0, 0], [0, 5, 0, 0, 0, 0, 0, 0]])
    >>> bool(near < 2 < far)
    True
    """
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or len(values) < 4 or not np.isfinite(values).all():
        raise DataError(
            f"out-of-distribution fit: expected finite features (n, D) of 4 or more images, "
            f"got {values.shape}"
        )
    n, d = values.shape
    mean = values.mean(axis=0)
    _, singular, directions = np.linalg.svd(values - mean, full_matrices=False)
    variances = singular**2 / (n - 1)
    total = variances.sum()
    kept = max(1, min(max_dims, (n - 1) // 2, d // 2))
    kept = max(1, min(kept, int((variances > 1e-9 * total).sum())))
    if total <= 0:
        raise DataError("out-of-distribution fit: all images have the same features")
    rest = (total - variances[:kept].sum()) / max(1, d - kept)
    residual = max(rest, 1e-6 * total / d)
    components = directions[:kept].T / np.sqrt(variances[:kept])
    return OodModel(mean.astype(np.float32), components.astype(np.float32), float(residual))


def fit_threshold(
    scores: ArrayLike, *, accept: float = 0.95, weights: ArrayLike | None = None
) -> float:
    """The largest score that is still accepted.

    It is the ⌈(n + 1) · accept⌉-th smallest score, so that a new image like these is accepted
    with at least that probability, or the largest score where n is too small.

    Args:
        scores: (n,) scores of validation images, which the model was not fitted on.
        accept: Share of such images to accept, in (0, 1).
        weights: (n,) what each image counts for; None counts every image fully.

    Raises:
        DataError: There is no score.

    >>> fit_threshold(range(1, 100), accept=0.95)
    95.0
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise DataError("out-of-distribution threshold: expected at least one score")
    return min(float(values.max()), unseen_quantile(values, accept, weights))


def neighbour_distance(
    features: ArrayLike, references: NDArray[np.floating], basis: NDArray[np.floating] | None = None
) -> NDArray[np.float64]:
    """Distance to the fifth nearest reference, all vectors scaled to length 1.

    Sun et al. 2022 (Out-of-distribution detection with deep nearest neighbors), eq. 3.

    Args:
        references: (R, P) of length 1 before the projection; with fewer than five the last counts.
        basis: (D, P) on which the references were projected. What of an image lies outside it
            is taken to be orthogonal to every reference, and so adds to the distance.

    Raises:
        DataError: The numbers of features differ.

    >>> neighbour_distance([[0.0, 2.0]], np.eye(2)[[0] * 9]).round(3).tolist()
    [1.414]
    """
    values = _unit(np.asarray(features, np.float32))
    width = references.shape[1] if basis is None else len(basis)
    if values.ndim != 2 or values.shape[1] != width:
        raise DataError(f"nearest neighbours: expected features (n, {width}), got {values.shape}")
    if basis is not None:
        values = _product(values, basis)
    cosine = _product(values, references.T).astype(np.float64)
    k = min(NEIGHBOURS, len(references))
    nearest = -np.partition(-cosine, k - 1, axis=1)[:, k - 1]
    return np.sqrt(np.maximum(2 - 2 * nearest, 0.0))


def nearest_cases(
    features: ArrayLike, cases: NDArray[np.floating], basis: NDArray[np.floating], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k cases nearest to each row, nearest first: their numbers and distances, (n, k).

    In double precision: images of one class may lie within a thousandth of each other in the
    features of a fine-tuned network.

    Args:
        cases: (R, P) of :func:`choose_cases`; all of them where R is below k.
        basis: (D, P), likewise. What of an image lies outside it adds to every distance.

    Raises:
        DataError: The numbers of features differ.

    >>> numbers, distances = nearest_cases([[0.0, 2.0]], np.eye(2), np.eye(2), 2)
    >>> numbers.tolist(), distances.round(3).tolist()
    ([[1, 0]], [[0.0, 1.414]])
    """
    values = _unit(np.asarray(features, np.float64))
    if values.ndim != 2 or values.shape[1] != len(basis):
        raise DataError(f"cases: expected features (n, {len(basis)}), got {values.shape}")
    inside, known = values @ basis.astype(np.float64), cases.astype(np.float64)
    # |v - r|² with |v| = 1, whatever part of v the basis holds.
    squared = 1 + (known**2).sum(axis=1) - 2 * inside @ known.T
    numbers = np.argsort(squared, axis=1, kind="stable")[:, :k]
    nearest = np.take_along_axis(squared, numbers, axis=1)
    return numbers, np.sqrt(np.maximum(nearest, 0.0))


def choose_cases(
    features: NDArray[np.floating],
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """At most 1000 evenly chosen rows of (n, D), on at most 64 principal directions.

    Returns:
        Their numbers (R,), the rows (R, P), of length 1 before the projection, and the directions
        (D, P), orthonormal.
    """
    rows = _evenly(len(features), MOST_REFERENCES)
    values = _unit(features[rows].astype(np.float64))
    basis = np.linalg.svd(values, full_matrices=False)[2][:_CASE_DIMENSIONS].T
    return rows, (values @ basis).astype(np.float32), np.ascontiguousarray(basis, np.float32)


def choose_references(features: NDArray[np.floating]) -> NDArray[np.float16]:
    """Evenly chosen training features of length 1, at most 4 MB of them."""
    most = max(NEIGHBOURS, min(MOST_REFERENCES, _MOST_BYTES // (2 * features.shape[1])))
    rows = _evenly(len(features), most)
    return _unit(features[rows].astype(np.float64)).astype(np.float16)


def reduce_references(
    references: NDArray[np.float16],
) -> tuple[NDArray[np.float16], NDArray[np.float16] | None]:
    """References on at most 256 of their own principal directions, and those directions (D, P)."""
    values = references.astype(np.float64)
    if values.shape[1] <= MOST_DIMENSIONS:
        return references, None
    squared, left = np.linalg.eigh(values @ values.T)  # far cheaper than all D directions
    kept = squared > 1e-6 * squared[-1]
    kept[:-MOST_DIMENSIONS] = False
    basis = (values.T @ left[:, kept]) / np.sqrt(squared[kept])
    return (values @ basis).astype(np.float16), basis.astype(np.float16)


def _evenly(n: int, most: int) -> NDArray[np.int64]:
    """Evenly spaced numbers below n, at most so many."""
    return np.linspace(0, n - 1, min(most, n)).round().astype(np.int64)


def _product(rows: NDArray[np.floating], matrix: NDArray[np.floating]) -> NDArray[np.float32]:
    """Product in float32; of a batch's few rows by OpenCV, which stays in the calling thread.

    NumPy's would wake threads that wait in a loop and take the cores from decoding and network.
    """
    matrix = matrix.astype(np.float32, copy=False)
    if not 0 < len(rows) <= _FEW_ROWS:
        return np.asarray(rows @ matrix)
    turned = not matrix.flags.c_contiguous
    given = np.ascontiguousarray(matrix.T) if turned else matrix
    flags = cv2.GEMM_2_T if turned else 0
    none = np.zeros((0, 0), np.float32)
    return np.asarray(cv2.gemm(rows, given, 1, none, 0, flags=flags), np.float32)


def _unit(values: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12))
