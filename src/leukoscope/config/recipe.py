"""A recipe: everything that makes one kind of model, as one TOML file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from leukoscope.config.base import Strict
from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.config.training import (
    ConstantRate,
    EnsembleTraining,
    FeatureClassifierTraining,
    Fraction,
    GradientTraining,
    LinearHeadTraining,
    MeanSpread,
    NotNegative,
    PatientPooling,
    Refinement,
)

__all__ = [
    "Augmentation",
    "EnsembleTraining",
    "FeatureClassifierTraining",
    "GradientTraining",
    "LinearHeadTraining",
    "ModelConfig",
    "Recipe",
]

_NO_GRAPH = {
    "gradient-boosting": "boosted trees cannot be written as the one graph that a bundle holds",
    "fuzzy": "fuzzy inference cannot be written as the one graph that a bundle holds",
}

Width = Annotated[int, Field(ge=1)]


class ModelConfig(Strict):
    """The network: backbone, pooling, head.

    The head is, in this order: ``conv``, ``squeeze_excite``, pooling, ``input_norm``, then for
    each of ``hidden`` a linear layer, ``norm``, ``activation`` and ``hidden_dropout``, and at
    last ``dropout`` and the linear layer that gives the logits.

    Attributes:
        backbone: A name of ``leukoscope models list`` or of timm.
        weights: ``imagenet``, ``none`` (random, stated in every report), or a file or folder.
        stages: Keep only the first so many feature levels of the backbone, as timm counts them (3
            of an EfficientNet or a ResNet: a map of an eighth of the side), and average the last
            of them; 0 keeps the whole backbone. What lies above is not computed at all.
        levels: Average several feature levels, counted as in ``stages``, in ascending order, and
            read them side by side; not with ``stages``. The side of the input must be a multiple
            of the deepest level's step (32 px for the fifth).
        top: Beside ``levels``, read the map of the last layer too.
        conv: Channels of 3×3 convolutions (batch norm, ReLU) after the backbone; what follows is
            then averaged globally.
        squeeze_excite: Weigh the channels of the feature map (Hu et al. 2018); the number
            divides their width inside, 0 leaves it out.
        pooling: ``native`` is the backbone's own, ``flatten`` keeps every place of the map,
            ``attention`` is a mean whose weights are learnt (gated attention, Ilse et al. 2018).
        input_norm: On the pooled features.
        hidden: Widths of fully connected layers between pooled features and logits.
        norm: After each hidden layer.
        activation: After that.
        residual: Add to each hidden layer a linear projection of its input, with ``norm``.
        init: Of the head's linear layers; ``default`` is torch's, ``small`` draws them from
            N(0, 0.01²) with zero bias, so that training starts near equal probabilities.
        hidden_dropout: Rate after each hidden layer but the last.
        dropout: Rate before the last layer.
        test_time: Views of an image whose features, and so logits, are averaged in validation and
            prediction, in the exported graph too: ``flips`` takes 4 (as is, mirrored each way,
            both), ``dihedral`` all 8 flips and turns. It multiplies the time by that number.
        clamp_input: Cut normalised inputs to ± this; 0 cuts nothing. Hides an input that is
            infinite, which ``training.not_finite`` would have found.
        clamp_logits: Likewise of the logits; a wrong image of a cut logit teaches nothing more.
    """

    backbone: str = "tf_efficientnet_lite0"
    weights: str = "imagenet"
    stages: Annotated[int, Field(ge=0)] = 0
    levels: tuple[Width, ...] = ()
    top: bool = False
    conv: tuple[Width, ...] = ()
    squeeze_excite: Annotated[int, Field(ge=0)] = 0
    pooling: Literal["native", "flatten", "attention"] = "native"
    input_norm: Literal["none", "batch", "layer"] = "none"
    hidden: tuple[Width, ...] = ()
    norm: Literal["none", "batch", "layer"] = "none"
    activation: Literal["relu", "gelu", "leaky_relu"] = "relu"
    residual: bool = False
    init: Literal["default", "xavier", "small"] = "default"
    hidden_dropout: Fraction = 0.0
    dropout: Fraction = 0.0
    test_time: Literal["none", "flips", "dihedral"] = "none"
    clamp_input: NotNegative = 0.0
    clamp_logits: NotNegative = 0.0

    @property
    def views(self) -> int:
        """How many views of an image one prediction looks at."""
        return {"none": 1, "flips": 4, "dihedral": 8}[self.test_time]

    @model_validator(mode="after")
    def _levels_fit(self) -> ModelConfig:
        if self.levels and self.stages:
            raise ValueError("model.levels names the levels that model.stages would keep: set one")
        if list(self.levels) != sorted(set(self.levels)):
            raise ValueError(f"model.levels must ascend, got {list(self.levels)}")
        if self.top and not self.levels:
            raise ValueError("model.top goes beside model.levels; without them it is what is read")
        return self

    @model_validator(mode="after")
    def _nothing_idle(self) -> ModelConfig:
        if self.conv and self.pooling != "native":
            raise ValueError(
                f"model.conv is averaged globally: pooling {self.pooling!r} does not fit"
            )
        if not self.hidden and (self.norm != "none" or self.residual or self.hidden_dropout):
            raise ValueError("norm, residual and hidden_dropout need model.hidden layers")
        return self


class Augmentation(Strict):
    """Random changes of training images only; every rate is zero unless the recipe says so.

    Attributes:
        rotation_deg: Largest angle, degrees.
        shift: Largest translation as a share of the side.
        shear_deg: Largest shear angle, degrees.
        zoom: Largest relative change of scale.
        crop_min_area: Smallest share of the area that a random crop keeps; 1 crops nothing.
        quarter_turns: Turn by 0°, 90°, 180° or 270°, each equally often.
        horizontal_flip: Flip with probability one half.
        vertical_flip: Likewise.
        brightness: Largest relative change.
        contrast: Largest relative change.
        saturation: Largest relative change.
        hue: Largest change as a share of the colour circle.
        stain: σ of the stain jitter: the amount s of each stain becomes α·s + β with α from
            1 ± σ and β from ± σ, in optical density (Tellez et al. 2018).
        blur_px: Largest standard deviation of a Gaussian blur, px.
        invert: Share of images whose colours are inverted. No microscope shows such an image; it
            is here because study S3 used it.
        jpeg: Largest loss of quality by JPEG compression: .3 draws a quality from 70 to 100.
    """

    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    shift: Fraction = 0.0
    shear_deg: Annotated[float, Field(ge=0, lt=90)] = 0.0
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.0
    crop_min_area: Annotated[float, Field(gt=0, le=1)] = 1.0
    quarter_turns: bool = False
    horizontal_flip: bool = False
    vertical_flip: bool = False
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    stain: Annotated[float, Field(ge=0, lt=1)] = 0.0
    blur_px: Annotated[float, Field(ge=0, le=10)] = 0.0
    invert: Fraction = 0.0
    jpeg: Annotated[float, Field(ge=0, le=0.99)] = 0.0


class Recipe(Strict):
    """One way to make a model.

    Attributes:
        name: Name on the command line and in every file.
        title: One line for lists.
        reference: The study or paper it comes from.
        notes: What was corrected against the published version, and why.
        refine: A second training, of the whole network, after that of its head.
        phase1: Values of ``model``, ``training`` and ``augmentation`` that are others in the first
            phase of a two-phase transfer; everything else is common to both phases.
        inner_folds: Train this many models on folds of the train and val parts and average them,
            as study S4 did with 3; 0 trains one model. Each member selects on its own inner fold.
        patient: How a patient's images become one answer, in a study whose unit is the patient;
            read in no other.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    title: str
    reference: str = ""
    notes: str = ""
    preprocess: PreprocessSpec = PreprocessSpec()
    model: ModelConfig = ModelConfig()
    training: Annotated[
        LinearHeadTraining | GradientTraining | FeatureClassifierTraining | EnsembleTraining,
        Field(discriminator="method"),
    ] = LinearHeadTraining()
    inner_folds: Annotated[int, Field(ge=0, le=20)] = 0
    refine: Refinement = Refinement()
    augmentation: Augmentation = Augmentation()
    patient: PatientPooling = MeanSpread()
    phase1: dict[Literal["model", "training", "augmentation"], dict[str, object]] = Field(
        default_factory=dict
    )

    def first_phase(self) -> Recipe:
        """The recipe of phase 1: this one with the values of ``phase1`` in place."""
        values = self.model_dump()
        changes = values.pop("phase1")
        merged = {section: {**values[section], **own} for section, own in changes.items()}
        return Recipe.model_validate({**values, **merged})

    @model_validator(mode="after")
    def _first_phase_fits(self) -> Recipe:
        if self.phase1:
            try:
                self.first_phase()
            except ValidationError as error:
                first = error.errors()[0]
                key = ".".join(str(part) for part in first["loc"])
                raise ValueError(f"phase1: {key}: {first['msg']}") from None
        return self

    def refined(self) -> Recipe | None:
        """The recipe of the second training; None where there is none."""
        if not self.refine.epochs:
            return None
        changes = {**self.refine.model_dump(), "cached_views": 0, "schedule": ConstantRate()}
        return self.model_copy(update={"training": self.training.model_copy(update=changes)})

    @model_validator(mode="after")
    def _stages_fit(self) -> Recipe:
        if isinstance(self.training, GradientTraining):
            model = self.model
            pooled = self.training.cached_views and self.training.freeze == "all"
            other = model.conv or model.squeeze_excite or model.clamp_logits
            if pooled and (other or model.pooling == "attention"):
                raise ValueError(
                    "training.cached_views of a wholly frozen backbone takes no model.conv, "
                    "squeeze_excite, clamp_logits or pooling 'attention'"
                )
            if self.training.cached_views and self.model.weights == "none":
                raise ValueError("training.cached_views needs pretrained weights")
        elif self.refine.epochs:
            raise ValueError("refine follows training.method 'gradient' only")
        return self

    @model_validator(mode="after")
    def _head_fits_training(self) -> Recipe:
        model, method = self.model, self.training.method
        if self.inner_folds == 1:
            raise ValueError("inner_folds must be 0 (one model) or at least 2")
        if isinstance(self.training, GradientTraining):
            if model.levels:
                raise ValueError("model.levels is for frozen features: set model.stages")
            if "batch" in (model.norm, model.input_norm) and self.training.batch_size < 2:
                raise ValueError("batch norm in the head needs training.batch_size of 2 or more")
            return self
        if model.hidden:
            raise ValueError(f"training.method {method!r} takes no model.hidden layers")
        if model.pooling == "attention":
            raise ValueError(f"training.method {method!r} cannot learn model.pooling 'attention'")
        if model.conv or model.squeeze_excite or model.input_norm != "none":
            raise ValueError(
                f"training.method {method!r} takes no conv, squeeze_excite or "
                "input_norm: their random weights would be kept"
            )
        if model.clamp_logits:
            raise ValueError(f"training.method {method!r} takes no model.clamp_logits")
        return self

    @model_validator(mode="after")
    def _pooling_fits(self) -> Recipe:
        linear = isinstance(self.training, LinearHeadTraining)
        if self.patient.kind != "mean-spread" and not linear:
            raise ValueError(
                f"patient.kind {self.patient.kind!r} needs training.method 'linear-head'"
            )
        if self.patient.kind == "gated-attention" and self.inner_folds:
            raise ValueError("patient.kind 'gated-attention' takes no inner_folds: it has seeds")
        return self

    @property
    def frozen_features(self) -> bool:
        """Whether a classifier is fitted on features that are computed once."""
        return isinstance(self.training, (LinearHeadTraining, FeatureClassifierTraining))

    @property
    def degraded(self) -> tuple[str, ...]:
        """The degraded copies of all images that a fit reads besides the images."""
        training = self.training
        return training.degraded if isinstance(training, LinearHeadTraining) else ()

    @property
    def random_training(self) -> bool:
        """Whether another seed trains another model from the same images."""
        training = self.training
        if isinstance(training, FeatureClassifierTraining):
            return training.classifier.kind == "gradient-boosting"
        return isinstance(training, GradientTraining)

    @property
    def draws_curve(self) -> bool:
        """Whether a fit is quick enough for the curve over the number of acquisition clusters."""
        training = self.training
        cached = isinstance(training, GradientTraining) and training.cached_views > 0
        return cached or isinstance(training, LinearHeadTraining)

    @property
    def no_bundle_reason(self) -> str:
        """Why such a model cannot be packed as a bundle; empty where it can."""
        if isinstance(self.training, EnsembleTraining):
            return "an ensemble is several models; export its members one by one"
        if isinstance(self.training, FeatureClassifierTraining):
            return _NO_GRAPH.get(self.training.classifier.kind, "")
        return ""
