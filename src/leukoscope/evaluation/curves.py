"""Points of the curves that figures draw: ROC and reliability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.evaluation.metrics import ECE_BINS, calibration_bin, check_predictions

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """One curve of one class against the rest.

    Attributes:
        x: (t,) false-positive rate, in [0, 1].
        y: (t,) true-positive rate, in [0, 1].
    """

    x: FloatArray
    y: FloatArray


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence against accuracy in equal-width bins of the top probability.

    Attributes:
        edges: (bins + 1,) borders.
        n: (bins,) number of images.
        confidence: (bins,) mean top probability, NaN in an empty bin.
        accuracy: (bins,) share of right predictions, NaN in an empty bin.
    """

    edges: FloatArray
    n: NDArray[np.int64]
    confidence: FloatArray
    accuracy: FloatArray


def roc_curves(
    y_true: ArrayLike, y_prob: ArrayLike, class_names: Sequence[str]
) -> dict[str, Curve]:
    """One-versus-rest ROC curve of each class that has both positive and negative images.

    Raises:
        DataError: Shapes do not fit, a true class is unknown, or there is no image.

    >>> curve = roc_curves([0, 1], [[0.8, 0.2], [0.3, 0.7]], ["healthy", "all"])["all"]
    >>> curve.x.tolist(), curve.y.tolist()
    ([0.0, 0.0, 1.0], [0.0, 1.0, 1.0])
    """
    from sklearn.metrics import roc_curve

    truth, prob = check_predictions(y_true, y_prob, class_names)
    curves = {}
    for i, name in enumerate(class_names):
        positive = truth == i
        if positive.any() and not positive.all():
            x, y, _ = roc_curve(positive, prob[:, i])
            curves[name] = Curve(x, y)
    return curves


def reliability(y_true: ArrayLike, y_prob: ArrayLike, *, bins: int = ECE_BINS) -> Reliability:
    """Reliability diagram (DeGroot & Fienberg 1983) of the top label; the bins of ``ece``.

    Raises:
        DataError: Shapes do not fit, a true class is unknown, or there is no image.

    >>> diagram = reliability([0, 1], [[0.9, 0.1], [0.6, 0.4]], bins=2)
    >>> diagram.n.tolist(), diagram.accuracy.tolist()
    ([0, 2], [nan, 0.5])
    """
    k = np.asarray(y_prob).shape[-1]
    truth, prob = check_predictions(y_true, y_prob, [str(i) for i in range(k)])
    top = prob.max(axis=1)
    place = calibration_bin(top, bins)
    n = np.bincount(place, minlength=bins)
    empty = np.where(n > 0, n, np.nan)
    hits = np.bincount(place, weights=prob.argmax(axis=1) == truth, minlength=bins)
    return Reliability(
        edges=np.linspace(0, 1, bins + 1),
        n=n,
        confidence=np.bincount(place, weights=top, minlength=bins) / empty,
        accuracy=hits / empty,
    )
