"""Support vectors, neighbours, boosted trees and fuzzy rules on a backbone's features."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.training import (
    BoostingClassifier,
    FeatureClassifierTraining,
    FuzzyClassifier,
    KnnClassifier,
    SvmClassifier,
)
from leukoscope.core.errors import TrainingError
from leukoscope.evaluation.calibration.scaling import log_loss, log_softmax
from leukoscope.evaluation.combining import log_probs
from leukoscope.evaluation.fuzzy_inference import (
    WORDS,
    FuzzySystem,
    Rule,
    TNorm,
    Variable,
    even_terms,
    terms_at,
)
from leukoscope.learning.feature_models import (
    FeatureModel,
    Features,
    FeatureSet,
    Hyperparameters,
    KnnHead,
    PrincipalComponents,
    ProbabilityMapping,
    RbfHead,
    Standardiser,
)

_EDGE = 0.05  # words lie between these quantiles of the training images


class FuzzyFamily:
    """Rule bases over the first principal components of one training sample.

    Args:
        train: What the words and rules are fitted on.
    """

    def __init__(self, train: FeatureSet, n_classes: int, config: FuzzyClassifier) -> None:
        self.y, self.n_classes, self.config = train.y, n_classes, config
        self.components = PrincipalComponents.of(train.X, max(config.components))
        self.z = self.components.apply(train.X)

    def settings(self) -> list[Hyperparameters]:
        """Every combination of the grid."""
        pairs = product(self.config.components, self.config.terms)
        return [{"components": p, "terms": t} for p, t in pairs]

    def fit(
        self, settings: Hyperparameters, val: FeatureSet | None, link: ProbabilityMapping | None
    ) -> FeatureModel:
        """Draw the rules; map the supports of the classes to probabilities on ``val``."""
        used = min(int(settings["components"]), self.z.shape[1])
        words = WORDS[int(settings["terms"])]
        peaks = np.quantile(self.z[:, :used], np.linspace(_EDGE, 1 - _EDGE, len(words)), axis=0)
        peaks += 1e-9 * np.arange(len(words))[:, None]  # those of a constant column would be equal
        inputs = [
            Variable(f"component{i + 1}", terms_at(peaks[:, i], words, self.config.membership))
            for i in range(used)
        ]
        z = np.clip(self.z[:, :used], peaks[0], peaks[-1])
        rules = draw_rules(
            z, self.y, self.n_classes, inputs, self.config.t_norm, self.config.most_rules
        )
        outputs = tuple(Variable(f"class{k}", even_terms(WORDS[2])) for k in range(self.n_classes))
        system = FuzzySystem(tuple(inputs), outputs, rules, self.config.t_norm)

        def scores(X: Features) -> NDArray[np.float64]:
            places = np.clip(self.components.apply(X, used), peaks[0], peaks[-1])
            return log_probs(system.infer(places))

        if link is None:
            assert val is not None
            link = ProbabilityMapping.fit(scores(val.X), val.y)
        mapping = link
        return FeatureModel(lambda X: mapping.apply(scores(X)), None, link, system)


def draw_rules(
    z: NDArray[np.float64],
    y: NDArray[np.int64],
    n_classes: int,
    inputs: list[Variable],
    t_norm: TNorm,
    most: int,
) -> tuple[Rule, ...]:
    """One rule for each combination of words that training images fall into.

    Each image proposes the words that fit it best; images with the same words share a rule, whose
    class is that with the largest sum of degrees and whose weight is how far that sum exceeds the
    mean of the other classes' (Ishibuchi & Nakashima 2001). The rule speaks for its class and
    against the others.

    Args:
        z: (n, P) training images.
        most: Rules that are kept, those with the largest sums.

    Returns:
        Rules that conclude ``class IS high`` for one class and ``class IS low`` for the others.
    """
    degrees = [np.stack([t.membership(col) for t in v.terms], axis=1)
               for v, col in zip(inputs, z.T, strict=True)]  # fmt: skip
    best = np.stack([d.argmax(axis=1) for d in degrees], axis=1)
    cells, member = np.unique(best, axis=0, return_inverse=True)
    strongest = np.stack([d.max(axis=1) for d in degrees], axis=1)
    degree = strongest.min(axis=1) if t_norm == "min" else strongest.prod(axis=1)
    # A rare class would never win a combination: each class counts as if equally frequent.
    share = degree / np.maximum(np.bincount(y, minlength=n_classes), 1)[y]
    sums = np.zeros((len(cells), n_classes))
    np.add.at(sums, (member.ravel(), y), share)
    order = np.argsort(-sums.sum(axis=1), kind="stable")[:most]
    rules = []
    for row in order.tolist():
        winner = int(sums[row].argmax())
        total = float(sums[row].sum())
        others = (total - sums[row, winner]) / max(1, n_classes - 1)
        weight = float((sums[row, winner] - others) / total) if total > 0 else 0.0
        if weight <= 0:
            continue
        conditions = tuple(enumerate(int(t) for t in cells[row]))
        others_low = [(k, 0) for k in range(n_classes) if k != winner]
        rules.append(Rule(conditions, ((winner, 1), *others_low), weight))
    return tuple(rules)


class SvmFamily:
    """SVMs on one training sample; the products of its images are computed once."""

    def __init__(self, train: FeatureSet, n_classes: int, config: SvmClassifier) -> None:
        self.y, self.n_classes, self.config = train.y, n_classes, config
        self.standard = Standardiser.of(train.X)
        self.z = self.standard.apply(train.X)
        self.products = self.z @ self.z.T / self.z.shape[1]

    def settings(self) -> list[Hyperparameters]:
        """Every combination of the grid."""
        found: list[Hyperparameters] = []
        for kernel in self.config.kernels:
            for c in self.config.c:
                if kernel == "linear":
                    found.append({"kernel": kernel, "c": c})
                else:
                    found += [{"kernel": kernel, "c": c, "gamma": g} for g in self.config.gamma]
        return found

    def fit(
        self, settings: Hyperparameters, val: FeatureSet | None, link: ProbabilityMapping | None
    ) -> FeatureModel:
        """One machine a class; the probability mapping is fitted on ``val`` unless given."""
        gamma = float(settings.get("gamma", 0.0))  # in units of 1 / D, as the products
        support, weight, bias = self._solve(float(settings["c"]), gamma)
        z, width = self.z[support], self.z.shape[1]

        def scores(X: Features) -> NDArray[np.float64]:
            near = self.standard.apply(X)
            return (
                self._kernel(near @ z.T / width, _norms(near), _norms(z), gamma) @ weight.T + bias
            )

        if link is None:
            assert val is not None
            link = ProbabilityMapping.fit(scores(val.X), val.y)
        slope, offset = link.slope, link.offset
        if gamma == 0:
            straight = slope * weight @ z * self.standard.scale / width
            constant = slope * bias + offset - straight @ self.standard.mean
            return FeatureModel(
                lambda X: log_softmax(X @ straight.T + constant), (straight, constant), link
            )
        head = RbfHead(
            self.standard.mean, self.standard.scale, z, slope * weight, slope * bias + offset,
            gamma / width,
        )  # fmt: skip
        return FeatureModel(head.logits, head, link)

    def _kernel(
        self,
        products: NDArray[np.float64],
        rows: NDArray[np.float64],
        columns: NDArray[np.float64],
        gamma: float,
    ) -> NDArray[np.float64]:
        if gamma == 0:
            return products
        squared = rows[:, None] + columns - 2 * products
        return np.asarray(np.exp(-gamma * np.maximum(squared, 0)))

    def _solve(
        self, c: float, gamma: float
    ) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
        """Indices of the support vectors of any machine, (K, s) coefficients, (K,) intercepts."""
        from sklearn.svm import SVC

        norms = np.diag(self.products)
        kernel = self._kernel(self.products, norms, norms, gamma)
        weight = np.zeros((self.n_classes, len(self.y)))
        bias = np.full(self.n_classes, -1.0)  # a class without training images: certainly not
        for k in range(self.n_classes):
            target = self.y == k
            if target.all():
                bias[k] = 1.0
            elif target.any():
                machine = SVC(kernel="precomputed", C=c).fit(kernel, target)
                weight[k, machine.support_] = machine.dual_coef_[0]
                bias[k] = machine.intercept_[0]
        support = np.flatnonzero(weight.any(axis=0))
        if len(support) == 0:
            support = np.array([0])  # a graph needs one; its coefficients are zero
        return support, weight[:, support], bias


def _norms(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((z**2).mean(axis=1))


class Family(Protocol):
    """Models of one kind on one training sample."""

    def settings(self) -> list[Hyperparameters]:
        """Every combination of the grid."""

    def fit(
        self, settings: Hyperparameters, val: FeatureSet | None, link: ProbabilityMapping | None
    ) -> FeatureModel:
        """Fit with these settings; a mapping is fitted on ``val`` unless given."""


class KnnFamily:
    """Nearest neighbours; see :class:`KnnHead`."""

    def __init__(self, train: FeatureSet, n_classes: int, config: KnnClassifier) -> None:
        self.config = config
        self.standard = Standardiser.of(train.X)
        z = self.standard.apply(train.X)
        self.memory = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
        self.votes = np.eye(n_classes)[train.y]

    def settings(self) -> list[Hyperparameters]:
        """Every combination of the grid."""
        pairs = product(self.config.neighbours, self.config.temperature)
        return [{"neighbours": k, "temperature": t} for k, t in pairs]

    def fit(
        self, settings: Hyperparameters, val: FeatureSet | None, link: ProbabilityMapping | None
    ) -> FeatureModel:
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
        self, train: FeatureSet, n_classes: int, config: BoostingClassifier, seed: int
    ) -> None:
        self.y, self.n_classes, self.config, self.seed = train.y, n_classes, config, seed
        self.components = PrincipalComponents.of(train.X, config.components)
        self.z = self.components.apply(train.X)

    def settings(self) -> list[Hyperparameters]:
        """Every combination of the grid; the number of rounds is found by :meth:`fit`."""
        pairs = product(self.config.learning_rate, self.config.leaves)
        return [{"learning_rate": r, "leaves": n} for r, n in pairs]

    def fit(
        self, settings: Hyperparameters, val: FeatureSet | None, link: ProbabilityMapping | None
    ) -> FeatureModel:
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
        model: Refitted on train + val where the settings say so.
        val_logits: (m, K) log-probabilities of the validation images by the model as selected,
            before any refit: they were never trained on, and their probability mapping was fitted
            on the other validation images.
        history: One row per settings tried: these, ``val_loss`` and ``val_accuracy``.
    """

    model: FeatureModel
    val_logits: NDArray[np.float64]
    settings: Hyperparameters
    history: tuple[Hyperparameters, ...]


def fit_feature_classifier(
    train: FeatureSet,
    val: FeatureSet,
    n_classes: int,
    config: FeatureClassifierTraining,
    *,
    seed: int,
) -> SelectedModel:
    """Fit with every setting; the best log loss on ``val`` wins.

    Args:
        val: Those that select the settings, and that the SVM's and the fuzzy rules' scores are
            mapped to probabilities on.

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
    tried: list[tuple[float, Hyperparameters, FeatureModel, NDArray[np.float64]]] = []
    for settings in family.settings():
        model = family.fit(settings, val, None)
        logits = model.logits(val.X)
        if model.link is not None:
            logits = ProbabilityMapping.cross_fitted(logits, val.y)
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


def _family(
    sample: FeatureSet, n_classes: int, config: FeatureClassifierTraining, seed: int
) -> Family:
    chosen = config.classifier
    if isinstance(chosen, SvmClassifier):
        return SvmFamily(sample, n_classes, chosen)
    if isinstance(chosen, KnnClassifier):
        return KnnFamily(sample, n_classes, chosen)
    if isinstance(chosen, FuzzyClassifier):
        return FuzzyFamily(sample, n_classes, chosen)
    return BoostingFamily(sample, n_classes, chosen, seed)
