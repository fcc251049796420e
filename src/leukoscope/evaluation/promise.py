"""Probabilities and prediction sets that are promised for units nobody has seen.

Fitted on answers of models that were not trained on the unit (patient, cluster …) of the image:
the test images of all folds of a cross-validation together (cross-validation+; Barber et al.
2021, "Predictive inference with the jackknife+"). Every unit counts by what it can tell, not by
its number of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.config.bundle import Calibration, Conformal, SetGuarantee, SetScore
from leukoscope.evaluation.calibration import (
    apply_calibration,
    evidence_weights,
    fit_calibration,
)
from leukoscope.evaluation.conformal import fewest_for, fit_sets


def fit_promise(
    logits: ArrayLike,
    y: ArrayLike,
    groups: Sequence[str] | NDArray[Any],
    coverage: float,
    *,
    score: SetScore = "lac",
    guarantee: SetGuarantee = "marginal",
    new_groups: bool = True,
) -> tuple[Calibration, Conformal]:
    """Calibration and prediction sets for an image of a new group.

    A ``marginal`` promise becomes that by ``group`` where whole groups were held out and there
    are enough of them. Where there are not, and in the promise by ``class``, images of one group
    count as
    :func:`~leukoscope.evaluation.calibration.evidence_weights` says.

    Args:
        logits: (n, K) of models that were not trained on the image's group.
        y: (n,) class indices.
        groups: (n,) whose images resemble each other; held out as a whole if ``new_groups``.
        coverage: Wanted probability that the true class is in the set, in (0, 1).
        score: See :func:`~leukoscope.evaluation.conformal.set_scores`.
        guarantee: What was asked for.
        new_groups: False where the models have seen other images of these groups.

    Raises:
        DataError: Shapes do not fit, a value is not finite, or there is no image.

    >>> groups = [f"patient {i // 4}" for i in range(160)]
    >>> calibration, sets = fit_promise([[3.0, 0.0]] * 160, [0] * 120 + [1] * 40, groups, 0.95)
    >>> calibration.temperature > 1.5, sets.guarantee, sets.n_groups
    (True, 'group', 40)
    """
    labels = np.asarray(groups)
    calibration = fit_calibration(logits, y, labels)
    probs = apply_calibration(logits, calibration)
    served = guarantee
    if new_groups:
        served = served_guarantee(guarantee, len(np.unique(labels)), coverage)
    by_group = served == "group"
    sets = fit_sets(
        probs,
        y,
        coverage,
        score=score,
        guarantee=served,
        groups=labels if by_group else None,
        weights=None if by_group else evidence_weights(labels),
    )
    return calibration, sets


def served_guarantee(guarantee: SetGuarantee, n_groups: int, coverage: float) -> SetGuarantee:
    """By group in place of marginal, where so many groups can bear it.

    The new group stands at infinity with the weight of one. With 19 groups that is all that 95 %
    leave to be missed, and nearly every set holds every class; it may take half of it.

    >>> served_guarantee("marginal", 39, 0.95), served_guarantee("marginal", 38, 0.95)
    ('group', 'marginal')
    """
    enough = guarantee == "marginal" and n_groups >= fewest_for((1 + coverage) / 2)
    return "group" if enough else guarantee
