"""What to expect of the next patient or slide, and whether a forecast for other data held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.config.metrics.results import Estimate
from leukoscope.core.errors import DataError
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.statistics.intervals import MIN_GROUPS, Interval, Resampling, Sampling
from leukoscope.evaluation.statistics.limits import shared_training
from leukoscope.evaluation.statistics.metrics import check_predictions, weighted_metrics

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
FEWEST: Final = 3
"""With fewer groups nothing is said of the next one."""

DRAWS: Final = 10_000
_STEPS: Final = 32  # of each parameter's grid
_LOGIT_MEAN: Final = (-5.0, 8.0)
_LOG_SIZE: Final = (-2.0, 6.0)  # of a + b: groups from all-or-nothing to all alike
INSIDE, OUTSIDE = "inside the forecast", "outside the forecast"


@dataclass(frozen=True)
class Forecast:
    """The accuracy to expect on new groups."""

    value: float  # mean of what is expected
    low: float  # lower limit of the prediction interval
    high: float
    n_groups: int  # number of groups that were seen
    median_n: float  # median number of images in a group
    reliable: bool  # False where fewer than ``MIN_GROUPS`` groups were seen

    def to_json(self) -> dict[str, object]:
        """For ``metrics.json``."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n_groups": self.n_groups,
            "median_n": self.median_n,
            "reliable": self.reliable,
        }


def next_unit_interval(
    correct: ArrayLike,
    groups: Sequence[str] | NDArray[np.generic],
    *,
    confidence: float = 0.95,
    seed: int = 0,
    images: int | None = None,
    folds: int = 1,
) -> Forecast:
    """Prediction interval for the accuracy on the images of the next group.

    Args:
        correct: (n,) whether each image was classified rightly.
        confidence: Probability that the next accuracy lies inside.
        images: Number of images of the next group; None draws it from those seen.
        folds: Of how many folds the images are pooled, see :func:`cohort_interval`.

    Raises:
        DataError: Fewer than ``FEWEST`` groups, or shapes do not fit.

    >>> right, groups = [True] * 95 + [False] * 5, np.arange(100) // 5
    >>> found = next_unit_interval(right, groups)
    >>> found.low < 0.8 < found.value < found.high
    True
    """
    sizes = None if images is None else [images]
    return cohort_interval(
        correct, groups, count=1, confidence=confidence, seed=seed, images=sizes, folds=folds
    )


def cohort_interval(
    correct: ArrayLike,
    groups: Sequence[str] | NDArray[np.generic],
    *,
    count: int,
    confidence: float = 0.95,
    seed: int = 0,
    images: Sequence[int] | None = None,
    folds: int = 1,
) -> Forecast:
    """Prediction interval for the accuracy over all images of the next ``count`` groups.

    Args:
        correct: (n,) whether each image was classified rightly.
        images: (count,) number of images of each; None draws them from those seen.
        folds: Of how many folds the images are pooled: groups then tell as much as fewer would
            (:func:`~leukoscope.evaluation.statistics.limits.shared_training`).

    Raises:
        DataError: Fewer than ``FEWEST`` groups, no new group, or shapes do not fit.

    >>> right, groups = [True] * 95 + [False] * 5, np.arange(100) // 5
    >>> one, ten = (cohort_interval(right, groups, count=m) for m in (1, 10))
    >>> one.low < ten.low < ten.value
    True
    """
    hits, sizes = _by_group(correct, groups)
    if count < 1 or (images is not None and (len(images) != count or min(images) < 1)):
        raise DataError(f"forecast: expected the images of {count} ≥ 1 new groups, got {images}")
    rng = np.random.default_rng(seed)
    a, b, weight = _posterior(hits, sizes, shared_training(folds))
    drawn = rng.choice(len(weight), DRAWS, p=weight)
    chance = rng.beta(a[drawn][:, None], b[drawn][:, None], (DRAWS, count))
    if images is None:
        number = rng.choice(sizes, (DRAWS, count))
    else:
        number = np.broadcast_to(np.asarray(images, np.int64), (DRAWS, count))
    accuracy = rng.binomial(number, chance).sum(axis=1) / number.sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(accuracy, [tail, 1 - tail])
    value = float(accuracy.mean())  # outside the quantiles where nearly all draws are alike
    return Forecast(
        value, min(float(low), value), max(float(high), value), len(sizes),
        float(np.median(sizes)), len(sizes) >= MIN_GROUPS,
    )  # fmt: skip


