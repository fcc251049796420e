"""``bundle.json``: the classes, preprocessing and decision rules that belong to a model."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from leukoscope.config.base import Strict
from leukoscope.config.guarantees import (
    NO_PROMISE,
    Envelope,
    Parity,
    Precision,
    Promise,
    Score,
    StudyVerdict,
)
from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.core.known_classes import Role
from leukoscope.core.views import plural

BUNDLE_SCHEMA: Final = 1


class Calibration(Strict):
    """How logits become probabilities (Guo et al. 2017, section 4.2).

    Attributes:
        temperature: Temperature scaling: softmax(logits / temperature).
        weights: Vector scaling, where it serves instead: softmax(weights · logits + bias).
        bias: Of vector scaling, one number a class.
        n_cal: Number of images it was fitted on.
    """

    temperature: Annotated[float, Field(ge=1e-6, le=1e6)]  # beyond, quotients overflow
    weights: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    bias: tuple[float, ...] | None = None
    n_cal: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _is_one_method(self) -> Calibration:
        if (self.weights is None) != (self.bias is None) or (
            self.weights is not None and self.bias is not None
            and len(self.weights) != len(self.bias)
        ):  # fmt: skip
            raise ValueError("vector scaling needs one weight and one bias for each class")
        return self

    @property
    def method(self) -> Literal["temperature", "vector"]:
        """Which of the two serves."""
        return "temperature" if self.weights is None else "vector"


SetScore = Literal["lac", "aps", "raps"]
SetGuarantee = Literal["marginal", "class", "group"]


class Conformal(Strict):
    """Split-conformal prediction sets: a class is in the set where its score ≤ the threshold.

    Attributes:
        coverage: Nominal coverage under exchangeability.
        score: ``lac`` 1 − p(class) (Sadinle et al. 2019); ``aps`` the probability of all classes
            that are at least as probable (Romano et al. 2020), without randomisation; ``raps``
            the same plus ``penalty`` for each rank beyond ``free`` (Angelopoulos et al. 2021).
        guarantee: ``marginal`` over images, within each ``class``, or for an image of a new
            ``group`` (Lee, Barber & Willett 2023).
        threshold: For every class, unless ``thresholds`` says otherwise.
        thresholds: One a class, of the guarantee by class.
        penalty: λ of ``raps``.
        free: Ranks without penalty, k_reg of ``raps``.
        n_cal: Number of calibration images.
        n_groups: Number of calibration groups, of the guarantee by group.
    """

    coverage: Annotated[float, Field(gt=0, lt=1)]
    score: SetScore = "lac"
    guarantee: SetGuarantee = "marginal"
    threshold: Annotated[float, Field(ge=0)]
    thresholds: tuple[Annotated[float, Field(ge=0)], ...] | None = None
    penalty: Annotated[float, Field(ge=0)] = 0.0
    free: Annotated[int, Field(ge=0)] = 0
    n_cal: Annotated[int, Field(ge=1)]
    n_groups: Annotated[int, Field(ge=1)] | None = None


class OperatingPoint(Strict):
    """From which P(malignant) on an image is flagged.

    Attributes:
        words: The promise as the user wrote it.
        threshold: Flagged where P(malignant) ≥ threshold; None where the calibration images
            cannot support the promise, so that nothing is flagged.
        n_cal: Number of malignant calibration images, or patients.
        needed: Fewest of them that could support it.
    """

    words: str
    threshold: Annotated[float, Field(ge=0, le=1)] | None
    n_cal: Annotated[int, Field(ge=0)]
    needed: Annotated[int, Field(ge=1)] = 1


class ScoreScale(Strict):
    """One OOD score and its scale: (score − median) / (limit − median).

    Attributes:
        name: A key of ``evaluation.gate.GATE_SCORES``.
        median: Of validation images.
        limit: Value that ``accept`` of the validation images do not exceed.
    """

    name: str
    median: float
    limit: float


class OutOfDistribution(Strict):
    """The out-of-distribution gate: an image is rejected above a threshold of its OOD score.

    The OOD score is the largest of the scaled scores.

    Attributes:
        tensors: File in the bundle with the tensors of ``evaluation.gate.Gate``.
        accept: Share of in-distribution images that the threshold accepts.
        threshold: Largest accepted score.
        n_fit: Number of training images that OOD scores are measured from.
        n_val: Number of validation images that scale the scores, and behind the threshold where
            ``n_unseen`` is 0.
        n_unseen: Number of images behind the threshold, each scored by a model that was not
            trained on its unit (patient, cluster …).
        scores: The scores that decide; in bundles without this field the plain Mahalanobis
            distance of the features.
        outliers: Synthetic outliers that chose the scores: kind → share of them that is accepted.
        alone: Score → area under the ROC curve, mean over those kinds, if it decided alone.
    """

    tensors: str = "ood.safetensors"
    accept: Annotated[float, Field(gt=0, lt=1)]
    threshold: Annotated[float, Field(ge=0)]
    n_fit: Annotated[int, Field(ge=1)]
    n_val: Annotated[int, Field(ge=1)]
    n_unseen: Annotated[int, Field(ge=0)] = 0
    scores: Annotated[tuple[ScoreScale, ...], Field(min_length=1)] = (
        ScoreScale(name="mahalanobis", median=0.0, limit=1.0),
    )
    outliers: dict[str, float] = Field(default_factory=dict)
    alone: dict[str, float] = Field(default_factory=dict)


class QualityLimits(Strict):
    """Image quality inside which the model was validated (1st to 99th percentile widened).

    Attributes:
        low: Smallest value seen for each statistic of ``imaging.quality``.
        high: Largest value.
    """

    low: dict[str, float]
    high: dict[str, float]


class EngineVariant(Strict):
    """One engine in one precision: whether it may serve, and with which decisions.

    Attributes:
        engine: ``openvino`` or ``onnxruntime``.
        precision: In which it computes; ``int8`` runs ``model.int8.onnx``, the others
            ``model.onnx``.
        parity: Against the torch network (fp32) or against the same engine in fp32 (others).
        refused: Why it is not offered; empty where it is.
        calibration: Fitted on what this engine gives in this precision; None stands for the
            bundle's own, as in fp32. The same holds for the fields below.
        conformal: Prediction sets.
        operating_point: Flagging; follows ``calibration``.
        ood: Scales and threshold of the rejection; the tensors are the bundle's.
    """

    engine: str
    precision: Precision
    parity: Parity
    refused: str = ""
    calibration: Calibration | None = None
    conformal: Conformal | None = None
    operating_point: OperatingPoint | None = None
    ood: OutOfDistribution | None = None

    @property
    def words(self) -> str:
        """What was measured, or why it is not offered."""
        if self.refused:
            return f"not offered: {self.refused}"
        parity, of = self.parity, "torch" if self.precision == "fp32" else "fp32"
        text = (
            f"logits within {parity.max_abs:.2g} of those of {of} (largest {parity.scale:.3g}), "
            f"class changed on {parity.changed:.1%} of {parity.n} validation images"
        )
        if parity.accuracy_change is not None:
            text += f", accuracy {100 * parity.accuracy_change:+.2f} points"
        return text


class ModelField(Strict):
    """What one training image shows, so that a larger image can be cut to the same.

    Attributes:
        width_px: Median width of the training images, before any preprocessing.
        height_px: Median height.
        largest_px: Longest side of any of them.
        shows: A ``field`` of cells, or one ``cell`` that is cut out on black.
        um_per_px: Their pixel scale in µm; None where it is not known.
    """

    width_px: Annotated[int, Field(ge=8)]
    height_px: Annotated[int, Field(ge=8)]
    largest_px: Annotated[int, Field(ge=8)]
    shows: Literal["field", "cell"]
    um_per_px: Annotated[float, Field(gt=0)] | None = None


class SimilarCases(Strict):
    """Training cases that an answer is set beside, in ``similar.safetensors`` and ``.json``.

    Attributes:
        n: How many.
        limit: Distance to their nearest case that 95 % of the validation images do not exceed;
            the unit of every distance that is shown.
        picture_px: Side of each picture in ``similar.jpg``; None where there are none.
    """

    n: Annotated[int, Field(ge=1)]
    limit: Annotated[float, Field(gt=0)]
    picture_px: Annotated[int, Field(ge=16)] | None = None


class DistanceLimit(Strict):
    """How far a patient may be from those of the study, by so many of its images or more."""

    images: Annotated[int, Field(ge=1)]
    distance: Annotated[float, Field(ge=0)]


class PatientLimits(Strict):
    """Limits of what a patient may be and still be like those of the study.

    Each patient of the study was compared with patients of other folds, and its images were judged
    by gates that had not seen it.

    Attributes:
        tensors: File in the bundle with the tensors of ``evaluation.patient_gate.PatientGate``.
        accept: Share of patients like these that each limit accepts.
        distances: Largest accepted distance of the mean features from those of the study's
            patients, from one image upwards: the mean of few images varies more.
        rejected: Largest accepted share of a patient's images that the gate rejects.
        n_patients: Number of patients behind the limits.
    """

    tensors: str = "patient_gate.safetensors"
    accept: Annotated[float, Field(gt=0, lt=1)]
    distances: Annotated[tuple[DistanceLimit, ...], Field(min_length=1)]
    rejected: Annotated[float, Field(ge=0, le=1)]
    n_patients: Annotated[int, Field(ge=2)]

    def distance(self, images: int) -> float:
        """Largest accepted distance by so many images."""
        return next(
            (one.distance for one in reversed(self.distances) if one.images <= images),
            self.distances[0].distance,
        )


class PatientModel(Strict):
    """How a bundle answers for a patient, by the features of all of its images.

    Attributes:
        pooling: What is made of them, see :mod:`leukoscope.evaluation.patient_heads`.
        tensors: File in the bundle with the tensors of that head.
        n_patients: Number of patients that it was fitted on.
        images: Images of a patient in the fit: the fewest, the median, the most.
        limits: Of the patient as a whole; None where too few patients could set them.
    """

    pooling: Literal["mean-spread", "mean-probability", "gated-attention"]
    tensors: str = "patient_head.safetensors"
    n_patients: Annotated[int, Field(ge=2)]
    images: tuple[int, int, int]
    limits: PatientLimits | None = None

    @property
    def words(self) -> str:
        """What it is, as the end of a sentence."""
        low, median, high = self.images
        each = f"{low} to {high} images each (median {median})"
        if low == high:
            each = f"{plural(low, 'image')} each"
        return f"{self.n_patients} patients with {each}"


class ConfusionsFile(Strict):
    """How the recipe's models confused the classes of images that they had held out.

    ``count`` adjusts the shares of classes by it.

    Attributes:
        tensors: File in the bundle with the tensors of ``evaluation.confusions.Confusions``.
        protocol: Under which the images were held out.
        unit: What was held out as a whole; with ``image`` the spread between patients is unknown.
        n_units: Number of units.
        n: Number of images.
    """

    tensors: str = "confusions.safetensors"
    protocol: str
    unit: str
    n_units: Annotated[int, Field(ge=1)]
    n: Annotated[int, Field(ge=1)]


class BundleRecord(Strict):
    """``bundle.json``: everything that prediction needs besides the tensors.

    Attributes:
        schema_version: Version of this record.
        name: For lists and the ``model`` column.
        created: ISO 8601 time in UTC.
        recipe: Recipe name.
        trained_on: What data, protocol and fold made the weights, in words.
        dataset: Name of that data's folder or manifest; empty in older bundles.
        scores: Of the recipe in the study; empty in older bundles.
        class_names: Order of the logits.
        roles: Class → what it stands for; a class that is left out has the role that the table of
            known classes gives it, or none.
        preprocess: How an image becomes the graph's input.
        calibration: Probabilities.
        conformal: Prediction sets.
        operating_point: Flagging of images that may be malignant; None where none was set
            for, or it does not apply.
        promise: For which new images the three above and ``subject_method`` are meant; None in
            older bundles, which were calibrated on images of units that the model had seen.
        verdict: Of the study; None in older bundles and where it judged another recipe.
        ood: Rejection of what the model does not know; None where it could not be fitted.
        quality: Limits behind quality notes.
        envelope: Damage that the model stands, checked on each image; None where not measured.
        subject_method: How images of one patient are aggregated, chosen on validation patients;
            None where none were held out (the mean logit is then used).
        patient: How the images of one patient are answered together, where patients were the
            unit of the study: calibration, sets and operating point are then those of patients,
            and the answer for an image is that for a patient of whom only this image is known.
        nuclear_blue: Range of ``imaging.channel_order`` over the training images, by which
            exchanged channels are recognised; None where they cannot be.
        field: What a training image shows; None in bundles that cannot cut larger images.
        phantoms: Whether every image of the study was drawn, as the truth file beside them says.
        similar: Cases that resemble an image; None in bundles that carry none.
        confusions: How classes are confused on unseen units; None in older bundles.
        parity_max_abs: Largest logit difference between graph and torch model on real images.
        passport_sha256: Hash of the passport of the training data.
        versions: Of this package and the libraries that made the bundle.
        licence: Of the weights.
        servings: Which engine was measured in which precision; empty in older bundles, which
            serve in fp32 alone.
        files: SHA-256 of every other file of the bundle.
    """

    schema_version: Literal[1] = BUNDLE_SCHEMA
    name: str
    created: str
    recipe: str
    trained_on: str
    dataset: str = ""
    scores: tuple[Score, ...] = ()
    class_names: Annotated[tuple[str, ...], Field(min_length=2)]
    roles: dict[str, Role] = Field(default_factory=dict)
    preprocess: PreprocessSpec
    calibration: Calibration
    conformal: Conformal
    operating_point: OperatingPoint | None = None
    promise: Promise | None = None
    verdict: StudyVerdict | None = None
    ood: OutOfDistribution | None = None
    quality: QualityLimits | None = None
    envelope: Envelope | None = None
    subject_method: Literal["mean-logit", "median-probability", "vote"] | None = None
    patient: PatientModel | None = None
    nuclear_blue: tuple[float, float] | None = None
    field: ModelField | None = None
    phantoms: bool = False
    similar: SimilarCases | None = None
    confusions: ConfusionsFile | None = None
    parity_max_abs: float
    passport_sha256: str
    versions: dict[str, str]
    licence: str
    servings: tuple[EngineVariant, ...] = ()
    files: dict[str, str] = Field(default_factory=dict)

    @property
    def warning(self) -> str:
        """What its study's verdict says against its answers, a sentence; empty for nothing."""
        return "" if self.verdict is None else self.verdict.warning

    @property
    def promise_words(self) -> str:
        """For which new images the answers are calibrated, in one sentence."""
        words = NO_PROMISE if self.promise is None else self.promise.words
        if self.patient is None:
            return words
        return f"{words}; a patient is answered by all images together, one image contributes"

    @property
    def measured_promise(self) -> str:
        """The same, and how well it was kept on units that had no part in it."""
        measured = "" if self.promise is None else self.promise.measured_words
        return f"{self.promise_words}; {measured}" if measured else self.promise_words

    def variant(self, engine: str, precision: str) -> EngineVariant | None:
        """What was measured of an engine in a precision; None where nothing was."""
        found = (s for s in self.servings if (s.engine, s.precision) == (engine, precision))
        return next(found, None)

    def served_by(self, engine: str, precision: str) -> BundleRecord:
        """The record with the decisions that were fitted on an engine in a precision."""
        variant = self.variant(engine, precision)
        if variant is None or variant.calibration is None:
            return self
        names = ("calibration", "conformal", "operating_point", "ood")
        return self.model_copy(update={name: getattr(variant, name) for name in names})

    @model_validator(mode="after")
    def _shows_only_what_is_drawn(self) -> BundleRecord:
        if self.similar is not None and self.similar.picture_px and not self.phantoms:
            raise ValueError("similar.picture_px: pictures of cases, but they are not all drawn")
        return self

    @model_validator(mode="after")
    def _fits_the_classes(self) -> BundleRecord:
        named = [("", self.calibration, self.conformal)]
        for variant in self.servings:
            if (variant.calibration is None) != (variant.conformal is None):
                raise ValueError("servings: calibration and conformal come together")
            if variant.calibration is not None and variant.conformal is not None:
                where = f"servings.{variant.engine}.{variant.precision}."
                named.append((where, variant.calibration, variant.conformal))
        for name, values in (
            pair
            for where, calibration, conformal in named
            for pair in (
                (f"{where}calibration.weights", calibration.weights),
                (f"{where}conformal.thresholds", conformal.thresholds),
            )
        ):
            if values is not None and len(values) != len(self.class_names):
                raise ValueError(
                    f"{name}: expected {len(self.class_names)} numbers, one a class, "
                    f"got {len(values)}"
                )
        return self
