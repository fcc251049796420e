"""The schema of ``metrics.json``: what a study or an evaluation measured, and its one reader.

Unless a field says otherwise, metrics, shares and probabilities are fractions from 0 to 1 (not per
cent), ``n`` counts images, ``n_groups`` counts the units that an interval resamples, and ``p`` is
a two-sided p-value. An interval has the level ``confidence`` of the file.

Every file is written by :func:`save_metrics` and read by :func:`load_metrics`, so that a wrong key
is found where it arises. A key that does not apply is left out of the file, and then has the
default here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import ConfigDict, Discriminator, Field, Tag, ValidationError

from leukoscope.config.base import Strict
from leukoscope.config.bundle import SetGuarantee, SetScore
from leukoscope.config.guarantees import Measured
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_json, write_json

SCHEMA_VERSION: Final = 1
Level = Literal["unsafe", "inconclusive", "plausible", "plausible-by-clusters"]
"""What a verdict says."""
SourceStatus = Literal["shown", "refuted", "open", "inapplicable"]
"""What is known of one source of shortcut."""
Difference = Literal["better", "worse", "not distinguishable"]
"""What a paired comparison says of its first side."""
Aggregation = Literal["mean-logit", "median-probability", "vote"]
"""How the images of a patient become one answer."""


class Record(Strict):
    """Base of every record of the file: strict types, so that ``"0.9"`` is no number."""

    model_config = ConfigDict(strict=True, populate_by_name=True, protected_namespaces=())


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


_TAGS: Final = ("measured values", "only a reason")


def _kind(value: Any) -> str:
    """Whether a record holds measurements or the reason why there are none."""
    has_reason = "reason" in value if isinstance(value, Mapping) else isinstance(value, Reason)
    return _TAGS[has_reason]


class Sampled(Record):
    """A classifier's test images under one protocol.

    Attributes:
        protocol: Name of the protocol.
        n: Test images.
        n_groups: Units that the intervals resample.
        group_unit: What such a unit is, e.g. ``patient``.
        folds: Models that were tested.
    """

    protocol: str
    n: int
    n_groups: int
    group_unit: str
    folds: int


class NextUnit(Estimate):
    """The accuracy to expect on the next patient or cluster: a prediction interval.

    Attributes:
        unit: What was held out as a whole.
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
            Annotated[NextUnit, Tag(_TAGS[0])] | Annotated[Reason, Tag(_TAGS[1])],
            Discriminator(_kind),
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


class ChanceBand(Record):
    """Where the expected calibration error (ECE) of a perfectly calibrated model lies.

    Attributes:
        ece: Of the model.
        expected: Mean of a calibrated model with as many images in as many groups.
        low, high: Limits of the same.
        debiased: The error beyond chance, √(ECE² − expected²).
        explained: Whether chance alone could give the model's error.
    """

    ece: float
    expected: float
    low: float
    high: float
    debiased: float
    explained: bool


class CalibrationResult(Record):
    """Probabilities of a recipe under a protocol before and after calibration.

    Attributes:
        recipe, protocol: Whose.
        n, n_groups: Test images and their groups.
        n_cal: Calibration images of each fold.
        methods: Scaling that serves in each fold: ``temperature`` or ``vector`` …
        temperature: Of each fold.
        before, after, change: Measure → value; ``change`` is after minus before.
        slope: Cox's calibration slope; 1 is right.
        intercept: Calibration in the large, in logits; None with more than two classes.
        chance: Where the ECE of a calibrated model lies.
    """

    recipe: str
    protocol: str
    n: int
    n_groups: int
    n_cal: tuple[int, ...]
    methods: tuple[str, ...]
    temperature: tuple[float, ...]
    before: dict[str, Estimate]
    after: dict[str, Estimate]
    change: dict[str, Estimate]
    slope: Estimate | None = None
    intercept: Estimate | None = None
    chance: ChanceBand | None = None


class SetMethod(Record):
    """How prediction sets are made: the score, and over what their coverage is promised."""

    score: SetScore
    guarantee: SetGuarantee


