"""The record that travels beside a model: what it knows and how it decides."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from leukoscope.config.base import Strict
from leukoscope.config.preprocess import PreprocessSpec

BUNDLE_SCHEMA: Final = 1


class Calibration(Strict):
    """Temperature scaling: probabilities are softmax(logits / temperature).

    Attributes:
        temperature: Fitted on the ``cal`` part (Guo et al. 2017).
        n_cal: Number of images it was fitted on.
    """

    temperature: Annotated[float, Field(gt=0)]
    n_cal: Annotated[int, Field(ge=1)]


class Conformal(Strict):
    """Split-conformal prediction sets, LAC score 1 − p(class) (Sadinle et al. 2019).

    Attributes:
        coverage: Nominal marginal coverage under exchangeability.
        threshold: A class belongs to the set where 1 − p(class) ≤ threshold; 1 means every class.
        n_cal: Number of calibration images.
    """

    coverage: Annotated[float, Field(gt=0, lt=1)]
    threshold: Annotated[float, Field(ge=0, le=1)]
    n_cal: Annotated[int, Field(ge=1)]


class OutOfDistribution(Strict):
    """Mahalanobis distance in a whitened principal subspace of the model's features.

    Attributes:
        tensors: File in the bundle with ``mean`` (D,), ``components`` (D, P; directions divided by
            their standard deviations) and ``residual_variance`` (1,), all float32.
        accept: Share of in-distribution validation images that the threshold accepts.
        threshold: Largest accepted score.
        n_fit: Number of training images behind mean and components.
        n_val: Number of validation images behind the threshold.
    """

    tensors: str = "ood.safetensors"
    accept: Annotated[float, Field(gt=0, lt=1)]
    threshold: Annotated[float, Field(ge=0)]
    n_fit: Annotated[int, Field(ge=1)]
    n_val: Annotated[int, Field(ge=1)]


class QualityLimits(Strict):
    """Image quality inside which the model was validated (1st to 99th percentile widened).

    Attributes:
        low: Smallest value seen for each statistic of ``imaging.quality``.
        high: Largest value.
    """

    low: dict[str, float]
    high: dict[str, float]


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


class BundleRecord(Strict):
    """``bundle.json``: everything that prediction needs besides the tensors.

    Attributes:
        schema_version: Version of this record.
        name: For lists and the ``model`` column.
        created: ISO 8601 time in UTC.
        recipe: Recipe name.
        trained_on: What data, protocol and fold made the weights, in words.
        class_names: Order of the logits.
        preprocess: How an image becomes the graph's input.
        calibration: Probabilities.
        conformal: Prediction sets.
        ood: Rejection of what the model does not know; None where it could not be fitted.
        quality: Limits behind quality notes.
        envelope: Damage that the model stands, checked on each image; None where not measured.
        parity_max_abs: Largest logit difference between graph and torch model on real images.
        passport_sha256: Hash of the passport of the training data.
        versions: Of this package and the libraries that made the bundle.
        licence: Of the weights.
        files: SHA-256 of every other file of the bundle.
    """

    schema_version: Literal[1] = BUNDLE_SCHEMA
    name: str
    created: str
    recipe: str
    trained_on: str
    class_names: Annotated[tuple[str, ...], Field(min_length=2)]
    preprocess: PreprocessSpec
    calibration: Calibration
    conformal: Conformal
    ood: OutOfDistribution | None = None
    quality: QualityLimits | None = None
    envelope: Envelope | None = None
    parity_max_abs: float
    passport_sha256: str
    versions: dict[str, str]
    licence: str
    files: dict[str, str] = Field(default_factory=dict)
