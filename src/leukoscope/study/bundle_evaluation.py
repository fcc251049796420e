"""Evaluation of a bundle on labelled images that its study did not have."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from leukoscope.config.guarantees import Score
from leukoscope.config.metrics.file import (
    EvaluationMetrics,
    evaluation_metrics,
)
from leukoscope.core.errors import DataError
from leukoscope.core.known_classes import Roles
from leukoscope.core.labels import (
    check_roles,
    malignant_mask,
    named_roles,
    role_of,
)
from leukoscope.core.patients import Patients
from leukoscope.core.protocols import strictest
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.core.run_folder import RunFolder, refuse_study
from leukoscope.core.views import plural
from leukoscope.datasets.audit.links import join_equal_files
from leukoscope.datasets.audit.run import audit
from leukoscope.datasets.layouts.load import load_dataset, stated_roles
from leukoscope.evaluation.predictions import PredictionTable
from leukoscope.evaluation.statistics.hierarchy import hierarchy_metrics
from leukoscope.evaluation.statistics.intervals import bootstrap_mean, bootstrap_metrics
from leukoscope.evaluation.statistics.metrics import confusion_matrix
from leukoscope.pipeline.measured import seen_in_training, units_of_data
from leukoscope.pipeline.progress import Listener
from leukoscope.pipeline.results.subgroups import subgroup_columns
from leukoscope.runtime.by_patient import PatientCollector
from leukoscope.runtime.prediction import Prediction
from leukoscope.runtime.predictor import Predictor, load_bundle
from leukoscope.study.comparable import comparable_by, not_comparable


@dataclass(frozen=True)
class ExternalResult:
    """What a bundle gives on other data.

    Attributes:
        run: The folder of its files.
        metrics: The content of ``metrics.json``.
        unreadable: Path and reason of each image that was quarantined.
        promised: The scores of the bundle's study under its strictest protocol; none where the
            study's classes are not those that were compared.
        coverage: What its prediction sets aim at.
    """

    run: RunFolder
    metrics: EvaluationMetrics
    unreadable: tuple[tuple[str, str], ...]
    promised: tuple[Score, ...]
    coverage: float

    @property
    def broken(self) -> tuple[Score, ...]:
        """The scores of the study that lie above what was measured, the intervals too."""
        found = self.metrics.results[0].metrics
        return tuple(
            score
            for score in self.promised
            if (high := found[score.metric].high) is not None
            and score.low is not None
            and high < score.low
        )


def evaluate_bundle(
    bundle: Path,
    data: Path,
    out: Path,
    *,
    layout: str,
    class_map: dict[str, str],
    roles: Mapping[str, str] | None = None,
    listener: Listener,
    target: str = "",
) -> ExternalResult:
    """Predict on labelled images and measure.

    A bundle that answers for patients is measured by patient: all images of one must have its
    class, and what the gate rejects takes no part. Intervals resample patients where the data names
    them, else components of connected images.
    A class that the bundle does not know is left out and named; where the bundle knows only
    malignant and benign classes of another kind, P(malignant) is measured instead.

    Args:
        roles: Class → role, for classes of the data and of the bundle; over a column ``role``.

    Raises:
        DataError: No image has a class that can be compared; with a bundle that answers for
            patients, an image names no patient, or a patient has images of two classes.
        UnknownNameError: A role is stated of a class that neither has, or there is no such role.
        UsageError: ``out`` holds a study.
    """
    refuse_study(out)
    run = RunFolder(out)
    predictor = load_bundle(bundle, bulk=True)
    manifest = load_dataset(data, layout=layout, class_map=class_map, target=target)
    if not manifest.usable:
        raise manifest.none_usable(data)
    manifest = _with_units(manifest, listener)
    stated = named_roles(roles or {})
    check_roles(stated, {*predictor.class_names, *manifest.class_names})
    of_column = stated_roles(data, layout=layout, class_map=class_map, target=target)
    known = {**predictor.record.roles, **named_roles(of_column), **stated}
    records, answers, lost = _answered(predictor, manifest, listener)
    rows = "images" if predictor.patient_head is None else "patients"
    table, kept, warnings = _table(predictor.class_names, known, records, answers, rows)
    answered = {record.image_id: a for record, a in zip(records, answers, strict=True)}
    warnings = [*lost, *warnings]
    metrics = _measure(predictor, table, kept, answered, known, warnings, manifest)
    manifest.save(run.manifest)
    table.save(run.predictions)
    metrics.save(run.metrics)
    coverage = predictor.record.conformal.coverage
    return ExternalResult(
        run, metrics, manifest.unreadable, _promised(predictor, table, metrics), coverage
    )


def _promised(
    predictor: Predictor, table: PredictionTable, metrics: EvaluationMetrics
) -> tuple[Score, ...]:
    """The scores of the strictest protocol of the bundle's study that can be compared."""
    scores = predictor.record.scores
    classes = predictor.class_names
    if table.class_names != classes or set(table.y_true.tolist()) != set(range(len(classes))):
        return ()  # classes were merged, or one is missing
    protocol = strictest([score.protocol for score in scores])
    here = metrics.results[0].metrics
    return tuple(s for s in scores if s.protocol == protocol and s.metric in here)


