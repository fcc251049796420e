"""A recipe: everything that makes one kind of model, as one TOML file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from leukoscope.config.base import Strict
from leukoscope.config.preprocess import PreprocessSpec

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class ModelConfig(Strict):
    """The network.

    Attributes:
        backbone: A name of ``leukoscope models list`` or of timm.
        weights: ``imagenet``, ``none`` (random, stated in every report), or a file or folder.
        hidden: Widths of fully connected layers between pooled features and logits.
        dropout: Rate before the last layer.
    """

    backbone: str = "tf_efficientnet_lite0"
    weights: str = "imagenet"
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = ()
    dropout: Fraction = 0.0


class LinearHeadTraining(Strict):
    """Frozen backbone, multinomial logistic regression on its standardised features.

    Attributes:
        c_grid: Inverse strengths of the L2 penalty; the best log loss on ``val`` wins.
        refit_with_val: Fit once more on train + val with the selected strength. ``cal`` and
            ``test`` stay untouched.
    """

    method: Literal["linear-head"] = "linear-head"
    c_grid: tuple[Positive, ...] = (0.0003, 0.003, 0.03, 0.3)
    refit_with_val: bool = True


class GradientTraining(Strict):
    """Gradient descent over the whole network, with early stopping on ``val``."""

    method: Literal["gradient"] = "gradient"
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    batch_size: Annotated[int, Field(ge=1)] = 32
    epochs: Annotated[int, Field(ge=1)] = 20
    patience: Annotated[int, Field(ge=1)] = 10
    stop_on: Literal["val_loss", "val_accuracy"] = "val_loss"
    keep_best: Literal["val_loss", "val_accuracy"] = "val_accuracy"
    class_weights: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"


class Augmentation(Strict):
    """Random changes of training images only; every rate is zero unless the recipe says so.

    Attributes:
        rotation_deg: Largest angle, degrees.
        shift: Largest translation as a share of the side.
        shear_deg: Largest shear angle, degrees.
        zoom: Largest relative change of scale.
        horizontal_flip: Flip with probability one half.
        vertical_flip: Likewise.
        brightness: Largest relative change.
        contrast: Largest relative change.
        saturation: Largest relative change.
        hue: Largest change as a share of the colour circle.
    """

    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    shift: Fraction = 0.0
    shear_deg: Annotated[float, Field(ge=0, lt=90)] = 0.0
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.0
    horizontal_flip: bool = False
    vertical_flip: bool = False
    brightness: Fraction = 0.0
    contrast: Fraction = 0.0
    saturation: Fraction = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class Recipe(Strict):
    """One way to make a model.

    Attributes:
        name: Name on the command line and in every file.
        title: One line for lists.
        reference: The study or paper it comes from.
        notes: What was corrected against the published version, and why.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    title: str
    reference: str = ""
    notes: str = ""
    preprocess: PreprocessSpec = PreprocessSpec()
    model: ModelConfig = ModelConfig()
    training: Annotated[LinearHeadTraining | GradientTraining, Field(discriminator="method")] = (
        LinearHeadTraining()
    )
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _linear_means_linear(self) -> Recipe:
        if self.model.hidden and isinstance(self.training, LinearHeadTraining):
            raise ValueError("training.method 'linear-head' takes no model.hidden layers")
        return self
