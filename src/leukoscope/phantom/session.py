"""A simulated staining and imaging session: stain amounts, RGB, and the scale bar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import UnknownNameError

STAINS = ("haemoglobin", "cytoplasm", "chromatin")
"""The absorbing layers of a field, in the order of the last axis of an ``amounts`` array."""

# Optical density of R, G, B at amount 1: extremes per stain between which sessions lie.
# Romanowsky stains turn bluer with alkaline buffers and old stain, pinker with acid ones.
_RED_CELLS = np.array(  # salmon, pink, lavender, grey
    [[0.07, 0.30, 0.40], [0.10, 0.45, 0.28], [0.32, 0.42, 0.18], [0.54, 0.38, 0.25]]
)
_CYTOPLASM = np.array([[0.56, 0.46, 0.10], [0.46, 0.58, 0.12]])  # blue, violet
_CHROMATIN = np.array([[0.48, 1.00, 0.26], [0.82, 1.00, 0.24]])  # purple, indigo
# Transmission of the empty slide: lamp, white balance and residual stain.
_LIGHTS = np.array([[0.98, 0.98, 0.98], [0.99, 0.98, 0.84], [0.85, 0.94, 0.99], [0.98, 0.89, 0.92]])
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Session:
    """What all fields of one slide have in common.

    Attributes:
        stains: (3, 3) float64, optical density of R, G, B at amount 1 of each of
            :data:`STAINS` (Beer–Lambert: transmission is ``exp(−amount · density)``).
        light: (3,) float64 in 0–1, colour of the empty slide.
        gradient: (2,) float64, relative change of the light from centre to the right and
            lower edge.
        vignette: Loss of light in the corners.
        blur: Standard deviation of the defocus in px of a 224 px field.
        noise: Standard deviation of the camera noise in 8-bit grey levels.
        crowding: Share of the free area that red cells aim to cover.
        clumping: Probability that a red cell lies against another one.
        pallor: Mean depth of the central pallor of the red cells.
        red_diameter_um: Mean diameter of the red cells.
        poikilocytosis: How much their outlines vary (1: as in a normal smear).
        platelets: Mean number of platelets in a 224 px field.
        precipitate: Mean number of stain precipitates in a 224 px field.
        bar_style: One of :data:`~leukoscope.phantom.session.BAR_STYLES`.
    """

    stains: NDArray[np.float64]
    light: NDArray[np.float64]
    gradient: NDArray[np.float64]
    vignette: float
    blur: float
    noise: float
    crowding: float
    clumping: float
    pallor: float
    red_diameter_um: float
    poikilocytosis: float
    platelets: float
    precipitate: float
    bar_style: str


def draw_sessions(rng: np.random.Generator, sessions: int) -> tuple[Session, ...]:
    """Draw the sessions of a set; nothing here depends on a class.

    The main numbers form a Latin hypercube: each is spread evenly over the sessions, so that
    two of them rarely look alike, even in a small set.
    """
    columns = [(rng.permutation(sessions) + rng.random(sessions)) / sessions for _ in range(13)]
    return tuple(_draw_session(rng, tuple(row)) for row in np.stack(columns, axis=1))


def _draw_session(rng: np.random.Generator, u: tuple[float, ...]) -> Session:
    def between(low: float, high: float, position: float) -> float:
        return float(low + (high - low) * position)

    stains = np.stack(
        [
            between(0.75, 1.25, u[1]) * _along(_RED_CELLS, u[0]),
            between(0.85, 1.15, u[3]) * _along(_CYTOPLASM, rng.random()),
            between(0.88, 1.12, u[3]) * _along(_CHROMATIN, u[2]),
        ]
    )
    light = _along(np.concatenate([_LIGHTS, _LIGHTS[:1]]), u[4]) * between(0.88, 1.01, u[5])
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.06)
    return Session(
        stains=stains,
        light=light,
        gradient=slope * np.array([np.cos(angle), np.sin(angle)]),
        vignette=between(0, 0.16, u[6]),
        blur=between(0.4, 0.8, u[7]),
        noise=between(0.8, 3.8, u[8]),
        crowding=between(0.3, 0.75, u[9]),
        clumping=float(rng.uniform(0.1, 0.6)),
        pallor=between(0.4, 0.85, u[10]),
        red_diameter_um=between(6.3, 8.0, u[11]),
        poikilocytosis=between(0.4, 1.7, u[12]),
        platelets=float(rng.uniform(1, 7)),
        precipitate=float(rng.choice([0.0, 0.0, 0.0, 1.5])),
        bar_style=str(rng.choice(BAR_STYLES)),
    )


def _along(corners: NDArray[np.float64], position: float) -> NDArray[np.float64]:
    """The point at ``position`` (0 to 1) of a polyline, each leg taking an equal share."""
    place = position * (len(corners) - 1)
    leg = min(int(place), len(corners) - 2)
    return np.asarray(corners[leg] + (place - leg) * (corners[leg + 1] - corners[leg]))


@dataclass(frozen=True)
class Exposure:
    """How one field of a session was taken: the part of the imaging that varies by image.

    Attributes:
        strength: (3,) float64, factor on each stain.
        gain: Factor on the light.
        noise: (H, W, 3) float32, standard normal camera noise, shared by all layers of a field.
    """

    strength: NDArray[np.float64]
    gain: float
    noise: NDArray[np.float32]


def draw_exposure(rng: np.random.Generator, size_px: int) -> Exposure:
    """Draw the small differences between fields of one session."""
    return Exposure(
        strength=rng.normal(1.0, 0.025, 3).clip(0.9, 1.1),
        gain=float(np.clip(rng.normal(1.0, 0.006), 0.98, 1.02)),
        noise=rng.standard_normal((size_px, size_px, 3), dtype=np.float32),
    )


def expose(amounts: NDArray[np.float32], session: Session, exposure: Exposure) -> NDArray[np.uint8]:
    """Take the picture of a field.

    Args:
        amounts: (S, S, 3) float32, ≥ 0, amount of each of :data:`STAINS`; S is a multiple of
            the size of the picture.
        exposure: The field's own deviations; its noise gives the size of the picture.
    """
    size_px = exposure.noise.shape[0]
    density = (session.stains * exposure.strength[:, None]).astype(np.float32)
    sigma = session.blur * amounts.shape[0] / 224
    light = cv2.GaussianBlur(cv2.exp(cv2.transform(amounts, -density.T)), (0, 0), sigma)
    small = cv2.resize(light, (size_px, size_px), interpolation=cv2.INTER_AREA)
    colour = (session.light * exposure.gain * 255).astype(np.float32)
    picture = small * (_illumination(session, size_px)[..., None] * colour)
    picture += session.noise * exposure.noise
    return np.asarray(np.clip(np.rint(picture), 0, 255), dtype=np.uint8)


def _illumination(session: Session, size_px: int) -> NDArray[np.float32]:
    axis = np.linspace(-1, 1, size_px, dtype=np.float32)
    x, y = axis[None, :], axis[:, None]
    slope = session.gradient.astype(np.float32)
    return np.asarray(
        1 + slope[0] * x + slope[1] * y - session.vignette * (x**2 + y**2) / 2, dtype=np.float32
    )


@dataclass(frozen=True)
class _Style:
    """Sizes in px of a 224 px field; the margin is that to the right and the lower edge."""

    width: int
    height: int
    margin: tuple[int, int]
    ink: tuple[int, int, int]
    label: bool
    thickness: int
    text: str
    text_scale: float


_STYLES: Mapping[str, _Style | None] = {
    "none": None,
    "red": _Style(24, 12, (4, 4), (220, 20, 30), False, 1, "20 um", 0.22),
    "small-label": _Style(24, 12, (4, 4), (20, 20, 20), True, 1, "20 um", 0.22),
    "large-label": _Style(40, 22, (0, 3), (10, 10, 10), True, 2, "200 px", 0.34),
}
BAR_STYLES = tuple(_STYLES)
"""No bar; red ink on the picture; black ink on a small or on a large white label."""


def draw_scale_bar(image: NDArray[np.uint8], style: str) -> Box | None:
    """Burn a scale bar into an image, in place.

    Returns:
        ``(x0, y0, x1, y1)`` of the bar with its text, upper limits excluded; None without a bar.

    Raises:
        UnknownNameError: There is no such style.
    """
    if style not in _STYLES:
        raise UnknownNameError("scale-bar style", style, _STYLES)
    look = _STYLES[style]
    if look is None:
        return None
    height, width = image.shape[:2]
    unit = max(1, round(width / 224))
    x1, y1 = width - look.margin[0] * unit, height - look.margin[1] * unit
    x0, y0 = x1 - look.width * unit, y1 - look.height * unit
    # Drawn on a copy of the box alone, so that nothing leaves the box that is reported.
    part = np.full_like(image[y0:y1, x0:x1], 255) if look.label else image[y0:y1, x0:x1].copy()
    inset, thick = 2 * unit, look.thickness * unit
    foot = part.shape[0] - 2 * unit - thick
    part[foot : foot + thick, inset:-inset] = look.ink
    for tick in (inset, part.shape[1] - inset - unit):
        part[foot - unit : foot + thick + unit, tick : tick + unit] = look.ink
    scale = look.text_scale * unit
    (across, _), _ = cv2.getTextSize(look.text, cv2.FONT_HERSHEY_SIMPLEX, scale, unit)
    origin = (max(0, (part.shape[1] - across) // 2), foot - 2 * unit)
    cv2.putText(
        part, look.text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, look.ink, unit, cv2.LINE_AA
    )
    image[y0:y1, x0:x1] = part
    return x0, y0, x1, y1
