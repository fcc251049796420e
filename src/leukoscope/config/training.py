"""How a head, a whole network, or a classifier on frozen features is fitted."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from leukoscope.config.base import Strict

Fraction = Annotated[float, Field(ge=0, le=1)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Criterion = Literal["val_loss", "val_accuracy", "val_f1"]
Grid = Field(min_length=1)
Degradation = Literal[
    "blur-0.5", "blur-1", "blur-1.5", "jpeg-95", "jpeg-85", "jpeg-70", "size-80", "size-90",
    "size-110", "size-125", "resampled", "noise", "stain-less", "stain-more", "darker", "brighter",
]  # fmt: skip
"""Mild damage: what :data:`leukoscope.imaging.corruption.DEGRADATIONS` does to an image."""

Tracker = Literal["mlflow", "wandb"]
"""Where the epochs of a training are recorded besides the run's folder."""

Balance = Literal["images", "units", "classes", "worst-units"]
"""What counts the same in the fit of a linear head."""
Nuisance = Literal["units", "grain", "file"]
"""What can be taken out of features: differences of patients (else clusters), and the numbers that
the probes of the same names see."""


class LinearHeadTraining(Strict):
    """Frozen backbone, multinomial logistic regression on its standardised features.

    Attributes:
        c_grid: Inverse strengths of the L2 penalty; the best log loss on ``val`` wins, in the fit
            on all images the best mean over the folds.
        refit_with_val: Fit once more on train + val with the selected strength. ``cal`` and
            ``test`` stay untouched.
        degraded: Also train, and select, on these degraded copies of the images; an image and its
            copies count together as one.
        balance: ``units`` lets each patient of a class count the same (each acquisition cluster
            where there are no patients), ``classes`` each class, so that rare ones are named more
            often, ``images`` each image. ``worst-units`` raises the weight of the units of a class
            whose images the head fits worst (group DRO, Sagawa et al. 2020).
        unit_penalty: Penalise directions in which the units of one class differ: the penalty
            becomes wᵀ(I + μ·B)w with B the covariance of the units' means about their class's
            mean, of standardised features (within-class covariance normalisation, Hatch, Kajarekar
            & Stolcke 2006, with B in its place). 0 is the plain L2 penalty.
        copy_penalty: Penalise directions in which an image and its ``degraded`` copies differ, in
            the same way: ν·C is added, with C the covariance of versions about their image's mean.
        erase: Take out of the features all that a linear function of them says, within a class, of
            the unit of an image, of its grain, or of its file (LEACE, Belrose et al. 2023).
    """

    method: Literal["linear-head"] = "linear-head"
    c_grid: tuple[Positive, ...] = (0.0003, 0.003, 0.03, 0.3)
    refit_with_val: bool = True
    degraded: tuple[Degradation, ...] = ()
    balance: Balance = "images"
    unit_penalty: NotNegative = 0.0
    copy_penalty: NotNegative = 0.0
    erase: tuple[Nuisance, ...] = ()

    @model_validator(mode="after")
    def _copies_are_there(self) -> Self:
        if self.copy_penalty and not self.degraded:
            raise ValueError(
                "copy_penalty compares an image with its copies: name them in degraded"
            )
        return self


class CrossEntropy(Strict):
    """Cross entropy.

    Attributes:
        smoothing: Share of the target spread evenly over all classes.
    """

    kind: Literal["cross-entropy"] = "cross-entropy"
    smoothing: Below1 = 0.0


class Focal(Strict):
    """Focal loss (Lin et al. 2017); its α are the class weights of ``class_weights``.

    Attributes:
        gamma: How far well-classified images are discounted.
        smoothing: Share of the target spread evenly over all classes.
    """

    kind: Literal["focal"] = "focal"
    gamma: NotNegative = 2.0
    smoothing: Below1 = 0.0


class Hierarchical(Strict):
    """Cross entropy plus the binary cross entropy of benign against the summed malignant classes.

    Attributes:
        binary_weight: λ, the weight of the binary term.
        smoothing: Share of the target of the first term spread evenly over all classes.
    """

    kind: Literal["hierarchical"] = "hierarchical"
    binary_weight: NotNegative = 1.0
    smoothing: Below1 = 0.0


