"""The file ``counts.json``: cell types by patient, with intervals.

Shares are fractions from 0 to 1; None where nothing was counted or adjusted.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from leukoscope.config.bundle import ConfusionsFile
from leukoscope.config.metrics.results import Estimate
from leukoscope.config.stored import Record, StoredFile

Call = Literal["above", "below", "cannot be told", "no cells"]
"""On which side of the threshold the whole interval of a share lies."""


class Share(Record):
    """What one class, or several, have of the cells of a patient.

    Attributes:
        cells: Of these classes, as counted.
        counted: Their share as counted.
        adjusted: Their share, adjusted for the model's errors.
        low, high: Limits of the adjusted share, else of the counted one.
    """

    cells: int
    counted: float | None
    adjusted: float | None
    low: float | None
    high: float | None

    @property
    def best(self) -> float | None:
        """The adjusted share; the counted one where nothing adjusts it."""
        return self.counted if self.adjusted is None else self.adjusted


class ClassShare(Share):
    """The share of one class."""

    class_name: str = Field(validation_alias="class", serialization_alias="class")


class BlastShare(Share):
    """The share of all blasts: its side of the threshold, and how probably it lies above."""

    call: Call
    p_above: float | None


class UnreadImage(Record):
    """An image that could not be read, and why."""

    path: str
    reason: str


class PatientCount(Record):
    """The cells of one patient or smear.

    Attributes:
        patient: Name.
        images: Of the patient, unreadable and empty ones included.
        cells: That are counted.
        rejected: That the model did not name, and no person.
        excluded: Of which a person said that they are none of these classes.
        unreadable: Images that could not be read.
        without_cells: Images in which no leukocyte was found.
        corrected: Cells that a person decided on.
        changed: Those to which the person gave another answer than the model.
        classes: Share of each class, in the order of the file.
        blasts: Share of all blasts; None where no class is of blasts.
    """

    patient: str
    images: int
    cells: int
    rejected: int
    excluded: int
    unreadable: tuple[UnreadImage, ...]
    without_cells: tuple[str, ...]
    corrected: int
    changed: int
    classes: tuple[ClassShare, ...]
    blasts: BlastShare | None


class Agreement(Record):
    """Adjusted against counted shares over patients (Bland & Altman 1986).

    Attributes:
        mean_absolute_error: With its interval over patients.
        bias: Mean of adjusted minus counted.
        loa_low, loa_high: Limits of agreement; None for a single patient.
        bias_half, loa_half: Halves of the widths of their 95 % intervals, likewise.
        held: Share of the patients whose interval holds the counted share.
        held_cells: The same for intervals that allow for the classifier alone.
    """

    mean_absolute_error: Estimate
    bias: float | None
    loa_low: float | None
    loa_high: float | None
    bias_half: float | None
    loa_half: float | None
    held: float
    held_cells: float


class ClassAgreement(Agreement):
    """Agreement on the share of one class."""

    class_name: str = Field(validation_alias="class", serialization_alias="class")


class ComparedPatient(Record):
    """One patient's share: counted by experts, adjusted, and the limits of the latter."""

    patient: str
    truth: float
    value: float
    low: float
    high: float


class BlastAgreement(Agreement):
    """Agreement on the share of blasts, patient by patient."""

    points: tuple[ComparedPatient, ...]


class TruthComparison(Record):
    """Shares beside the labels of the very cells that were counted.

    Attributes:
        patients: That have labelled cells.
        cells: Labelled cells, rejected and unreadable ones included.
        other_labels: Labels that the model does not know → cells.
        held, held_cells: Means over the classes.
        classes: Agreement on each class.
        blasts: On all blasts; None where no class is of blasts.
    """

    patients: int
    cells: int
    other_labels: dict[str, int]
    held: float
    held_cells: float
    classes: tuple[ClassAgreement, ...]
    blasts: BlastAgreement | None


class AppliedCorrections(Record):
    """Files of corrections, and the cells that they decide on."""

    files: tuple[str, ...]
    cells: int


class CountsFile(StoredFile):
    """The content of ``counts.json``.

    Attributes:
        schema_version: Version of this schema.
        bundle: Who named the cells: a bundle, or a study and its recipe.
        class_names: In the order of the shares.
        shows: What is counted: single cells, or fields of view.
        method: How shares are adjusted; None where they are not.
        step: How far the way of ``em`` was gone, 0 to 1; None likewise.
        widening: By what the spread between patients is multiplied; None likewise.
        confidence: Level of the intervals.
        confusions: What the adjustment rests on; None likewise.
        blast_classes: Classes that count as blasts.
        blast_threshold: Share of blasts that matters.
        notes: What limits the counts.
        patients: Every patient.
        truth: Comparison with labels; None where the data has none.
        corrections: What people decided.
    """

    hint: ClassVar[str] = "count again: leukoscope count"

    schema_version: Literal[1] = Field(alias="schema")
    bundle: str
    class_names: tuple[str, ...]
    shows: Literal["cell", "field"]
    method: str | None
    step: float | None
    widening: float | None
    confidence: float
    confusions: ConfusionsFile | None
    blast_classes: tuple[str, ...]
    blast_threshold: float
    notes: tuple[str, ...]
    patients: tuple[PatientCount, ...]
    truth: TruthComparison | None
    corrections: AppliedCorrections

    @property
    def noun(self) -> str:
        """What is counted, in words."""
        return "cells" if self.shows == "cell" else "images"
