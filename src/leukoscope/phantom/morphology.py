"""What the leukocytes of each class look like in a phantom, with the haematological reason.

Immunophenotypic stages of B-ALL are distinguished by flow cytometry; under the microscope they
overlap. The differences between the three blast classes below are therefore a schematic
convention in the spirit of the FAB types L1 and L2, not a diagnostic rule. What matters for a
test of software is that the rule is known, lives only in the leukocytes, and that each trait
taken alone overlaps between classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from leukoscope.core.errors import UnknownNameError

PATIENT_SHARE = 0.15
"""Share of a trait's variance that the cells of one patient have in common."""


@dataclass(frozen=True)
class Trait:
    """A normally distributed attribute of a cell, cut off at physical limits."""

    mean: float  # mean over all cells of the class
    sd: float  # standard deviation over all cells of the class, patients included
    low: float
    high: float


@dataclass(frozen=True)
class Morphology:
    """The rule that draws the leukocytes of one class."""

    diameter_um: Trait  # diameter of the whole cell
    nc_ratio: Trait  # area of the nucleus by area of the cell
    chromatin_density: Trait  # depth of the nuclear stain (1: an average blast)
    chromatin_contrast: Trait  # spread of that depth within the nucleus (0: smudged)
    chromatin_grain_um: Trait  # size of the chromatin clumps
    nucleolus_contrast: Trait  # how much paler than the chromatin a nucleolus is (0 to 1)
    irregularity: Trait  # relative amplitude of the waves in the nuclear outline
    cleft_depth: Trait  # depth of a nuclear cleft, as a share of the radius
    basophilia: Trait  # depth of the blue cytoplasmic stain
    nucleoli: tuple[float, ...]  # probability of 0, 1, 2, … nucleoli
    cleft_probability: float  # probability that the nucleus is indented or cleaved
    caption: str  # one sentence for the documentation
    reason: str  # why a haematologist would draw the class so


MORPHOLOGY: Mapping[str, Morphology] = {
    "benign": Morphology(
        diameter_um=Trait(9.5, 0.65, 8.2, 11.8),
        nc_ratio=Trait(0.86, 0.04, 0.74, 0.94),
        chromatin_density=Trait(1.25, 0.13, 0.9, 1.6),
        chromatin_contrast=Trait(0.08, 0.03, 0.02, 0.18),
        chromatin_grain_um=Trait(1.3, 0.2, 0.8, 1.8),
        nucleolus_contrast=Trait(0.2, 0.08, 0.05, 0.4),
        irregularity=Trait(0.012, 0.006, 0.0, 0.03),
        cleft_depth=Trait(0.15, 0.05, 0.05, 0.3),
        basophilia=Trait(0.6, 0.15, 0.25, 1.1),
        nucleoli=(0.94, 0.06),
        cleft_probability=0.06,
        caption="small cell, scant cytoplasm, round nucleus with condensed, smudged chromatin",
        reason="hematogones mature towards lymphocytes: the chromatin closes, nucleoli vanish",
    ),
    "early_pre_b": Morphology(
        diameter_um=Trait(11.0, 0.7, 9.2, 13.4),
        nc_ratio=Trait(0.82, 0.045, 0.66, 0.92),
        chromatin_density=Trait(1.05, 0.12, 0.7, 1.4),
        chromatin_contrast=Trait(0.17, 0.05, 0.05, 0.32),
        chromatin_grain_um=Trait(0.75, 0.15, 0.4, 1.2),
        nucleolus_contrast=Trait(0.32, 0.1, 0.1, 0.6),
        irregularity=Trait(0.025, 0.01, 0.0, 0.06),
        cleft_depth=Trait(0.25, 0.08, 0.1, 0.45),
        basophilia=Trait(0.85, 0.16, 0.4, 1.3),
        nucleoli=(0.5, 0.4, 0.1),
        cleft_probability=0.25,
        caption="small to middle-sized blast, high N/C ratio, at most a faint nucleolus",
        reason="L1-like: a small uniform blast with even chromatin and little cytoplasm",
    ),
    "pre_b": Morphology(
        diameter_um=Trait(12.8, 0.9, 10.4, 15.4),
        nc_ratio=Trait(0.60, 0.06, 0.42, 0.76),
        chromatin_density=Trait(0.98, 0.12, 0.7, 1.35),
        chromatin_contrast=Trait(0.27, 0.06, 0.12, 0.45),
        chromatin_grain_um=Trait(1.05, 0.18, 0.6, 1.5),
        nucleolus_contrast=Trait(0.42, 0.1, 0.15, 0.7),
        irregularity=Trait(0.03, 0.012, 0.0, 0.07),
        cleft_depth=Trait(0.25, 0.08, 0.1, 0.45),
        basophilia=Trait(1.15, 0.18, 0.6, 1.7),
        nucleoli=(0.15, 0.5, 0.3, 0.05),
        cleft_probability=0.2,
        caption="middle-sized blast, moderate blue cytoplasm, coarser chromatin, 1–2 nucleoli",
        reason="cytoplasmic µ chains are made: more, basophilic cytoplasm around the nucleus",
    ),
    "pro_b": Morphology(
        diameter_um=Trait(14.3, 0.8, 11.8, 16.0),
        nc_ratio=Trait(0.75, 0.055, 0.58, 0.88),
        chromatin_density=Trait(0.77, 0.1, 0.55, 1.1),
        chromatin_contrast=Trait(0.14, 0.045, 0.04, 0.28),
        chromatin_grain_um=Trait(0.5, 0.1, 0.3, 0.8),
        nucleolus_contrast=Trait(0.55, 0.1, 0.25, 0.8),
        irregularity=Trait(0.055, 0.018, 0.01, 0.11),
        cleft_depth=Trait(0.38, 0.1, 0.15, 0.6),
        basophilia=Trait(0.95, 0.17, 0.5, 1.5),
        nucleoli=(0.03, 0.22, 0.4, 0.25, 0.1),
        cleft_probability=0.7,
        caption="large blast, open fine chromatin, several plain nucleoli, cleaved nucleus",
        reason="L2-like: the least mature blast, chromatin open, outline irregular or cleft",
    ),
}
"""The one morphology rule of the phantoms, by class."""

