"""Leukocytes: outline, nucleus, chromatin, nucleoli and cytoplasm from drawn attributes."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.phantom.morphology import CellAttributes

Patch = NDArray[np.float32]


@dataclass(frozen=True)
class Leukocyte:
    """One drawn leukocyte on a square patch."""

    amounts: Patch  # (P, P, 3) float32, amounts of the stains
    cell: Patch  # (P, P) float32 in 0–1, coverage by the whole cell
    nucleus: Patch  # (P, P) float32 in 0–1, coverage by the nucleus, at most ``cell``
    corner: tuple[int, int]  # (2,) x and y of the patch's first pixel on the canvas


def draw_leukocyte(
    rng: np.random.Generator, traits: CellAttributes, x: float, y: float, um: float
) -> Leukocyte:
    """Draw one leukocyte.

    Args:
        x: Centre on the canvas in px.
        um: Length of 1 µm in px of the canvas.
    """
    radius = traits.diameter_um / 2 * um
    reach = int(np.ceil(radius * 1.2)) + 3
    axis = np.arange(-reach, reach + 1, dtype=np.float32)
    left, top = int(np.floor(x)) - reach, int(np.floor(y)) - reach
    dx = np.broadcast_to(axis - np.float32(x - np.floor(x)), (axis.size, axis.size))
    dy = np.broadcast_to(axis[:, None] - np.float32(y - np.floor(y)), (axis.size, axis.size))

    cell, rho = _blob(rng, dx, dy, radius, 0.02, wave_limit=0.06)
    nucleus, inner = _nucleus(rng, traits, dx, dy, radius)
    nucleus = np.minimum(nucleus, cell)
    amounts = np.zeros((*cell.shape, 3), np.float32)
    amounts[..., 1] = _cytoplasm(rng, traits, rho, inner, um) * cell * (1 - 0.6 * nucleus)
    amounts[..., 2] = _chromatin(rng, traits, nucleus, inner, um) * nucleus
    return Leukocyte(amounts, cell, nucleus, (left, top))


def _blob(
    rng: np.random.Generator,
    dx: Patch,
    dy: Patch,
    radius: float,
    irregularity: float,
    *,
    wave_limit: float = 0.2,
    cleft: float = 0.0,
) -> tuple[Patch, Patch]:
    """Coverage of a wavy, perhaps cleft disc, and the distance relative to its outline."""
    theta = np.arctan2(dy, dx)
    outline = np.ones_like(theta)
    energy = 1.0
    for order in range(2, 7):
        spread = irregularity * (2 / order) ** 0.6 + (0.03 if order == 2 else 0.0)
        a, b = np.clip(rng.normal(0, spread, 2), -wave_limit, wave_limit)
        outline += np.float32(a) * np.cos(order * theta) + np.float32(b) * np.sin(order * theta)
        energy += (a * a + b * b) / 2
    outline *= np.float32(radius / np.sqrt(energy))  # keeps the area at π radius²
    if cleft > 0:
        turn = np.angle(np.exp(1j * (theta - rng.uniform(0, 2 * np.pi)))).astype(np.float32)
        # A shallow dent is wide (indented), a deep one narrow (cleaved).
        width = np.float32(rng.uniform(0.22, 0.4) * (1.3 - cleft))
        outline *= 1 - np.float32(cleft) * np.exp(-(np.abs(turn / width) ** np.float32(1.5)))
    rho = np.sqrt(dx**2 + dy**2) / outline
    cover = np.clip((1 - rho) * np.float32(radius) + 0.5, 0, 1)
    return cover.astype(np.float32), rho.astype(np.float32)


def _nucleus(
    rng: np.random.Generator, traits: CellAttributes, dx: Patch, dy: Patch, radius: float
) -> tuple[Patch, Patch]:
    own = radius * np.sqrt(traits.nc_ratio)
    # Eccentric within what the cytoplasm leaves free.
    shift, angle = 0.75 * (radius - own) * rng.random(), rng.uniform(0, 2 * np.pi)
    nx = dx - np.float32(shift * np.cos(angle))
    ny = dy - np.float32(shift * np.sin(angle))
    return _blob(rng, nx, ny, own, traits.irregularity, cleft=traits.cleft_depth)


def _cytoplasm(
    rng: np.random.Generator, traits: CellAttributes, rho: Patch, inner: Patch, um: float
) -> Patch:
    cloud = _noise(rng, rho.shape, 0.8 * um)
    rim = 0.35 * np.clip(rho, 0, 1.1) ** 8  # basophilia is deepest at the margin
    hof = 0.25 * np.exp(-(((inner - 1.1) / 0.18) ** 2))  # and palest next to the nucleus
    depth = traits.basophilia * (0.8 + rim - hof + 0.08 * cloud)
    return np.asarray(np.maximum(depth, 0.1), dtype=np.float32)


def _chromatin(
    rng: np.random.Generator, traits: CellAttributes, nucleus: Patch, inner: Patch, um: float
) -> Patch:
    grain = traits.chromatin_grain_um * um / 2
    texture = _noise(rng, nucleus.shape, grain)
    coarse = _noise(rng, nucleus.shape, 3 * grain)
    contrast = traits.chromatin_contrast
    depth = 1 + contrast * texture + 0.4 * contrast * coarse
    membrane = 0.22 * np.exp(-(((np.clip(inner, 0, 1.2) - 0.94) / 0.07) ** 2))
    depth = depth + membrane
    pale = np.zeros_like(depth)
    for x, y, size in _nucleoli(rng, traits, nucleus, um):
        rows, columns = np.ogrid[: nucleus.shape[0], : nucleus.shape[1]]
        rho = np.sqrt((columns - x) ** 2 + (rows - y) ** 2) / size
        spot = 1 / (1 + np.exp((rho - 1) * 7))
        pale = np.maximum(pale, spot)
        depth = depth + 0.15 * traits.nucleolus_contrast * np.exp(-(((rho - 1.35) / 0.2) ** 2))
    depth = depth * (1 - traits.nucleolus_contrast * pale)
    return np.asarray(np.maximum(depth, 0.15) * traits.chromatin_density, dtype=np.float32)


def _nucleoli(
    rng: np.random.Generator, traits: CellAttributes, nucleus: Patch, um: float
) -> list[tuple[float, float, float]]:
    """x, y and radius of nucleoli well inside the nucleus and apart from each other."""
    depth = cv2.distanceTransform((nucleus > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    rows, columns = np.nonzero(depth > 1.6 * um)
    found: list[tuple[float, float, float]] = []
    if rows.size == 0:
        return found
    for pick in rng.integers(rows.size, size=12):
        x, y = float(columns[pick]), float(rows[pick])
        size = float(rng.uniform(0.65, 1.05)) * um
        if len(found) < traits.nucleoli and all(
            np.hypot(x - a, y - b) > 1.5 * (size + c) for a, b, c in found
        ):
            found.append((x, y, size))
    return found


def _noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Patch:
    """Smooth noise with mean 0 and standard deviation 1."""
    noise = cv2.GaussianBlur(rng.standard_normal(shape, dtype=np.float32), (0, 0), sigma)
    return np.asarray((noise - noise.mean()) / (noise.std() + 1e-6), dtype=np.float32)