class Coverage(Record):
    """How often prediction sets hold the true class.

    Attributes:
        nominal: What is aimed at.
        protocol: Protocol → what was measured.
    """

    nominal: float
    protocol: dict[str, Estimate]


class SetSize(Record):
    """Mean number of classes in a prediction set, by protocol."""

    protocol: dict[str, Estimate]


class CoveredPart(Record):
    """Prediction sets of some of the test images.

    Attributes:
        n: These images.
        coverage: Share of the sets that hold the true class.
        expected: Lower and upper limit of the coverage if they were like calibration images.
        size: Mean number of classes in a set.
    """

    n: int
    coverage: float
    expected: tuple[float, float] | None
    size: float


class CoveredClass(CoveredPart):
    """Prediction sets of the images of one class."""

    name: str = Field(alias="class")


class CoveredGroup(CoveredPart):
    """Prediction sets of the images of one patient or cluster."""

    group: str


class TrainedOn(Record):
    """Shares of the calibration and test images whose patient, cluster … was trained on."""

    cal: float
    test: float


class Sets(Record):
    """The prediction sets under one protocol.

    Attributes:
        n: Test images.
        n_cal: Calibration images of each fold.
        group_unit: What the intervals resample.
        coverage: Share of the sets that hold the true class.
        gap: Coverage minus nominal.
        expected: Limits of the coverage if test images were like calibration images.
        size: Mean number of classes in a set.
        empty: Share of the images for which no class was probable enough.
        single: Share of the images with a set of one probable class.
        single_wrong: Share of these that are wrong; None where there are none.
        by_class: Each class.
        by_unit: Unit → its groups, the worst covered first.
        seen: Unit → how much of the images was trained on.
    """

    n: int
    n_cal: tuple[int, ...]
    group_unit: str
    coverage: Estimate
    gap: Estimate
    expected: tuple[float, float] | None
    size: Estimate
    empty: float
    single: float
    single_wrong: float | None
    by_class: tuple[CoveredClass, ...]
    by_unit: dict[str, tuple[CoveredGroup, ...]]
    seen: dict[str, TrainedOn]


class Guarantee(Record):
    """Whether the calibration images suffice for a promise, and what it gives on test images.

    Attributes:
        guarantee: ``marginal``, ``class``, ``group`` or ``class and group``.
        n: Images (or groups) in the fold with the fewest.
        needed: The fewest that suffice.
        attainable: Whether they do.
        coverage: Measured on test images; None where not attainable.
        size: Mean number of classes in a set, likewise.
        lowest_class: Coverage of the worst covered class, for the promise by class.
    """

    guarantee: str
    n: int
    needed: int
    attainable: bool
    coverage: Estimate | None = None
    size: float | None = None
    lowest_class: float | None = None


class Candidate(Record):
    """Another way to make sets, measured on validation images.

    Attributes:
        score, guarantee: The way.
        n: Validation images.
        coverage, lowest_class: Share of sets that hold the true class: of all, of the worst class.
        size: Mean number of classes in a set.
        single: Share of images with one probable class.
        empty: Share of images with none.
    """

    score: SetScore
    guarantee: SetGuarantee
    n: int
    coverage: float
    lowest_class: float
    size: float
    single: float
    empty: float


class Selective(Record):
    """What an order by confidence is worth.

    Attributes:
        aurc: Area under the risk–coverage curve.
        excess_aurc: The same above that of a perfect order.
        risk_at: Share of the images answered, as text → share of these that are wrong.
    """

    aurc: Estimate
    excess_aurc: Estimate
    risk_at: dict[str, float]


class Limits(Record):
    """A curve with its interval: one number a threshold."""

    value: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]

    def at(self, i: int, reliable: bool) -> Estimate:
        """The ``i``-th point."""
        return Estimate(value=self.value[i], low=self.low[i], high=self.high[i], reliable=reliable)


class NetBenefit(Record):
    """What acting on P(malignant) is worth, in true positives an image.

    Attributes:
        prevalence: Share of malignant images.
        n_groups: Groups that the intervals resample.
        reliable: Whether these are enough.
        thresholds: P(malignant) from which one acts.
        model: Net benefit of the model.
        treat_all: Of acting on every image.
        gain: The model's beyond the better of all and none.
    """

    prevalence: float
    n_groups: int
    reliable: bool
    thresholds: tuple[float, ...]
    model: Limits
    treat_all: tuple[float, ...]
    gain: Limits


