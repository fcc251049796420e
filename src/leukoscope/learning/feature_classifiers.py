"""Support vectors, neighbours, boosted trees and fuzzy rules on the features of a backbone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.classifiers import (
    BoostingClassifier,
    FeatureClassifierTraining,
    FuzzyClassifier,
    KnnClassifier,
    SvmClassifier,
)
from leukoscope.core.errors import TrainingError
from leukoscope.evaluation.combining import log_probs
from leukoscope.evaluation.softmax import log_softmax
from leukoscope.learning.feature_heads import KnnHead
from leukoscope.learning.feature_models import (
    Components,
    FeatureModel,
    Features,
    Link,
    Sample,
    Settings,
    Standard,
)
from leukoscope.learning.fuzzy import FuzzyFamily
from leukoscope.learning.kernel_machines import SvmFamily


class Family(Protocol):
    """Models of one kind on one training sample."""

    def settings(self) -> list[Settings]:
        """Every combination of the grid."""

    def fit(self, settings: Settings, val: Sample | None, link: Link | None) -> FeatureModel:
        """Fit with these settings; a mapping is fitted on ``val`` unless given."""


class KnnFamily:
    """Nearest neighbours; see :class:`KnnHead`."""

    def __init__(self, train: Sample, n_classes: int, config: KnnClassifier) -> None:
        self.config = config
        self.standard = Standard.of(train.X)
        z = self.standard.apply(train.X)
        self.memory = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
        self.votes = np.eye(n_classes)[train.y]

    def settings(self) -> list[Settings]:
        """Every combination of the grid."""
        pairs = product(self.config.neighbours, self.config.temperature)
        return [{"neighbours": k, "temperature": t} for k, t in pairs]

    def fit(self, settings: Settings, val: Sample | None, link: Link | None) -> FeatureModel:
        """Nothing is fitted but the standardisation."""
        head = KnnHead(
            self.standard.mean,
            self.standard.scale,
            self.memory,
            self.votes,
            neighbours=int(settings["neighbours"]),
            temperature=float(settings["temperature"]),
        )
        return FeatureModel(head.logits, head)


class BoostingFamily:
    """Histogram gradient boosting on principal components."""

    def __init__(
        self, train: Sample, n_classes: int, config: BoostingClassifier, seed: int
    ) -> None:
        self.y, self.n_classes, self.config, self.seed = train.y, n_classes, config, seed
        self.components = Components.of(train.X, config.components)
        self.z = self.components.apply(train.X)

    def settings(self) -> list[Settings]:
        """Every combination of the grid; the number of rounds is found by :meth:`fit`."""
        pairs = product(self.config.learning_rate, self.config.leaves)
        return [{"learning_rate": r, "leaves": n} for r, n in pairs]

    def fit(self, settings: Settings, val: Sample | None, link: Link | None) -> FeatureModel:
        """As many rounds as the settings say; without that, the best number on ``val``."""
        from sklearn.ensemble import HistGradientBoostingClassifier
        from threadpoolctl import threadpool_limits

        trees = HistGradientBoostingClassifier(
            max_iter=int(settings.get("rounds", self.config.rounds)),
            learning_rate=float(settings["learning_rate"]),
            max_leaf_nodes=int(settings["leaves"]),
            early_stopping=False,
            random_state=self.seed,
        )
        with threadpool_limits(1, "openmp"):  # threads that wait for a shared core are slower
            trees.fit(self.z, self.y)
            if "rounds" not in settings:
                assert val is not None
                z = self.components.apply(val.X)
                losses = [
                    log_loss(self._logits(p, trees.classes_), val.y)
                    for p in trees.staged_predict_proba(z)
                ]
                settings["rounds"] = int(np.argmin(losses)) + 1
                return self.fit(settings, None, None)

        def logits(X: Features) -> NDArray[np.float64]:
            if len(X) == 0:
                return np.empty((0, self.n_classes))
            return self._logits(trees.predict_proba(self.components.apply(X)), trees.classes_)

        return FeatureModel(logits)

    def _logits(
        self, probs: NDArray[np.float64], classes: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        every = np.full((len(probs), self.n_classes), 1e-4)  # a class may lack training images
        every[:, classes] += probs
        return log_probs(every / every.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class SelectedModel:
    """The model that won on ``val``.

    Attributes:
        model: Refitted on train + val where that was asked for.
        val_logits: (m, K) log-probabilities of the validation images by the model as selected,
            before any refit: they were never trained on, and their probability mapping was fitted
            on the other validation images.
        settings: Its settings.
        history: One row per settings tried: these, ``val_loss`` and ``val_accuracy``.
    """

    model: FeatureModel
    val_logits: NDArray[np.float64]
    settings: Settings
    history: tuple[Settings, ...]


def fit_feature_classifier(
    train: Sample, val: Sample, n_classes: int, config: FeatureClassifierTraining, *, seed: int
) -> SelectedModel:
    """Fit with every setting; the best log loss on ``val`` wins.

    Args:
        train: Features and classes of the training images.
        val: Those that select the settings, and that the SVM's and the fuzzy rules' scores are
            mapped to probabilities on.
        n_classes: K.
        config: Which classifier.
        seed: Of the trees.

    Raises:
        TrainingError: No training or no validation images, or features that are not finite.
    """
    for sample, part in ((train, "training"), (val, "validation")):
        if len(sample.y) == 0:
            raise TrainingError(
                f"a {config.classifier.kind} classifier was asked for, but there are no {part} "
                "images",
                hint="add images, or raise splits.val",
            )
        if not np.isfinite(sample.X).all():
            raise TrainingError("features are not finite", hint="check the weights of the backbone")
    family = _family(train, n_classes, config, seed)
    tried: list[tuple[float, Settings, FeatureModel, NDArray[np.float64]]] = []
    for settings in family.settings():
        model = family.fit(settings, val, None)
        logits = model.logits(val.X)
        if model.link is not None:
            logits = Link.cross_fitted(logits, val.y)
        tried.append((log_loss(logits, val.y), settings, model, logits))
    history = tuple(
        {**s, "val_loss": loss, "val_accuracy": float((z.argmax(axis=1) == val.y).mean())}
        for loss, s, _, z in tried
    )
    _, settings, model, logits = min(tried, key=lambda row: row[0])
    if config.refit_with_val:
        both = _family(train.with_more(val), n_classes, config, seed)
        model = both.fit(settings, None, model.link)
    return SelectedModel(model, logits, settings, history)


def log_loss(logits: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """Mean log loss of (n, K) logits.

    >>> round(log_loss(np.zeros((2, 4)), np.array([0, 3])), 4)
    1.3863
    """
    return float(-log_softmax(logits)[np.arange(len(y)), y].mean())


def _family(sample: Sample, n_classes: int, config: FeatureClassifierTraining, seed: int) -> Family:
    chosen = config.classifier
    if isinstance(chosen, SvmClassifier):
        return SvmFamily(sample, n_classes, chosen)
    if isinstance(chosen, KnnClassifier):
        return KnnFamily(sample, n_classes, chosen)
    if isinstance(chosen, FuzzyClassifier):
        return FuzzyFamily(sample, n_classes, chosen)
    return BoostingFamily(sample, n_classes, chosen, seed)
