"""One answer about one image, and the rule that accepts it, asks for review, or rejects it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import BundleRecord, QualityLimits
from leukoscope.core.errors import ImageError
from leukoscope.core.known_classes import Roles
from leukoscope.core.labels import class_title, malignant_mask, role_of
from leukoscope.core.views import data_frame, html_note, html_table
from leukoscope.evaluation.gate import GATE_SCORES
from leukoscope.runtime.output_fields import OF_CLASS, OutputField, json_values
from leukoscope.runtime.similar import SimilarCase

if TYPE_CHECKING:
    import pandas as pd

Decision = Literal["accept", "review", "reject"]

_TOO_LOW: Mapping[str, str] = {
    "brightness": "darker",
    "contrast": "flatter",
    "sharpness": "more blurred",
    "snr": "noisier",
    "saturation": "paler",
}
_TOO_HIGH: Mapping[str, str] = {
    "brightness": "brighter",
    "contrast": "richer in contrast",
    "sharpness": "sharper or grainier",
    "snr": "smoother",
    "saturation": "more strongly coloured",
}
EXCHANGED = (
    "Red and blue look exchanged (BGR instead of RGB), unless the stain is another: the nuclei "
    "have the colour that those of the training images would have with the channels swapped."
)
ONE_IMAGE = (
    "This model answers for patients by all of their images: what it says of one image is a "
    "contribution, no diagnosis (predict --by-patient)."
)


@dataclass(frozen=True, repr=False)
class Prediction:
    """What the bundle says about one readable image.

    Attributes:
        image: Path as given, or ``image-1`` … for images that came without a name.
        sha256: Of the file's bytes; of the pixels for an array.
        predicted: The most probable class; filled whatever the decision is.
        probabilities: Calibrated probability of each class, in the order of the logits.
        p_malignant: Sum over the malignant classes; None where the classes do not divide into
            malignant and others.
        prediction_set: Classes of the conformal set, in the order of the logits; where none is
            probable enough, the most probable one.
        decision: ``accept``, ``review`` or ``reject``.
        reasons: Why it is not ``accept``, one sentence each, and that P(malignant) reaches the
            operating point where it does.
        ood_score: Distance from the training images, the largest of the bundle's scores; None
            where the bundle cannot tell.
        quality: The measures of ``imaging.quality`` of the whole image.
        model: Name of the bundle and the first digits of its hash.
        heatmap: File of the heat map where one was asked for.
        logits: Raw outputs, for programs that compute statistics; not in the files.
        tiles: Of an image that was cut into parts: how many, and what was said of them.
        similar: Training cases that resemble it, nearest first, where asked for.
        features: (D,) that the network gives for it, in bundles that answer for patients; not in
            the files.
        heat: (h, w) in [0, 1], what spoke for the class, where asked for; not in the files.
        framed: (h, w, 3) uint8 RGB, an image that was cut with a frame around each part, where
            asked for; not in the files.
    """

    image: str
    sha256: str
    predicted: str
    probabilities: dict[str, float]
    p_malignant: float | None
    prediction_set: tuple[str, ...]
    decision: Decision
    reasons: tuple[str, ...]
    ood_score: float | None
    quality: dict[str, float]
    model: str
    heatmap: str | None = None
    logits: tuple[float, ...] = ()
    tiles: Mapping[str, Any] | None = None
    similar: tuple[SimilarCase, ...] | None = None
    features: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    heat: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    framed: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)

    def __repr__(self) -> str:
        sure = self.probabilities[self.predicted]
        return f"<Prediction {self.image}: {self.decision}, {self.predicted} {100 * sure:.1f} %>"

    def _repr_html_(self) -> str:
        rows = [(class_title(name), f"{100 * p:.1f} %") for name, p in self.probabilities.items()]
        note = html_note(" ".join(self.reasons) or "no objection", self.decision)
        return note + html_table(("class", "probability"), rows, caption=self.image)

    def as_dict(self) -> dict[str, Any]:
        """The fields of the output, ready for JSON."""
        return json_values(PREDICTION_FIELDS, self)


@dataclass(frozen=True)
class Failure:
    """An input that gave no prediction.

    Attributes:
        path: Path as given, or ``image-1`` … as in :class:`Prediction`.
        reason: Machine-readable code such as ``truncated`` or ``missing``.
        message: What was expected and what came.
        hint: What to do about it; may be empty.
    """

    path: str
    reason: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.path}: {self.message}"
        return f"{text}\n  → {self.hint}" if self.hint else text

    def as_dict(self) -> dict[str, Any]:
        """The fields of the output, ready for JSON."""
        return json_values(FAILURE_FIELDS, self)

    @classmethod
    def from_error(cls, path: str, error: Exception) -> Failure:
        """What was raised while the image was read; anything but ImageError is ``unreadable``."""
        if isinstance(error, ImageError):
            return cls(path, error.reason, error.detail, error.hint)
        detail = f"cannot be processed: {type(error).__name__}: {error}"
        return cls(path, "unreadable", detail)

    def as_error(self) -> ImageError:
        """The same as an exception."""
        return ImageError(self.path, self.reason, self.message, hint=self.hint)


AnswerT = TypeVar("AnswerT", bound=Prediction | Failure)


class Answers(list[AnswerT]):
    """What a predictor says of several images: a list that shows itself."""

    def _repr_html_(self) -> str:
        rows = [
            (one.image, one.decision, class_title(one.predicted),
             f"{100 * one.probabilities[one.predicted]:.1f} %", " ".join(one.reasons))
            if isinstance(one, Prediction)
            else (one.path, "not read", "—", "—", one.message)
            for one in self
        ]  # fmt: skip
        return html_table(("image", "decision", "class", "probability", "reasons"), rows)

    def to_frame(self) -> pd.DataFrame:
        """One row an image, with the columns of ``predict --out``.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return data_frame(one.as_dict() for one in self)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


