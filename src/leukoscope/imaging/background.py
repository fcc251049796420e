"""What the background tells about where and how an image was taken, without any cell."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.quality import noise_level
from leukoscope.imaging.scale_bar import ScaleBar
from leukoscope.imaging.segment import LeukocyteMasks
from leukoscope.imaging.stain import BLACK, lit_pixels

_GROUND = ("ground_l", "ground_a", "ground_b")
_SPREAD = ("ground_l_spread", "ground_a_spread", "ground_b_spread")
_RED = ("red_l", "red_a", "red_b")
_SURFACE = tuple(f"{c}_{term}" for c in "lab" for term in ("x", "y", "radial"))
_SHARES = ("ground_share", "black_share", "clipped_share")
_TEXTURE = ("noise", "focus", "blockiness")
_BAR = (
    "bar_present", "bar_red", "bar_x", "bar_y", "bar_width", "bar_height", "bar_thickness",
)  # fmt: skip
BACKGROUND_FEATURES: tuple[str, ...] = (
    *_GROUND,
    *_SPREAD,
    *_RED,
    *_SURFACE,
    *_SHARES,
    *_TEXTURE,
    *_BAR,
)
"""Names, in order, of what :func:`background_features` returns.

* ``ground_*``: median CIELAB of the plain ground (what is neither leukocyte nor bar nor six units
  of lightness darker than a smooth surface through the brighter Otsu class); ``*_spread`` its
  10–90 % range.
* ``red_*``: median CIELAB of the darker rest, mostly red cells; the ground's where there is none.
* ``l_x``, ``l_y``, ``l_radial`` …: least-squares plane and x² + y² term of the ground's L, a, b
  over [−1, 1]²: uneven illumination, vignetting, coloured corners.
* ``ground_share``, ``black_share`` (all channels below 12), ``clipped_share`` (a channel at 255)
  of the image outside leukocytes.
* ``noise``: Immerkær's estimate; ``focus``: log(1 + variance of the Laplacian) outside
  leukocytes; ``blockiness``: step over JPEG block borders minus steps elsewhere, grey levels.
* ``bar_*``: whether a scale bar is burned in, red or not, its box and stroke as shares of the
  image; 0 where there is none.
"""

COLOUR_STATISTICS: tuple[str, ...] = tuple(
    f"{channel}_{statistic}"
    for channel in ("red", "green", "blue")
    for statistic in ("mean", "sd", "p5", "p25", "p50", "p75", "p95")
)
"""Names, in order, of what :func:`colour_statistics` returns."""

_GLYPHS = (8, 24)  # rows and columns of the picture of a bar's ink
_FEWEST = 30  # pixels that a statistic needs
_Scalar = TypeVar("_Scalar", np.uint8, np.bool_)
_GRID = 72  # colours are read on about this many rows and columns
_STAINED = 6.0  # lightness by which a red cell is darker than the ground around it
_LEVELS = 4


def background_features(
    image: NDArray[np.uint8], masks: LeukocyteMasks, bar: ScaleBar | None
) -> NDArray[np.float64]:
    """Numbers that describe the acquisition, not the leukocytes.

    Returns:
        (len(BACKGROUND_FEATURES),) float64, all finite, also for single cells on black.
    """
    height, width = image.shape[:2]
    outside = cv2.dilate(masks.cell.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    if bar is not None:
        outside &= ~bar.mask
    if outside.sum() < _FEWEST * 16:
        outside = np.ones((height, width), np.bool_)
    step = max(1, max(height, width) // _GRID)
    scaled = np.ascontiguousarray(image[::step, ::step]).astype(np.float32) / np.float32(255)
    lab = np.asarray(cv2.cvtColor(scaled, cv2.COLOR_RGB2LAB), np.float32)
    ground, stained = _split(lab, outside[::step, ::step])
    plain = lab[ground]
    colour = np.median(plain, axis=0)
    spread = np.diff(np.percentile(plain, [10, 90], axis=0), axis=0)[0]
    red = np.median(lab[stained], axis=0) if stained.sum() >= _FEWEST else colour
    coarse = outside[::step, ::step]
    coarse = coarse if coarse.any() else np.ones_like(coarse)
    highest = image[::step, ::step].max(axis=2)[coarse]
    shares = (ground.sum() / coarse.sum(), (highest < BLACK).mean(), (highest == 255).mean())
    return np.array(
        [
            *colour,
            *spread,
            *red,
            *_surface(lab, ground)[1:].T.ravel(),
            *shares,
            *_texture(image, outside),
            *_bar_style(bar, height, width),
        ],
        np.float64,
    )


def ground_colours(
    image: NDArray[np.uint8], masks: LeukocyteMasks, bar: ScaleBar | None
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """CIELAB on the coarse grid, and where plain ground and stained remainder show on it.

    Returns:
        (h, w, 3) float32 L, a, b; (h, w) bool plain ground; (h, w) bool mostly red cells. Both are
        all False where next to nothing lies outside the leukocytes.
    """
    outside = cv2.dilate(masks.cell.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    if bar is not None:
        outside &= ~bar.mask
    sample = on_grid(image)
    scaled = sample.astype(np.float32) / np.float32(255)
    lab = np.asarray(cv2.cvtColor(scaled, cv2.COLOR_RGB2LAB), np.float32)
    coarse = on_grid(outside) & lit_pixels(sample)
    if coarse.sum() < _FEWEST * 4:
        nowhere = np.zeros(coarse.shape, np.bool_)
        return lab, nowhere, nowhere
    return (lab, *_split(lab, coarse))


def on_grid(values: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """The rows and columns, about 72 of the longer side, at which colours are read."""
    step = max(1, max(values.shape[:2]) // _GRID)
    return np.ascontiguousarray(values[::step, ::step])


def ground_surface(lab: NDArray[np.float32], ground: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Uneven light: plane and x² + y² term of L, a and b of the ground over [−1, 1]².

    Args:
        lab: (h, w, 3) CIELAB.
        ground: (h, w) bool, where plain ground shows.

    Returns:
        (9,) float64: x, y and radial term of L, then of a, then of b.
    """
    return np.asarray(_surface(lab, ground)[1:].T.ravel(), np.float64)