class PatientsFound(Estimate):
    """Share of the malignant patients of whom an image is flagged.

    Attributes:
        n: Malignant patients.
    """

    n: int


class OperatingResult(Record):
    """What became of an operating point under one protocol.

    Attributes:
        n_cal: Malignant calibration images (or patients) of each fold.
        needed: The fewest that support the promise.
        refused: Why there is no threshold; the rest is then left out.
        thresholds: P(malignant) from which an image is flagged, of each fold.
        sensitivity: Share of the malignant images that are flagged.
        specificity: Share of the others that are not.
        flagged: Share of all images that are flagged.
        n_malignant, n_other: Test images of either kind.
        patients_found: Where the promise is about patients.
        kept: Whether the promise was kept on the test images.
    """

    n_cal: tuple[int, ...]
    needed: int
    refused: str = ""
    thresholds: tuple[float, ...] = ()
    sensitivity: Estimate | None = None
    specificity: Estimate | None = None
    flagged: Estimate | None = None
    n_malignant: int = 0
    n_other: int = 0
    patients_found: PatientsFound | None = None
    kept: bool = False


class OperatingPoint(Record):
    """The operating point that was asked for, or what could be.

    Attributes:
        words: As asked for; empty where none was.
        inapplicable: Why none can be made.
        n: Protocol → malignant calibration images in the fold with the fewest, where none was
            asked for.
        unit: ``image`` or ``patient``.
        miss: Largest share of them that may be missed.
        protocol: Protocol → what became of it.
    """

    words: str
    inapplicable: str = ""
    n: dict[str, int] = Field(default_factory=dict)
    unit: str = ""
    miss: float = 0.0
    protocol: dict[str, OperatingResult] = Field(default_factory=dict)


class Decisions(Record):
    """Prediction sets and thresholds of the first recipe; each mapping is by protocol.

    Attributes:
        recipe: Its name.
        method: How the sets that serve are made.
        coverage, mean_set_size: Of these sets.
        sets: The same in detail.
        promises: What the calibration images allow to be promised.
        candidates: Other ways to make sets.
        selective: What an order by confidence is worth.
        net_benefit: What acting on P(malignant) is worth, or why that is not known.
        operating_point: The threshold that was asked for.
    """

    recipe: str
    method: SetMethod | None = None
    coverage: Coverage | None = None
    mean_set_size: SetSize | None = None
    sets: dict[str, Sets] = Field(default_factory=dict)
    promises: dict[str, tuple[Guarantee, ...]] = Field(default_factory=dict)
    candidates: dict[str, tuple[Candidate, ...]] = Field(default_factory=dict)
    selective: dict[str, Selective] = Field(default_factory=dict)
    net_benefit: dict[
        str,
        Annotated[
            Annotated[NetBenefit, Tag(_TAGS[0])] | Annotated[Reason, Tag(_TAGS[1])],
            Discriminator(_kind),
        ],
    ] = Field(default_factory=dict)
    operating_point: OperatingPoint | None = None


class PromiseResult(Record):
    """What the bundle's prediction sets cover on units that had no part in fitting them.

    Attributes:
        recipe: Whose bundle.
        reason: Why it was not measured; empty where it was.
        protocol: That which holds the units out.
        unit: ``patient``, ``merged acquisition cluster`` or ``image``.
        nominal: The coverage that is aimed at.
        n, n_groups, folds: Test images, units and models.
        guarantees: What the sets of each fold promise.
        temperature: Of each fold.
        coverage: Share of the sets that hold the true class; each unit counts the same.
        mean_set_size: Mean number of classes in a set, likewise.
        single: Share of the images with one class in the set.
        before, after: Log loss and ECE before and after calibration.
    """

    recipe: str
    reason: str = ""
    protocol: str = ""
    unit: str = ""
    nominal: float = 0.0
    n: int = 0
    n_groups: int = 0
    folds: int = 0
    guarantees: tuple[SetGuarantee, ...] = ()
    temperature: tuple[float, ...] = ()
    coverage: Estimate | None = None
    mean_set_size: Estimate | None = None
    single: float | None = None
    before: dict[str, Estimate] = Field(default_factory=dict)
    after: dict[str, Estimate] = Field(default_factory=dict)