PREDICTION_FIELDS: tuple[OutputField[Prediction], ...] = (
    OutputField(
        "image",
        str,
        lambda p: p.image,
        "The file's name as sent, without control characters.",
    ),
    OutputField("sha256", str, lambda p: p.sha256),
    OutputField(
        "predicted",
        str,
        lambda p: p.predicted,
        "The most probable class, whatever the decision is.",
    ),
    OutputField(
        OF_CLASS,
        float,
        lambda p: {name: round(share, 6) for name, share in p.probabilities.items()},
        api=False,
    ),
    OutputField("p_malignant", float | None, lambda p: _rounded(p.p_malignant, 6)),
    OutputField(
        "prediction_set",
        list[str],
        lambda p: list(p.prediction_set),
        "Conformal set; the most probable class where none is probable enough.",
    ),
    OutputField("decision", Decision, lambda p: p.decision),
    OutputField("reasons", list[str], lambda p: list(p.reasons)),
    OutputField(
        "ood_score",
        float | None,
        lambda p: _rounded(p.ood_score, 4),
        "Distance from the training images.",
    ),
    OutputField(
        "quality",
        dict[str, float],
        lambda p: {name: round(value, 4) for name, value in p.quality.items()},
    ),
    OutputField("model", str, lambda p: p.model, "Name and first digits of the bundle's hash."),
    OutputField(
        "heatmap", str | None, lambda p: p.heatmap, "With explain=true: a PNG as data URI."
    ),
    OutputField(
        "tiles",
        dict[str, object] | None,
        lambda p: None if p.tiles is None else dict(p.tiles),
        api=False,
        optional=True,
    ),
    OutputField(
        "similar",
        list[SimilarCase] | None,
        lambda p: None if p.similar is None else [case.as_dict() for case in p.similar],
        "With similar=k, nearest first; empty if the model has no cases.",
        column=False,
        optional=True,
    ),
)
"""What files, JSON, the API and the page say of an image, in order; each derives from this."""

FAILURE_FIELDS: tuple[OutputField[Failure], ...] = (
    OutputField("image", str, lambda f: f.path, column=False),
    OutputField("error", str, lambda f: f"{f.reason}: {f.message}"),
    OutputField("hint", str, lambda f: f.hint, column=False),
)
"""The same of an image that gave no prediction; ``image`` is a column already."""


def malignant_probability(
    probabilities: Mapping[str, float], roles: Roles | None = None
) -> float | None:
    """Sum of the probabilities of malignant classes.

    Args:
        probabilities: Class → probability.
        roles: What the classes stand for, where the table of known classes does not say.

    >>> malignant_probability({"benign": 0.25, "pre_b": 0.5, "pro_b": 0.25})
    0.75

    Returns:
        None where it is not known of a class whether it is malignant, or all are alike.
    """
    mask = malignant_mask(probabilities, roles)
    if mask is None:
        return None
    return min(1.0, sum(p for p, is_malignant in zip(probabilities.values(), mask, strict=True)
                        if is_malignant))  # fmt: skip