def cohort_metric_interval(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    class_names: Sequence[str],
    groups: Sequence[str] | NDArray[np.generic],
    *,
    count: int,
    metric: str = "roc_auc",
    **how: Unpack[Sampling],
) -> Interval:
    """Prediction interval for a metric pooled over the images of the next ``count`` groups.

    With G groups seen and m new ones, the difference between the new value and the one measured
    has the variance V (1 + G / m), where V is that of the jackknife over the groups seen; in place
    of 1 stands the factor of pooled folds, where ``how`` names their number. Limits as
    for the confidence interval: Student's t on the logit scale. It supposes that a pooled value is
    about normal there, so it is meant for several new groups, not for one.

    Args:
        count: Number of new groups, at least one of each class where groups have one class.
        metric: Name of a metric within 0–1.

    Raises:
        DataError: Shapes do not fit, or too few new groups.
    """
    truth, prob = check_predictions(y_true, y_prob, class_names)
    resampling = Resampling.of(groups, truth, **how)
    if count < len(resampling.strata):
        raise DataError(
            f"forecast: {count} new groups cannot be of {len(resampling.strata)} classes"
        )
    names = [metric]
    whole = weighted_metrics(truth, prob, class_names, np.ones((1, len(truth))), names)[metric]
    left_out = np.concatenate([
        weighted_metrics(truth, prob, class_names, w, names)[metric]
        for w in resampling.without_each()
    ])  # fmt: skip
    times = 1 + resampling.n_groups / count
    return resampling.limits(float(whole[0]), left_out, "logit", times)


def _by_group(correct: ArrayLike, groups: ArrayLike) -> tuple[IntArray, IntArray]:
    """(G,) hits and (G,) images of each group."""
    right, labels = np.asarray(correct, dtype=bool), np.asarray(groups)
    if right.ndim != 1 or labels.shape != right.shape:
        raise DataError(f"forecast: expected one group an image, got {labels.shape}")
    names, member = np.unique(labels, return_inverse=True)
    if len(names) < FEWEST:
        raise DataError(f"forecast: {len(names)} groups say nothing of the next, {FEWEST} needed")
    return np.bincount(member, weights=right).astype(np.int64), np.bincount(member)