TRAITS = tuple(field.name for field in fields(Morphology) if field.type == "Trait")
LARGEST_DIAMETER_UM = max(rule.diameter_um.high for rule in MORPHOLOGY.values())


@dataclass(frozen=True)
class CellAttributes:
    """The traits of one leukocyte, as drawn (see :class:`Morphology` for their meaning).

    ``nucleoli`` is a count; ``cleft_depth`` is 0 where the nucleus has no cleft.
    """

    diameter_um: float
    nc_ratio: float
    chromatin_density: float
    chromatin_contrast: float
    chromatin_grain_um: float
    nucleolus_contrast: float
    irregularity: float
    cleft_depth: float
    basophilia: float
    nucleoli: int


def rule_of(label: str) -> Morphology:
    """The morphology rule of a class.

    Raises:
        UnknownNameError: Phantoms of this class cannot be drawn.
    """
    if label not in MORPHOLOGY:
        raise UnknownNameError("phantom class", label, MORPHOLOGY)
    return MORPHOLOGY[label]


def draw_attributes(
    label: str, patient: np.random.Generator, cell: np.random.Generator
) -> CellAttributes:
    """Draw one leukocyte of a class.

    Args:
        patient: Freshly seeded stream of the patient, so that all their cells share an offset.

    Returns:
        The traits; each is ``mean + sd (√s p + √(1−s) c)`` with standard normal ``p`` of the
        patient and ``c`` of the cell and ``s`` = :data:`PATIENT_SHARE`, cut off at its limits.
    """
    rule = rule_of(label)
    shared = patient.standard_normal(len(TRAITS))
    own = cell.standard_normal(len(TRAITS))
    z = np.sqrt(PATIENT_SHARE) * shared + np.sqrt(1.0 - PATIENT_SHARE) * own
    drawn: dict[str, float] = {}
    for name, deviation in zip(TRAITS, z, strict=True):
        trait: Trait = getattr(rule, name)
        drawn[name] = float(np.clip(trait.mean + trait.sd * deviation, trait.low, trait.high))
    if cell.random() >= rule.cleft_probability:
        drawn["cleft_depth"] = 0.0
    nucleoli = int(cell.choice(len(rule.nucleoli), p=rule.nucleoli))
    return CellAttributes(**drawn, nucleoli=nucleoli)
