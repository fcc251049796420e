"""How a classifier answered on labelled cells of patients whom it had not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
TINY: Final = 1e-12
"""Keeps logarithms and divisions defined; no share is as small."""


@dataclass(frozen=True, eq=False)
class Confusions:
    """How a classifier answered on labelled cells of units (patients) that it was not trained on.

    Attributes:
        y_true: (n,) true classes, 0 … K - 1.
        y_prob: (n, K) calibrated probabilities.
        unit: (n,) number of each cell's unit, 0 … U - 1.

    Raises:
        DataError: There is no cell, shapes do not fit, or a number is out of range.
    """

    y_true: IntArray
    y_prob: FloatArray
    unit: IntArray

    def __post_init__(self) -> None:
        n, shape = len(self.y_true), self.y_prob.shape
        if n == 0 or len(shape) != 2 or shape[0] != n or len(self.unit) != n:
            raise DataError(
                f"confusions: expected true classes and units of each of {n} ≥ 1 cells and "
                f"probabilities (cells, classes), got {len(self.unit)} units and {shape}"
            )
        classes = self.y_true
        if classes.min() < 0 or classes.max() >= shape[1] or self.unit.min() < 0:
            raise DataError("confusions: a true class or a unit is out of range")
        if not np.isfinite(self.y_prob).all() or self.y_prob.min() < 0:
            raise DataError("confusions: expected probabilities of 0 and more")

    @classmethod
    def of(cls, y_true: ArrayLike, y_prob: ArrayLike, units: Sequence[object]) -> Confusions:
        """Number the units.

        Args:
            y_true: (n,) true classes, 0 … K - 1.
            y_prob: (n, K) calibrated probabilities.
            units: (n,) patient, or what else was held out as a whole.

        >>> found = Confusions.of([0, 0, 1], [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], ["a", "a", "b"])
        >>> found.counts.tolist(), found.prior.round(3).tolist()
        ([[[1, 1], [0, 0]], [[0, 0], [0, 1]]], [0.5, 0.5])
        """
        unit = np.unique(np.asarray(units), return_inverse=True)[1]
        return cls(np.asarray(y_true, np.int64), np.asarray(y_prob, np.float64), unit)

    @cached_property
    def counts(self) -> IntArray:
        """(U, K, K) cells of each unit: rows are true classes, columns predicted ones."""
        k = self.y_prob.shape[1]
        found = np.zeros((self.unit.max() + 1, k, k), np.int64)
        np.add.at(found, (self.unit, self.y_true, self.y_prob.argmax(axis=1)), 1)
        return found

    @cached_property
    def prior(self) -> FloatArray:
        """(K,) mean probabilities: the shares that the classifier takes for granted."""
        return np.asarray(np.maximum(self.y_prob.mean(axis=0), TINY))

    def thinned(self, most: int) -> Confusions:
        """At most so many units, evenly chosen."""
        step = -(-(int(self.unit.max()) + 1) // most)
        kept = self.unit % step == 0
        return Confusions(self.y_true[kept], self.y_prob[kept], self.unit[kept] // step)

    def to_bytes(self) -> bytes:
        """As a safetensors file; probabilities in half precision."""
        from safetensors.numpy import save

        tensors = {
            "y_true": self.y_true.astype(np.int32),
            "y_prob": self.y_prob.astype(np.float16),
            "unit": self.unit.astype(np.int32),
        }
        return bytes(save({name: np.ascontiguousarray(x) for name, x in tensors.items()}))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.generic]]) -> Confusions:
        """From the tensors of :meth:`to_bytes`.

        Raises:
            DataError: One is missing, or they do not fit together.
        """
        if missing := {"y_true", "y_prob", "unit"} - set(tensors):
            raise DataError(f"confusions: {', '.join(sorted(missing))} missing")
        return cls(
            tensors["y_true"].astype(np.int64),
            tensors["y_prob"].astype(np.float64),
            tensors["unit"].astype(np.int64),
        )
