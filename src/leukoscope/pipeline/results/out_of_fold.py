"""Answers of models that were not trained on an image: they calibrate the final model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.config.bundle import Calibration, Conformal, OperatingPoint
from leukoscope.config.guarantees import parse_operating_point
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_csv
from leukoscope.core.program import typed
from leukoscope.core.protocols import promised_protocol, promised_unit
from leukoscope.core.records import Fold
from leukoscope.core.run_folder import OOD_COLUMNS, OOD_CSV, RunFolder
from leukoscope.evaluation.calibration.conformal import (
    covered,
    fill_empty,
    fit_promise,
    prediction_sets,
)
from leukoscope.evaluation.calibration.errors import calibration_measures
from leukoscope.evaluation.calibration.scaling import apply_calibration, evidence_weights, softmax
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.evaluation.run_files import RunFiles
from leukoscope.evaluation.statistics.intervals import Interval, bootstrap_mean, with_exact_limits
from leukoscope.evaluation.statistics.metrics import malignant_classes
from leukoscope.pipeline.results.decisions import fit_point
from leukoscope.pipeline.results.entries import FoldResults, sampling, units_of

ServedDecisions = tuple[Calibration, Conformal, OperatingPoint | None]


@dataclass(frozen=True)
class UnseenImages:
    """The test images of all folds of a protocol, answered by the models of one recipe.

    Attributes:
        protocol: Under which they were held out.
        table: Their predictions, n rows.
        units: (n,) whose images resemble each other: the patient, cluster … of each.
        patients: (n,) patient of each image; None where some image names none.
        config: Of the study.
        ood_scores: (n,) largest scaled score of each fold's gate; None where the recipe keeps no
            gate.
    """

    protocol: str
    table: PredictionTable
    units: NDArray[np.str_]
    patients: NDArray[np.str_] | None
    config: StudyConfig
    ood_scores: NDArray[np.float64] | None = None

    @classmethod
    def of_run(cls, files: RunFiles, recipe: str) -> UnseenImages:
        """Read them from a study's folder.

        Raises:
            DataError: A fold of the protocol is not finished, or none was made.
        """
        protocol = promised_protocol(fold.protocol for fold in files.splits)
        own = () if protocol is None else files.folds_under(protocol)
        if not own:
            raise DataError(
                f"{files.run.splits}: no protocol holds images out, so nothing can calibrate a "
                "model",
                hint="run the study again, into a new folder",
            )
        tables = [_tested(files, recipe, fold) for fold in own]
        table = concatenate(tables)
        named = {record.image_id: record.patient_id for record in files.rows.usable}
        patients = [named.get(image_id, "") for image_id in table.image_id.tolist()]
        units = [
            unit
            for fold, tested in zip(own, tables, strict=True)
            for unit in fold.units(tested.image_id.tolist())
        ]
        return cls(
            protocol=own[0].protocol,
            table=table,
            units=np.array(units),
            patients=np.array(patients) if all(patients) else None,
            config=files.config,
            ood_scores=_ood_scores(files.run, recipe, own, tables),
        )

    def take(self, rows: NDArray[np.bool_]) -> UnseenImages:
        """Some of the images, by (n,) bool."""
        return replace(
            self,
            table=self.table.take(rows),
            units=self.units[rows],
            patients=None if self.patients is None else self.patients[rows],
            ood_scores=None if self.ood_scores is None else self.ood_scores[rows],
        )

    @property
    def logits(self) -> NDArray[np.float64]:
        """(n, K) of the models that held the images out."""
        return self.table.logits

    @property
    def unit(self) -> str:
        """For what kind of new image they can speak."""
        return promised_unit(self.protocol)

    @property
    def weights(self) -> NDArray[np.float64]:
        """(n,) what each image counts for."""
        return evidence_weights(self.units)

    def decide(self, logits: NDArray[np.floating]) -> ServedDecisions:
        """Calibration, prediction sets and operating point.

        Args:
            logits: (n, K) of these images, e.g. :attr:`logits` as another precision gives them.
        """
        config, y = self.config, self.table.y_true
        calibration, conformal = fit_promise(
            logits, y, self.units, config.coverage, score=config.set_score,
            guarantee=config.set_guarantee, new_groups=self.unit != "image",
        )  # fmt: skip
        names, roles = self.table.class_names, self.config.data.roles
        mask, point = malignant_classes(names, roles), None
        if config.operating_point and mask is not None:
            target = parse_operating_point(config.operating_point)
            if target.unit == "image" or self.patients is not None:
                patients = None if self.patients is None else self.patients.tolist()
                probs = apply_calibration(logits, calibration)
                chosen = fit_point(probs, y, mask, target, patients, self.weights)
                point = OperatingPoint(
                    words=target.words,
                    threshold=chosen.threshold,
                    n_cal=chosen.n,
                    needed=chosen.needed,
                )
        return calibration, conformal, point


def _tested(files: RunFiles, recipe: str, fold: Fold) -> PredictionTable:
    """What the model of a fold says of its test images."""
    path = files.run.fit_predictions(recipe, fold.protocol, fold.fold)
    if not path.is_file():
        raise DataError(
            f"{path} is missing: the test images of all folds of `{fold.protocol}` calibrate the "
            "model that was fitted on all images",
            hint=f"let the study finish: {typed('study', '--out', files.run.path, '--resume')}",
        )
    table = files.fit_predictions(recipe, fold.protocol, fold.fold)
    return table.select(part="test", input="image")


def _ood_scores(
    run: RunFolder, recipe: str, folds: Sequence[Fold], tables: Sequence[PredictionTable]
) -> NDArray[np.float64] | None:
    """What the gate of each fold says of its own test images, in the order of ``tables``."""
    found = []
    for fold, table in zip(folds, tables, strict=True):
        path = run.model(recipe, fold.protocol, fold.fold) / OOD_CSV
        if not path.is_file():
            return None
        scores = {
            row["image_id"]: float(row["score"])
            for row in read_csv(path, OOD_COLUMNS)
            if row["part"] == "test" and row["outlier"] == ""
        }
        if not scores.keys() >= set(table.image_id.tolist()):
            return None
        found += [scores[image_id] for image_id in table.image_id.tolist()]
    return np.array(found)


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


def promise_entry(tests: Sequence[FoldResults], recipe: str) -> dict[str, object]:
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
    held, size = covered(nested.sets, nested.y), nested.sets.sum(axis=1)
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


def _mean(tested: FoldResults, values: ArrayLike, whole: bool) -> Interval:
    """Over units that count the same, or over images.

    Of units of one row each (patients in a study of them) it is what the coverage of the sets of
    each fold has as well, see :mod:`~leukoscope.pipeline.results.decisions`.
    """
    config = tested.config
    if whole and len(set(tested.units)) == len(tested.y):
        share = np.asarray(values).dtype == np.bool_
        return bootstrap_mean(values, y_true=tested.y if share else None, **tested.options)
    numbers = np.asarray(values, dtype=np.float64)
    if not whole:
        found = bootstrap_mean(numbers, groups=tested.units, **sampling(config))
        return with_exact_limits(found, found.n_groups, config.confidence)
    member = np.unique(np.array(tested.units), return_inverse=True)[1]
    means = np.bincount(member, weights=numbers) / np.bincount(member)
    found = bootstrap_mean(means, **sampling(config))
    return with_exact_limits(found, len(means), config.confidence)