def _with_units(manifest: Manifest, listener: Listener) -> Manifest:
    """The data with all that intervals resample.

    Where every image names its patient, equal files join patients. Else the audit looks for
    components of images that show one thing, which takes several times as long as to predict.
    """
    if all(record.patient_id for record in manifest.usable):
        return join_equal_files(manifest)
    return audit(manifest, progress=lambda done, total: listener("audit", done, total)).manifest


def _answered(
    predictor: Predictor, manifest: Manifest, listener: Listener
) -> tuple[tuple[ImageRecord, ...], list[_Answer], list[str]]:
    """The images or patients that a bundle answers for, its answers, and words on those left out.

    Raises:
        DataError: An image cannot be read; with patients, see :class:`Patients`.
    """
    images = manifest.usable
    patients = None if predictor.patient_head is None else Patients.of(manifest).records
    said: list[Prediction] = []
    paths = [manifest.path_of(record) for record in images]
    for done, answer in enumerate(predictor.predict_stream(paths), start=1):
        if not isinstance(answer, Prediction):
            raise DataError(f"{answer}")
        said.append(answer)
        listener("predicting", done, len(paths))
    if patients is None:
        return images, [*map(_of_image, said)], []
    answers = _of_patients(predictor, images, said, patients)
    pairs = [(r, a) for r, a in zip(patients, answers, strict=True) if a is not None]
    lost = [r.image_id for r, a in zip(patients, answers, strict=True) if a is None]
    words = [
        f"{plural(len(lost), 'patient')} left out, none of whose images could "
        f"be used: {', '.join(lost)}"
    ]
    return tuple(r for r, _ in pairs), [a for _, a in pairs], words if lost else []


def _measure(
    predictor: Predictor,
    table: PredictionTable,
    kept: Sequence[ImageRecord],
    answers: Mapping[str, _Answer],
    roles: Roles,
    warnings: Sequence[str],
    manifest: Manifest,
) -> EvaluationMetrics:
    """The statistics of the images or patients that were compared."""
    by_patient = predictor.patient_head is not None
    unit, groups = units_of_data(kept)
    same = table.class_names == predictor.class_names
    images = manifest.usable if by_patient else kept
    return summarise_external(
        table,
        [groups[record.image_id] for record in kept],
        unit,
        [*warnings, *seen_in_training(predictor, [r.sha256 for r in images])],
        [answers[record.image_id].prediction_set for record in kept] if same else None,
        [answers[record.image_id].decision for record in kept],
        roles,
        "patient" if by_patient else "image",
        kept,
    )


@dataclass(frozen=True)
class _Answer:
    """What is measured of an answer for an image or a patient."""

    probabilities: Mapping[str, float]
    prediction_set: tuple[str, ...]
    decision: str


def _of_image(answer: Prediction) -> _Answer:
    return _Answer(answer.probabilities, answer.prediction_set, answer.decision)


def _of_patients(
    predictor: Predictor,
    images: Sequence[ImageRecord],
    said: Sequence[Prediction],
    patients: Sequence[ImageRecord],
) -> list[_Answer | None]:
    """The answer for each patient; None where none of its images could be used."""
    turn = iter([record.patient_id for record in images])
    collector = PatientCollector.of(predictor, lambda _: next(turn))
    for answer in said:
        collector.add(answer)
    rows = {row["patient"]: row for row in collector.rows()}
    found: list[_Answer | None] = []
    for patient in patients:
        row = rows[patient.image_id]
        probs = {name: row[f"p_{name}"] for name in predictor.class_names}
        if row["predicted"] is None:
            found.append(None)
        else:
            found.append(_Answer(probs, tuple(row["prediction_set"].split()), row["decision"]))
    return found


def _cure(unknown: Sequence[str], class_names: Sequence[str], labels: Collection[str]) -> str:
    """That the bundle does not know classes, and what to type where it has them by another name.

    >>> _cure(["monocyte"], ["lymph", "monos"], ["lymph", "monocyte"])
    'unknown to the bundle; --class monocyte=monos counts them, if they are the same'
    >>> _cure(["cat"], ["lymph", "monos"], ["cat"])
    'unknown to the bundle; --class NAME=CLASS counts those that the bundle calls otherwise'
    >>> _cure(["cat"], ["lymph"], ["cat", "lymph"])
    'unknown to the bundle'
    """
    free = [name for name in class_names if name not in labels]
    said = "unknown to the bundle"
    if not free:
        return said
    for name in unknown:
        if near := difflib.get_close_matches(name, free, n=1):
            return f"{said}; --class {name}={near[0]} counts them, if they are the same"
    return f"{said}; --class NAME=CLASS counts those that the bundle calls otherwise"


