"""Mamdani rules over deep features, drawn from the training images (Wang & Mendel 1992)."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.classifiers import FuzzyClassifier
from leukoscope.evaluation.combining import log_probs
from leukoscope.evaluation.fuzzy import (
    WORDS,
    FuzzySystem,
    Rule,
    TNorm,
    Variable,
    even_terms,
    terms_at,
)
from leukoscope.learning.feature_models import (
    Components,
    FeatureModel,
    Features,
    Link,
    Sample,
    Settings,
)

_EDGE = 0.05  # words lie between these quantiles of the training images


class FuzzyFamily:
    """Rule bases over the first principal components of one training sample.

    Args:
        train: What the words and rules are fitted on.
        n_classes: K.
        config: The settings to try.
    """

    def __init__(self, train: Sample, n_classes: int, config: FuzzyClassifier) -> None:
        self.y, self.n_classes, self.config = train.y, n_classes, config
        self.components = Components.of(train.X, max(config.components))
        self.z = self.components.apply(train.X)

    def settings(self) -> list[Settings]:
        """Every combination of the grid."""
        pairs = product(self.config.components, self.config.terms)
        return [{"components": p, "terms": t} for p, t in pairs]

    def fit(self, settings: Settings, val: Sample | None, link: Link | None) -> FeatureModel:
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
            link = Link.fit(scores(val.X), val.y)
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
        y: (n,) class indices.
        n_classes: K.
        inputs: P variables with their words.
        t_norm: What AND means.
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
