"""One job: one recipe or probe on one fold, what it writes, and what calibrates its model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import Calibration
from leukoscope.core.errors import DataError
from leukoscope.core.records import Fold, ImageRecord
from leukoscope.evaluation.calibration import (
    apply_calibration,
    evidence_weights,
    fit_calibration,
    fit_temperature,
    softmax,
)
from leukoscope.evaluation.predictions import PredictionTable, concatenate

HELD_OUT = ("val", "cal", "test")
PartRows = Mapping[str, NDArray[np.int64]]
"""Row numbers of the images of each part."""
Logits = NDArray[np.float64]
FitAndPredict = Callable[[Mapping[str, NDArray[np.int64]]], dict[str, Logits]]


class SharedTraining(NamedTuple):
    """A training that other processes take part in, from the files of the run.

    Attributes:
        run: The run's folder.
        recipe: Name of one of its recipes.
        folder: The model's folder.
        seed: Of everything random.
        rows: Row numbers of each part.
        cached: Whether there is a cache of views.
    """

    run: str
    recipe: str
    folder: str
    seed: int
    rows: PartRows
    cached: bool


Announce = Callable[[SharedTraining | None], None]
"""Tells other processes of a training; None dismisses them."""


@dataclass(frozen=True)
class Labelled:
    """The usable images of a data set, in the order of every array of a study.

    Attributes:
        records: One record per image.
        class_names: Order of the logits.
    """

    records: tuple[ImageRecord, ...]
    class_names: tuple[str, ...]

    @property
    def y(self) -> NDArray[np.int64]:
        """(n,) class indices."""
        position = {name: index for index, name in enumerate(self.class_names)}
        return np.array([position[record.label] for record in self.records], dtype=np.int64)

    def rows(self, fold: Fold, part: str) -> NDArray[np.int64]:
        """Row numbers of one part of a fold."""
        return np.array(
            [i for i, r in enumerate(self.records) if fold.parts.get(r.image_id) == part],
            dtype=np.int64,
        )


def run_job(
    data: Labelled,
    fold: Fold,
    recipe: str,
    shown: str,
    folder: Path,
    fit_and_predict: FitAndPredict,
) -> PredictionTable:
    """Fit on one fold and write ``predictions.csv``; calibration follows when all folds are done.

    Args:
        data: The images and labels.
        fold: Which image stands in which part.
        recipe: Name for the table.
        shown: What the classifier was shown (``image``, ``background-only``, …).
        folder: The job's folder; finished when it holds ``predictions.csv``.
        fit_and_predict: From row numbers by part to logits (n_part, K) of the held-out parts.

    Returns:
        Logits and probabilities of the val, cal and test images; calibrated where an earlier run
        did it (:func:`~leukoscope.pipeline.jobs.calibrate_jobs`).
    """
    target = folder / "predictions.csv"
    if target.is_file():
        try:
            found = PredictionTable.load(target)
            if _parts(found) == _held_out(data, fold):
                return found
        except DataError:
            pass
        target.unlink()  # of another version or division, or damaged: do the job again
    rows = {part: data.rows(fold, part) for part in ("train", *HELD_OUT)}
    logits = fit_and_predict(rows)
    y = data.y
    index = np.concatenate([rows[part] for part in HELD_OUT])
    stacked = np.concatenate([logits[part] for part in HELD_OUT])
    table = PredictionTable.build(
        data.class_names,
        [data.records[i].image_id for i in index],
        softmax(stacked),
        recipe=recipe,
        protocol=fold.protocol,
        fold=fold.fold,
        part=[part for part in HELD_OUT for _ in rows[part]],
        input=shown,
        y_true=y[index],
        logits=stacked,
    )
    table.save(target)
    # Read back what was written, so that a resumed study computes from the very same digits.
    return PredictionTable.load(target)


def _held_out(data: Labelled, fold: Fold) -> dict[str, str]:
    """Image id → part, of the images that a fold predicts."""
    parts = {r.image_id: fold.parts.get(r.image_id, "") for r in data.records}
    return {image_id: part for image_id, part in parts.items() if part in HELD_OUT}


def _parts(table: PredictionTable) -> dict[str, str]:
    """Image id → part, of the images of a table."""
    return dict(zip(table.image_id.tolist(), table.part.tolist(), strict=True))


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
