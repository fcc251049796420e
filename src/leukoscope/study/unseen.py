"""What calibrates the model that is fitted on all images: answers of models that were not.

Each image was tested once under the strictest protocol of the study, by a model that was fitted
without its patient, cluster … The answers of all folds together stand for those that the packed
model, made by the same recipe from more images, gives to images of new units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import Calibration, Conformal, OperatingPoint
from leukoscope.config.loading import load_study_config
from leukoscope.config.operating import parse_operating_point
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_csv
from leukoscope.core.records import Fold, Manifest, load_folds
from leukoscope.core.run_folder import OOD_COLUMNS, OOD_CSV, RunFolder
from leukoscope.evaluation.calibration import apply_calibration, evidence_weights
from leukoscope.evaluation.metrics import malignant_classes
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.evaluation.promise import fit_promise
from leukoscope.study.operating import fit_point
from leukoscope.study.protocols import promised_protocol, promised_unit

Decisions = tuple[Calibration, Conformal, OperatingPoint | None]


@dataclass(frozen=True)
class UnseenImages:
    """The test images of all folds of a protocol, answered by the models of one recipe.

    Attributes:
        protocol: Under which they were held out.
        table: Their predictions, n rows.
        units: (n,) whose images resemble each other: the patient, cluster … of each.
        patients: (n,) patient of each image; None where some image names none.
        config: Of the study.
        strangeness: (n,) largest scaled score of each fold's gate; None where the recipe keeps no
            gate.
    """

    protocol: str
    table: PredictionTable
    units: NDArray[np.str_]
    patients: NDArray[np.str_] | None
    config: StudyConfig
    strangeness: NDArray[np.float64] | None = None

    @classmethod
    def of_run(cls, run: RunFolder, recipe: str) -> UnseenImages:
        """Read them from a study's folder.

        Raises:
            DataError: A fold of the protocol is not finished, or none was made.
        """
        folds = load_folds(run.splits)
        protocol = promised_protocol(fold.protocol for fold in folds)
        own = [fold for fold in folds if fold.protocol == protocol]
        if not own:
            raise DataError(
                f"{run.splits}: no protocol holds images out, so nothing can calibrate a model",
                hint="run the study again, into a new folder",
            )
        tables = [_tested(run, recipe, fold) for fold in own]
        config, table = load_study_config(run.config), concatenate(tables)
        records = Manifest.load(run.manifest, config.data.root).usable
        named = {record.image_id: record.patient_id for record in records}
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
            config=config,
            strangeness=_strangeness(run, recipe, own, tables),
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

    def decide(self, logits: NDArray[np.floating]) -> Decisions:
        """Calibration, prediction sets and operating point.

        Args:
            logits: (n, K) of these images, e.g. :attr:`logits` as another precision gives them.
        """
        config, y = self.config, self.table.y_true
        calibration, conformal = fit_promise(
            logits, y, self.units, config.coverage, score=config.set_score,
            guarantee=config.set_guarantee, new_groups=self.unit != "image",
        )  # fmt: skip
        mask, point = malignant_classes(self.table.class_names), None
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


def _tested(run: RunFolder, recipe: str, fold: Fold) -> PredictionTable:
    path = run.model(recipe, fold.protocol, fold.fold) / "predictions.csv"
    if not path.is_file():
        raise DataError(
            f"{path} is missing: the test images of all folds of `{fold.protocol}` calibrate the "
            "model that was fitted on all images",
            hint=f"let the study finish: leukoscope study --out {run.path} --resume",
        )
    return PredictionTable.load(path).select(part="test", input="image")


def _strangeness(
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
