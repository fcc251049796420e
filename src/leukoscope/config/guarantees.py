"""What a bundle is held to: operating point, parity, promise; and what its study says of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import Field

from leukoscope.config.base import Strict

PATTERN: Final = "miss at most X % of malignant fields, with C % confidence"
_NUMBER = r"(\d+(?:\.\d+)?)"
_WORDS = re.compile(
    rf"miss at most {_NUMBER} ?% of malignant (fields|images|cells|patients),? "
    rf"with {_NUMBER} ?% confidence"
)
Precision = Literal["fp32", "bf16", "int8"]
Stored = Literal["fp32", "compact"]
PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "bf16", "int8")
ACCURACY_LOSS: Final = 0.003
"""Largest loss of accuracy on validation images at which a lower precision is offered."""
NO_PROMISE: Final = (
    "calibrated on images of the training patients; promises nothing for new patients"
)
"""Of bundles that were packed before calibration held units out."""


@dataclass(frozen=True)
class OperatingTarget:
    """What an operating point must keep.

    Attributes:
        words: The promise as the user wrote it.
        miss: Largest share of malignant images (or patients) that may be missed, in (0, 1).
        confidence: With which probability, in (0.5, 1).
        unit: ``image`` or ``patient``.
        noun: What the sentence calls them.
    """

    words: str
    miss: float
    confidence: float
    unit: str
    noun: str


def parse_operating_point(words: str) -> OperatingTarget:
    """Read a sentence such as ``miss at most 1 % of malignant fields, with 95 % confidence``.

    Nothing but this pattern is accepted: fields, images and cells mean images; a patient is
    missed where none of the patient's images is flagged.

    Raises:
        ValueError: Another wording, or a number out of range; says what is accepted.

    >>> parse_operating_point("miss at most 2.5 % of malignant cells, with 90 % confidence").miss
    0.025
    """
    found = _WORDS.fullmatch(words.strip())
    if found is None:
        raise ValueError(
            f"expected the words “{PATTERN}” (or images, cells, patients), got “{words}”"
        )
    miss, confidence = float(found[1]) / 100, float(found[3]) / 100
    if not (0 < miss < 0.5 and 0.5 < confidence < 1):
        raise ValueError(
            "expected a share of missed images between 0 and 50 % and a confidence between 50 and "
            f"100 %, got “{words}”"
        )
    unit = "patient" if found[2] == "patients" else "image"
    return OperatingTarget(words.strip(), miss, confidence, unit, found[2])


@dataclass(frozen=True)
class Bound:
    """What one precision may change.

    Attributes:
        logits: Largest difference of a logit, in units of the largest logit (at least of 1).
        changed: Largest share of images whose class changes.
    """

    logits: float
    changed: float


BOUNDS: Final[Mapping[Precision | Stored, Bound]] = MappingProxyType(
    {
        "fp32": Bound(logits=1e-3, changed=0.0),
        "compact": Bound(logits=1e-2, changed=0.0),
        "bf16": Bound(logits=0.1, changed=0.01),
        "int8": Bound(logits=0.3, changed=0.02),
    }
)
"""bfloat16 keeps 8 bits of a number and int8 as many of a layer's range: over some fifty layers
that is some percent of a logit, and only images between two classes may change. ``compact`` is fp32
from weights that are stored in 16 bits."""


class Parity(Strict):
    """What was measured on real validation images.

    Attributes:
        n: Number of images.
        max_abs: Largest difference of any logit.
        scale: Largest absolute logit of the reference, at least 1.
        changed: Share of images whose class changed; two classes whose reference logits differ by
            less than the bound of fp32 count as one.
        accuracy_change: Accuracy minus that of the reference (fp32); None for fp32.
        low: Lower 95 % limit of it, whole groups resampled; None where not measured.
        high: Upper limit.
    """

    n: Annotated[int, Field(ge=1)]
    max_abs: Annotated[float, Field(ge=0)]
    scale: Annotated[float, Field(ge=1)]
    changed: Annotated[float, Field(ge=0, le=1)]
    accuracy_change: float | None = None
    low: float | None = None
    high: float | None = None

    def refusal(self, precision: Precision | Stored) -> str:
        """Which bound is not kept, with the measured figure; empty where all are.

        >>> Parity(n=10, max_abs=0.5, scale=10, changed=0).refusal("fp32")
        'logits differ by up to 0.5, allowed 0.01 (10 validation images)'
        """
        bound, where = BOUNDS[precision], f"({self.n} validation images)"
        if not self.max_abs <= bound.logits * self.scale:
            allowed = bound.logits * self.scale
            return f"logits differ by up to {self.max_abs:.3g}, allowed {allowed:.3g} {where}"
        if not self.changed <= bound.changed:
            return (
                f"the class changes on {self.changed:.2%} of the images, "
                f"allowed {bound.changed:.2%} {where}"
            )
        if self.accuracy_change is not None and self.accuracy_change < -ACCURACY_LOSS:
            return (
                f"accuracy falls by {-100 * self.accuracy_change:.2f} points, "
                f"allowed {100 * ACCURACY_LOSS:g} {where}"
            )
        return ""


class Measured(Strict):
    """A value with its interval.

    Attributes:
        value: What was measured.
        low: Lower limit; None where there is none.
        high: Upper limit, likewise.
        reliable: False where the interval rests on few groups.
    """

    value: float
    low: float | None = None
    high: float | None = None
    reliable: bool = True


def fewest_for(coverage: float) -> int:
    """Smallest n whose conformal quantile is not trivial: ⌈(n + 1) · coverage⌉ ≤ n.

    >>> fewest_for(0.95), fewest_for(0.9)
    (19, 9)
    """
    return math.ceil(round(coverage / (1 - coverage), 6))


class Promise(Strict):
    """For which new images the probabilities, sets and thresholds of a bundle are meant.

    They are fitted on answers to images of units that the answering model was not trained on.

    Attributes:
        unit: What was held out as a whole: ``patient``, ``merged acquisition cluster``,
            ``acquisition cluster``, ``session`` or, where nothing larger was, ``image``.
        protocol: Under which the folds held it out.
        n_groups: Number of such units.
        n: Number of their images.
        coverage: Nominal coverage of the prediction sets.
        measured: Coverage on units left out of the fit of the sets, too; None where not measured.
        method: How the answers that it is fitted on were obtained.
    """

    unit: str
    protocol: str
    n_groups: Annotated[int, Field(ge=1)]
    n: Annotated[int, Field(ge=1)]
    coverage: Annotated[float, Field(gt=0, lt=1)]
    measured: Measured | None = None
    method: str = "cross-validation+"

    @property
    def covers(self) -> str:
        """What kind of new image the promise covers, to follow "for"."""
        if self.unit == "patient":
            return "new patients"
        if self.unit.endswith("cluster"):
            return f"new {self.unit}s, a stand-in for slides"
        if self.unit == "session":
            return "new sessions (smears, days of imaging)"
        return "new images from the patients and slides of the training images"

    @property
    def words(self) -> str:
        """One sentence for readers, without its full stop.

        >>> few = {"unit": "patient", "protocol": "grouped", "n": 90, "coverage": 0.95}
        >>> Promise(n_groups=19, **few).words
        '95 % sets: calibrated for new patients (19 patients held out)'
        >>> Promise(n_groups=16, **few).words
        '95 % sets: fitted on 16 patients held out, too few to promise 95 % for new patients (19)'
        """
        fewest = fewest_for(self.coverage)
        share = f"{100 * self.coverage:g} %"
        if self.n_groups < fewest:
            text = (
                f"{share} sets: fitted on {self.n_groups} {self.unit}s held out, too few to "
                f"promise {share} for {self.covers} ({fewest})"
            )
        else:
            text = (
                f"{share} sets: calibrated for {self.covers} "
                f"({self.n_groups} {self.unit}s held out)"
            )
        return text if self.unit == "patient" else f"{text}; promises nothing for new patients"

    @property
    def measured_words(self) -> str:
        """What the sets held on units that had no part in them; empty where not measured."""
        found = self.measured
        if found is None:
            return ""
        span = ""
        if found.low is not None and found.high is not None:
            span = f" ({100 * found.low:.1f}–{100 * found.high:.1f} %)"
        few = "" if found.reliable else ", few groups"
        return f"measured coverage {100 * found.value:.1f} %{span}{few}"


NOT_BETTER: Final = "not shown to be better than chance"
"""What the headline of a verdict says of a model without an advantage."""


class StudyVerdict(Strict):
    """What the study behind a bundle allows one to say.

    Attributes:
        level: ``unsafe``, ``inconclusive``, ``plausible`` or ``plausible-by-clusters``.
        headline: The verdict in one sentence.
        sources: Source of shortcut → ``shown``, ``refuted``, ``open`` or ``inapplicable``.
    """

    level: str
    headline: str
    sources: dict[str, str] = Field(default_factory=dict)

    @property
    def warning(self) -> str:
        """What a reader of an answer must know first, a sentence; empty for a plausible model.

        >>> StudyVerdict(level="unsafe", headline="", sources={"stain": "shown"}).warning
        'Judged unsafe by its study: most of its score can come from stain.'
        >>> StudyVerdict(level="unsafe", headline=f"It is {NOT_BETTER}.").warning
        'Judged unsafe by its study: its model is not shown to be better than chance.'
        """
        if NOT_BETTER in self.headline:
            return f"Judged {self.level} by its study: its model is {NOT_BETTER}."
        if self.level == "unsafe":
            names, reason = self._sources("shown"), "most of its score can come from"
        elif self.level == "inconclusive":
            names, reason = self._sources("open"), "not ruled out as the source of its score:"
        else:
            return ""
        because = f": {reason} {', '.join(names)}" if names else ""
        return f"Judged {self.level} by its study{because}."

    def _sources(self, status: str) -> list[str]:
        return [name for name, found in self.sources.items() if found == status]


class Score(Measured):
    """A test score of the models that held the images out, as the study measured it.

    Attributes:
        metric: Its name in ``metrics.json``.
        protocol: Under which the images were held out.
        n: Number of test images, or of patients where they are the unit of the study.
        n_groups: Number of groups that the interval resamples.
        group_unit: What such a group is.
        confidence: Level of the interval.
    """

    metric: str
    protocol: str
    n: Annotated[int, Field(ge=1)]
    n_groups: Annotated[int, Field(ge=1)]
    group_unit: str
    confidence: Annotated[float, Field(gt=0.5, lt=1)]


class EnvelopeLimit(Strict):
    """How far one kind of damage may go before the model's accuracy leaves the bound.

    Attributes:
        corruption: Name in ``imaging.corruption``.
        severity: The largest, counted without a gap from 1, at which the model kept its accuracy;
            0 where it did not keep it at the mildest.
        severities: How many were tried.
        statistic: The measure of ``imaging.conditions`` that is checked; empty where no measure
            of a single picture tells, and nothing is checked.
        low: Smallest accepted value, None where that side is not checked.
        high: Largest accepted value, likewise.
        caught: Share of the images at the first severity beyond that lie outside the limit; None
            where there is no such severity, or no measure.
        caught_worst: Likewise at the largest severity that was tried.
    """

    corruption: str
    severity: Annotated[int, Field(ge=0)]
    severities: Annotated[int, Field(ge=1)]
    statistic: str = ""
    low: float | None = None
    high: float | None = None
    caught: Annotated[float, Field(ge=0, le=1)] | None = None
    caught_worst: Annotated[float, Field(ge=0, le=1)] | None = None


class Envelope(Strict):
    """Conditions inside which the accuracy stays within a bound of that on undamaged images.

    Measured on test images with the models of the same recipe that held them out: the packed
    model itself was fitted on all images and has no test part.

    Attributes:
        bound: Largest loss of accuracy, as a share; the lower limit of the interval of the
            paired difference must lie above its negative.
        confidence: Level of that interval.
        protocol: Under which the images were held out.
        n: Number of test images.
        n_groups: Number of groups that the interval resamples.
        false_alarms: Share of the undamaged test images that lie outside some limit.
        limits: One a corruption.
    """

    bound: Annotated[float, Field(gt=0, lt=1)]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    protocol: str
    n: Annotated[int, Field(ge=1)]
    n_groups: Annotated[int, Field(ge=1)]
    false_alarms: Annotated[float, Field(ge=0, le=1)]
    limits: tuple[EnvelopeLimit, ...]
