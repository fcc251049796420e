"""Stain normalisation, and whether the dye says that red and blue were exchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.config.preprocess import Macenko

BLACK = 12
"""A pixel whose brightest channel is below this is black, as around a cell that was cut out."""

_MAX_GAIN = 4.0  # a plain image has no contrast to stretch but noise
_LEAST_ANGLE = np.radians(2.0)  # between two stains; below, there is only one
_LEAST_PIXELS = 50  # for percentiles to mean anything
_RANGE = (10, 99)  # percentiles of the density that stand for plain ground and darkest nuclei
_LEAST_RANGE = 0.05  # density between them; a plain image has none
_DARKEST = 1.4  # density of the darkest nuclei in the result
_Float = NDArray[np.float64]
_SIDE = 112
_SHARE = 0.05


@dataclass(frozen=True)
class Stains:
    """Two stains of an image.

    Attributes:
        vectors: (2, 3) float64 unit optical densities in RGB; first the stain that absorbs more
            red than blue, which is that of nuclei.
        concentrations: (2,) float64, 99th percentiles of their amounts.
    """

    vectors: _Float
    concentrations: _Float


def lab_statistics(image: NDArray[np.uint8]) -> tuple[_Float, _Float] | None:
    """Mean and standard deviation of L (0–100), a and b over all pixels that are not black.

    Returns:
        Two (3,) arrays; None where every pixel is black.
    """
    lit = lit_pixels(image)
    if not lit.any():
        return None
    lab = _to_lab(image)[lit].astype(np.float64)
    return lab.mean(axis=0), lab.std(axis=0)


def reinhard(
    image: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.uint8]:
    """Shift and scale each LAB channel to a target (Reinhard et al. 2001, eq. 10–11).

    Channel by channel ``(x − mean of the image) · std of the target / std of the image + mean of
    the target``; in CIELAB, where the paper takes lαβ (doi 10.1109/38.946629). A channel is
    stretched at most fourfold.

    Args:
        mean: Mean of the target in L (0–100), a, b; ``std`` likewise.
    """
    statistics = lab_statistics(image)
    if statistics is None:
        return image
    own_mean, own_std = statistics
    gain = np.minimum(np.asarray(std) / np.maximum(own_std, 1e-6), _MAX_GAIN)
    lab = (_to_lab(image) - own_mean) * gain + np.asarray(mean)
    lab[:, :, 0] = np.clip(lab[:, :, 0], 0, 100)
    rgb = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB)
    changed = np.clip(np.rint(rgb * 255), 0, 255).astype(np.uint8)
    return np.where(lit_pixels(image)[:, :, None], changed, image)


def macenko(image: NDArray[np.uint8], step: Macenko) -> NDArray[np.uint8]:
    """Replace the image's two stains and their amounts by the target's (Macenko et al. 2009).

    Returns:
        (H, W, 3) uint8 RGB; the input itself where :func:`estimate_stains` finds no two stains.
    """
    found = estimate_stains(image, step)
    if found is None:
        return image
    density = optical_density(image, step.light).reshape(-1, 3)
    amounts = _amounts(density, found.vectors)
    amounts *= np.asarray(step.concentrations) / np.maximum(found.concentrations, 1e-6)
    levels = step.light * np.exp(-amounts @ _unit(np.asarray(step.stains, np.float64)))
    changed = np.clip(np.rint(levels), 0, 255).astype(np.uint8).reshape(image.shape)
    return np.where(lit_pixels(image)[:, :, None], changed, image)


def estimate_stains(image: NDArray[np.uint8], step: Macenko) -> Stains | None:
    """The two stains of an image (Macenko et al. 2009, doi 10.1109/ISBI.2009.5193250).

    Optical densities of stained pixels are projected on the plane of their two largest
    principal directions; the stains are the robust extremes of the angle in that plane. A pixel
    is stained by its mean density: a test of each channel, as is usual for tissue, would drop the
    violet nuclei of smears, which absorb hardly any blue.

    Returns:
        None where fewer than ``tissue_min`` of the pixels (or 50) are stained, or where the
        extremes differ by less than 2°.
    """
    lit = lit_pixels(image)
    density = optical_density(image, step.light)[lit]
    stained = density[density.mean(axis=1) >= step.density_min]
    if len(stained) < max(step.tissue_min * lit.sum(), _LEAST_PIXELS):
        return None
    _, directions = np.linalg.eigh(np.cov(stained.T))
    plane = directions[:, [2, 1]]
    # Signs of eigenvectors are arbitrary: turn the first towards the densities.
    plane *= np.where(stained.mean(axis=0) @ plane < 0, -1, 1)
    x, y = (stained @ plane).T
    low, high = np.percentile(
        np.arctan2(y, x), [step.angle_percentile, 100 - step.angle_percentile]
    )
    if high - low < _LEAST_ANGLE:
        return None
    ends = np.array([[np.cos(low), np.sin(low)], [np.cos(high), np.sin(high)]]) @ plane.T
    vectors = _unit(np.maximum(ends, 0))
    bluish = vectors[:, 0] - vectors[:, 2]
    if bluish[0] < bluish[1]:
        vectors = vectors[::-1]
    return Stains(vectors, np.percentile(_amounts(stained, vectors), 99, axis=0))


def grey_density(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image without its stain: mean optical density, on a scale of its own, as grey.

    Neither hue nor strength of stain and lamp are left: the ground (10th percentile of the
    density) becomes white, the darkest nuclei (99th) the same dark grey in every image. On
    phantoms colour statistics name the session far less often than after Macenko's or Reinhard's
    normalisation (``docs/protocols.md``), which leave hue, and where Macenko's finds no two stains
    the image as it was.

    Args:
        image: (H, W, 3) uint8 RGB; black surroundings of a cut-out cell become ground.

    Returns:
        (H, W, 3) uint8, three equal channels.
    """
    lit = lit_pixels(image)
    if not lit.any():
        return np.full_like(image, 255)
    red, green, blue = (cv2.LUT(plane, _densities(255)) for plane in cv2.split(image))
    density = np.asarray((red + green + blue) / 3, np.float64)
    low, high = np.percentile(density if lit.all() else density[lit], _RANGE)
    scaled = np.clip((density - low) / max(high - low, _LEAST_RANGE), 0, 1.2)
    levels = np.where(lit, 255 * np.exp(-_DARKEST * scaled), 255)
    return np.asarray(cv2.cvtColor(np.rint(levels).astype(np.uint8), cv2.COLOR_GRAY2RGB), np.uint8)


