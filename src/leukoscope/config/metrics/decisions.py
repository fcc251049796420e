"""Records of ``metrics.json``: calibration, prediction sets, operating points, the promise."""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Field, Tag

from leukoscope.config.bundle import SetGuarantee, SetScore
from leukoscope.config.metrics.results import Estimate, Reason, kind_of_record
from leukoscope.config.stored import RECORD_KINDS, Record


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


class SetCandidate(Record):
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


class AskedOperatingPoint(Record):
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
    candidates: dict[str, tuple[SetCandidate, ...]] = Field(default_factory=dict)
    selective: dict[str, Selective] = Field(default_factory=dict)
    net_benefit: dict[
        str,
        Annotated[
            Annotated[NetBenefit, Tag(RECORD_KINDS[0])] | Annotated[Reason, Tag(RECORD_KINDS[1])],
            Discriminator(kind_of_record),
        ],
    ] = Field(default_factory=dict)
    operating_point: AskedOperatingPoint | None = None


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
