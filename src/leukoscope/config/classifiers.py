"""Classifiers that are fitted on the features of a frozen backbone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from leukoscope.config.base import Strict

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Grid = Field(min_length=1)


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
