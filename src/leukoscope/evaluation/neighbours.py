"""The distance to the nearest training images: references, on few directions, and the search."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError

NEIGHBOURS = 5
MOST_REFERENCES = 1000
MOST_DIMENSIONS = 256
_MOST_BYTES = 4_000_000
_FEW_ROWS = 64
_CASE_DIMENSIONS = 64


def neighbour_distance(
    features: ArrayLike, references: NDArray[Any], basis: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """Distance to the fifth nearest reference, all vectors scaled to length 1.

    Sun et al. 2022 (Out-of-distribution detection with deep nearest neighbors), eq. 3.

    Args:
        features: (n, D).
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
    features: ArrayLike, cases: NDArray[Any], basis: NDArray[Any], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The k cases nearest to each row, nearest first: their numbers and distances, (n, k).

    In double precision: images of one class may lie within a thousandth of each other in the
    features of a fine-tuned network.

    Args:
        features: (n, D).
        cases: (R, P) of :func:`choose_cases`; all of them where R is below k.
        basis: (D, P), likewise. What of an image lies outside it adds to every distance.
        k: How many.

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
    features: NDArray[Any],
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


def choose_references(features: NDArray[Any]) -> NDArray[np.float16]:
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


def _product(rows: NDArray[Any], matrix: NDArray[Any]) -> NDArray[np.float32]:
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


def _unit(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12))
