"""The same measured for each value of the columns of a manifest: cohort, site, the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.known_classes import Roles
from leukoscope.core.protocols import promised_protocol
from leukoscope.core.records import ImageRecord, columns_of
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.statistics.intervals import Sampling, bootstrap_metrics
from leukoscope.evaluation.statistics.leaderboard import holm_adjusted
from leukoscope.evaluation.statistics.subgroups import as_numbers, difference_p, in_bands
from leukoscope.pipeline.results.entries import Statistics

SUBGROUP_METRICS = ("accuracy", "roc_auc")
MOST_VALUES = 20
"""A column of words with more values names single things and makes no subgroups."""


def subgroups_entry(
    statistics: Statistics,
    test: PredictionTable,
    recipe: str,
    records: Sequence[ImageRecord],
    metrics: Sequence[str] = SUBGROUP_METRICS,
) -> dict[str, object] | None:
    """The key ``subgroups`` of a study; None where no column of its manifest makes any.

    The protocol is the one whose test images also calibrate the bundle.

    Args:
        statistics: Units and intervals.
        test: Test predictions of all recipes, protocols and inputs.
        recipe: Whose are taken.
        records: What the rows of the study stand for: images or patients.
        metrics: Some of :data:`SUBGROUP_METRICS`.
    """
    protocol = promised_protocol(test.protocol.tolist())
    if protocol is None or not records:
        return None
    rows = test.select(recipe=recipe, protocol=protocol, input="image")
    known = {record.image_id: record for record in records}
    columns = subgroup_columns(
        rows,
        [known[image_id] for image_id in rows.image_id.tolist()],
        statistics.units(rows, protocol),
        roles=statistics.config.data.roles,
        how=statistics.how_of(rows),
        metrics=metrics,
        row=statistics.config.unit,
    )
    if not columns:
        return None
    return {
        "recipe": recipe,
        "protocol": protocol,
        "group_unit": statistics.unit[protocol],
        "confidence": statistics.config.confidence,
        "row": statistics.config.unit,
        "columns": columns,
    }


def subgroup_columns(
    table: PredictionTable,
    records: Sequence[ImageRecord],
    units: Sequence[str],
    *,
    roles: Roles | None = None,
    how: Sampling | None = None,
    metrics: Sequence[str] = SUBGROUP_METRICS,
    row: str = "image",
) -> list[dict[str, object]]:
    """The results by subgroup of each column that is not the label itself.

    Args:
        table: n predictions.
        records: (n,) what each is of.
        units: (n,) what an interval resamples.
        roles: What the user's own classes stand for.
        how: Of intervals and tests.
        metrics: Some of :data:`SUBGROUP_METRICS`.
        row: What a prediction is of, ``image`` or ``patient``.

    Returns:
        A :class:`~leukoscope.config.metrics.other_data.SubgroupColumn` each, as JSON.
    """
    data = _Rows(table, tuple(records), np.asarray(units), roles, how or {}, tuple(metrics), row)
    found = [data.column(name) for name in columns_of(records) if not data.is_label(name)]
    tested = [column for column in found if column.get("p") is not None]
    adjusted = holm_adjusted([column["p"] for column in tested]) if tested else []
    level = 1 - data.how.get("confidence", 0.95)
    for column, p in zip(tested, adjusted, strict=True):
        column |= {"p_holm": p, "differs": p < level}
    return found


@dataclass(frozen=True)
class _Rows:
    """Predictions with what is known of each."""

    table: PredictionTable
    records: tuple[ImageRecord, ...]
    units: NDArray[np.str_]
    roles: Roles | None
    how: Sampling
    metrics: tuple[str, ...]
    row: str

    def is_label(self, name: str) -> bool:
        """Whether a column only names the classes again."""
        pairs = {(record.column(name), record.label) for record in self.records}
        return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})

    def column(self, name: str) -> dict[str, Any]:
        """The subgroups of one column, with their test."""
        values = np.array([record.column(name) for record in self.records])
        has = values != ""
        distinct, codes = np.unique(values[has], return_inverse=True)
        numbers = as_numbers(distinct.tolist())
        names = tuple(distinct.tolist())
        if numbers is not None:
            _, members = np.unique(self.units[has], return_inverse=True)
            codes, names = in_bands(numbers[codes], members)
        found: dict[str, object] = {
            "column": name,
            "kind": "values" if numbers is None else "bands",
            "missing": int((~has).sum()),
        }
        if len(names) < 2:
            return found | {"reason": self._no_two_values(int((~has).sum()))}
        if len(names) > MOST_VALUES:
            return found | {"reason": f"{len(names)} values, more than {MOST_VALUES}"}
        rows = np.flatnonzero(has)
        right = self.table.probs.argmax(axis=1) == self.table.y_true
        return found | {
            "groups": [self._group(names[k], rows[codes == k]) for k in range(len(names))],
            "p": difference_p(
                right[rows], self.table.y_true[rows], codes.astype(np.int64),
                np.unique(self.units[rows], return_inverse=True)[1], seed=self.how.get("seed", 0),
            ),
        }  # fmt: skip

    def _no_two_values(self, missing: int) -> str:
        """Why there is no second value, with how many rows have none."""
        if self.row != "patient" or not missing:
            return "all have the same value"
        n = len(self.records)
        others = "; all others have the same value" if missing < n else ""
        return f"the images of {missing} of {n} patients differ in it, or have none{others}"

    def _group(self, value: str, rows: NDArray[np.int64]) -> dict[str, object]:
        """One subgroup."""
        y, names, units = self.table.y_true[rows], self.table.class_names, self.units[rows]
        intervals = bootstrap_metrics(
            y, self.table.probs[rows], names, groups=units, names=self.metrics, roles=self.roles,
            **self.how,
        )  # fmt: skip
        return {
            "value": value,
            "n": len(rows),
            "n_groups": len(set(units.tolist())),
            "by_class": {name: int((y == k).sum()) for k, name in enumerate(names)},
            "metrics": {name: interval.to_json() for name, interval in intervals.items()},
        }
