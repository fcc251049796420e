"""The file ``metrics.json``: what a study or an evaluation measured, and its one reader.

Every file is written by :func:`save_metrics` and read by :func:`load_metrics`, so that a wrong key
is found where it arises. A key that does not apply is left out of the file, and then has the
default here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import Field, ValidationError

from leukoscope.config.metrics.decisions import CalibrationResult, Decisions, PromiseResult
from leukoscope.config.metrics.evidence import Control, Rejection, Shortcuts, Survival, Verdict
from leukoscope.config.metrics.other_data import BundleDecisions, ForeignSplit, OtherData
from leukoscope.config.metrics.results import (
    RECORD_KINDS,
    Comparison,
    CurvePoint,
    Hierarchy,
    InapplicableProtocol,
    Patients,
    PerturbedResult,
    ProbeResult,
    Record,
    Result,
)
from leukoscope.config.metrics.subgroups import Subgroups
from leukoscope.core.errors import DataError
from leukoscope.core.files import read_json, write_json

SCHEMA_VERSION: Final = 1


class MetricsFile(Record):
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

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file: without the keys that do not apply."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


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


FileT = TypeVar("FileT", bound=MetricsFile)
_REFUSED: Final = "this is an error of the program: please report it"


def measurements(values: Mapping[str, object]) -> Measurements:
    """Check what a study measured before it is judged; raises as :func:`study_metrics`."""
    return _checked(Measurements, values, "metrics", _REFUSED)


def study_metrics(values: Mapping[str, object], source: str = "metrics") -> StudyMetrics:
    """Check what a study measured.

    Raises:
        DataError: Names each key that is wrong, what was expected and what came.
    """
    return _checked(StudyMetrics, values, source, _REFUSED)


def evaluation_metrics(values: Mapping[str, object], source: str = "metrics") -> EvaluationMetrics:
    """Check what an evaluation on other data measured; raises as :func:`study_metrics`."""
    return _checked(EvaluationMetrics, values, source, _REFUSED)


def save_metrics(path: Path, metrics: MetricsFile) -> None:
    """Write ``metrics.json``."""
    write_json(path, metrics.to_json())


def load_metrics(path: Path) -> StudyMetrics:
    """Read the ``metrics.json`` of a study.

    Raises:
        DataError: It is missing, damaged, or of another version of the schema; the message names
            the file, the key, what was expected and what was found.
    """
    hint = f"measure again: leukoscope study --out {path.parent} --resume"
    return _checked(StudyMetrics, read_json(path), str(path), hint)


def load_evaluation(path: Path) -> EvaluationMetrics:
    """Read the ``metrics.json`` of an evaluation on other data; raises as :func:`load_metrics`."""
    hint = "name the folder that `leukoscope evaluate … --out` wrote, or evaluate again"
    return _checked(EvaluationMetrics, read_json(path), str(path), hint)


def _checked(model: type[FileT], values: object, source: str, hint: str) -> FileT:
    """Validate in strict JSON mode, where lists stand for tuples but text is no number."""
    if not isinstance(values, Mapping):
        found = type(values).__name__
        raise DataError(f"{source}: expected a JSON object, found {found}", hint=hint)
    try:
        return model.model_validate_json(json.dumps(values, allow_nan=False), by_alias=True)
    except ValidationError as error:
        shown = [_problem(item) for item in error.errors(include_url=False)[:3]]
        more = error.error_count() - len(shown)
        rest = f"; and {more} more" if more else ""
        raise DataError(f"{source}: {'; '.join(shown)}{rest}", hint=hint) from None
    except ValueError as error:  # a number that JSON does not have
        raise DataError(f"{source}: expected finite numbers or null ({error})", hint=hint) from None


def _problem(item: Any) -> str:
    """One wrong key: where it is, what was expected, what was found."""
    where = ".".join(str(part) for part in item["loc"] if part not in RECORD_KINDS) or "file"
    if item["type"] == "missing":
        return f"{where}: expected this key, found none"
    if item["type"] == "extra_forbidden":
        return f"{where}: found a key that the schema (version {SCHEMA_VERSION}) does not know"
    found = json.dumps(item["input"], default=str)
    found = found if len(found) <= 60 else f"{found[:57]}…"
    expected = item["msg"].removeprefix("Input should be ")
    return f"{where}: expected {expected}, found {found}"
