"""Records of ``metrics.json``: subgroups, foreign models, and a bundle on data from elsewhere."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from leukoscope.config.metrics.results import Estimate, Reason, kind_of_record
from leukoscope.config.stored import RECORD_KINDS, Record


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


class Leak(Record):
    """Test images of a foreign model that its training part knows.

    Attributes:
        kind: ``copies``, ``overlaps`` or ``patients``.
        images: How many.
        examples: Paths of a test and of a training image.
    """

    kind: str
    images: int
    examples: tuple[tuple[str, str], ...]


class ForeignSplit(Record):
    """The split of a model that was not trained here.

    Attributes:
        train, val, test: Images of each part.
        leaks: What stands on both sides.
    """

    train: int
    val: int
    test: int
    leaks: tuple[Leak, ...]


class DecisionShares(Record):
    """Shares of the images that a bundle accepts, hands to review and rejects."""

    accept: float
    review: float
    reject: float


class BundleDecisions(Record):
    """What a bundle decided on other data.

    Attributes:
        share: Of each decision.
        coverage: Share of the prediction sets that hold the true class; None where the classes
            differ.
    """

    share: DecisionShares
    coverage: Estimate | None


class ForecastRange(Estimate):
    """Where a metric should lie, and whether it does: ``inside`` or ``outside``."""

    verdict: str


class Forecast(Record):
    """What the study forecast for other data.

    Attributes:
        unit: What the data holds new ones of.
        n_units: How many.
        accuracy, roc_auc: Prediction intervals; None where there is none.
    """

    unit: str
    n_units: int
    accuracy: ForecastRange
    roc_auc: ForecastRange | None = None

    def of(self, metric: str) -> ForecastRange | None:
        """The range of a metric, where it was forecast."""
        return {"accuracy": self.accuracy, "roc_auc": self.roc_auc}.get(metric)


class Held(Record):
    """The recipe and protocol of the study's own result that other data is set beside."""

    recipe: str
    protocol: str


class OtherData(Record):
    """The bundle on another data set.

    Attributes:
        data: Name of the data set.
        folder: Where its files lie, relative to the study's folder.
        n, n_groups, group_unit: Images, units, and what a unit is.
        metrics: Name of the metric → value.
        confusion: Images by true class (row) and predicted class (column).
        class_names: In the order of ``confusion``.
        decisions: What the bundle decided.
        subgroups: Results by the values of its manifest's further columns.
        warnings: What a reader must know.
        internal: The study's own result beside it.
        forecast: What the study forecast, or why it could not.
    """

    data: str
    folder: str
    n: int
    n_groups: int
    group_unit: str
    metrics: dict[str, Estimate]
    confusion: tuple[tuple[int, ...], ...]
    class_names: tuple[str, ...]
    decisions: BundleDecisions
    subgroups: Subgroups | None = None
    warnings: tuple[str, ...]
    internal: Held
    forecast: Annotated[
        Annotated[Forecast, Tag(RECORD_KINDS[0])] | Annotated[Reason, Tag(RECORD_KINDS[1])],
        Discriminator(kind_of_record),
    ]