class ConstantRate(Strict):
    """The learning rate stays as it is."""

    kind: Literal["none"] = "none"


class StepSchedule(Strict):
    """Multiply the rate by ``factor`` every ``every`` epochs or batches."""

    kind: Literal["step"] = "step"
    every: Count = 7
    factor: Positive = 0.1
    per: Literal["epoch", "batch"] = "epoch"


class ExponentialSchedule(Strict):
    """Multiply the rate by ``factor`` after every epoch or batch."""

    kind: Literal["exponential"] = "exponential"
    factor: Positive = 0.98
    per: Literal["epoch", "batch"] = "epoch"


class CosineSchedule(Strict):
    """Half a cosine from the rate down to ``floor`` times the rate over all epochs."""

    kind: Literal["cosine"] = "cosine"
    floor: Fraction = 0.0
    per: Literal["epoch", "batch"] = "epoch"


class OneCycle(Strict):
    """Rise to the rate and fall again, per batch and along cosines (Smith & Topin 2018).

    Attributes:
        warmup: Share of all batches in which the rate rises.
        start_divisor: The rate over the rate of the first batch.
        end_divisor: The rate of the first batch over that of the last.
    """

    kind: Literal["one-cycle"] = "one-cycle"
    warmup: Annotated[float, Field(gt=0, lt=1)] = 0.3
    start_divisor: Annotated[float, Field(ge=1)] = 25.0
    end_divisor: Annotated[float, Field(ge=1)] = 1e4


Loss = Annotated[CrossEntropy | Focal | Hierarchical, Field(discriminator="kind")]
Schedule = Annotated[
    ConstantRate | StepSchedule | ExponentialSchedule | CosineSchedule | OneCycle,
    Field(discriminator="kind"),
]