def decide(
    record: BundleRecord,
    prediction_set: Sequence[str],
    ood_score: float | None,
    quality: Mapping[str, float],
    *,
    probabilities: Mapping[str, float] | None = None,
    ood_scores: Mapping[str, float] = MappingProxyType({}),
    beyond: Sequence[str] = (),
    unsure: bool = False,
) -> tuple[Decision, tuple[str, ...]]:
    """Accept, ask for review, or reject.

    Reject: the image is further from the training images than the bundle's threshold, or its
    quality is far outside the limits (see :func:`quality_notes`). Review: the prediction set
    does not hold exactly one class or no class is probable enough for it, the quality is outside
    the limits, the image is beyond the conditions under which the model was measured to hold, or
    the operating point flags an image whose most probable class is not malignant.
    Accept: otherwise.

    Args:
        record: Thresholds and limits.
        prediction_set: Classes of the conformal set.
        ood_score: Distance from the training images, None where unknown.
        quality: Of the image.
        probabilities: Of each class, for the operating point; None leaves it out.
        ood_scores: The scores whose largest is ``ood_score``, so that the reason names them.
        beyond: Sentences of :func:`leukoscope.runtime.envelope.envelope_notes`.
        unsure: Whether no class is probable enough, so that the set holds the most probable one.

    Returns:
        The decision, and one sentence for each reason against acceptance or for the flag.
    """
    reject, review = quality_notes(quality, record.quality)
    if record.ood is not None and ood_score is not None and ood_score > record.ood.threshold:
        limit = record.ood.threshold
        found = sorted(ood_scores, key=lambda name: -ood_scores[name])
        above = [name for name in found if ood_scores[name] > limit]
        why = "; ".join(f"{GATE_SCORES[name]} ({name})" for name in above)
        reject.insert(
            0,
            f"The image is unlike the images this model was trained on "
            f"(distance {ood_score:.4g}, accepted up to {limit:.4g}){why and ': ' + why}.",
        )
    percent = f"{record.conformal.coverage:.0%}"
    if len(prediction_set) > 1:
        titles = " and ".join(class_title(name) for name in prediction_set)
        review.insert(0, f"The model cannot decide, at {percent} confidence, between {titles}.")
    elif unsure:
        review.insert(0, f"No class is probable enough for {percent} confidence.")
    p = probabilities or {}
    flag = _flag(record, p)
    if flag and role_of(max(p, key=lambda name: p[name]), record.roles) != "malignant":
        review.append(flag)
    review.extend(beyond)
    decision: Decision = "reject" if reject else "review" if review else "accept"
    return decision, (*reject, *review, *([flag] if flag and flag not in review else []))


def _flag(record: BundleRecord, probabilities: Mapping[str, float]) -> str:
    """What to say where P(malignant) is on the flagged side of the operating point."""
    point, p = record.operating_point, malignant_probability(probabilities, record.roles)
    if point is None or point.threshold is None or p is None or p < point.threshold:
        return ""
    return (
        f"P(malignant) {p:.3g} reaches {point.threshold:.3g}, the limit chosen to "
        f"“{point.words}”: flagged."
    )


def quality_notes(
    quality: Mapping[str, float], limits: QualityLimits | None
) -> tuple[list[str], list[str]]:
    """Sentences about quality that is far outside the limits, and about quality just outside.

    Far outside means above the upper limit by more than the distance between the limits, or
    below a quarter of the lower one (no measure can be negative, so a distance would rarely
    be reached there).

    >>> limits = QualityLimits(low={"brightness": 100.0}, high={"brightness": 200.0})
    >>> quality_notes({"brightness": 10.0}, limits)[0]
    ['The image is far darker than the training images (brightness 10, theirs 100 to 200).']
    """
    far: list[str] = []
    near: list[str] = []
    for name, low in limits.low.items() if limits else ():
        assert limits is not None
        high, value = limits.high[name], quality[name]
        if low <= value <= high:
            continue
        is_far = value > 2 * high - low or value < low / 4
        word = (_TOO_LOW if value < low else _TOO_HIGH)[name]
        (far if is_far else near).append(
            f"The image is {'far ' if is_far else ''}{word} than the training images "
            f"({name} {value:.3g}, theirs {low:.3g} to {high:.3g})."
        )
    return far, near
