"""Whether what a bundle promises of new patients is kept: ``promise`` of ``metrics.json``.

A bundle is calibrated on the test images of all folds together. Here each fold is left out in
turn: calibration and prediction sets are fitted on the test images of the other folds and measured
on its own, so that no unit that measures them had a part in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import Calibration, Conformal
from leukoscope.evaluation.calibration import apply_calibration
from leukoscope.evaluation.calibration_error import calibration_measures
from leukoscope.evaluation.conformal import fill_empty, hits, prediction_sets
from leukoscope.evaluation.intervals import Interval, bootstrap_mean, with_exact_limits
from leukoscope.evaluation.promise import fit_promise
from leukoscope.evaluation.softmax import softmax
from leukoscope.study.entries import sampling
from leukoscope.study.fold_results import FoldResults, units_of
from leukoscope.study.protocols import promised_protocol, promised_unit


@dataclass(frozen=True)
class Nested:
    """Test images of each fold, judged by what the test images of the other folds gave.

    Attributes:
        y: (n,) true classes.
        probs: (n, K) calibrated probabilities.
        sets: (n, K) bool.
        units: (n,) what was held out as a whole.
        fitted: Calibration and sets of each fold.
    """

    y: NDArray[np.int64]
    probs: NDArray[np.float64]
    sets: NDArray[np.bool_]
    units: NDArray[np.str_]
    fitted: tuple[tuple[Calibration, Conformal], ...]

    @classmethod
    def of(cls, tested: FoldResults) -> Nested:
        """Leave each fold out in turn; needs two folds."""
        config, probs, sets, fitted = tested.config, [], [], []
        for fold, table, others in zip(tested.folds, tested.test, tested.cal, strict=True):
            calibration, conformal = fit_promise(
                others.logits,
                others.y_true,
                np.array(units_of(fold, others)),
                config.coverage, score=config.set_score, guarantee=config.set_guarantee,
                new_groups=promised_unit(tested.protocol) != "image",
            )  # fmt: skip
            probs.append(apply_calibration(table.logits, calibration))
            sets.append(fill_empty(prediction_sets(probs[-1], conformal), probs[-1]))
            fitted.append((calibration, conformal))
        return cls(
            tested.y,
            np.concatenate(probs),
            np.concatenate(sets),
            np.array(tested.units),
            tuple(fitted),
        )


def promise_entry(tests: Sequence[FoldResults], recipe: str) -> dict[str, Any]:
    """The promise of a bundle of this recipe, kept or not, under the strictest protocol.

    Coverage and size of the sets are means over units that all count the same, where whole units
    were held out; over images elsewhere.

    Args:
        tests: The recipe under each protocol.
        recipe: Its name.

    Returns:
        ``{"recipe", "protocol", "unit", "nominal", "n", "n_groups", "coverage", …}``, or the
        reason why there is none.
    """
    protocol = promised_protocol(t.protocol for t in tests)
    tested = next((t for t in tests if t.protocol == protocol), None)
    if tested is None:
        return {"recipe": recipe, "reason": "no protocol holds images out"}
    unit, config = promised_unit(tested.protocol), tested.config
    whole = unit != "image"
    head = {
        "recipe": recipe,
        "protocol": tested.protocol,
        "unit": unit,
        "nominal": config.coverage,
        "n": len(tested.y),
        "n_groups": len(set(tested.units)) if whole else len(tested.y),
        "folds": len(tested.test),
    }
    if len(tested.test) < 2:
        return head | {"reason": "a single hold-out leaves no other fold to fit the sets on"}
    logits = np.concatenate([t.logits for t in tested.test])
    if not np.isfinite(logits).all():
        return head | {"reason": "the predictions hold no logits"}
    nested = Nested.of(tested)
    held, size = hits(nested.sets, nested.y), nested.sets.sum(axis=1)
    measures = calibration_measures(
        nested.y, nested.probs, softmax(logits), groups=nested.units.tolist(), **sampling(config)
    )
    return head | {
        "guarantees": [sets.guarantee for _, sets in nested.fitted],
        "temperature": [round(calibration.temperature, 4) for calibration, _ in nested.fitted],
        "coverage": _mean(tested, held, whole).to_json(),
        "mean_set_size": _mean(tested, size, whole).to_json(),
        "single": float((size == 1).mean()),
        **{
            when: {name: measures[when][name].to_json() for name in ("log_loss", "ece")}
            for when in ("before", "after")
        },
    }


def _mean(tested: FoldResults, values: NDArray[Any], whole: bool) -> Interval:
    """Over units that count the same, or over images."""
    config = tested.config
    numbers = np.asarray(values, dtype=np.float64)
    if not whole:
        found = bootstrap_mean(numbers, groups=tested.units, **sampling(config))
        return with_exact_limits(found, found.n_groups, config.confidence)
    member = np.unique(np.array(tested.units), return_inverse=True)[1]
    means = np.bincount(member, weights=numbers) / np.bincount(member)
    found = bootstrap_mean(means, **sampling(config))
    return with_exact_limits(found, len(means), config.confidence)
