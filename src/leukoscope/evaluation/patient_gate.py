"""Is a patient as a whole like those of the study? By the mean of its images' features.

One image may lie anywhere among those of many patients; the mean of a patient's images varies far
less, so that a shift of stain or light that no single image betrays shows in it.
"""

from __future__ import annotations

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


def unseen_distances(pooled: Features, fold: NDArray[np.int64]) -> NDArray[np.float64]:
    """Distance of each patient from those of the other folds.

    Args:
        pooled: (P, D) mean features.
        fold: (P,) fold of each patient.
    """
    found = np.empty(len(pooled))
    for number in np.unique(fold):
        out = fold == number
        gate = PatientGate.of(pooled[~out])
        found[out] = [gate.distance(row[None]) for row in pooled[out]]
    return found