def luma(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma (ITU-R BT.601) of (H, W, 3) uint8 RGB, in all three channels."""
    levels = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.cvtColor(levels, cv2.COLOR_GRAY2RGB), np.uint8)


def optical_density(image: NDArray[np.uint8], light: int) -> _Float:
    """−ln((I + 1) / I₀), Beer–Lambert, kept finite at 0; shape of the image, float64.

    >>> optical_density(np.full((1, 1, 3), 239, np.uint8), 240).max()
    np.float64(-0.0)
    """
    return np.asarray(_densities(light)[image], np.float64)


def _densities(light: int) -> _Float:
    """(256,) optical density of each level."""
    return np.asarray(-np.log((np.arange(256) + 1.0) / light), np.float64)


def _amounts(density: _Float, vectors: _Float) -> _Float:
    """(n, 2) least-squares amounts of the stains."""
    return np.asarray(density @ np.linalg.pinv(vectors), np.float64)


def _unit(vectors: _Float) -> _Float:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float64)


def _to_lab(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    scaled = image.astype(np.float32) / np.float32(255)
    return np.asarray(cv2.cvtColor(scaled, cv2.COLOR_RGB2LAB), np.float32)


def lit_pixels(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(H, W) bool, the pixels whose brightest channel is at least :data:`BLACK`."""
    red, green, blue = cv2.split(image)
    return np.asarray(cv2.max(cv2.max(red, green), blue) >= BLACK)


def nuclear_blue(image: NDArray[np.uint8]) -> float:
    """Mean of blue − red over the twentieth of the pixels with the least green, −255 to 255.

    Args:
        image: (H, W, 3) uint8 RGB; black pixels do not count, an all black image has 0.

    >>> violet = np.full((8, 8, 3), (90, 40, 130), np.uint8)
    >>> nuclear_blue(violet), nuclear_blue(violet[..., ::-1])
    (40.0, -40.0)
    """
    small = cv2.resize(np.ascontiguousarray(image), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    red, green, blue = cv2.split(small)
    lit = cv2.inRange(cv2.max(cv2.max(red, green), blue), BLACK, 255)
    total = cv2.countNonZero(lit)
    if not total:
        return 0.0
    count = max(1, round(_SHARE * total))
    below = np.cumsum(cv2.calcHist([green], [0], lit, [256], [0, 256]))
    level = int(np.searchsorted(below, count))
    # Of the pixels at the last level only some belong; all of them stand for these.
    found = 0.0
    for low, high, number in (
        (0, level - 1, below[level - 1] if level else 0),
        (level, level, count - (below[level - 1] if level else 0)),
    ):
        if number:
            inside = cv2.bitwise_and(lit, cv2.inRange(green, low, high))
            mean = cv2.mean(small, inside)
            found += number * (mean[2] - mean[0])
    return float(found / count)


def blue_range(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """First and 99th percentile over training images, where these have the sign of purple nuclei.

    Args:
        values: (n,) of :func:`nuclear_blue`.

    Returns:
        None where the range holds zero: an exchange could not be recognised.
    """
    low, high = (float(q) for q in np.quantile(values, (0.01, 0.99)))
    return (low, high) if low > 0 else None


def looks_exchanged(value: float, limits: tuple[float, float] | None) -> bool:
    """Whether an image is outside the range of the training images, and inside once exchanged.

    >>> looks_exchanged(-40.0, (20.0, 60.0)), looks_exchanged(30.0, (20.0, 60.0))
    (True, False)
    """
    return limits is not None and limits[0] <= -value <= limits[1]
