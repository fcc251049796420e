"""The file ``robustness.json``: what damage to the test images costs the models of a run.

Metrics and shares are fractions from 0 to 1; an interval has the level ``confidence`` of the file.
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from pydantic import Field

from leukoscope.config.guarantees import Envelope
from leukoscope.config.metrics.results import Estimate
from leukoscope.config.stored import Record, StoredFile

ConditionMetric = Literal["accuracy", "ece", "difference", "review", "reject"]
CLEAN: Final = "none"


class DamageFacts(Record):
    """A kind of damage: its title, the unit of its level, and what a single image shows of it."""

    title: str
    unit: str
    statistic: str


class Condition(Record):
    """The images under one kind of damage at one severity.

    Attributes:
        corruption: Its name; :data:`CLEAN` for the undamaged images.
        severity: 1 to 5; 0 for the undamaged images.
        level: In the unit of the corruption.
        accuracy, ece: On these images.
        review: Share of images that a person should look at.
        difference: Accuracy minus that on the undamaged images, paired.
        reject: Share that is refused; None where the model has no gate.
    """

    corruption: str
    severity: int
    level: float
    accuracy: Estimate
    ece: Estimate
    review: Estimate
    difference: Estimate
    reject: Estimate | None = None

    def metric(self, name: ConditionMetric) -> Estimate | None:
        """One of its values by name; None where it does not apply."""
        found: Estimate | None = getattr(self, name)
        return found


class DamagedModel(Record):
    """One model under all conditions.

    Attributes:
        recipe: Its name.
        clean: On the undamaged images.
        conditions: Each corruption by severity.
        tolerated: Corruption → largest severity whose loss stays within the bound.
        envelope: What a bundle checks; None where it could not be fitted.
        envelope_note: Why not; empty where there is one.
        mean_error: Over all corruptions and severities; None without one of the usual corruptions.
        mce: Mean corruption error against the first model; None for that one.
    """

    recipe: str
    clean: Condition
    conditions: tuple[Condition, ...]
    tolerated: dict[str, int]
    envelope: Envelope | None
    envelope_note: str
    mean_error: Estimate | None = None
    mce: Estimate | None = None


class RobustnessFile(StoredFile):
    """The content of ``robustness.json``.

    Attributes:
        schema_version: Version of this schema.
        protocol: Under which the images were held out; of a bundle, what they are.
        group_unit: What the intervals resample.
        n: Test images that were measured.
        n_available: Those that there are.
        n_groups: Units that the intervals resample.
        seed: Of the damage, of the choice of images and of the intervals.
        confidence: Level of the intervals.
        bound: Loss of accuracy that is still accepted, as a share.
        corruptions: Name → what it is.
        warnings: What a reader must know.
        recipes: The models.
    """

    hint: ClassVar[str] = "measure again: leukoscope robustness RUN"

    schema_version: Literal[1] = Field(alias="schema")
    protocol: str
    group_unit: str
    n: int
    n_available: int
    n_groups: int
    seed: int
    confidence: float
    bound: float
    corruptions: dict[str, DamageFacts]
    warnings: tuple[str, ...]
    recipes: tuple[DamagedModel, ...]
