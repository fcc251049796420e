"""Records of ``metrics.json``: results for each value of the columns of a manifest."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leukoscope.config.metrics.results import Estimate
from leukoscope.config.stored import Record


class Subgroup(Record):
    """The test images that have one value, or a value in one band.

    Attributes:
        value: Of the column, or the band in words.
        n: Images (or patients, where these are the unit of the study).
        n_groups: Units that the intervals resample.
        by_class: Class name → rows of it.
        metrics: ``accuracy``, and ``roc_auc``, which has no value where a class is missing.
    """

    value: str
    n: int
    n_groups: int
    by_class: dict[str, int]
    metrics: dict[str, Estimate]


class SubgroupColumn(Record):
    """A column of the manifest and the results for its values.

    Attributes:
        column: Its name.
        kind: ``values``, or ``bands`` of about a third of the units each, where it holds numbers.
        missing: Test rows without a value, in no subgroup.
        groups: The subgroups; empty where ``reason`` says why there are none.
        p: Of a permutation test of the accuracy, which allows for the classes; None where nothing
            can be tested.
        p_holm: The same, corrected for all columns.
        differs: Whether that is below 1 − confidence; None where nothing was tested.
        reason: Why the column makes no subgroups.
    """

    column: str
    kind: Literal["values", "bands"]
    missing: int
    groups: tuple[Subgroup, ...] = ()
    p: float | None = None
    p_holm: float | None = None
    differs: bool | None = None
    reason: str = ""


class Subgroups(Record):
    """One model by subgroup.

    Attributes:
        recipe, protocol: Whose results, and under which protocol.
        group_unit: What the intervals resample.
        confidence: Level of the intervals and tests.
        row: What is counted: ``image`` or ``patient``.
        columns: In the order of the manifest.
    """

    recipe: str
    protocol: str
    group_unit: str
    confidence: float
    row: Literal["image", "patient"] = "image"
    columns: tuple[SubgroupColumn, ...] = Field(min_length=1)