def _posterior(
    hits: IntArray, sizes: IntArray, widening: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Parameters a and b of the beta distribution on a grid, and the probability of each.

    The log likelihood is divided by ``widening``.

    The prior is p(a, b) ∝ (a + b)^(−5/2): uniform in the mean, and in (a + b)^(−1/2), which is
    about the standard deviation between groups (Gelman et al. 2013, equation 5.9).
    """
    pairs, counts = np.unique(np.stack([hits, sizes - hits]), axis=1, return_counts=True)
    times = counts / widening
    ranges = (_LOGIT_MEAN, _LOG_SIZE)
    grid, weight = _on_grid(pairs, times, ranges)
    seen = weight > weight.max() * 1e-6  # the same again, only where the posterior is
    ends = [(float(axis[seen].min()), float(axis[seen].max())) for axis in grid]
    steps = [(high - low) / (_STEPS - 1) for low, high in ranges]
    narrow = [(low - step, high + step) for (low, high), step in zip(ends, steps, strict=True)]
    grid, weight = _on_grid(pairs, times, narrow)
    a, b = _parameters(*grid)
    return a, b, weight


def _on_grid(
    pairs: IntArray, times: FloatArray, ranges: Sequence[tuple[float, float]]
) -> tuple[list[FloatArray], FloatArray]:
    """Logit of the mean and log(a + b) on a grid, and the posterior there, which sums to 1."""
    from scipy.special import betaln

    axes = [np.linspace(*limits, _STEPS) for limits in ranges]
    logit_mean, log_size = (grid.ravel() for grid in np.meshgrid(*axes))
    a, b = _parameters(logit_mean, log_size)
    found = betaln(a[:, None] + pairs[0], b[:, None] + pairs[1]) - betaln(a, b)[:, None]
    # The prior times both Jacobians, as the grid is even in the logit and the logarithm.
    log_p = found @ times + np.log(a) + np.log(b) - 2.5 * log_size
    weight = np.exp(log_p - log_p.max())
    return [logit_mean, log_size], weight / weight.sum()


def _parameters(logit_mean: FloatArray, log_size: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The two parameters of the beta distribution."""
    from scipy.special import expit

    size = np.exp(log_size)
    return expit(logit_mean) * size, expit(-logit_mean) * size


def forecasts(
    inside: PredictionTable,
    groups: Sequence[str],
    unit: str,
    outside: PredictionTable,
    new_groups: Sequence[str],
    new_unit: str,
    found: Mapping[str, Estimate],
    *,
    how: Sampling,
) -> dict[str, object]:
    """Prediction intervals of the other data's accuracy and ROC AUC, from the study's own images.

    The accuracy is that of the images of as many new groups, of the sizes that the other data has
    (:func:`cohort_interval`), the ROC AUC that of as many new groups. Only images of
    classes that both have are used.

    Args:
        unit: What it is, e.g. ``patient``.
        found: Metric → value with interval on the other data.
        how: ``replicates``, ``confidence`` and ``seed``.

    Returns:
        ``unit``, ``n_units``, and by metric ``value``, ``low``, ``high``, ``reliable``,
        ``verdict``; or ``{"reason"}`` where nothing can be forecast.
    """
    if reason := _no_forecast(inside.class_names, outside.class_names, unit, new_unit):
        return {"reason": reason}
    shared = sorted(set(inside.y_true.tolist()) & set(outside.y_true.tolist()))
    rows = np.isin(inside.y_true, shared)
    y, probs, labels = inside.y_true[rows], inside.probs[rows], np.array(groups)[rows]
    sizes = list(Counter(new_groups).values())
    result: dict[str, object] = {"unit": unit, "n_units": len(sizes)}
    folds = len(set(inside.fold.tolist()))
    try:
        forecast = cohort_interval(
            probs.argmax(axis=1) == y,
            labels,
            count=len(sizes),
            images=sizes,
            confidence=how["confidence"],
            seed=how["seed"],
            folds=folds,
        )
    except DataError as error:
        return {"reason": str(error.message)}
    result["accuracy"] = _judged(forecast, found["accuracy"])
    try:
        sampled: Sampling = {**how, "folds": folds}
        auc = cohort_metric_interval(
            y, probs, inside.class_names, labels, count=len(sizes), metric="roc_auc", **sampled
        ).estimate
    except DataError:
        return result  # fewer new groups than classes: there is no ranking to forecast
    ranked = found.get("roc_auc")
    if auc.low is not None and ranked is not None and ranked.value is not None:
        result["roc_auc"] = _judged(auc, ranked)
    return result


def _no_forecast(
    classes: Sequence[str], new_classes: Sequence[str], unit: str, new_unit: str
) -> str:
    """Why nothing can be forecast of other data; empty where something can."""
    if classes != new_classes:
        return "only malignant against not malignant could be measured there"
    if unit != new_unit:
        return (
            f"the study held out {unit}s, and the other data is known by {new_unit}: how many new "
            f"{unit}s it holds is not known"
        )
    return ""


def _judged(forecast: Forecast | Estimate, found: Estimate) -> dict[str, object]:
    """A forecast with what came out of it."""
    low, high = forecast.low, forecast.high
    value = found.value
    held = value is not None and low is not None and high is not None and low <= value <= high
    return {
        "value": forecast.value,
        "low": low,
        "high": high,
        "reliable": forecast.reliable,
        "verdict": INSIDE if held else OUTSIDE,
    }
