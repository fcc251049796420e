"""The entries of ``metrics.json``, and predictions fold by fold with their calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import Calibration, Conformal, SetGuarantee, SetScore
from leukoscope.config.study import StudyConfig
from leukoscope.core.errors import DataError
from leukoscope.core.protocols import holds_out_units
from leukoscope.core.records import Fold
from leukoscope.evaluation.calibration.conformal import fit_sets
from leukoscope.evaluation.calibration.errors import (
    calibration_measures,
    ece_by_chance,
    recalibration,
)
from leukoscope.evaluation.calibration.scaling import fit_calibration, softmax
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.statistics.forecast import cohort_interval, next_unit_interval
from leukoscope.evaluation.statistics.hierarchy import hierarchy_metrics
from leukoscope.evaluation.statistics.intervals import Sampling, bootstrap_metrics
from leukoscope.evaluation.statistics.metrics import confusion_matrix, malignant_classes
from leukoscope.pipeline.folds import FINAL, groups_of, unit_of
from leukoscope.pipeline.jobs import Calibrations, calibration_tables, with_calibration

CURVE_METRICS = ("accuracy", "balanced_accuracy")
NEXT_PATIENTS = 20
"""Where patients are the unit, of so many new ones is said how many will be called rightly."""
PROBE_METRICS = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "weighted_f1",
    "roc_auc",
    "log_loss",
    "ece",
)


def sampling(config: StudyConfig, folds: int = 1) -> Sampling:
    """How the intervals of a study are drawn; ``folds`` of values pooled over so many."""
    return {
        "replicates": config.bootstrap,
        "confidence": config.confidence,
        "seed": config.seed,
        "folds": folds,
    }


def count_folds(table: PredictionTable) -> int:
    """How many models answered the images of a table."""
    return len(set(table.fold.tolist()))


@dataclass(frozen=True)
class Statistics:
    """How intervals are made in this study.

    Attributes:
        groups: Protocol → image id → unit that is resampled.
        config: Replicates, confidence, seed.
        unit: Protocol → what that unit is, in words.
        random: Recipes whose training another seed would change.
    """

    groups: Mapping[str, Mapping[str, str]]
    config: StudyConfig
    unit: Mapping[str, str]
    random: frozenset[str] = frozenset()

    @classmethod
    def of(cls, folds: Sequence[Fold], config: StudyConfig) -> Statistics:
        """With the units that the folds hold out."""
        names = dict.fromkeys(fold.protocol for fold in folds if fold.protocol != FINAL)
        random = frozenset(recipe.name for recipe in config.recipes if recipe.random_training)
        units = {name: unit_of(name, folds) for name in names}
        return cls(groups_of(folds), config, units, random)

    @property
    def how(self) -> Sampling:
        """Of every bootstrap."""
        return sampling(self.config)

    def how_of(self, table: PredictionTable) -> Sampling:
        """Of the intervals of a model's values, whose folds share training images."""
        return sampling(self.config, count_folds(table))

    def units(self, table: PredictionTable, protocol: str) -> list[str]:
        """(n,) unit of each row."""
        mapping = self.groups[protocol]
        return [mapping.get(image_id, image_id) for image_id in table.image_id.tolist()]

    def metrics(
        self, table: PredictionTable, protocol: str, names: Sequence[str] | None = None
    ) -> dict[str, object]:
        """Every metric with its interval."""
        intervals = bootstrap_metrics(
            table.y_true,
            table.probs,
            table.class_names,
            groups=self.units(table, protocol),
            names=names,
            fits=table.fold if str(table.recipe[0]) in self.random else None,
            roles=self.config.data.roles,
            **self.how_of(table),
        )
        return {name: interval.to_json() for name, interval in intervals.items()}

    def hierarchy(self, table: PredictionTable, protocol: str) -> dict[str, object] | None:
        """Both levels: malignant or not, which subtype if malignant."""
        return hierarchy_metrics(
            table.y_true,
            table.probs,
            table.class_names,
            groups=self.units(table, protocol),
            roles=self.config.data.roles,
            **self.how_of(table),
        )


def head_of(statistics: Statistics, rows: PredictionTable, protocol: str) -> dict[str, object]:
    """Protocol, sample sizes and folds."""
    return {
        "protocol": protocol,
        "n": len(rows),
        "n_groups": len(set(statistics.units(rows, protocol))),
        "group_unit": statistics.unit[protocol],
        "folds": count_folds(rows),
        **({} if statistics.config.unit == "image" else {"row": statistics.config.unit}),
    }