class GradientTraining(Strict):
    """Gradient descent over the network, with early stopping on ``val``.

    Attributes:
        optimizer: As in torch.
        learning_rate: The largest one where a schedule changes it.
        weight_decay: L2 penalty of ``adam``, ``adamax`` and ``sgd``, decoupled in ``adamw``
            (Loshchilov & Hutter 2019).
        momentum: Of ``sgd`` only.
        stage_decay: The head learns at the rate, each stage of the backbone at this share of the
            rate of the stage after it (Howard & Ruder 2018; Bao et al. 2022); 1: one rate for all.
        schedule: How the rate changes, per epoch or batch: ``none``, ``step``, ``exponential``,
            ``cosine`` or ``one-cycle`` (Smith & Topin 2018).
        loss: ``cross-entropy``, ``focal`` (Lin et al. 2017) or ``hierarchical``, each with
            ``smoothing`` (Szegedy et al. 2016).
        class_weights: Weigh the loss by n / (K · n_k), counted on the training images.
        sampling: ``balanced`` draws as many images as there are, each class equally often;
            ``patients`` also draws each patient of a class equally often.
        mixup: α of the Beta distribution that two images are blended with (Zhang et al. 2018);
            0 blends none.
        cutmix: α of the Beta distribution of the share of an image that stays when a rectangle
            of another replaces the rest (Yun et al. 2019); 0 replaces none. With mixup, each
            batch takes one of the two.
        ema: Decay of the exponential moving average of the weights, per batch (e.g. 0.999; less
            in the first batches). The average is validated and kept; 0 keeps none.
        clip_norm: Largest norm of the gradient; 0 clips nothing. The norm before clipping is
            written to ``history.csv`` either way.
        not_finite: When an input, a loss or a gradient is NaN or infinite: stop, or leave that
            batch out, count it in ``history.csv`` and name it and its files in
            ``not_finite.csv``. On validation images it always stops.
        freeze: How many blocks of the backbone, from the input on, keep their weights and
            statistics; ``all`` trains the head only.
        freeze_norm: Batch norms of the backbone keep their statistics; scale and shift learn.
        freeze_depthwise: Depthwise kernels keep their weights, which makes a step on a CPU
            faster (``docs/results/steps.md``).
        cached_views: Compute what the frozen blocks give for each image and for augmented copies
            of it, this many in all, once for the study, and train the rest on that; an epoch
            meets one copy of each image. 0 augments and computes anew each epoch.
        batch_size: A single left-over image joins the batch before.
        epochs: At most.
        patience: Epochs without an improvement of ``stop_on`` before training stops.
        stop_on: ``val_loss``, ``val_accuracy``, or ``val_f1``, which is weighted by class sizes.
        keep_best: What selects the epoch; likewise.
        precision: ``auto`` takes bfloat16 where the processor multiplies in it.
        logger: Trackers that record each epoch and the study's report, besides TensorBoard.
    """

    method: Literal["gradient"] = "gradient"
    optimizer: Literal["adam", "adamw", "adamax", "sgd"] = "adam"
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.0
    momentum: Below1 = 0.9
    stage_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    schedule: Schedule = ConstantRate()
    loss: Loss = CrossEntropy()
    batch_size: Count = 32
    epochs: Count = 20
    patience: Count = 10
    stop_on: Criterion = "val_loss"
    keep_best: Criterion = "val_accuracy"
    class_weights: bool = False
    sampling: Literal["shuffle", "balanced", "patients"] = "shuffle"
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    ema: Below1 = 0.0
    clip_norm: NotNegative = 0.0
    not_finite: Literal["stop", "skip"] = "stop"
    freeze: Annotated[int, Field(ge=0)] | Literal["all"] = 0
    freeze_norm: bool = False
    freeze_depthwise: bool = False
    cached_views: Annotated[int, Field(ge=0, le=64)] = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    logger: tuple[Tracker, ...] = ()

    @model_validator(mode="after")
    def _frozen_blocks_are_cached(self) -> GradientTraining:
        if self.cached_views and not self.freeze:
            raise ValueError('training.cached_views needs training.freeze, a number or "all"')
        if self.cached_views and self.cutmix:
            raise ValueError("training.cached_views has no image for training.cutmix to cut")
        return self


class Refinement(Strict):
    """Training of the whole network from the best weights of the training before it.

    Everything that is not said here is as in that training, but that the rate stays constant.

    Attributes:
        epochs: 0 leaves it out.
        learning_rate: Far below the head's, or the pretrained weights are lost.
        freeze: How many blocks of the backbone keep their weights.
    """

    epochs: Annotated[int, Field(ge=0)] = 0
    learning_rate: Positive = 1e-4
    freeze: Annotated[int, Field(ge=0)] = 0


class SvmClassifier(Strict):
    """Support vector machines, one class against the rest, on standardised features.

    Attributes:
        kernels: ``rbf`` and ``linear``.
        c: Costs of a margin violation, for products of features divided by their number.
        gamma: Of the RBF kernel exp(−γ‖x − s‖²), in units of 1 / number of features.
    """

    kind: Literal["svm"] = "svm"
    kernels: Annotated[tuple[Literal["rbf", "linear"], ...], Grid] = ("rbf", "linear")
    c: Annotated[tuple[Positive, ...], Grid] = (1.0, 10.0, 100.0)
    gamma: Annotated[tuple[Positive, ...], Grid] = (0.1, 0.3, 1.0)


class KnnClassifier(Strict):
    """Nearest training images by the cosine of standardised features (Wu et al. 2018).

    Attributes:
        neighbours: How many vote.
        temperature: Each vote counts exp(cosine / temperature).
    """

    kind: Literal["knn"] = "knn"
    neighbours: Annotated[tuple[Count, ...], Grid] = (1, 3, 5, 10, 20, 50)
    temperature: Annotated[tuple[Positive, ...], Grid] = (0.03, 0.07, 0.2)


