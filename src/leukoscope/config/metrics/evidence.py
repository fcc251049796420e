"""Records of ``metrics.json``: sources of shortcut, negative control, verdict, rejection."""

from __future__ import annotations

from leukoscope.config.metrics.results import (
    Difference,
    Estimate,
    InapplicableProbe,
    SourceStatus,
    VerdictLevel,
)
from leukoscope.config.stored import Record


class AdvantageShare(Record):
    """The part of a model's advantage over chance that another classifier has, on the same images.

    Attributes:
        protocol: Under which.
        group_unit: What the interval resamples.
        metric: ``roc_auc``, ``balanced_accuracy`` where there are no probabilities, or
            ``paired_auc``, between pairs of classes, of the ground.
        value: Metric of the other classifier; None where the images are too few to have one.
        model: Metric of the model, likewise.
        chance: What both have without any information.
        share: (value − chance) / (model − chance); not cut at 0 or 1.
        n, n_groups: Images and groups.
    """

    protocol: str
    group_unit: str
    metric: str
    value: float | None
    model: float | None
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
        p_holm, verdict, n, n_groups: As in :class:`~leukoscope.config.metrics.results.Comparison`.
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
    level: VerdictLevel = "inconclusive"


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
    level: VerdictLevel
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
