"""What calibrates the model of a fold: images that it was neither trained nor selected on.

In a cross-validation these are the test images of the other folds, each answered by the model that
held it out. So no image is set aside to calibrate, and the models of the folds are trained on as
many as possible. A single hold-out has no other fold; there the part ``cal`` does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from leukoscope.config.bundle import Calibration
from leukoscope.core.records import Fold
from leukoscope.evaluation.calibration import (
    apply_calibration,
    evidence_weights,
    fit_calibration,
    fit_temperature,
)
from leukoscope.evaluation.predictions import PredictionTable, concatenate


def calibration_tables(tables: Sequence[PredictionTable]) -> list[PredictionTable]:
    """The rows that calibrate each fold.

    Args:
        tables: What each fold of one protocol predicts.

    Returns:
        For each fold its own ``cal`` rows, or else the ``test`` rows of the others; no rows where
        there is neither.
    """
    tests = [table.select(part="test") for table in tables]
    found = []
    for own, table in enumerate(tables):
        cal = table.select(part="cal")
        others = [test for k, test in enumerate(tests) if k != own]
        found.append(concatenate(others) if others and not len(cal) else cal)
    return found


def fold_calibrations(
    folds: Sequence[Fold], tables: Sequence[PredictionTable], *, vector: bool = True
) -> list[Calibration | None]:
    """The calibration of each fold of one protocol.

    Args:
        folds: The folds.
        tables: What each of them predicts.
        vector: Whether vector scaling is tried too.

    Returns:
        One record a fold, None where nothing can calibrate it.
    """
    found: list[Calibration | None] = []
    for fold, rows in zip(folds, calibration_tables(tables), strict=True):
        if not len(rows):
            found.append(None)
            continue
        units = fold.units(rows.image_id.tolist())
        if vector:
            found.append(fit_calibration(rows.logits, rows.y_true, units))
        else:
            weights = evidence_weights(np.asarray(units))
            temperature = fit_temperature(rows.logits, rows.y_true, weights)
            found.append(Calibration(temperature=temperature, n_cal=len(rows)))
    return found


def calibrated(
    folds: Sequence[Fold], tables: Sequence[PredictionTable], *, vector: bool = True
) -> list[PredictionTable]:
    """The tables of one protocol's folds with calibrated probabilities."""
    records = fold_calibrations(folds, tables, vector=vector)
    return [
        table if record is None else replace(table, probs=apply_calibration(table.logits, record))
        for table, record in zip(tables, records, strict=True)
    ]


def calibrate_jobs(
    folds: Sequence[Fold],
    tables: Sequence[PredictionTable],
    folder_of: Callable[[Fold], Path],
    vector_in: Iterable[str] = (),
) -> list[PredictionTable]:
    """Calibrate the finished jobs of one recipe or probe, and write it into their files.

    Args:
        folds: Folds of any protocols.
        tables: What the jobs wrote, in the order of the folds.
        folder_of: Where the files of each job are.
        vector_in: Protocols in which vector scaling is tried too.

    Returns:
        The tables, as the files now hold them.
    """
    places: dict[str, list[int]] = {}
    for place, fold in enumerate(folds):
        places.setdefault(fold.protocol, []).append(place)
    found, tried = list(tables), set(vector_in)
    for protocol, own in places.items():
        done = calibrated(
            [folds[k] for k in own], [tables[k] for k in own], vector=protocol in tried
        )
        for place, table in zip(own, done, strict=True):
            if not np.allclose(table.probs, tables[place].probs, rtol=0, atol=1e-9):
                path = folder_of(folds[place]) / "predictions.csv"
                table.save(path)
                # What was written, so that a resumed study computes from the very same digits.
                found[place] = PredictionTable.load(path)
    return found
