"""Everything of a field but its leukocytes: red cells, platelets, precipitate.

Nothing here depends on a class. Red cells keep out of a clear zone around the place of each
leukocyte; the zones are drawn here too and are wider than the largest leukocyte, so that a
field whose leukocytes are taken away shows the same empty zones whatever the class was.

A leukocyte is an outline, a nucleus, chromatin, nucleoli and cytoplasm from drawn attributes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.phantom.morphology import LARGEST_DIAMETER_UM, CellAttributes
from leukoscope.phantom.session import Session

PX_PER_UM = 3.3 / 224
"""Scale as a share of the field's width: a 7.2 µm red cell is 24 px wide in a 224 px field."""

LEUKOCYTES = (3, 8)
"""Smallest and largest number of leukocytes aimed at in a field."""

Canvas = NDArray[np.float32]
Patch = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """The background of a field and the places that are kept free for leukocytes."""

    amounts: Canvas  # (S, S, 3) float32, amounts of the stains (see session)
    red: Canvas  # (S, S) float32 in 0–1, coverage by red cells
    places: NDArray[np.float64]  # (n, 2) float64, x and y of each leukocyte in px of the canvas
    um: float  # length of 1 µm in px of the canvas


def draw_scene(rng: np.random.Generator, session: Session, canvas_px: int) -> Scene:
    """Draw the background of one field of a session on a square canvas."""
    um = PX_PER_UM * canvas_px
    amounts = np.zeros((canvas_px, canvas_px, 3), np.float32)
    red = np.zeros((canvas_px, canvas_px), np.float32)
    places = _draw_places(rng, canvas_px, um)
    radii = (LARGEST_DIAMETER_UM / 2 + rng.uniform(0.4, 1.4, len(places))) * um
    zones = np.column_stack([places, radii])
    cells = _place_red_cells(rng, session, zones, canvas_px, um)
    _add_red_cells(amounts, red, cells, rng, session)
    _add_platelets(amounts, rng, session, zones, um)
    _add_precipitate(amounts, rng, session, zones, um)
    return Scene(amounts, red, places, um)


def _is_free(zones: NDArray[np.float64], x: float, y: float, radius: float) -> bool:
    """Whether a disc keeps out of all zones, given as rows of x, y and radius."""
    return bool(np.all(np.hypot(zones[:, 0] - x, zones[:, 1] - y) >= zones[:, 2] + radius))


def _draw_places(rng: np.random.Generator, canvas_px: int, um: float) -> NDArray[np.float64]:
    wanted = rng.integers(LEUKOCYTES[0], LEUKOCYTES[1] + 1)
    margin = 4.0 * um
    places: list[NDArray[np.float64]] = []
    for candidate in rng.uniform(margin, canvas_px - margin, (60, 2)):
        near = 0.98 * LARGEST_DIAMETER_UM * um
        if all(np.hypot(*(candidate - other)) > near for other in places):
            places.append(candidate)
        if len(places) == wanted:
            break
    return np.array(places)


def _place_red_cells(
    rng: np.random.Generator,
    session: Session,
    zones: NDArray[np.float64],
    canvas_px: int,
    um: float,
) -> NDArray[np.float64]:
    """(n, 3) x, y and radius of red cells that keep out of the zones."""
    mean = session.red_diameter_um / 2 * um
    free = max(0.0, (canvas_px + 2 * mean) ** 2 - float((np.pi * zones[:, 2] ** 2).sum()))
    wanted = int(free * session.crowding * rng.uniform(0.8, 1.2) / (np.pi * mean**2))
    tries = 4 * wanted + 8
    radii = mean * rng.normal(1.0, 0.07, tries).clip(0.75, 1.25)
    uniform = rng.uniform(-mean, canvas_px + mean, (tries, 2))
    angles, gaps = rng.uniform(0, 2 * np.pi, tries), rng.uniform(0.72, 1.0, tries)
    joins, hosts = rng.random(tries) < session.clumping, rng.random(tries)
    cells = np.empty((tries, 3))
    n = 0
    for t in range(tries):
        centre, spread = uniform[t], 0.9
        if joins[t] and n:
            host = cells[int(hosts[t] * n)]
            step = gaps[t] * (host[2] + radii[t])
            centre = host[:2] + step * np.array([np.cos(angles[t]), np.sin(angles[t])])
            spread = 0.7
        if not _is_free(zones, centre[0], centre[1], radii[t]):
            continue
        known = cells[:n]
        if np.any(np.hypot(*(known[:, :2] - centre).T) < spread * (known[:, 2] + radii[t])):
            continue
        cells[n] = (*centre, radii[t])
        n += 1
        if n == wanted:
            break
    return cells[:n]


