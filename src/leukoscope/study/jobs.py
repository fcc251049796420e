"""One job: one recipe (or probe) on one fold; it writes its own files and is never done twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import DataError
from leukoscope.core.records import Fold, ImageRecord
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.softmax import softmax

HELD_OUT = ("val", "cal", "test")
PartRows = Mapping[str, NDArray[np.int64]]
"""Row numbers of the images of each part."""


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


Logits = NDArray[np.float64]
FitAndPredict = Callable[[Mapping[str, NDArray[np.int64]]], dict[str, Logits]]


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
        did it (:func:`~leukoscope.study.fold_calibration.calibrate_jobs`).
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