class BoostingClassifier(Strict):
    """Gradient-boosted trees on principal components of the standardised features.

    Attributes:
        components: Number of principal components; trees on all features would take minutes.
        learning_rate: Weight of each tree.
        leaves: Largest number of leaves of a tree.
        rounds: Most rounds; the number with the best log loss on ``val`` is taken.
    """

    kind: Literal["gradient-boosting"] = "gradient-boosting"
    components: Count = 64
    learning_rate: Annotated[tuple[Positive, ...], Grid] = (0.1,)
    leaves: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Grid] = (4, 15)
    rounds: Count = 150


class FuzzyClassifier(Strict):
    """Mamdani inference over principal components; its rules are drawn from training images.

    Attributes:
        components: Numbers of principal components tried.
        terms: How many words each component has: low, medium, high, or five of them.
        membership: Shape of the words.
        t_norm: What AND means.
        most_rules: Rules that are kept, those that speak for most training images.
    """

    kind: Literal["fuzzy"] = "fuzzy"
    components: Annotated[tuple[Annotated[int, Field(ge=1, le=12)], ...], Grid] = (4, 6, 8)
    terms: Annotated[tuple[Literal[3, 5], ...], Grid] = (3, 5)
    membership: Literal["triangular", "gaussian"] = "triangular"
    t_norm: Literal["min", "product"] = "min"
    most_rules: Count = 300


FeatureClassifier = Annotated[
    SvmClassifier | KnnClassifier | BoostingClassifier | FuzzyClassifier,
    Field(discriminator="kind"),
]


class FeatureClassifierTraining(Strict):
    """Frozen backbone, a classifier on its features; ``val`` selects the settings by log loss.

    The fit on all images takes those with the least mean over the folds.

    Attributes:
        classifier: Which one, and the settings that are tried.
        refit_with_val: Fit once more on train + val with the selected settings. ``cal`` and
            ``test`` stay untouched.
    """

    method: Literal["feature-classifier"] = "feature-classifier"
    classifier: FeatureClassifier = SvmClassifier()
    refit_with_val: bool = True


class EnsembleTraining(Strict):
    """Nothing is trained: the probabilities of other models are combined.

    Written by ``leukoscope ensemble``, which is the only thing that can make such a model.

    Attributes:
        rule: How they are combined.
        members: What is combined, ``FOLDER:RECIPE`` each.
    """

    method: Literal["ensemble"] = "ensemble"
    rule: Literal["mean", "weighted", "accuracy-weighted", "vote", "fuzzy"] = "mean"
    members: Annotated[tuple[str, ...], Field(min_length=2)]


class MeanSpread(Strict):
    """A patient is the mean and the standard deviation of the features of its images.

    Attributes:
        quantiles: Of each feature over the patient's images, in addition.
    """

    kind: Literal["mean-spread"] = "mean-spread"
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()


class MeanProbability(Strict):
    """Each image is classified with its patient's class; a patient is the mean of the answers.

    In the fit the images of a patient count together as one.
    """

    kind: Literal["mean-probability"] = "mean-probability"


class GatedAttention(Strict):
    """A patient is a weighted mean of its images' features, with weights that are learnt.

    Gated attention for multiple-instance learning (Ilse, Tomczak & Welling 2018, equation 9), on
    principal components of the standardised features.

    Attributes:
        components: Number of principal components; fewer where there are fewer images.
        hidden: Width of the attention network.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        dropout: Of the components and of the pooled vector.
        epochs: Most passes over the training patients.
        patience: Passes without a better log loss of the validation patients before it stops.
        images: How many images of a patient are drawn for a pass; all where there are fewer.
        seeds: Networks whose logits are averaged.
    """

    kind: Literal["gated-attention"] = "gated-attention"
    components: Count = 32
    hidden: Count = 16
    learning_rate: Positive = 2e-3
    weight_decay: NotNegative = 0.05
    dropout: Below1 = 0.2
    epochs: Count = 150
    patience: Count = 25
    images: Count = 32
    seeds: Annotated[int, Field(ge=1, le=20)] = 5


PatientPooling = Annotated[
    MeanSpread | MeanProbability | GatedAttention, Field(discriminator="kind")
]
"""How the features of a patient's images become one answer."""
