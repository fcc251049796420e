"""One phantom: background, leukocytes, picture and ground truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import UsageError
from leukoscope.phantom.artefacts import plant_artefact
from leukoscope.phantom.cells import Leukocyte, draw_leukocyte
from leukoscope.phantom.field import Scene, draw_scene
from leukoscope.phantom.morphology import CellAttributes, draw_attributes
from leukoscope.phantom.session import (
    BAR_STYLES,
    Box,
    Session,
    draw_exposure,
    draw_scale_bar,
    draw_sessions,
    expose,
)
from leukoscope.phantom.spec import NO_ARTEFACT, PhantomCase, PhantomSpec, design_cases, stream

SUPERSAMPLING = 2
"""Fields are drawn this many times larger and averaged down: smooth edges."""
BACKGROUND, RED_CELL, CYTOPLASM, NUCLEUS = range(4)
"""Values of a truth mask."""


@dataclass(frozen=True)
class Phantom:
    """A rendered field with its ground truth.

    Attributes:
        case: Class, patient and session.
        background: (H, W, 3) uint8 RGB, the same field, noise and scale bar included, as if
            it had no leukocytes.
        mask: (H, W) uint8: 0 background, 1 red cell, 2 cytoplasm, 3 nucleus.
        boxes: ``(x0, y0, x1, y1)`` of each leukocyte that shows, upper limits excluded.
        attributes: Drawn traits, in the order of ``boxes``.
        bar_style: Style of the scale bar, ``none`` included.
        bar_box: Box of the scale bar, or None.
    """

    case: PhantomCase
    image: NDArray[np.uint8]
    background: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    boxes: tuple[Box, ...]
    attributes: tuple[CellAttributes, ...]
    bar_style: str
    bar_box: Box | None


@lru_cache(maxsize=4)
def _plan(spec: PhantomSpec) -> tuple[tuple[PhantomCase, ...], tuple[Session, ...]]:
    return design_cases(spec), draw_sessions(stream(spec, "session", 0), spec.sessions)


def session_of(spec: PhantomSpec, case: PhantomCase) -> Session:
    """The session of an image; with the scale-bar confounder the bar's style follows the class."""
    session = _plan(spec)[1][case.session]
    if spec.confound == "scale-bar":
        style = BAR_STYLES[spec.class_names.index(case.label) % len(BAR_STYLES)]
        session = replace(session, bar_style=style)
    return session if spec.noise == 1 else replace(session, noise=session.noise * spec.noise)


def render_phantom(spec: PhantomSpec, index: int) -> Phantom:
    """Render one image of a set.

    Args:
        index: Number of the image from 0; images do not depend on each other.

    Raises:
        UsageError: The set has no such image.
    """
    if not 0 <= index < spec.images:
        raise UsageError(f"index: expected 0 to {spec.images - 1}, got {index}")
    case = _plan(spec)[0][index]
    session = session_of(spec, case)
    rng = stream(spec, "background", index)
    exposure = draw_exposure(rng, spec.size_px)
    scene = draw_scene(rng, session, SUPERSAMPLING * spec.size_px)
    background = expose(scene.amounts, session, exposure)
    attributes, leukocytes = _draw_leukocytes(spec, case, scene)
    amounts, cells, nuclei = _paint(scene, leukocytes)
    image = expose(amounts, session, exposure)
    bar_box = draw_scale_bar(image, session.bar_style)
    draw_scale_bar(background, session.bar_style)
    boxes, shown = _boxes(leukocytes, attributes, spec.size_px)
    mask = _mask(scene.red, cells, nuclei, spec.size_px)
    return Phantom(
        case=case,
        image=_planted(spec, case, image, mask),
        background=background,
        mask=mask,
        boxes=boxes,
        attributes=shown,
        bar_style=session.bar_style,
        bar_box=bar_box,
    )


