"""The predictions of one recipe under one protocol, fold by fold, and how they are calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import Calibration, Conformal, SetGuarantee, SetScore
from leukoscope.config.study import StudyConfig
from leukoscope.core.records import Fold
from leukoscope.evaluation.calibration import apply_calibration, fit_calibration, softmax
from leukoscope.evaluation.calibration_error import (
    calibration_measures,
    ece_by_chance,
    recalibration,
)
from leukoscope.evaluation.conformal import fit_sets
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.pipeline.entries import sampling
from leukoscope.pipeline.folds import unit_of
from leukoscope.pipeline.jobs import calibration_tables


def units_of(fold: Fold, table: PredictionTable) -> list[str]:
    """(n,) what a fold holds out as a whole, for each row of a table."""
    return fold.units(table.image_id.tolist())


@dataclass(frozen=True)
class FoldResults:
    """One recipe under one protocol, fold by fold.

    Attributes:
        protocol: Its name.
        folds: Parts and units of each fold.
        val, test: Predictions of these parts of each fold.
        cal: What calibrates each fold, with probabilities calibrated as the fold's own are, see
            :func:`~leukoscope.pipeline.jobs.calibration_tables`.
        calibrations: Fitted on them.
        config: Replicates, confidence, coverage, seed.
    """

    protocol: str
    folds: tuple[Fold, ...]
    val: tuple[PredictionTable, ...]
    cal: tuple[PredictionTable, ...]
    test: tuple[PredictionTable, ...]
    calibrations: tuple[Calibration, ...]
    config: StudyConfig

    @classmethod
    def of(
        cls, table: PredictionTable, folds: Sequence[Fold], recipe: str, protocol: str,
        config: StudyConfig,
    ) -> FoldResults:  # fmt: skip
        """Sort out the rows of a recipe and a protocol."""
        rows = table.select(recipe=recipe, protocol=protocol, input="image")
        numbers = set(rows.select(part="test").fold.tolist())
        own = [f for f in folds if f.protocol == protocol and f.fold in numbers]
        tables = [rows.select(fold=fold.fold) for fold in own]
        cal, records = calibration_tables(tables), []
        for k, fold in enumerate(own):
            records.append(fit_calibration(cal[k].logits, cal[k].y_true, units_of(fold, cal[k])))
            cal[k] = replace(cal[k], probs=apply_calibration(cal[k].logits, records[k]))
        return cls(
            protocol,
            tuple(own),
            val=tuple(t.select(part="val") for t in tables),
            cal=tuple(cal),
            test=tuple(t.select(part="test") for t in tables),
            calibrations=tuple(records),
            config=config,
        )

    @property
    def y(self) -> NDArray[np.int64]:
        """(n,) true classes of the test images, fold after fold."""
        return np.concatenate([t.y_true for t in self.test])

    @property
    def probs(self) -> NDArray[np.float64]:
        """(n, K) their calibrated probabilities."""
        return np.concatenate([t.probs for t in self.test])

    @property
    def units(self) -> list[str]:
        """(n,) what an interval of this protocol resamples."""
        return [u for f, t in zip(self.folds, self.test, strict=True) for u in units_of(f, t)]

    @property
    def unit(self) -> str:
        """What that is, in words."""
        return unit_of(self.protocol, self.folds)

    @property
    def options(self) -> dict[str, Any]:
        """Of every bootstrap."""
        return {"groups": self.units, **sampling(self.config)}

    def fit(self, score: SetScore, guarantee: SetGuarantee) -> list[Conformal]:
        """Thresholds of each fold."""
        return [
            fit_sets(
                t.probs, t.y_true, self.config.coverage, score=score, guarantee=guarantee,
                groups=units_of(f, t) if guarantee == "group" else None,
            )
            for f, t in zip(self.folds, self.cal, strict=True)
        ]  # fmt: skip


def calibration_entry(tested: FoldResults, recipe: str) -> dict[str, Any]:
    """Which scaling serves in each fold, and every calibration measure before and after."""
    records = tested.calibrations
    logits = np.concatenate([t.logits for t in tested.test])
    options = tested.options
    found = calibration_measures(tested.y, tested.probs, softmax(logits), **options)
    refit = recalibration(tested.y, tested.probs, **options)
    return {
        "recipe": recipe,
        "protocol": tested.protocol,
        "n": len(tested.y),
        "n_groups": len(set(options["groups"])),
        "n_cal": [record.n_cal for record in records],
        "methods": [record.method for record in records],
        "temperature": [round(record.temperature, 4) for record in records],
        **{k: {name: v.to_json() for name, v in values.items()} for k, values in found.items()},
        **{name: interval.to_json() for name, interval in refit.items()},
        "chance": ece_by_chance(tested.y, tested.probs, **options),
    }
