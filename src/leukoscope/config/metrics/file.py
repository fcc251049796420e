"""The file ``metrics.json``: what a study or an evaluation measured, and its one reader.

Every file is written by ``save`` and read by ``load_metrics``, so that a wrong key
is found where it arises.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from leukoscope.config.metrics.decisions import CalibrationResult, Decisions, PromiseResult
from leukoscope.config.metrics.evidence import Control, Rejection, Shortcuts, Survival, Verdict
from leukoscope.config.metrics.other_data import BundleDecisions, ForeignSplit, OtherData, Subgroups
from leukoscope.config.metrics.results import (
    Comparison,
    CurvePoint,
    Hierarchy,
    InapplicableProtocol,
    Patients,
    PerturbedResult,
    ProbeResult,
    Result,
)
from leukoscope.config.stored import StoredFile, check_record
from leukoscope.core.files import read_json
from leukoscope.core.program import typed


class MetricsFile(StoredFile):
    """What every ``metrics.json`` holds.

    Attributes:
        schema_version: Version of this schema.
        class_names: In the order of every matrix.
        confidence: Level of the intervals.
        results: Trained models, or the bundle, on whole test images.
        probes: Probes on the same images.
        hierarchy: Malignant or not, and which subtype, where the classes stand on both branches.
        comparisons: Paired differences on the same images.
        inapplicable: Protocols that the data cannot support.
        curve: Results over the number of acquisition clusters.
        subgroups: The first model by the values of the manifest's further columns.
        warnings: What a reader must know.
    """

    schema_version: Literal[1] = Field(alias="schema")
    class_names: tuple[str, ...]
    confidence: float
    results: tuple[Result, ...]
    probes: tuple[ProbeResult, ...] = ()
    hierarchy: tuple[Hierarchy, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    inapplicable: tuple[InapplicableProtocol, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    subgroups: Subgroups | None = None
    warnings: tuple[str, ...] = ()


class Measurements(MetricsFile):
    """What a verdict rests on.

    Attributes:
        model_on: Trained models on perturbed versions of their test images.
        subjects: Results by patient.
        calibration: Probabilities before and after calibration.
        decisions: Prediction sets and thresholds of the first recipe.
        promise: What its bundle's sets cover on new units.
        shortcuts: What the probes say of the first recipe.
        survival: What it keeps on mildly degraded images.
        control: The negative control.
        data_errors: Sentences of the audit's errors.
        split: Of a foreign model only: its own split, or nothing where that is unknown.
    """

    model_on: tuple[PerturbedResult, ...] = ()
    subjects: Patients | None = None
    calibration: tuple[CalibrationResult, ...] = ()
    decisions: Decisions | None = None
    promise: PromiseResult | None = None
    shortcuts: Shortcuts | None = None
    survival: tuple[Survival, ...] = ()
    control: Control | None = None
    data_errors: tuple[str, ...] = ()
    split: ForeignSplit | None = None

    @property
    def foreign(self) -> bool:
        """Whether the model was not trained here."""
        return "split" in self.model_fields_set


class StudyMetrics(Measurements):
    """The ``metrics.json`` of a study, an ensemble, or the audit of a foreign model.

    Attributes:
        verdict: What the study says.
        ood: What the gates decline.
        external: The bundle on other data.
    """

    verdict: Verdict
    ood: tuple[Rejection, ...] = ()
    external: tuple[OtherData, ...] = ()


class EvaluationMetrics(MetricsFile):
    """The ``metrics.json`` of a bundle on other data.

    Attributes:
        decisions: What the bundle decided.
    """

    decisions: BundleDecisions


def measurements(values: Mapping[str, object]) -> Measurements:
    """Check what a study measured before it is judged; raises as :func:`study_metrics`."""
    return check_record(Measurements, values, "metrics", MetricsFile.hint)


def study_metrics(values: Mapping[str, object]) -> StudyMetrics:
    """Check what a study measured.

    Raises:
        DataError: Names each key that is wrong, what was expected and what came.
    """
    return check_record(StudyMetrics, values, "metrics", MetricsFile.hint)


def evaluation_metrics(values: Mapping[str, object]) -> EvaluationMetrics:
    """Check what an evaluation on other data measured; raises as :func:`study_metrics`."""
    return check_record(EvaluationMetrics, values, "metrics", MetricsFile.hint)


def load_metrics(path: Path) -> StudyMetrics:
    """Read the ``metrics.json`` of a study.

    Raises:
        DataError: It is missing, damaged, or of another version of the schema; the message names
            the file, the key, what was expected and what was found.
    """
    hint = f"measure again: {typed('study', '--out', path.parent, '--resume')}"
    return check_record(StudyMetrics, read_json(path), str(path), hint)


def load_evaluation(path: Path) -> EvaluationMetrics:
    """Read the ``metrics.json`` of an evaluation on other data; raises as :func:`load_metrics`."""
    hint = "name the folder that `leukoscope evaluate … --out` wrote, or evaluate again"
    return check_record(EvaluationMetrics, read_json(path), str(path), hint)
