"""Several probabilities become one: of a patient's images, or of several models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError, UnknownNameError
from leukoscope.evaluation.calibration.scaling import softmax

PatientMethod = Literal["mean-logit", "median-probability", "vote"]
PATIENT_METHODS: Final[tuple[PatientMethod, ...]] = get_args(PatientMethod)
DEFAULT: Final[PatientMethod] = "mean-logit"
REPLICATES = 1000
_TINY = 1e-12
FloatArray = NDArray[np.float64]
_ROUNDS = 2000
_SMALLEST = 1e-12


@dataclass(frozen=True, eq=False)
class PatientResult:
    """What the images of one patient say together."""

    patient: str
    n_images: int  # number of images that were aggregated
    probs: FloatArray  # (K,) aggregated probabilities
    predicted: int  # index of the most probable class
    low: float | None  # lower limit of the probability of ``predicted``; None with a single image
    high: float | None
    stability: float | None  # share of the replicates with the same predicted class; None likewise
    agreement: float  # share of the images that predict this class on their own

    def to_json(self, class_names: Sequence[str]) -> dict[str, object]:
        """For files: names instead of indices, rounded to what the interval can carry."""
        numbers = {"low": self.low, "high": self.high, "stability": self.stability}
        return {
            "patient": self.patient,
            "predicted": class_names[self.predicted],
            **{
                f"p_{name}": round(float(p), 6)
                for name, p in zip(class_names, self.probs, strict=True)
            },
            **{name: None if x is None else round(x, 4) for name, x in numbers.items()},
            "agreement": round(self.agreement, 4),
            "n_images": self.n_images,
        }


def aggregate(probs: ArrayLike, method: str = DEFAULT) -> FloatArray:
    """One distribution from those of n images.

    Args:
        probs: (…, n, K) calibrated probabilities of the images of one patient.

    >>> images = [[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]]
    >>> [aggregate(images, method).round(3).tolist() for method in PATIENT_METHODS]
    [[0.675, 0.325], [0.9, 0.1], [0.625, 0.375]]
    """
    p = np.asarray(probs, dtype=np.float64)
    if method == "mean-logit":
        return softmax(np.log(np.maximum(p, _TINY)).mean(axis=-2))
    if method == "median-probability":
        median = np.maximum(np.median(p, axis=-2), _TINY)
        return np.asarray(median / median.sum(axis=-1, keepdims=True))
    if method == "vote":
        n, k = p.shape[-2:]
        votes = (p.argmax(axis=-1)[..., None] == np.arange(k)).sum(axis=-2)
        return np.asarray((votes + 1 / k) / (n + 1))
    raise UnknownNameError("way to aggregate", method, PATIENT_METHODS)


def patient_result(
    patient: str,
    probs: ArrayLike,
    method: str = DEFAULT,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> PatientResult:
    """Aggregate one patient's images, with a bootstrap over these images.

    The interval says how far the answer depends on which images were taken, not on the patient,
    the slide or the model. Where all images vote alike no replicate shows any spread: the lower
    limit is then what the vote gives for the lower limit of n successes in n trials (Clopper &
    Pearson 1934), the upper one the answer itself, as no vote of n images can give more.

    Args:
        probs: (n, K) calibrated probabilities, n ≥ 1.

    >>> result = patient_result("P1", [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    >>> result.predicted, result.stability, round(result.low, 2), round(result.high, 2)
    (0, 1.0, 0.7, 0.9)
    """
    p = np.asarray(probs, dtype=np.float64)
    n = len(p)
    whole = aggregate(p, method)
    predicted = int(whole.argmax())
    low = high = stability = None
    if n > 1:
        drawn = np.random.default_rng(seed).integers(0, n, (REPLICATES, n))
        # By blocks, so that a patient of ten thousand images needs no gigabytes.
        step = max(1, (1 << 20) // n)
        blocks = [
            aggregate(p[drawn[start : start + step]], method)
            for start in range(0, REPLICATES, step)
        ]
        replicates = np.concatenate(blocks)
        tail = (1 - confidence) / 2
        low, high = (float(x) for x in np.quantile(replicates[:, predicted], [tail, 1 - tail]))
        stability = float((replicates.argmax(axis=1) == predicted).mean())
        if low == high and method == "vote":  # all agree
            low = float((n * tail ** (1 / n) + 1 / p.shape[1]) / (n + 1))
    agreement = float((p.argmax(axis=1) == predicted).mean())
    return PatientResult(patient, n, whole, predicted, low, high, stability, agreement)


def patient_log_losses(patients: Sequence[tuple[ArrayLike, int]]) -> dict[str, float]:
    """Mean log loss by patient of each method; empty without patients.

    Args:
        patients: (n, K) probabilities of the images and the true class index, one a patient.
    """
    return {
        method: float(np.mean([-np.log(max(aggregate(p, method)[y], _TINY)) for p, y in patients]))
        for method in (PATIENT_METHODS if patients else ())
    }


def choose_method(losses: Mapping[str, float]) -> str:
    """The method with the lowest log loss; the default where nothing was measured.

    >>> choose_method({"mean-logit": 0.4, "vote": 0.3}), choose_method({})
    ('vote', 'mean-logit')
    """
    return min(losses, key=lambda name: losses[name]) if losses else DEFAULT


def weighted_mean(probs: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """Average of probabilities (soft voting).

    Args:
        probs: (M, n, K) probabilities of M members.
        weights: (M,) ≥ 0 that sum to 1; None weighs all alike.

    >>> weighted_mean([[[1.0, 0.0]], [[0.5, 0.5]]], [0.5, 0.5]).tolist()
    [[0.75, 0.25]]
    """
    values = _checked(probs)
    share = np.full(len(values), 1 / len(values)) if weights is None else np.asarray(weights)
    return np.asarray(np.tensordot(share, values, axes=1), dtype=np.float64)


def vote(probs: ArrayLike) -> FloatArray:
    """Majority vote: each member names one class; the mean probability decides a tie.

    The probability is (votes + mean probability) / (M + 1), so that none is zero.

    Args:
        probs: (M, n, K).

    >>> vote([[[0.9, 0.1]], [[0.4, 0.6]], [[0.45, 0.55]]]).round(3).tolist()
    [[0.396, 0.604]]
    """
    values = _checked(probs)
    members, _, k = values.shape
    votes = np.eye(k)[values.argmax(axis=2)].sum(axis=0)
    return np.asarray((votes + values.mean(axis=0)) / (members + 1), dtype=np.float64)


def accuracy_weights(probs: ArrayLike, y: ArrayLike) -> FloatArray:
    """Weights in proportion to each member's accuracy (as in published ensembles of this field).

    Args:
        probs: (M, n, K) on validation images.

    Returns:
        (M,) that sum to 1; equal where no member is ever right.

    >>> accuracy_weights([[[1, 0], [0, 1]], [[0, 1], [0, 1]]], [0, 1]).round(3).tolist()
    [0.667, 0.333]
    """
    values, truth = _checked(probs), np.asarray(y, dtype=np.int64)
    right = (values.argmax(axis=2) == truth).mean(axis=1)
    return right / right.sum() if right.sum() > 0 else np.full(len(values), 1 / len(values))


def fit_weights(probs: ArrayLike, y: ArrayLike) -> FloatArray:
    """Weights on the simplex with the smallest log loss of the weighted mean.

    The loss is convex in the weights, and expectation maximisation of a mixture with fixed parts
    (Dempster et al. 1977, section 4.3) goes downhill in each round without leaving the simplex.

    Args:
        probs: (M, n, K) on validation images.

    Returns:
        (M,) ≥ 0 that sum to 1.

    Raises:
        DataError: There is no image.

    >>> fit_weights([[[0.9, 0.1]] * 5, [[0.1, 0.9]] * 5], [0] * 5).round(2).tolist()
    [1.0, 0.0]
    """
    values, truth = _checked(probs), np.asarray(y, dtype=np.int64)
    if len(truth) == 0:
        raise DataError("ensemble weights: there are no validation images to fit them on")
    likelihood = np.maximum(values[:, np.arange(len(truth)), truth], _SMALLEST)  # (M, n)
    weights = np.full(len(values), 1 / len(values))
    for _ in range(_ROUNDS):
        share = weights[:, None] * likelihood
        moved = (share / share.sum(axis=0)).mean(axis=1)
        done = np.abs(moved - weights).max() < 1e-8
        weights = moved
        if done:
            break
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def log_probs(probs: ArrayLike) -> FloatArray:
    """Logarithms of probabilities, never infinite; they stand in for logits.

    >>> log_probs([[1.0, 0.0]]).round(1).tolist()
    [[0.0, -27.6]]
    """
    return np.log(np.maximum(np.asarray(probs, dtype=np.float64), _SMALLEST))


def _checked(probs: ArrayLike) -> FloatArray:
    values = np.asarray(probs, dtype=np.float64)
    if values.ndim != 3 or len(values) == 0:
        raise DataError(f"ensemble: expected probabilities (M, n, K), got {values.shape}")
    return values
