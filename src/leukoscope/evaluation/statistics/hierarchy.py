"""The two levels of the hierarchy: malignant or not, and which subtype if malignant.

P(malignant) is the sum over the malignant classes, P(subtype | malignant) the share of each in
that sum. Both follow from the class probabilities; no second model is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.core.errors import DataError
from leukoscope.core.known_classes import Roles
from leukoscope.core.labels import without_sides
from leukoscope.evaluation.statistics.intervals import Sampling, bootstrap_mean, bootstrap_metrics
from leukoscope.evaluation.statistics.metrics import check_predictions, malignant_classes

FloatArray = NDArray[np.float64]

BRANCHES = ("healthy", "all")  # canonical names that stand for the two branches
BINARY_METRICS = ("accuracy", "balanced_accuracy", "roc_auc", "pr_auc", "log_loss", "brier", "ece")
SUBTYPE_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "log_loss")


def split_levels(
    y_prob: ArrayLike, class_names: Sequence[str], roles: Roles | None = None
) -> tuple[FloatArray, FloatArray, tuple[str, ...]]:
    """P(malignant) and P(subtype | malignant).

    Args:
        y_prob: (n, K) probabilities, rows sum to 1.
        roles: What the user's own classes stand for.

    Returns:
        (n,) P(malignant), (n, M) P(subtype | malignant) with rows that sum to 1 (even where
        P(malignant) is 0), and the M names of the malignant classes.

    Raises:
        DataError: The classes do not divide into malignant and others.

    >>> malignant, subtype, names = split_levels([[0.2, 0.6, 0.2]], ["benign", "pre_b", "pro_b"])
    >>> malignant.round(3).tolist(), subtype.round(3).tolist(), names
    ([0.8], [[0.75, 0.25]], ('pre_b', 'pro_b'))
    """
    prob = np.asarray(y_prob, dtype=np.float64)
    mask = malignant_classes(class_names, roles)
    if mask is None:
        raise DataError(f"hierarchy: {without_sides(class_names, roles)}")
    chosen = prob[:, mask]
    total = chosen.sum(axis=1)
    even = np.full_like(chosen, 1 / max(1, chosen.shape[1]))
    with np.errstate(invalid="ignore", divide="ignore"):
        subtype = np.where(total[:, None] > 0, chosen / total[:, None], even)
    return np.minimum(total, 1.0), subtype, tuple(np.array(class_names)[mask].tolist())


def hierarchy_metrics(
    y_true: ArrayLike,
    y_prob: ArrayLike,
    class_names: Sequence[str],
    *,
    groups: Sequence[str],
    roles: Roles | None = None,
    **how: Unpack[Sampling],
) -> dict[str, object] | None:
    """Metrics of both levels with intervals, for ``metrics.json``.

    Args:
        groups: (n,) unit that is resampled.
        roles: What the user's own classes stand for.

    Returns:
        ``binary`` (all images, malignant against not), ``subtype`` (malignant images only; absent
        with one malignant class or none among the images) and ``two_step_accuracy``: first
        malignant or not at 0.5, then the most probable subtype. None where the classes stand on
        one branch only, or the role of one is not known.
    """
    mask = malignant_classes(class_names, roles)
    if mask is None:
        return None
    truth, prob = check_predictions(y_true, y_prob, class_names)
    units = np.asarray(groups)
    p_malignant, subtype, names = split_levels(prob, class_names, roles)
    # A tie of both sides goes to that of the most probable class, which is what was predicted.
    tied = (p_malignant == 0.5) & mask[prob.argmax(axis=1)]
    p_malignant = np.where(tied, np.nextafter(0.5, 1), p_malignant)
    is_malignant = mask[truth]

    def level(y: ArrayLike, p: FloatArray, classes: Sequence[str], rows: NDArray[np.bool_],
              wanted: Sequence[str]) -> dict[str, object]:  # fmt: skip
        found = bootstrap_metrics(y, p, classes, groups=units[rows], names=wanted, **how)
        return {
            "n": int(rows.sum()),
            "n_groups": len(set(units[rows].tolist())),
            "metrics": {name: value.to_json() for name, value in found.items()},
        }

    binary = np.stack([1 - p_malignant, p_malignant], axis=1)
    everyone = np.ones(len(truth), dtype=bool)
    result: dict[str, object] = {
        "binary": level(is_malignant.astype(int), binary, BRANCHES, everyone, BINARY_METRICS)
    }
    place = np.cumsum(mask) - 1  # class index → index among the malignant ones
    if len(names) > 1 and is_malignant.any():
        result["subtype"] = level(
            place[truth[is_malignant]], subtype[is_malignant], names, is_malignant, SUBTYPE_METRICS
        )
    called = p_malignant > 0.5
    right = (called == is_malignant) & (~called | (subtype.argmax(axis=1) == place[truth]))
    if (~mask).sum() == 1:  # else the second step would have to tell benign classes apart, too
        result["two_step_accuracy"] = bootstrap_mean(right, groups=units, **how).to_json()
    return result