class AdvantageShare(Record):
    """The part of a model's advantage over chance that another classifier has, on the same images.

    Attributes:
        protocol: Under which.
        group_unit: What the interval resamples.
        metric: ``roc_auc``, or ``balanced_accuracy`` where there are no probabilities.
        value: Metric of the other classifier.
        model: Metric of the model.
        chance: What both have without any information.
        share: (value − chance) / (model − chance); not cut at 0 or 1.
        n, n_groups: Images and groups.
    """

    protocol: str
    group_unit: str
    metric: str
    value: float
    model: float
    chance: float
    share: Estimate
    n: int
    n_groups: int


class SourceShare(AdvantageShare):
    """What a probe of one source of shortcut gives by itself.

    Attributes:
        source: ``ground``, ``grain``, ``frame``, ``file`` or ``stain``.
        probe: The probe.
    """

    source: str
    probe: str


class Survival(AdvantageShare):
    """What a model keeps of its advantage on mildly degraded test images.

    Attributes:
        recipe: The model's.
        input: The degradation.
    """

    recipe: str
    input: str


class Inflation(Record):
    """Accuracy on random splits minus that of a stricter protocol.

    Attributes:
        protocol: The stricter one.
        difference: In accuracy.
        p_holm, verdict, n, n_groups: As in :class:`Comparison`.
    """

    protocol: str
    difference: Estimate
    p_holm: float
    verdict: Difference
    n: int
    n_groups: int


class StainShare(Record):
    """How much of the advantage over colour statistics is left without stain.

    Attributes:
        protocol: Under which.
        defined: False where the model is not shown to be better than colour statistics.
        share: Part of the advantage that is left.
        advantage: Accuracy of the model minus that of the colour statistics.
        n, n_groups: Images and groups.
    """

    protocol: str
    defined: bool
    share: Estimate
    advantage: Estimate
    n: int
    n_groups: int


class PixelScale(Record):
    """How large a pixel is.

    Attributes:
        um_per_px: In µm; None where nothing tells it.
        source: What told it.
    """

    um_per_px: float | None
    source: str


class Shortcuts(Record):
    """What the probes say of one recipe.

    Attributes:
        recipe: Its name.
        inflation: How far random splits lie above stricter protocols.
        shares: What is left without stain.
        sources: What each source of shortcut gives by itself.
        inapplicable: Probes that have nothing to see.
        grain: The pixel size that the grain probe worked with.
        level: That of the verdict.
    """

    recipe: str
    inflation: tuple[Inflation, ...] = ()
    shares: tuple[StainShare, ...] = ()
    sources: tuple[SourceShare, ...] = ()
    inapplicable: tuple[InapplicableProbe, ...] = ()
    grain: PixelScale | None = None
    level: Level = "inconclusive"


class Control(Record):
    """The negative control: the same pipeline on labels dealt at random to whole groups.

    Attributes:
        reason: Why it was not run; empty where it was.
        protocol, recipe: What was fitted.
        metric: Always ``roc_auc``.
        chance: Always 0.5.
        draws: The metric of each deal.
        value: Their mean.
        low, high: Its 99 % limits.
        passed: Whether that is at chance; None where it is too uncertain to tell.
    """

    reason: str = ""
    protocol: str = ""
    recipe: str = ""
    metric: str = ""
    chance: float = 0.5
    draws: tuple[float, ...] = ()
    value: float | None = None
    low: float | None = None
    high: float | None = None
    passed: bool | None = None


