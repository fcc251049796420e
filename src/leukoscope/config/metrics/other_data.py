"""Records of ``metrics.json``: foreign models, and a bundle on data from elsewhere."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Tag

from leukoscope.config.metrics.results import Estimate, Reason, kind_of_record
from leukoscope.config.metrics.subgroups import Subgroups
from leukoscope.config.stored import RECORD_KINDS, Record


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
