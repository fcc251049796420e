"""Do further columns of a manifest (cohort, site, session, the user's own) follow the label?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.passport import ColumnAssociation
from leukoscope.core.labels import order_classes
from leukoscope.core.records import ImageRecord, columns_of
from leukoscope.datasets.audit.acquisition import cramers_v
from leukoscope.evaluation.statistics.leaderboard import holm_adjusted
from leukoscope.evaluation.statistics.subgroups import as_numbers, dealt, is_constant

DRAWS = 1999
LEVEL = 0.05
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Association:
    """How a column goes with the label.

    Attributes:
        column: Its name.
        values: Number of distinct values.
        missing: Usable images without one.
        unit: What was dealt out at random: ``patient`` or ``image``.
        measure: ``Cramér's V`` for categories, ``correlation ratio`` for numbers; both corrected
            for chance.
        effect: 0 (none) to 1 (one tells the other); None where it cannot be tested.
        p: Of a permutation test, or None.
        p_holm: The same, corrected for all tested columns (Holm 1979).
        reason: Why it cannot be tested; empty where it was.
    """

    column: str
    values: int
    missing: int
    unit: Literal["patient", "image"]
    measure: str = ""
    effect: float | None = None
    p: float | None = None
    p_holm: float | None = None
    reason: str = ""

    def to_json(self) -> ColumnAssociation:
        """For the passport."""
        return {
            "column": self.column,
            "values": self.values,
            "missing": self.missing,
            "unit": self.unit,
            "measure": self.measure,
            "effect": self.effect,
            "p": self.p,
            "p_holm": self.p_holm,
            "reason": self.reason,
        }


def associations(
    records: Sequence[ImageRecord], *, draws: int = DRAWS, seed: int = 0
) -> list[Association]:
    """Test each further column of usable images against the label.

    Every patient counts once, however many images there are. What is constant within patients is
    dealt to whole patients at random: the column, or else the label; where neither is, the labels
    are dealt within each patient. Without patient ids images are dealt.

    >>> rows = [ImageRecord(str(i), "", label="ab"[i % 2], site="xy"[i % 2]) for i in range(40)]
    >>> [(a.column, a.effect, a.p) for a in associations(rows)]
    [('site', 1.0, 0.0005)]
    """
    found = [_test(records, name, draws, seed) for name in columns_of(records)]
    adjusted = iter(holm_adjusted([one.p for one in found if one.p is not None] or [1.0]))
    return [one if one.p is None else replace(one, p_holm=next(adjusted)) for one in found]


def _test(records: Sequence[ImageRecord], name: str, draws: int, seed: int) -> Association:
    rows = [record for record in records if record.column(name)]
    by_patient = any(record.patient_id for record in rows)
    result = Association(
        name,
        len({record.column(name) for record in rows}),
        len(records) - len(rows),
        "patient" if by_patient else "image",
    )
    data = _Data.of(rows, name)
    reason = data.why_not(result.values)
    if reason:
        return replace(result, reason=reason)
    observed = data.statistic(data.labels, data.codes)
    rng = np.random.default_rng(seed)
    drawn = np.array([data.statistic(*data.shuffled(rng)) for _ in range(draws)])
    p = (1 + int((drawn >= observed - 1e-12).sum())) / (1 + draws)
    measure = "correlation ratio" if data.numbers is not None else "Cramér's V"
    return replace(result, measure=measure, effect=data.effect(), p=p)


@dataclass(frozen=True)
class _Data:
    """A column and the label of n images in g units (patients, or images without an id)."""

    labels: IntArray  # (n,) class numbers
    codes: IntArray  # (n,) value numbers
    units: IntArray  # (n,) unit numbers
    weights: FloatArray  # (n,) one over the unit's images
    numbers: FloatArray | None  # the value of each code, where they are measurements
    fixed_codes: bool  # whether the column is constant within units
    fixed_labels: bool

    @classmethod
    def of(cls, rows: Sequence[ImageRecord], name: str) -> _Data:
        """The data of the rows that have a value."""
        classes = order_classes(record.label for record in rows)
        number = {label: k for k, label in enumerate(classes)}
        labels = np.array([number[record.label] for record in rows], np.int64)
        texts = [record.column(name) for record in rows]
        values = sorted(set(texts))
        place = {value: k for k, value in enumerate(values)}
        codes = np.array([place[text] for text in texts], np.int64)
        ids = [record.patient_id or record.image_id for record in rows]
        unit = {text: k for k, text in enumerate(dict.fromkeys(ids))}
        units = np.array([unit[text] for text in ids], np.int64)
        weights = 1 / np.bincount(units)[units] if len(rows) else np.zeros(0)
        return cls(
            labels, codes, units, weights, as_numbers(values),
            is_constant(codes, units), is_constant(labels, units),
        )  # fmt: skip

    def why_not(self, values: int) -> str:
        """Why nothing can be tested, or empty."""
        units = int(self.units.max()) + 1 if len(self.units) else 0
        if values < 2:
            return "all images have the same value"
        if len(set(self.labels.tolist())) < 2:
            return "the images that have a value are of one class"
        if self.numbers is None and values == len(self.codes):
            return "every image has a value of its own"
        if self.numbers is None and self.fixed_codes and values == units:
            return "every patient has a value of its own"
        return ""

    def statistic(self, labels: IntArray, codes: IntArray) -> float:
        """What is large where the two go together: φ², or the share of variance between classes."""
        if self.numbers is not None:
            return _between(self.numbers[codes], labels, self.weights)
        table = self._table(labels, codes)
        expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
        kept = expected > 0
        return float((((table - expected) ** 2)[kept] / expected[kept]).sum() / table.sum())

    def effect(self) -> float | None:
        """Cramér's V or the correlation ratio, corrected for chance (Bergsma 2013, Kelley 1935)."""
        if self.numbers is None:
            return cramers_v(self._table(self.labels, self.codes))
        n, k = float(self.weights.sum()), len(set(self.labels.tolist()))
        if n <= k:
            return None
        unexplained = (1 - self.statistic(self.labels, self.codes)) * (n - 1) / (n - k)
        return round(float(np.sqrt(max(0.0, 1 - unexplained))), 6)

    def _table(self, labels: IntArray, codes: IntArray) -> FloatArray:
        width = int(self.codes.max()) + 1
        height = int(self.labels.max()) + 1
        flat = np.bincount(labels * width + codes, self.weights, minlength=width * height)
        return flat.astype(np.float64).reshape(height, width)

    def shuffled(self, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Labels and codes as chance could have dealt them."""
        if self.fixed_codes:
            return self.labels, dealt(self.codes, self.units, rng)
        if self.fixed_labels:
            return dealt(self.labels, self.units, rng), self.codes
        order = np.lexsort((rng.random(len(self.units)), self.units))
        mixed = np.empty_like(self.labels)
        mixed[np.argsort(self.units, kind="stable")] = self.labels[order]
        return mixed, self.codes


def _between(values: FloatArray, labels: IntArray, weights: FloatArray) -> float:
    """Share of the variance of values that lies between classes (η²)."""
    total = weights.sum()
    mean = float((weights * values).sum() / total)
    size = np.bincount(labels, weights)
    means = np.bincount(labels, weights * values) / np.where(size > 0, size, 1)
    whole = float((weights * (values - mean) ** 2).sum())
    return float((size * (means - mean) ** 2).sum()) / whole if whole > 0 else 0.0