class SourceVerdict(Record):
    """What the verdict says of one source of shortcut.

    Attributes:
        source: Its name.
        status: What is known of it.
        reason: Why, in words, where no share decides.
        probe, protocol: Which decided; empty where none did.
        share: That of the advantage; None where there is none.
        needed: Groups that would probably close it; None where it is closed or nobody knows.
    """

    source: str
    status: SourceStatus
    reason: str = ""
    probe: str = ""
    protocol: str = ""
    share: Estimate | None = None
    needed: int | None = None


class Verdict(Record):
    """What the study says of its first recipe, by one rule.

    Attributes:
        headline: One sentence.
        level: The verdict.
        findings: Sentences with sample sizes.
        rule: The rule.
        protocol, unit: The strictest judged protocol and what it holds out; None without one.
        sources: Each source of shortcut.
        needs: What would close what is open.
    """

    headline: str
    level: Level
    findings: tuple[str, ...] = ()
    rule: str = ""
    protocol: str | None = None
    unit: str | None = None
    sources: tuple[SourceVerdict, ...] = ()
    needs: tuple[str, ...] = ()


class OutlierKind(Record):
    """Synthetic outliers of one kind.

    Attributes:
        n: Images of it.
        roc_auc: How well the score separates them from test images.
        false_accept: Share of them that the gate accepts.
    """

    n: int
    roc_auc: float
    false_accept: float


class Rejection(Record):
    """What the gate of a recipe declines under a protocol.

    Attributes:
        recipe, protocol: Whose.
        unit: What the intervals resample.
        n, n_groups: Test images and their units.
        n_outliers: Synthetic outliers made of test images.
        accept: Share of the validation images that the threshold accepts.
        least_n_val: Validation images of the fold with the fewest.
        rejected: Share of the test images that are declined.
        roc_auc: Separation of outliers from test images; None without outliers.
        accuracy: ``accepted``, ``rejected`` → accuracy on these test images.
        kinds: Kind of outlier → how it is told.
        folds_using: Score → folds that use it.
        folds: Models that were tested.
    """

    recipe: str
    protocol: str
    unit: str
    n: int
    n_groups: int
    n_outliers: int
    accept: float
    least_n_val: int
    rejected: Estimate
    roc_auc: Estimate | None
    accuracy: dict[str, Estimate]
    kinds: dict[str, OutlierKind]
    folds_using: dict[str, int]
    folds: int


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
    warnings: tuple[str, ...]
    internal: Held
    forecast: Annotated[
        Annotated[Forecast, Tag(_TAGS[0])] | Annotated[Reason, Tag(_TAGS[1])],
        Discriminator(_kind),
    ]