def result_entry(
    statistics: Statistics,
    rows: PredictionTable,
    recipe: str,
    protocol: str,
    names: Sequence[str] | None = None,
) -> dict[str, object]:
    """A trained model on the test images: metrics (all, or those named) and confusion matrix."""
    confusion = confusion_matrix(rows.y_true, rows.probs.argmax(axis=1), len(rows.class_names))
    return {
        "recipe": recipe,
        **head_of(statistics, rows, protocol),
        "metrics": statistics.metrics(rows, protocol, names),
        "confusion": confusion.tolist(),
        "calibrated": True,
        "next_unit": next_unit(statistics, rows, protocol),
    }


def next_unit(statistics: Statistics, rows: PredictionTable, protocol: str) -> dict[str, object]:
    """The accuracy to expect on the next patient or cluster, where the protocol holds them out."""
    unit = statistics.unit[protocol]
    if not holds_out_units(protocol, unit):
        return {"reason": "this protocol holds out no whole patients or clusters"}
    right = rows.probs.argmax(axis=1) == rows.y_true
    config = statistics.config
    units, level, seed = statistics.units(rows, protocol), config.confidence, config.seed
    folds = count_folds(rows)
    try:
        if config.unit == "patient":  # one answer is right or wrong: of several a share can be told
            unit, count = f"{NEXT_PATIENTS} patients", NEXT_PATIENTS
            found = cohort_interval(
                right, units, count=count, confidence=level, seed=seed, folds=folds
            )
        else:
            found = next_unit_interval(right, units, confidence=level, seed=seed, folds=folds)
    except DataError as error:
        return {"reason": error.message}
    return {"unit": unit, "metric": "accuracy", **found.to_json()}


def curve_entry(
    statistics: Statistics, rows: PredictionTable, recipe: str, protocol: str
) -> dict[str, object]:
    """A point of the curve over the number of acquisition clusters."""
    _, _, number = protocol.partition("-k")
    clusters = int(number) if number else statistics.config.splits.clusters
    return {
        "recipe": recipe,
        "clusters": clusters,
        **head_of(statistics, rows, protocol),
        **statistics.metrics(rows, protocol, CURVE_METRICS),
    }


def probe_entry(
    statistics: Statistics, rows: PredictionTable, probe: str, protocol: str
) -> dict[str, object]:
    """A probe on the test images."""
    return {
        "probe": probe,
        "recipe": str(rows.recipe[0]),
        **head_of(statistics, rows, protocol),
        "metrics": statistics.metrics(rows, protocol, PROBE_METRICS),
    }


def units_of(fold: Fold, table: PredictionTable) -> list[str]:
    """(n,) what a fold holds out as a whole, for each row of a table."""
    return fold.units(table.image_id.tolist())


class GroupedSampling(Sampling, total=True):
    """How a bootstrap draws whole groups."""

    groups: list[str]  # (n,) unit of each image


@dataclass(frozen=True)
class FoldResults:
    """One recipe under one protocol, fold by fold.

    Attributes:
        protocol: Its name.
        folds: Parts and units of each fold.
        val, test: Predictions of these parts of each fold.
        cal: What calibrates each fold, with probabilities calibrated as the fold's own are, see
            :func:`~leukoscope.pipeline.jobs.calibration_tables`.
        calibrations: Fitted on them, one a fold.
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
        config: StudyConfig, calibrations: Calibrations,
    ) -> FoldResults:  # fmt: skip
        """Sort out the rows of a recipe and a protocol.

        A fold whose calibration is not among ``calibrations`` is calibrated here.
        """
        rows = table.select(recipe=recipe, protocol=protocol, input="image")
        numbers = set(rows.select(part="test").fold.tolist())
        own = [f for f in folds if f.protocol == protocol and f.fold in numbers]
        tables = [rows.select(fold=fold.fold) for fold in own]
        cal, records = calibration_tables(tables), []
        for k, fold in enumerate(own):
            record = calibrations.get((recipe, protocol, fold.fold))
            if record is None:
                record = fit_calibration(cal[k].logits, cal[k].y_true, units_of(fold, cal[k]))
            records.append(record)
            cal[k] = with_calibration(cal[k], record)
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
    def class_names(self) -> tuple[str, ...]:
        """In the order of the probabilities."""
        return self.test[0].class_names

    @property
    def malignant(self) -> NDArray[np.bool_] | None:
        """(K,) which classes are malignant; None where that cannot be said of each."""
        return malignant_classes(self.class_names, self.config.data.roles)

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
    def options(self) -> GroupedSampling:
        """Of every bootstrap."""
        return {"groups": self.units, **sampling(self.config, len(self.folds))}

    def fit(self, score: SetScore, guarantee: SetGuarantee) -> list[Conformal]:
        """Thresholds of each fold."""
        return [
            fit_sets(
                t.probs, t.y_true, self.config.coverage, score=score, guarantee=guarantee,
                groups=units_of(f, t) if guarantee == "group" else None,
            )
            for f, t in zip(self.folds, self.cal, strict=True)
        ]  # fmt: skip


def calibration_entry(tested: FoldResults, recipe: str) -> dict[str, object]:
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
