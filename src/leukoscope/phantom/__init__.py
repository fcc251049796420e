"""A procedural blood-smear renderer with ground truth."""

from leukoscope.phantom.artefacts import ARTEFACTS, Artefact, plant_artefact
from leukoscope.phantom.morphology import MORPHOLOGY, CellAttributes, Morphology
from leukoscope.phantom.render import Phantom, render_phantom, write_phantoms
from leukoscope.phantom.spec import (
    CLASS_FOLDERS,
    CONFOUNDERS,
    PhantomCase,
    PhantomSpec,
    design_cases,
)

__all__ = [
    "ARTEFACTS",
    "CLASS_FOLDERS",
    "CONFOUNDERS",
    "MORPHOLOGY",
    "Artefact",
    "CellAttributes",
    "Morphology",
    "Phantom",
    "PhantomCase",
    "PhantomSpec",
    "design_cases",
    "plant_artefact",
    "render_phantom",
    "write_phantoms",
]