class MetricsFile(Record):
    """What every ``metrics.json`` holds.

    Attributes:
        schema_version: Version of this schema.
        class_names: In the order of every matrix.
        confidence: Level of the intervals.
        results: Trained models, or the bundle, on whole test images.
        probes: Probes on the same images.
        hierarchy: Malignant or not, and which subtype, where the classes stand on both branches.
        comparisons: Paired differences on the same images.
        inapplicable: Protocols that the data cannot support.
        curve: Results over the number of acquisition clusters.
        warnings: What a reader must know.
    """

    schema_version: Literal[1] = Field(alias="schema")
    class_names: tuple[str, ...]
    confidence: float
    results: tuple[Result, ...]
    probes: tuple[ProbeResult, ...] = ()
    hierarchy: tuple[Hierarchy, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    inapplicable: tuple[InapplicableProtocol, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file: without the keys that do not apply."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Measurements(MetricsFile):
    """What a verdict rests on.

    Attributes:
        model_on: Trained models on perturbed versions of their test images.
        subjects: Results by patient.
        calibration: Probabilities before and after calibration.
        decisions: Prediction sets and thresholds of the first recipe.
        promise: What its bundle's sets cover on new units.
        shortcuts: What the probes say of the first recipe.
        survival: What it keeps on mildly degraded images.
        control: The negative control.
        data_errors: Sentences of the audit's errors.
        split: Of a foreign model only: its own split, or nothing where that is unknown.
    """

    model_on: tuple[PerturbedResult, ...] = ()
    subjects: Patients | None = None
    calibration: tuple[CalibrationResult, ...] = ()
    decisions: Decisions | None = None
    promise: PromiseResult | None = None
    shortcuts: Shortcuts | None = None
    survival: tuple[Survival, ...] = ()
    control: Control | None = None
    data_errors: tuple[str, ...] = ()
    split: ForeignSplit | None = None

    @property
    def foreign(self) -> bool:
        """Whether the model was not trained here."""
        return "split" in self.model_fields_set


class StudyMetrics(Measurements):
    """The ``metrics.json`` of a study, an ensemble, or the audit of a foreign model.

    Attributes:
        verdict: What the study says.
        ood: What the gates decline.
        external: The bundle on other data.
    """

    verdict: Verdict
    ood: tuple[Rejection, ...] = ()
    external: tuple[OtherData, ...] = ()


class EvaluationMetrics(MetricsFile):
    """The ``metrics.json`` of a bundle on other data.

    Attributes:
        decisions: What the bundle decided.
    """

    decisions: BundleDecisions


FileT = TypeVar("FileT", bound=MetricsFile)
_REFUSED: Final = "this is an error of the program: please report it"


def measurements(values: Mapping[str, Any]) -> Measurements:
    """Check what a study measured before it is judged; raises as :func:`study_metrics`."""
    return _checked(Measurements, values, "metrics", _REFUSED)


def study_metrics(values: Mapping[str, Any], source: str = "metrics") -> StudyMetrics:
    """Check what a study measured.

    Raises:
        DataError: Names each key that is wrong, what was expected and what came.
    """
    return _checked(StudyMetrics, values, source, _REFUSED)


def evaluation_metrics(values: Mapping[str, Any], source: str = "metrics") -> EvaluationMetrics:
    """Check what an evaluation on other data measured; raises as :func:`study_metrics`."""
    return _checked(EvaluationMetrics, values, source, _REFUSED)


def save_metrics(path: Path, metrics: MetricsFile) -> None:
    """Write ``metrics.json``."""
    write_json(path, metrics.to_json())


def load_metrics(path: Path) -> StudyMetrics:
    """Read the ``metrics.json`` of a study.

    Raises:
        DataError: It is missing, damaged, or of another version of the schema; the message names
            the file, the key, what was expected and what was found.
    """
    hint = f"measure again: leukoscope study --out {path.parent} --resume"
    return _checked(StudyMetrics, read_json(path), str(path), hint)


def load_evaluation(path: Path) -> EvaluationMetrics:
    """Read the ``metrics.json`` of an evaluation on other data; raises as :func:`load_metrics`."""
    hint = "name the folder that `leukoscope evaluate … --out` wrote, or evaluate again"
    return _checked(EvaluationMetrics, read_json(path), str(path), hint)


def _checked(model: type[FileT], values: Any, source: str, hint: str) -> FileT:
    """Validate in strict JSON mode, where lists stand for tuples but text is no number."""
    if not isinstance(values, Mapping):
        found = type(values).__name__
        raise DataError(f"{source}: expected a JSON object, found {found}", hint=hint)
    try:
        return model.model_validate_json(json.dumps(values, allow_nan=False), by_alias=True)
    except ValidationError as error:
        shown = [_problem(item) for item in error.errors(include_url=False)[:3]]
        more = error.error_count() - len(shown)
        rest = f"; and {more} more" if more else ""
        raise DataError(f"{source}: {'; '.join(shown)}{rest}", hint=hint) from None
    except ValueError as error:  # a number that JSON does not have
        raise DataError(f"{source}: expected finite numbers or null ({error})", hint=hint) from None


def _problem(item: Any) -> str:
    """One wrong key: where it is, what was expected, what was found."""
    where = ".".join(str(part) for part in item["loc"] if part not in _TAGS) or "file"
    if item["type"] == "missing":
        return f"{where}: expected this key, found none"
    if item["type"] == "extra_forbidden":
        return f"{where}: found a key that the schema (version {SCHEMA_VERSION}) does not know"
    found = json.dumps(item["input"], default=str)
    found = found if len(found) <= 60 else f"{found[:57]}…"
    expected = item["msg"].removeprefix("Input should be ")
    return f"{where}: expected {expected}, found {found}"