def _table(
    class_names: tuple[str, ...],
    roles: Roles,
    records: tuple[ImageRecord, ...],
    answers: Sequence[_Answer],
    rows: str = "images",
) -> tuple[PredictionTable, list[ImageRecord], list[str]]:
    """Predictions of the images or patients whose class can be compared.

    Raises:
        DataError: There are none.
    """
    if not answers:
        raise DataError(
            "every image was rejected as unlike the training images: nothing to measure"
        )
    probs = np.array([[a.probabilities[name] for name in class_names] for a in answers])
    labels = {record.label for record in records}
    warnings: list[str] = []
    names = class_names
    way = comparable_by(class_names, labels, roles)
    if way is None:
        raise not_comparable(class_names, labels, roles)
    if way == "malignancy":
        malignant = np.array(malignant_mask(class_names, roles))
        warnings.append(
            "the classes differ: only malignant against not malignant was compared, as "
            "'all' against 'healthy'"
        )
        probs = np.stack([probs[:, ~malignant].sum(1), probs[:, malignant].sum(1)], axis=1)
        names = ("healthy", "all")
        side = {"malignant": "all", None: ""}  # any other role: not malignant
        truth = [side.get(role_of(r.label, roles), "healthy") for r in records]
    else:
        truth = [record.label for record in records]
    keep = [i for i, label in enumerate(truth) if label in names]
    unknown = sorted({r.label for r, label in zip(records, truth, strict=True)
                      if label not in names})  # fmt: skip
    if unknown:
        dropped = len(truth) - len(keep)
        cure = _cure(unknown, class_names, labels)
        why = cure if way == "class" else "their role is not stated (--role)"
        warnings.append(f"{dropped} {rows} of {', '.join(unknown)} left out: {why}")
    missing = [name for name in class_names if name not in labels]
    if unknown and missing and way == "class":
        both = ", ".join(name for name in class_names if name in labels)
        warnings.append(
            f"only {both} could be compared: the data has no images of {', '.join(missing)}"
        )
    table = PredictionTable.build(
        names,
        [records[i].image_id for i in keep],
        probs[keep] / probs[keep].sum(axis=1, keepdims=True),
        recipe="bundle",
        protocol="external",
        fold=0,
        part="test",
        y_true=[names.index(truth[i]) for i in keep],
    )
    return table, [records[i] for i in keep], warnings


def summarise_external(
    table: PredictionTable,
    groups: Sequence[str],
    unit: str,
    warnings: Sequence[str],
    sets: Sequence[Sequence[str]] | None,
    decisions: Sequence[str],
    roles: Roles | None = None,
    row: Literal["image", "patient"] = "image",
    records: Sequence[ImageRecord] = (),
) -> EvaluationMetrics:
    """Statistics of a bundle on other data: one result, subgroups, coverage, decisions.

    Args:
        table: Predictions, protocol ``external``.
        groups: (n,) unit of each row.
        unit: What it is.
        warnings: What a reader must know.
        sets: (n,) prediction set of each row, class names; None where the classes differ.
        decisions: (n,) ``accept``, ``review`` or ``reject``.
        roles: What the classes stand for.
        row: What a row of the table is.
        records: (n,) what the manifest says of each row, for subgroups.
    """
    names, units = table.class_names, list(groups)
    levels = hierarchy_metrics(table.y_true, table.probs, names, groups=units, roles=roles)
    columns = subgroup_columns(table, records, units, roles=roles) if records else []
    head = {"recipe": "bundle", "protocol": "external", "group_unit": unit, "row": row}
    return evaluation_metrics({
        "schema": 1,
        "class_names": list(names),
        "confidence": 0.95,
        "results": [{**head, **_result(table, units, roles)}],
        "probes": [],
        "hierarchy": [{"recipe": "bundle", "protocol": "external", **levels}] if levels else [],
        "comparisons": [],
        "inapplicable": [],
        "curve": [],
        "decisions": {
            "share": {
                name: round(list(decisions).count(name) / max(1, len(decisions)), 4)
                for name in ("accept", "review", "reject")
            },
            "coverage": None if sets is None else _coverage(table, sets, units),
        },
        "warnings": list(warnings),
        **({"subgroups": {**head, "confidence": 0.95, "columns": columns}} if columns else {}),
    })  # fmt: skip


def _result(table: PredictionTable, units: list[str], roles: Roles | None) -> dict[str, object]:
    """Sizes, metrics and confusion matrix of a bundle's answers."""
    names = table.class_names
    intervals = bootstrap_metrics(
        table.y_true, table.probs, names, groups=units, roles=roles, seed=0
    )
    confusion = confusion_matrix(table.y_true, table.probs.argmax(axis=1), len(names))
    return {
        "n": len(table),
        "n_groups": len(set(units)),
        "folds": 1,
        "metrics": {name: interval.to_json() for name, interval in intervals.items()},
        "confusion": confusion.tolist(),
        "calibrated": True,
    }


def _coverage(
    table: PredictionTable, sets: Sequence[Sequence[str]], groups: list[str]
) -> dict[str, float | None]:
    """How often a prediction set holds the true class, with its interval."""
    truth = [table.class_names[i] for i in table.y_true]
    held = np.array([name in names for name, names in zip(truth, sets, strict=True)])
    return bootstrap_mean(held, groups=groups).to_json()