def _planted(
    spec: PhantomSpec, case: PhantomCase, image: NDArray[np.uint8], mask: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The image with the artefact of the set, where its class is the one that gets it."""
    if spec.artefact == NO_ARTEFACT or case.label != spec.class_names[0]:
        return image
    rng = stream(spec, "artefact", case.index)
    return plant_artefact(image, spec.artefact, spec.strength, rng=rng, cells=mask >= CYTOPLASM)


def _draw_leukocytes(
    spec: PhantomSpec, case: PhantomCase, scene: Scene
) -> tuple[list[CellAttributes], list[Leukocyte]]:
    rng = stream(spec, "leukocytes", case.index)
    attributes, leukocytes = [], []
    for x, y in scene.places:
        traits = draw_attributes(case.label, stream(spec, "patient", case.patient), rng)
        attributes.append(traits)
        leukocytes.append(draw_leukocyte(rng, traits, x, y, scene.um))
    return attributes, leukocytes


def _paint(
    scene: Scene, leukocytes: list[Leukocyte]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Amounts with leukocytes over the background, and the coverage by cells and nuclei."""
    amounts = scene.amounts.copy()
    side = amounts.shape[0]
    cells = np.zeros((side, side), np.float32)
    nuclei = np.zeros((side, side), np.float32)
    for leukocyte in leukocytes:
        canvas, patch = _overlap(leukocyte, side)
        cover = leukocyte.cell[patch][..., None]
        amounts[canvas] = amounts[canvas] * (1 - cover) + leukocyte.amounts[patch]
        # A later cell that touches an earlier one lies on top of it.
        nuclei[canvas] = np.maximum(nuclei[canvas] * (1 - cover[..., 0]), leukocyte.nucleus[patch])
        cells[canvas] = np.maximum(cells[canvas], cover[..., 0])
    return amounts, cells, nuclei


def _overlap(leukocyte: Leukocyte, side: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    x0, y0 = leukocyte.corner
    size = leukocyte.cell.shape[0]
    top, left = max(0, y0), max(0, x0)
    bottom, right = min(side, y0 + size), min(side, x0 + size)
    canvas = (slice(top, bottom), slice(left, right))
    patch = (slice(top - y0, bottom - y0), slice(left - x0, right - x0))
    return canvas, patch


def _mask(
    red: NDArray[np.float32],
    cells: NDArray[np.float32],
    nuclei: NDArray[np.float32],
    size_px: int,
) -> NDArray[np.uint8]:
    mask = np.zeros((size_px, size_px), np.uint8)
    for layer, value in ((red, RED_CELL), (cells, CYTOPLASM), (nuclei, NUCLEUS)):
        small = cv2.resize(layer, (size_px, size_px), interpolation=cv2.INTER_AREA)
        mask[small >= 0.5] = value
    return mask


def _boxes(
    leukocytes: list[Leukocyte], attributes: list[CellAttributes], size_px: int
) -> tuple[tuple[Box, ...], tuple[CellAttributes, ...]]:
    boxes, shown = [], []
    side = SUPERSAMPLING * size_px
    for leukocyte, traits in zip(leukocytes, attributes, strict=True):
        alone = np.zeros((side, side), np.float32)
        canvas, patch = _overlap(leukocyte, side)
        alone[canvas] = leukocyte.cell[patch]
        small = cv2.resize(alone, (size_px, size_px), interpolation=cv2.INTER_AREA) >= 0.5
        rows, columns = np.nonzero(small.any(axis=1))[0], np.nonzero(small.any(axis=0))[0]
        if rows.size:
            boxes.append((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
            shown.append(traits)
    return tuple(boxes), tuple(shown)


def golden_phantoms() -> list[NDArray[np.uint8]]:
    """The four images of every bundle's golden outputs, (224, 224, 3) uint8 RGB each."""
    spec = PhantomSpec(images=4, sessions=4, seed=7)
    return [render_phantom(spec, index).image for index in range(4)]