def _add_red_cells(
    amounts: Canvas,
    red: Canvas,
    cells: NDArray[np.float64],
    rng: np.random.Generator,
    session: Session,
) -> None:
    """All red cells at once: one patch each, from a radial profile over a wavy outline."""
    n = len(cells)
    if n == 0:
        return
    reach = int(np.ceil(cells[:, 2].max() * 1.2)) + 2
    corner = np.floor(cells[:, :2]).astype(int) - reach
    rho = _relative_distance(rng, cells, reach, session.poikilocytosis)
    cover = np.clip((1 - rho) * _column(cells[:, 2]) + 0.5, 0, 1)
    depth = _column(rng.normal(session.pallor, 0.08, n).clip(0.05, 0.9))
    width = _column(rng.normal(0.46, 0.06, n).clip(0.28, 0.62))
    dye = _column(rng.normal(1.0, 0.07, n).clip(0.8, 1.2))
    # A biconcave disc: thickest at 0.7–0.8 of the radius, thin in the middle.
    body = dye * (1 - depth * np.exp(-((rho / width) ** 2)) - 0.25 * rho**8)
    layers = np.maximum(body, 0) * cover
    for index in range(n):
        _stamp(amounts[..., 0], layers[index], corner[index], "add")
        _stamp(red, cover[index], corner[index], "max")
    np.minimum(amounts[..., 0], 1.75, out=amounts[..., 0])


def _relative_distance(
    rng: np.random.Generator, cells: NDArray[np.float64], reach: int, variation: float
) -> Canvas:
    """(n, P, P) distance from each cell's centre, relative to its wavy outline."""
    axis = np.arange(-reach, reach + 1, dtype=np.float32)
    part = (cells[:, :2] - np.floor(cells[:, :2])).astype(np.float32)
    x = axis[None, None, :] - part[:, 0, None, None]
    y = axis[None, :, None] - part[:, 1, None, None]
    distance = np.sqrt(x**2 + y**2) + np.float32(1e-3)
    # Waves of order 2 to 4 from powers of the unit vector: no angle has to be computed.
    power = unit = (x + 1j * y) / distance
    outline = np.ones_like(distance)
    for spread in (0.05, 0.02, 0.012):
        power = power * unit
        a, b = (_column(values) for values in variation * rng.normal(0, spread, (2, len(cells))))
        outline += a * power.real + b * power.imag
    return np.asarray(distance / (outline * _column(cells[:, 2])), dtype=np.float32)


def _column(values: NDArray[np.float64]) -> Canvas:
    """One number a cell, to be combined with (n, P, P) patches."""
    return values.astype(np.float32)[:, None, None]


def _stamp(canvas: Canvas, patch: Canvas, corner: NDArray[np.int_], mode: str) -> None:
    x0, y0 = int(corner[0]), int(corner[1])
    top, left = max(0, y0), max(0, x0)
    bottom = min(canvas.shape[0], y0 + patch.shape[0])
    right = min(canvas.shape[1], x0 + patch.shape[1])
    if top >= bottom or left >= right:
        return
    target = canvas[top:bottom, left:right]
    source = patch[top - y0 : bottom - y0, left - x0 : right - x0]
    if mode == "add":
        target += source
    else:
        np.maximum(target, source, out=target)


def _add_platelets(
    amounts: Canvas,
    rng: np.random.Generator,
    session: Session,
    zones: NDArray[np.float64],
    um: float,
) -> None:
    side = amounts.shape[0]
    body = np.zeros((side, side), np.float32)
    grains = np.zeros((side, side), np.float32)
    for _ in range(rng.poisson(session.platelets)):
        x, y = rng.uniform(0, side, 2)
        axes = rng.uniform(0.75, 1.5, 2) * um
        if not _is_free(zones, x, y, axes.max()):
            continue
        _ellipse(body, x, y, axes, rng.uniform(0, 180), rng.uniform(0.5, 0.9))
        for _ in range(rng.integers(3, 7)):
            dx, dy = rng.normal(0, 0.4, 2) * axes.min()
            radius = rng.uniform(0.18, 0.34) * um
            _ellipse(grains, x + dx, y + dy, np.array([radius, radius]), 0, 0.55)
    amounts[..., 1] += 0.8 * cv2.GaussianBlur(body, (0, 0), 0.25 * um)
    amounts[..., 2] += 0.35 * cv2.GaussianBlur(body, (0, 0), 0.25 * um)
    amounts[..., 2] += cv2.GaussianBlur(grains, (0, 0), 0.12 * um)


def _add_precipitate(
    amounts: Canvas,
    rng: np.random.Generator,
    session: Session,
    zones: NDArray[np.float64],
    um: float,
) -> None:
    side = amounts.shape[0]
    layer = np.zeros((side, side), np.float32)
    for _ in range(rng.poisson(session.precipitate)):
        x, y = rng.uniform(0, side, 2)
        if not _is_free(zones, x, y, 3 * um):
            continue
        for _ in range(rng.integers(6, 16)):
            dx, dy = rng.normal(0, 1.3 * um, 2).clip(-2.1 * um, 2.1 * um)
            axes = rng.uniform(0.12, 0.35, 2) * um
            _ellipse(layer, x + dx, y + dy, axes, rng.uniform(0, 180), rng.uniform(0.7, 1.2))
    if layer.any():
        amounts[..., 2] += cv2.GaussianBlur(layer, (0, 0), 0.1 * um)


def _ellipse(
    canvas: Canvas, x: float, y: float, axes: NDArray[np.float64], angle: float, value: float
) -> None:
    shift = 4  # OpenCV draws in fixed point with this many fractional bits
    one = 1 << shift
    centre = (round(x * one), round(y * one))
    half = (max(1, round(axes[0] * one)), max(1, round(axes[1] * one)))
    cv2.ellipse(canvas, centre, half, angle, 0, 360, value, -1, cv2.LINE_8, shift)


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
