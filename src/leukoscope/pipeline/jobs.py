"""One fit: one recipe or probe on one fold, what it writes, and what calibrates its model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.base import validate
from leukoscope.config.bundle import Calibration, Conformal
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_json, sha256_bytes, sha256_json, write_json
from leukoscope.core.known_classes import Roles
from leukoscope.core.records import PARTS, Fold, ImageRecord
from leukoscope.core.run_folder import CALIBRATION, PREDICTIONS, RunFolder
from leukoscope.evaluation.calibration.conformal import fit_sets
from leukoscope.evaluation.calibration.scaling import (
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
Calibrations = Mapping[tuple[str, str, int], Calibration]
"""By recipe, protocol and number of the fold."""
Logits = NDArray[np.float64]


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
        roles: What the user says that classes stand for.
    """

    records: tuple[ImageRecord, ...]
    class_names: tuple[str, ...]
    roles: Roles = field(default_factory=dict)

    @property
    def y(self) -> NDArray[np.int64]:
        """(n,) class indices."""
        position = {name: index for index, name in enumerate(self.class_names)}
        return np.array([position[record.label] for record in self.records], dtype=np.int64)

    @property
    def units(self) -> NDArray[np.int64]:
        """(n,) number of each image's patient, or of its acquisition cluster without patients."""
        names = [r.patient_id or r.acquisition_id or r.group_id for r in self.records]
        return np.unique(names, return_inverse=True)[1].astype(np.int64)

    def rows(self, fold: Fold, part: str) -> NDArray[np.int64]:
        """Row numbers of one part of a fold."""
        return part_rows(self, fold)[part]


def read_fit(data: Labelled, fold: Fold, folder: Path) -> PredictionTable | None:
    """What an earlier run predicted in one fold; None where the fit is still to be done.

    A table of another division of the data, of another version, or a damaged one is deleted, and
    what was calibrated with it.
    """
    path = folder / PREDICTIONS
    if not path.is_file():
        return None
    try:
        found = PredictionTable.load(path)
        if _parts(found) == _held_out(data, fold):
            return found
    except DataError:
        pass
    (folder / CALIBRATION).unlink(missing_ok=True)
    path.unlink()
    return None


def write_fit(
    data: Labelled, fold: Fold, recipe: str, shown: str, folder: Path, logits: Mapping[str, Logits]
) -> PredictionTable:
    """Write what one fit predicts; the file says that the fit is done.

    Calibration follows when all folds are done (:func:`calibrate_fits`).

    Args:
        data: The images and labels.
        fold: Which image stands in which part.
        recipe: Name for the table.
        shown: What the classifier was shown (``image``, ``background-only``, …).
        folder: Of the fit.
        logits: (n_part, K) of each held-out part, in the order of the data.

    Returns:
        Logits and uncalibrated probabilities of the val, cal and test images.
    """
    rows, y = part_rows(data, fold), data.y
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
    return _saved(table, folder)


def part_rows(data: Labelled, fold: Fold) -> dict[str, NDArray[np.int64]]:
    """Row numbers of the images of each part of a fold."""
    parts = np.array([fold.parts.get(record.image_id, "") for record in data.records], np.str_)
    return {part: np.flatnonzero(parts == part) for part in PARTS}


def _saved(table: PredictionTable, folder: Path) -> PredictionTable:
    """The table, whose file holds the same digits, from which a resumed study computes.

    Whatever calibrated an earlier table of this folder goes first: a kill in between leaves a
    table that is to be calibrated, never a calibration beside a table it was not applied to.
    """
    (folder / CALIBRATION).unlink(missing_ok=True)
    table.save(folder / PREDICTIONS)
    return table


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


def fit_fold_calibration(
    fold: Fold, rows: PredictionTable, *, vector: bool = True
) -> Calibration | None:
    """The calibration of one fold's model.

    Args:
        fold: The fold.
        rows: Its entry of :func:`calibration_tables`.
        vector: Whether vector scaling is tried too.

    Returns:
        None where there are no rows.
    """
    if not len(rows):
        return None
    units = fold.units(rows.image_id.tolist())
    if vector:
        return fit_calibration(rows.logits, rows.y_true, units)
    weights = evidence_weights(np.asarray(units))
    temperature = fit_temperature(rows.logits, rows.y_true, weights)
    return Calibration(temperature=temperature, n_cal=len(rows))


def with_calibration(table: PredictionTable, calibration: Calibration | None) -> PredictionTable:
    """The table with calibrated probabilities, or as it is where nothing calibrates it."""
    if calibration is None:
        return table
    return replace(table, probs=apply_calibration(table.logits, calibration))


