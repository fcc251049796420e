"""Records of ``metrics.json``: results, comparisons, patients.

Unless a field says otherwise, metrics, shares and probabilities are fractions from 0 to 1 (not per
cent), ``n`` counts images, ``n_groups`` counts the units that an interval resamples, and ``p`` is
a two-sided p-value. An interval has the level ``confidence`` of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from leukoscope.config.guarantees import Measured
from leukoscope.config.stored import RECORD_KINDS, Record

VerdictLevel = Literal["unsafe", "inconclusive", "plausible", "plausible-by-clusters"]
"""What a verdict says."""
SourceStatus = Literal["shown", "refuted", "open", "inapplicable"]
"""What is known of one source of shortcut."""
Difference = Literal["better", "worse", "not distinguishable"]
"""What a paired comparison says of its first side."""
GROUND_CLASS: Final = "ground_class"
"""Share of images named after the ground that their leukocytes were put on."""
GROUND_BIAS: Final = "ground_bias"
"""The same among the images that were named after either, ground or leukocytes."""
Aggregation = Literal["mean-logit", "median-probability", "vote"]
"""How the images of a patient become one answer."""


class Estimate(Record):
    """A value with its interval.

    Attributes:
        value: None where it is undefined, e.g. the recall of a class without images.
        low: Lower limit; None where there is none.
        high: Upper limit, likewise.
        reliable: False where the interval rests on too few groups.
    """

    value: float | None
    low: float | None
    high: float | None
    reliable: bool = True


def measured(found: Estimate | None) -> Measured | None:
    """An estimate as a bundle keeps it; None where nothing was measured."""
    if found is None or found.value is None:
        return None
    return Measured(value=found.value, low=found.low, high=found.high, reliable=found.reliable)


class Reason(Record):
    """Why something was not measured."""

    reason: str


def kind_of_record(value: object) -> str:
    """Whether a record holds measurements or the reason why there are none."""
    has_reason = "reason" in value if isinstance(value, Mapping) else isinstance(value, Reason)
    return RECORD_KINDS[has_reason]


class Sampled(Record):
    """A classifier's test images under one protocol.

    Attributes:
        protocol: Name of the protocol.
        n: Test images.
        n_groups: Units that the intervals resample.
        group_unit: What such a unit is, e.g. ``patient``.
        folds: Models that were tested.
        row: What ``n`` counts: ``image``, or ``patient`` where that is the unit of the study.
    """

    protocol: str
    n: int
    n_groups: int
    group_unit: str
    folds: int
    row: Literal["image", "patient"] = "image"


class NextUnit(Estimate):
    """The accuracy to expect on the next patient or cluster: a prediction interval.

    Attributes:
        unit: What was held out as a whole; ``20 patients`` where a row is a patient.
        metric: Always ``accuracy``.
        n_groups: Units it was estimated from.
        median_n: Images of the median unit.
    """

    unit: str
    metric: str
    n_groups: int
    median_n: float


class Result(Sampled):
    """A trained model on whole test images.

    Attributes:
        recipe: Its name; ``bundle`` for a bundle on other data.
        metrics: Name of the metric → value, see ``evaluation.metrics``. The log loss is in nats.
        confusion: Images by true class (row) and predicted class (column).
        calibrated: Whether the probabilities were calibrated.
        next_unit: What the next unit will get, or why that is not known.
    """

    recipe: str
    metrics: dict[str, Estimate]
    confusion: tuple[tuple[int, ...], ...]
    calibrated: bool = True
    next_unit: (
        Annotated[
            Annotated[NextUnit, Tag(RECORD_KINDS[0])] | Annotated[Reason, Tag(RECORD_KINDS[1])],
            Discriminator(kind_of_record),
        ]
        | None
    ) = None


class ProbeResult(Sampled):
    """A probe on the test images.

    Attributes:
        probe: Its name.
        recipe: The classifier that was fitted on what the probe sees.
        metrics: Name of the metric → value.
    """

    probe: str
    recipe: str
    metrics: dict[str, Estimate]


class PerturbedResult(Sampled):
    """A trained model on perturbed versions of its own test images.

    Attributes:
        recipe: The model's.
        input: What it was shown.
        metrics: Name of the metric → value.
    """

    recipe: str
    input: str
    metrics: dict[str, Estimate]


class CurvePoint(Record):
    """A point of the curve over the number of acquisition clusters.

    Attributes:
        recipe: Name of the recipe.
        clusters: Number of clusters that the images were divided into.
        protocol, n, n_groups, group_unit, folds: As in :class:`Sampled`.
        accuracy, balanced_accuracy: With whole clusters held out.
    """

    recipe: str
    clusters: int
    n: int
    n_groups: int
    protocol: str = ""
    group_unit: str = ""
    folds: int = 0
    accuracy: Estimate
    balanced_accuracy: Estimate


class ClassLevel(Record):
    """One level of the hierarchy of classes.

    Attributes:
        n: Images that it is measured on.
        n_groups: Their groups.
        metrics: Name of the metric → value.
    """

    n: int
    n_groups: int
    metrics: dict[str, Estimate]


class Hierarchy(Record):
    """Malignant or not, and which subtype if malignant.

    Attributes:
        recipe, protocol: Whose.
        binary: Malignant or not.
        subtype: On the truly malignant images; None with one malignant class.
        two_step_accuracy: First malignant or not, then the subtype; None with several other
            classes.
    """

    recipe: str
    protocol: str
    binary: ClassLevel
    subtype: ClassLevel | None = None
    two_step_accuracy: Estimate | None = None


class Side(Record):
    """One side of a comparison.

    Attributes:
        recipe, protocol: Of the classifier.
        input: What it saw: ``image`` or the name of a probe.
    """

    recipe: str
    protocol: str
    input: str


class DeLongTest(Record):
    """The difference of two areas under the ROC curve with its 95 % interval and p-value."""

    difference: float
    low: float
    high: float
    p: float


class Disagreement(Record):
    """Images that only one side has right.

    Attributes:
        only_first_right, only_second_right: Numbers of images.
        effect: Cohen's g, from −0.5 to 0.5; None where the sides never disagree.
        independent: Whether no two images share a group.
        mcnemar_p: None where images are not independent.
        delong: Likewise, and with more than two classes.
    """

    only_first_right: int
    only_second_right: int
    effect: float | None
    independent: bool
    mcnemar_p: float | None
    delong: DeLongTest | None


class Comparison(Record):
    """A paired difference on the same images.

    Attributes:
        a, b: The two sides.
        metric: What is compared.
        difference: ``a`` minus ``b``.
        verdict: What that says of ``a``.
        n, n_groups: Images that both have, and their groups.
        p: Of the exchange test over whole groups.
        p_holm: The same, corrected for all comparisons of one question.
        pairs: Who alone is right.
    """

    a: Side
    b: Side
    metric: str
    difference: Estimate
    verdict: Difference
    n: int
    n_groups: int
    p: float
    p_holm: float
    pairs: Disagreement | None = None


class InapplicableProtocol(Record):
    """A protocol that the data cannot support, and why."""

    protocol: str
    reason: str


class InapplicableProbe(Record):
    """A probe that has nothing to see in this data, and why."""

    probe: str
    reason: str


class PatientFold(Record):
    """How one fold chose its way to aggregate.

    Attributes:
        fold: Its number.
        method: The choice.
        n_val: Validation patients that it rests on.
        val_log_loss: Method → log loss in nats on them.
    """

    fold: int
    method: Aggregation
    n_val: int
    val_log_loss: dict[str, float] = Field(default_factory=dict)


class PatientAnswer(Record):
    """What the images of one patient say together.

    The probabilities stand in the file as ``p_<class>``, see :meth:`probability`.

    Attributes:
        true, predicted: Class names.
        fold: Whose model tested the patient.
        patient: The id.
        low, high: Limits of the probability of ``predicted`` over the patient's own images; None
            with a single image.
        stability: Share of the bootstrap replicates with the same answer, likewise.
        agreement: Share of the images that give this answer on their own.
        n_images: Images that were aggregated.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float] = Field(init=False)

    true: str
    predicted: str
    fold: int
    patient: str
    low: float | None
    high: float | None
    stability: float | None
    agreement: float
    n_images: int

    def probability(self, class_name: str) -> float:
        """Aggregated probability of a class."""
        return self.__pydantic_extra__[f"p_{class_name}"]


class PatientResult(Record):
    """One recipe by patient.

    Attributes:
        recipe: Its name.
        n: Patients that were tested.
        n_images: Their images.
        by_class: Class name → patients of it.
        mixed: Patients left out because their images are of several classes.
        folds: How each fold chose its way to aggregate.
        bundle_method: How a bundle of this recipe aggregates.
        metrics: Name of the metric → value over patients.
        patients: Every patient.
    """

    recipe: str
    n: int
    n_images: int
    by_class: dict[str, int]
    mixed: tuple[str, ...]
    folds: tuple[PatientFold, ...]
    bundle_method: Aggregation
    metrics: dict[str, Estimate]
    patients: tuple[PatientAnswer, ...]


class Patients(Record):
    """Results by patient, or why there are none.

    Attributes:
        inapplicable: The reason; empty where there are results.
        protocol: That which held the patients out.
        methods: Ways to aggregate that were tried.
        results: One a recipe.
    """

    inapplicable: str = ""
    protocol: str = ""
    methods: tuple[Aggregation, ...] = ()
    results: tuple[PatientResult, ...] = ()
