"""Is a patient as a whole like those of the study? By the mean of its images' features.

One image may lie anywhere among those of many patients; the mean of a patient's images varies far
less, so that a shift of stain or light that no single image betrays shows in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import DataError
from leukoscope.evaluation.ood import choose_references, neighbour_distance

Features = NDArray[np.floating]
_NAME = "references"


@dataclass(frozen=True, eq=False)
class PatientGate:
    """The patients that a new one is compared with.

    Attributes:
        references: (R, D) mean features of each, of length 1.
    """

    references: NDArray[np.float16]

    @classmethod
    def of(cls, pooled: Features) -> PatientGate:
        """Of mean features (P, D); of very many patients evenly chosen ones."""
        return cls(choose_references(pooled))

    def distance(self, X: Features) -> float:
        """Distance of one patient, by features (n, D) of its images, to its fifth nearest.

        See :func:`~leukoscope.evaluation.ood.neighbour_distance`.
        """
        pooled = np.asarray(X, np.float64).mean(axis=0, keepdims=True)
        return float(neighbour_distance(pooled, self.references)[0])

    def to_bytes(self) -> bytes:
        """The content of a safetensors file."""
        from safetensors.numpy import save

        return bytes(save({_NAME: np.ascontiguousarray(self.references)}))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> PatientGate:
        """The gate of :meth:`to_bytes`.

        Raises:
            DataError: The tensors are not those of such a gate; names ``where``.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            references = load(data)[_NAME]
        except (SafetensorError, KeyError) as error:
            raise DataError(
                f"{where}: expected the tensors of a patient gate, but {error}"
            ) from None
        if references.ndim != 2 or not len(references):
            raise DataError(f"{where}: expected references (R, D), got {references.shape}")
        return cls(references)


def means_of(bags: Sequence[Features]) -> NDArray[np.float64]:
    """(P, D) mean features of patients, by features (n_i, D) of the images of each."""
    return np.stack([X.mean(axis=0, dtype=np.float64) for X in bags])


def unseen_distances(
    bags: Sequence[Features],
    fold: NDArray[np.int64],
    asked: Iterable[tuple[int, Features]],
) -> NDArray[np.float64]:
    """Distances from the patients of other folds.

    Args:
        bags: (n_i, D) features of the images of each of P patients.
        fold: (P,) fold of each.
        asked: m pairs: number of a patient, and features of some of its images.

    Returns:
        (m,) distance of each pair.
    """
    means = means_of(bags)
    gates = {k: PatientGate.of(means[fold != k]) for k in np.unique(fold).tolist()}
    return np.array([gates[int(fold[row])].distance(X) for row, X in asked])
