"""The gate: several OOD scores, scaled alike, of which the largest decides.

A score is fitted on training images and scaled on validation images, so that 0 is their median
and 1 the value that 95 % of them do not exceed; what decides is the largest of the chosen scores,
and its threshold accepts that share of the validation images *jointly*. Which scores take part is
chosen with synthetic outliers. Fitting and application use NumPy and OpenCV alone.

A patient as a whole is judged by the mean of its images' features. One image may lie anywhere among
those of many patients; the mean of a patient's images varies far less, so that a shift of stain or
light that no single image betrays shows in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.config.bundle import OutOfDistribution, ScoreScale
from leukoscope.core.errors import DataError
from leukoscope.evaluation.calibration.scaling import log_softmax
from leukoscope.evaluation.ood import (
    OodModel,
    choose_references,
    fit_ood,
    fit_threshold,
    neighbour_distance,
    reduce_references,
)

GATE_SCORES: Mapping[str, str] = MappingProxyType(
    {
        "mahalanobis": "what the network sees in it lies far from all of them",
        "knn": "what the network sees in it resembles none of them",
        "energy": "the network finds less evidence for any class than in them",
        "softmax": "no class stands out as it does in them",
        "appearance": "its colours or its grain are not theirs",
    }
)
"""Name of each score, and what a high value says, to end a sentence about the training images."""

DEFAULT = ("mahalanobis", "knn", "appearance")
_ENOUGH, _ABLE = 0.002, 0.7

_REFERENCES = "references"  # the only tensor of a patient gate

Float64Array = NDArray[np.float64]
Features = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class GateInputs:
    """What the gate needs of n images."""

    appearance: NDArray[np.floating]  # (n, A) of ``imaging.appearance``
    features: NDArray[np.floating]  # (n, D) of the model's graph
    logits: NDArray[np.floating]  # (n, K) of the model's graph

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> GateInputs:
        """Some of the images, by number or mask."""
        return GateInputs(self.appearance[rows], self.features[rows], self.logits[rows])


@dataclass(frozen=True, eq=False)
class Gate:
    """Fitted scores.

    Attributes:
        scales: The scores that decide.
        threshold: Largest accepted value of the largest scaled score.
        features: Model of the features, for ``mahalanobis``.
        appearance: Model of the appearance, for ``appearance``.
        references: For ``knn``: (R, P) float16 features of training images, each of length 1
            before it was projected.
        basis: (D, P) float16, orthonormal columns onto which ``knn`` projects; None where P is D.
    """

    scales: tuple[ScoreScale, ...]
    threshold: float
    features: OodModel | None = None
    appearance: OodModel | None = None
    references: NDArray[np.float16] | None = None
    basis: NDArray[np.float16] | None = None

    @property
    def num_features(self) -> int | None:
        """D, or None where no score reads features."""
        if self.features is not None:
            return len(self.features.mean)
        if self.basis is not None:
            return len(self.basis)
        return None if self.references is None else self.references.shape[1]

    def scores(self, seen: GateInputs) -> dict[str, Float64Array]:
        """Each deciding score, scaled, (n,); the largest of an image is its ``ood_score``."""
        return {
            scale.name: (self._raw(scale.name, seen) - scale.median) / (scale.limit - scale.median)
            for scale in self.scales
        }

    def appearance_scores(self, appearance: NDArray[np.floating]) -> Float64Array:
        """The scaled score of appearance alone, (n,), which needs no network.

        Raises:
            DataError: It is not among the deciding scores.
        """
        scale = next((scale for scale in self.scales if scale.name == "appearance"), None)
        if scale is None or self.appearance is None:
            raise DataError("out-of-distribution score appearance: not among the deciding ones")
        return (self.appearance.score(appearance) - scale.median) / (scale.limit - scale.median)

    def _raw(self, name: str, seen: GateInputs) -> Float64Array:
        if name == "energy":
            return energy(seen.logits)
        if name == "softmax":
            return np.asarray(1 - np.exp(log_softmax(seen.logits).max(axis=1)))
        if name == "knn" and self.references is not None:
            return neighbour_distance(seen.features, *self._neighbours)
        if name == "mahalanobis" and self.features is not None:
            return self.features.score(seen.features)
        if name == "appearance" and self.appearance is not None:
            return self.appearance.score(seen.appearance)
        raise DataError(f"out-of-distribution score {name}: unknown, or its tensors are missing")

    @cached_property
    def _neighbours(self) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """References and basis in the type that they are computed in."""
        assert self.references is not None
        basis = None if self.basis is None else self.basis.astype(np.float32)
        return self.references.astype(np.float32), basis

    def to_bytes(self) -> bytes:
        """The content of a safetensors file; :meth:`from_tensors` reads it."""
        from safetensors.numpy import save

        tensors: dict[str, NDArray[np.generic]] = {}
        if self.features is not None:
            tensors |= self.features.tensors()
        if self.appearance is not None:
            tensors |= {f"appearance.{k}": v for k, v in self.appearance.tensors().items()}
        if self.references is not None:
            tensors["references"] = self.references
        if self.basis is not None:
            tensors["basis"] = self.basis
        return bytes(save(tensors))

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, NDArray[np.floating]], record: OutOfDistribution
    ) -> Gate:
        """The gate that :meth:`to_bytes` wrote, with the scales of its bundle's record.

        Raises:
            DataError: A score is unknown, or a tensor is missing or has the wrong shape.
        """
        names = {scale.name for scale in record.scores}
        if unknown := names - GATE_SCORES.keys():
            raise DataError(f"out-of-distribution scores: {', '.join(sorted(unknown))} unknown")
        prefix, references = "appearance.", tensors.get("references")
        basis = tensors.get("basis")
        if "knn" in names and (references is None or references.ndim != 2):
            raise DataError("out-of-distribution tensors: expected references (R, P) for knn")
        if references is not None and basis is not None and basis.shape[1:] != references.shape[1:]:
            raise DataError("out-of-distribution tensors: references and basis do not fit")
        of_appearance = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        return cls(
            record.scores,
            record.threshold,
            OodModel.from_tensors(tensors) if "mahalanobis" in names else None,
            OodModel.from_tensors(of_appearance) if "appearance" in names else None,
            references if "knn" in names else None,
            basis if "knn" in names else None,
        )


def energy(logits: ArrayLike) -> Float64Array:
    """Energy −log Σₖ exp(zₖ) of each row of logits (n, K); high where no class has evidence.

    Liu et al. 2020 (Energy-based out-of-distribution detection), eq. 4 with T = 1.

    >>> energy([[0.0, 0.0], [5.0, 0.0]]).round(4).tolist()
    [-0.6931, -5.0067]
    """
    values = np.asarray(logits, np.float64)
    return np.asarray(log_softmax(values)[:, 0] - values[:, 0])


def separation(inside: ArrayLike, outside: ArrayLike) -> float:
    """Area under the ROC curve: how often an outlier scores above an inlier, ties half.

    >>> separation([1, 2, 3], [3, 4])
    0.9166666666666666
    """
    ordered = np.sort(np.asarray(inside, np.float64))
    found = np.asarray(outside, np.float64)
    below = np.searchsorted(ordered, found) + np.searchsorted(ordered, found, side="right")
    return float(below.mean() / 2 / len(ordered))


def fit_gate(
    train: GateInputs,
    val: GateInputs,
    outliers: GateInputs,
    kinds: Sequence[str],
    *,
    accept: float = 0.95,
) -> tuple[Gate, OutOfDistribution]:
    """Fit, scale and choose the scores, and set the threshold.

    Without outliers, or with fewer validation images than a threshold needs (19 for 95 %), no
    choice is made: the Mahalanobis distance, kNN and appearance decide together.

    Args:
        train: Images that OOD scores are measured from.
        val: Other images of the same source; they scale the scores and set the threshold.
        outliers: Synthetic outliers, none of them made of an image that will be tested.
        accept: Share of the validation images to accept.

    Raises:
        DataError: There are fewer than 4 training images, or no validation image.
    """
    of_features, of_appearance = fit_ood(train.features), fit_ood(train.appearance)
    references, basis = reduce_references(choose_references(np.asarray(train.features)))
    fitted = Gate((), 0.0, of_features, of_appearance, references, basis)
    inside = {name: fitted._raw(name, val) for name in GATE_SCORES}
    scales = [s for name in GATE_SCORES if (s := _scale(name, inside[name], accept)) is not None]
    every = replace(fitted, scales=tuple(scales))
    near, far = every.scores(val), every.scores(outliers)
    chosen = tuple(name for name in DEFAULT if name in near)
    alone: dict[str, float] = {}
    if len(kinds) and (len(val.logits) + 1) * (1 - accept) > 1 - 1e-9:
        chosen, alone = choose_scores(near, far, kinds)
    limit = fit_threshold(largest(near, chosen), accept=accept)
    gate = Gate(
        tuple(scale for scale in scales if scale.name in chosen),
        limit,
        fitted.features if "mahalanobis" in chosen else None,
        fitted.appearance if "appearance" in chosen else None,
        fitted.references if "knn" in chosen else None,
        fitted.basis if "knn" in chosen else None,
    )
    return gate, OutOfDistribution(
        accept=accept,
        threshold=limit,
        n_fit=len(train.features),
        n_val=len(val.features),
        scores=gate.scales,
        outliers=false_accepts(largest(far, chosen), kinds, limit),
        alone=alone,
    )


def set_threshold(
    gate: Gate,
    record: OutOfDistribution,
    unseen: ArrayLike,
    weights: ArrayLike,
    outliers: GateInputs,
    kinds: Sequence[str],
) -> tuple[Gate, OutOfDistribution]:
    """The same gate with a threshold that accepts its share of unseen images.

    Args:
        unseen: (n,) largest scaled scores of images by gates of the same kind, each of a model
            that was not trained on the image's patient, cluster …
        weights: (n,) what each image counts for.
    """
    limit = max(0.0, fit_threshold(unseen, accept=record.accept, weights=weights))
    far = gate.scores(outliers)
    update = {
        "threshold": limit,
        "n_unseen": len(np.asarray(unseen)),
        "outliers": false_accepts(largest(far, list(far)), kinds, limit),
    }
    return replace(gate, threshold=limit), record.model_copy(update=update)


def rescale(gate: Gate, record: OutOfDistribution, val: GateInputs) -> OutOfDistribution:
    """The same scores with scales and threshold of the same images seen in another precision.

    A threshold that rests on unseen images stays: it is counted in units of the scale.

    Args:
        record: Its record; what was measured on outliers is left out of the answer.
        val: The validation images as that precision sees them.
    """
    scales = tuple(_scale(s.name, gate._raw(s.name, val), record.accept) or s for s in gate.scales)
    scores = replace(gate, scales=scales).scores(val)
    limit = fit_threshold(largest(scores, list(scores)), accept=record.accept)
    if record.n_unseen:
        limit = record.threshold
    return record.model_copy(
        update={"scores": scales, "threshold": limit, "outliers": {}, "alone": {}}
    )


def choose_scores(
    inside: Mapping[str, Float64Array], outside: Mapping[str, Float64Array], kinds: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, float]]:
    """The smallest set of scores that separates outliers nearly as well as the best set.

    A set is judged by the area under the ROC curve of its largest score, mean over the kinds of
    outliers. Of the sets within .002 of the best one the smallest is taken, among those the best.
    (Shares below the threshold would judge by a few validation images at its edge.) A score whose
    own area is below .7 is left out: known images far out in it would pass for unknown ones.

    Args:
        inside: Scaled scores of validation images by name, (n,) each.
        outside: Those of synthetic outliers, (m,) each.
        kinds: (m,) kind of each outlier.

    Returns:
        Their names, and the area of each score alone.
    """
    of = np.asarray(kinds)

    def area(names: Sequence[str]) -> float:
        near, far = largest(inside, names), largest(outside, names)
        return float(np.mean([separation(near, far[of == kind]) for kind in sorted(set(kinds))]))

    alone = {name: area([name]) for name in inside}
    able = [n for n in inside if alone[n] >= _ABLE] or [max(alone, key=lambda name: alone[name])]
    areas = {s: area(s) for k in range(1, len(able) + 1) for s in combinations(able, k)}
    good = [names for names in areas if areas[names] >= max(areas.values()) - _ENOUGH]
    chosen = min(good, key=lambda names: (len(names), -areas[names]))
    return chosen, {name: round(value, 4) for name, value in alone.items()}


def largest(scores: Mapping[str, Float64Array], names: Sequence[str]) -> Float64Array:
    """(n,) largest of the named scores."""
    return np.asarray(np.max([scores[name] for name in names], axis=0))


def false_accepts(scores: Float64Array, kinds: Sequence[str], limit: float) -> dict[str, float]:
    """Share of each kind of outlier that is accepted."""
    passed, of = scores <= limit, np.asarray(kinds)
    return {kind: round(float(passed[of == kind].mean()), 4) for kind in dict.fromkeys(kinds)}


def _scale(name: str, values: Float64Array, accept: float) -> ScoreScale | None:
    """None for a score that does not tell validation images apart, such as a saturated softmax."""
    median, limit = float(np.median(values)), fit_threshold(values, accept=accept)
    if limit - median <= 1e-9 * max(1.0, abs(limit)):
        return None
    return ScoreScale(name=name, median=median, limit=limit)


@dataclass(frozen=True, eq=False)
class PatientGate:
    """The patients that a new one is compared with.

    Attributes:
        references: (R, D) mean features of each, of length 1.
    """

    references: NDArray[np.float16]

    @classmethod
    def of(cls, pooled: Features) -> PatientGate:
        """Of mean features (P, D); of very many patients evenly chosen ones."""
        return cls(choose_references(pooled))

    def distance(self, X: Features) -> float:
        """Distance of one patient, by features (n, D) of its images, to its fifth nearest.

        See :func:`~leukoscope.evaluation.ood.neighbour_distance`.
        """
        pooled = np.asarray(X, np.float64).mean(axis=0, keepdims=True)
        return float(neighbour_distance(pooled, self.references)[0])

    def to_bytes(self) -> bytes:
        """The content of a safetensors file."""
        from safetensors.numpy import save

        return bytes(save({_REFERENCES: np.ascontiguousarray(self.references)}))

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> PatientGate:
        """The gate of :meth:`to_bytes`.

        Raises:
            DataError: The tensors are not those of such a gate; names ``where``.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            references = load(data)[_REFERENCES]
        except (SafetensorError, KeyError) as error:
            raise DataError(
                f"{where}: expected the tensors of a patient gate, but {error}"
            ) from None
        if references.ndim != 2 or not len(references):
            raise DataError(f"{where}: expected references (R, D), got {references.shape}")
        return cls(references)


def means_of(bags: Sequence[Features]) -> NDArray[np.float64]:
    """(P, D) mean features of patients, by features (n_i, D) of the images of each."""
    return np.stack([X.mean(axis=0, dtype=np.float64) for X in bags])


def unseen_distances(
    bags: Sequence[Features],
    fold: NDArray[np.int64],
    asked: Iterable[tuple[int, Features]],
) -> NDArray[np.float64]:
    """Distances from the patients of other folds.

    Args:
        bags: (n_i, D) features of the images of each of P patients.
        fold: (P,) fold of each.
        asked: m pairs: number of a patient, and features of some of its images.

    Returns:
        (m,) distance of each pair.
    """
    means = means_of(bags)
    gates = {k: PatientGate.of(means[fold != k]) for k in np.unique(fold).tolist()}
    return np.array([gates[int(fold[row])].distance(X) for row, X in asked])