def calibrate_fits(
    folds: Sequence[Fold],
    tables: Sequence[PredictionTable],
    folder_of: Callable[[Fold], Path],
    vector_in: Iterable[str] = (),
) -> list[PredictionTable]:
    """Calibrate the finished fits of one recipe or probe, each once.

    The calibration goes to ``calibration.json`` beside the fit's ``predictions.csv``, whose
    probabilities it gives; with it stands a hash of the predictions that it was fitted on. As
    long as these are the same, both files stay as they are.

    Args:
        folds: Folds of any protocols.
        tables: What the fits wrote, in the order of the folds.
        folder_of: Where the files of each fit are.
        vector_in: Protocols in which vector scaling is tried too.

    Returns:
        The tables, as the files now hold them.
    """
    places: dict[str, list[int]] = {}
    for place, fold in enumerate(folds):
        places.setdefault(fold.protocol, []).append(place)
    found, tried = list(tables), set(vector_in)
    for protocol, own in places.items():
        vector = protocol in tried
        for place, rows in zip(own, calibration_tables([tables[k] for k in own]), strict=True):
            fold, folder = folds[place], folder_of(folds[place])
            fitted_on = _fitted_on(fold, rows, vector=vector)
            if _stored(folder).get("fitted_on") == fitted_on:
                continue
            record = fit_fold_calibration(fold, rows, vector=vector)
            if record is not None:
                found[place] = _saved(with_calibration(tables[place], record), folder)
                values = {"fitted_on": fitted_on, "calibration": record.model_dump(mode="json")}
                write_json(folder / CALIBRATION, values)
    return found


def fit_fold_sets(
    fold: Fold, rows: PredictionTable, calibration: Calibration, config: StudyConfig
) -> Conformal:
    """The prediction sets of one fold's model.

    Args:
        fold: The fold.
        rows: Its entry of :func:`calibration_tables`.
        calibration: Of its logits.
        config: Which sets the study asks for.
    """
    units = fold.units(rows.image_id.tolist()) if config.set_guarantee == "group" else None
    return fit_sets(
        apply_calibration(rows.logits, calibration),
        rows.y_true,
        config.coverage,
        score=config.set_score,
        guarantee=config.set_guarantee,
        groups=units,
    )


def store_sets(
    folds: Sequence[Fold],
    tables: Sequence[PredictionTable],
    folders: Sequence[Path],
    config: StudyConfig,
) -> None:
    """Fit the prediction sets of the calibrated fits of one protocol, once.

    They are added to each fit's ``calibration.json``, and go when it is calibrated anew.

    Args:
        folds: The folds of the protocol.
        tables: What the fits wrote, in the order of the folds.
        folders: Where the files of each fit are.
        config: Which sets the study asks for.
    """
    for fold, rows, folder in zip(folds, calibration_tables(tables), folders, strict=True):
        calibration, stored = load_calibration(folder), _stored(folder)
        if calibration is None or not len(rows) or stored.get("asked") == _asked(config):
            continue
        sets = fit_fold_sets(fold, rows, calibration, config)
        added = {"asked": _asked(config), "sets": sets.model_dump(mode="json")}
        write_json(folder / CALIBRATION, stored | added)


def load_sets(folder: Path, config: StudyConfig) -> Conformal | None:
    """The prediction sets that a study keeps beside a model; None where it keeps no such sets.

    Raises:
        ConfigError: ``calibration.json`` holds something else.
    """
    stored = _stored(folder)
    if stored.get("asked") != _asked(config):
        return None
    sets = stored.get("sets")
    return validate(Conformal, sets if isinstance(sets, dict) else {}, str(folder / CALIBRATION))


def _asked(config: StudyConfig) -> dict[str, float | str]:
    """What a study asks of prediction sets."""
    return {
        "coverage": config.coverage,
        "score": config.set_score,
        "guarantee": config.set_guarantee,
    }


def _fitted_on(fold: Fold, rows: PredictionTable, *, vector: bool) -> str:
    """SHA-256 of everything that a calibration is fitted on."""
    ids = rows.image_id.tolist()
    texts = sha256_json([vector, ids, fold.units(ids), rows.y_true.tolist()])
    return sha256_bytes(texts.encode() + np.ascontiguousarray(rows.logits).tobytes())


def _stored(folder: Path) -> dict[str, object]:
    """The content of a fit's ``calibration.json``; empty where there is none, or a damaged one."""
    path = folder / CALIBRATION
    try:
        found = read_json(path) if path.is_file() else {}
    except DataError:
        return {}
    return found if isinstance(found, dict) else {}


def load_calibration(folder: Path) -> Calibration | None:
    """What calibrates the model in this folder; None while folds of its protocol are missing.

    Raises:
        ConfigError: ``calibration.json`` holds no calibration.
    """
    values = _stored(folder).get("calibration")
    if values is None:
        return None
    known = values if isinstance(values, dict) else {}
    return validate(Calibration, known, str(folder / CALIBRATION))


def calibrations_of_run(
    run: RunFolder, recipes: Iterable[str], folds: Sequence[Fold]
) -> dict[tuple[str, str, int], Calibration]:
    """The calibrations that the fits of a run hold; nothing of those that are not calibrated."""
    found = {}
    for recipe in recipes:
        for fold in folds:
            key = (recipe, fold.protocol, fold.fold)
            calibration = load_calibration(run.model(*key))
            if calibration is not None:
                found[key] = calibration
    return found