def colour_statistics(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Seven statistics of each channel: all that a classifier without any shape may see.

    Returns:
        (21,) float64, 0–255: mean, standard deviation, percentiles 5, 25, 50, 75, 95 (linear
        interpolation) of red, then green, then blue.

    >>> colour_statistics(np.full((4, 4, 3), 7, np.uint8))[:3].tolist()
    [7.0, 0.0, 7.0]
    """
    result = np.empty((3, 7))
    for channel, values in enumerate(cv2.split(image)):
        result[channel] = _histogram_statistics(histogram(np.asarray(values, np.uint8)))
    return result.ravel()


def histogram(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each of the 256 levels stands in (H, W) values."""
    counts = cv2.calcHist([values], [0], None, [256], [0, 256])  # exact up to 2²⁴ of a level
    if values.size > 1 << 24:
        return np.bincount(values.ravel(), minlength=256)
    return np.asarray(counts, np.float32).ravel().astype(np.int64)


def bar_statistics(image: NDArray[np.uint8], bar: ScaleBar | None) -> NDArray[np.float64]:
    """All that a classifier may see of the burned-in scale bar, and nothing of the smear.

    Returns:
        (199,) float64: the seven ``bar_*`` numbers of :data:`BACKGROUND_FEATURES`, then its ink
        as 8 × 24 shares of 0 to 1; all 0 where there is no bar.
    """
    ink = np.zeros(_GLYPHS)
    if bar is not None:
        x0, y0, x1, y1 = bar.box
        cut = bar.strokes[y0:y1, x0:x1].astype(np.float32)
        ink = np.asarray(cv2.resize(cut, _GLYPHS[::-1], interpolation=cv2.INTER_AREA), np.float64)
    return np.array([*_bar_style(bar, *image.shape[:2]), *ink.ravel()])


def _histogram_statistics(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    total = int(counts.sum())
    levels = np.arange(256)
    mean = float(counts @ levels) / total
    variance = max(0.0, float(counts @ (levels - mean) ** 2) / total)
    place = np.array([5, 25, 50, 75, 95]) / 100 * (total - 1)
    below = np.floor(place).astype(np.int64)
    cumulative = np.cumsum(counts)
    low = np.searchsorted(cumulative, below, side="right")
    high = np.searchsorted(cumulative, np.minimum(below + 1, total - 1), side="right")
    return np.array([mean, np.sqrt(variance), *(low + (place - below) * (high - low))])


def _split(
    lab: NDArray[np.float32], outside: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Plain ground and stained remainder of what lies outside the leukocytes."""
    if outside.sum() < _FEWEST:
        outside = np.ones_like(outside)
    lightness = lab[:, :, 0]
    levels = np.clip(lightness * 2.55, 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(
        levels[outside].reshape(-1, 1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU
    )
    ground = outside & (levels > threshold)
    # Otsu's threshold cuts through uneven light, so the ground is followed along its slope.
    for _ in range(3):
        if ground.sum() < _FEWEST:
            return outside, np.zeros_like(outside)
        surface = _terms(*lightness.shape) @ _surface(lab, ground)[:, 0]
        ground = outside & (lightness > surface - _STAINED)
    return ground, outside & ~ground


@lru_cache(maxsize=8)
def _terms(height: int, width: int) -> NDArray[np.float64]:
    """(H, W, 4): 1, x, y, x² + y² over [−1, 1]²."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return np.stack([np.ones_like(x), x, y, x * x + y * y], axis=2)


def _surface(lab: NDArray[np.float32], ground: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(4, 3): coefficients of 1, x, y, x² + y² for each channel of Lab."""
    design = _terms(*ground.shape)[ground]
    values = lab[ground].astype(np.float64)
    mean = values.mean(axis=0)
    # The ridge term decides where the ground shows in one place only.
    ridge = 1e-3 * len(design) * np.diag([1e-3, 1, 1, 1])
    fit = np.linalg.solve(design.T @ design + ridge, design.T @ (values - mean))
    fit[0] += mean
    return np.asarray(fit)


def _texture(image: NDArray[np.uint8], outside: NDArray[np.bool_]) -> tuple[float, float, float]:
    luma = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    laplacian = cv2.Laplacian(luma, cv2.CV_32F, ksize=1)
    focus = float(np.log1p(laplacian[outside].var(dtype=np.float64)))
    if luma.shape[1] < 17:
        return noise_level(luma), focus, 0.0
    steps = cv2.absdiff(luma[:, 1:], luma[:, :-1]).mean(axis=0)
    border = np.arange(1, luma.shape[1]) % 8 == 0
    return noise_level(luma), focus, float(steps[border].mean() - steps[~border].mean())


def _bar_style(bar: ScaleBar | None, height: int, width: int) -> tuple[float, ...]:
    if bar is None:
        return (0.0,) * len(_BAR)
    x0, y0, x1, y1 = bar.box
    return (
        1.0,
        float(bar.colour == "red"),
        x0 / width,
        y0 / height,
        (x1 - x0) / width,
        (y1 - y0) / height,
        bar.thickness_px / height,
    )


def describe_appearance(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What a picture looks like from afar: its colours, their relation, its grain at four scales.

    A network's features are made to ignore stain and light, so that a negative of a field looks
    to them much like the field; these numbers do not.

    Returns:
        (29,) float64: ``colour_statistics`` in units of 16 grey levels (21), the mean difference
        of the channels red − green and green − blue over the darkest and over the lightest
        quarter of the pixels in the same units (4), and log₂(1 + standard deviation) of what each
        of four steps of a Laplacian pyramid of the luma takes away (4; Burt & Adelson 1983).

    >>> describe_appearance(np.full((64, 64, 3), 32, np.uint8))[[0, 1, -1]].tolist()
    [2.0, 0.0, 0.0]
    """
    luma = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    below = np.cumsum(histogram(luma)) / luma.size
    low, high = np.searchsorted(below, (0.25, 0.75))
    contrasts = []
    for darkest, lightest in ((0, low), (high, 255)):
        inside = cv2.inRange(luma, int(darkest), int(lightest))
        red, green, blue = cv2.mean(image, inside)[:3]
        contrasts += [red - green, green - blue]
    colours = np.array([*colour_statistics(image), *contrasts])
    return np.concatenate([colours / 16, _grain(luma)])


def _grain(luma: NDArray[np.uint8]) -> list[float]:
    """log₂(1 + standard deviation) of each step of a Laplacian pyramid."""
    picture, found = luma.astype(np.float32), []
    for _ in range(_LEVELS):
        smaller = cv2.pyrDown(picture)
        again = cv2.pyrUp(smaller, dstsize=(picture.shape[1], picture.shape[0]))
        deviation = cv2.meanStdDev(cv2.subtract(picture, again))[1]
        found.append(float(np.log2(1 + deviation[0, 0])))
        picture = np.asarray(smaller, np.float32)
    return found
