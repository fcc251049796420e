"""What camera, file and processing leave in the finest detail, where there is no morphology.

Below the resolution of the optics (Rayleigh: 0.61 λ / NA) every difference between pixels was made
by sensor, demosaicing, sharpening, resampling or compression. Most pictures are sampled too
coarsely for that, so chromatin reaches down to single pixels. What tells the two apart is colour:
stains absorb, so everything in a cell lies in the plane that its two stains span in optical
density (Beer–Lambert), while a sensor's noise lies anywhere. Across that plane, along its normal,
there is next to no morphology at any scale, and noise, its correlation and its spectrum are read
there. Of the flattest pixels only, because at edges the optics mix intensities, not densities.
Where pixels are small enough, luma and single channels are read beyond the resolution as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.observation import Observation
from leukoscope.imaging.stain_colours import quantile, stain_plane, thinned_places

WAVELENGTH_UM, APERTURE = 0.55, 1.3
RESOLUTION_UM = 0.61 * WAVELENGTH_UM / APERTURE
"""Smallest distance that the usual oil immersion lens resolves, 0.26 µm."""

REGIONS = ("inside", "outside")
_PLAIN_SIGMA = 0.7  # px, of the finest band where the scale is unknown
_LARGEST_SIGMA = 2.0
_TIMES = 3
_OVERSAMPLED = 4.0  # px to the resolution, from which on whole octaves hold no picture
_FLAT = 0.3  # share of a region's pixels, the flattest, that are read
_FEWEST, _MOST = 48, 6000  # pixels that a statistic needs; of more, some are left out
_INSIDE, _OUTSIDE = 7, 9  # px of the kernels that keep regions away from outlines
_LARGEST_PX = 1 << 20  # larger images are read in their middle
_LEAST = 0.05  # grey levels; noise below it is none
_HOT, _HOT_LEVELS = 10.0, 3.0  # a hot pixel: so many medians of the residue, and grey levels more
_BLOCK = 8
_EDGES = 0.95  # quantile of the slope above which a pixel is an edge

_PER_REGION = (
    "noise", "correlation_x", "correlation_y", "correlation_xy", "correlation_2", "tails",
    "outliers", "grid_x", "grid_y", "block_x", "block_y",
)  # fmt: skip
_BEYOND = (
    "correlation_x", "correlation_y", "correlation_xy", "correlation_2", "octave", "tails",
    "red_green", "blue_green", *(f"{c}_{a}" for c in ("red", "green", "blue") for a in "xy"),
)  # fmt: skip
_OUTSIDE_ONLY = (
    "slope_middle", "slope_coarse", "edge_fine", "edge_middle", "overshoot",
)  # fmt: skip
_GRID = ("luma_grid_x", "luma_grid_y")

GRAIN_STATISTICS: tuple[str, ...] = (
    *(f"{region}_{name}" for region in REGIONS for name in _PER_REGION),
    *_OUTSIDE_ONLY,
    "noise_inside_outside",
    *_GRID,
    *(f"{region}_beyond_{name}" for region in REGIONS for name in _BEYOND),
)
"""Names, in order, of what :func:`grain_statistics` returns; a region without pixels gives NaN.

Of the residue across the plane of stains, in the flattest 30 % of the pixels inside leukocytes
and of those outside:

* ``noise``: log₂ of its median absolute value in grey levels.
* ``correlation_*``: with the right, lower, diagonal and second neighbour; next to none for the
  noise of a sensor, high after blur, demosaicing or resampling, negative after sharpening.
* ``tails``: log₂ of 90th percentile over median.
* ``outliers``: log₂(1 + hot or dead pixels in 10,000), of all pixels of the region.
* ``grid_*``: steps at multiples of 8 px against other steps, in standard deviations; ``block_*``:
  the most conspicuous of the eight offsets of such a grid, in standard errors (log₂), because
  cutting out shifts the grid of a compression.

Inside, all but ``noise`` and ``outliers`` are read only where nothing shows outside.

Outside alone, where no leukocyte is: ``slope_*``, the next two octaves minus the finest;
``edge_*`` and ``overshoot``, slopes at fine against coarse scale where it is steepest (the width
of edges whatever their contrast) and what lies beyond both sides of them (sharpening);
``luma_grid_*`` as ``grid_*``.

``*_beyond_*``: of the residue of luma and of each channel, only where a pixel is so small that the
whole residue lies beyond what the optics resolve (four pixels or more to the resolution):
correlations with neighbours, what half the blur leaves against all of it (``octave``), tails,
correlation of channels. No level: noise follows the light, which is less in
a darker cell.
"""

_Float = NDArray[np.float32]
_Bool = NDArray[np.bool_]
_Places = tuple[NDArray[np.intp], NDArray[np.intp]]
_DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
_NEAR = ((0, 1), (1, 0), (1, 1), (0, 2))  # rows and columns to the neighbours of ``correlation_*``


@dataclass(frozen=True)
class _Picture:
    """An image in the forms that are read."""

    image: NDArray[np.uint8]  # (H, W, 3) uint8
    luma: _Float  # (H, W)
    density: _Float  # (H, W, 3) optical density
    smooth: _Float  # (H, W, 3) intensities without grain
    gains: _Float  # (H, W, 3) squared change of density with a grey level, of the same
    slope: _Float  # (H, W) steepness of smoothed luma
    sigma: float  # px, low-pass of the finest band


def finest_sigma(um_per_px: float | None) -> float:
    """Standard deviation in px of the low-pass whose residue is grain.

    A Gaussian of σ lets half of the amplitude of a period of 5.3 σ pass, so the residue holds
    what the optics do not resolve where σ is the resolution divided by 5.3. Below 0.7 px nothing
    is left to read, and above 2 px nothing is gained.

    >>> finest_sigma(None), round(finest_sigma(0.05), 2)
    (0.7, 0.97)
    """
    if um_per_px is None:
        return _PLAIN_SIGMA
    return float(np.clip(RESOLUTION_UM / um_per_px / 5.336, _PLAIN_SIGMA, _LARGEST_SIGMA))


def grain_statistics(seen: Observation, um_per_px: float | None = None) -> NDArray[np.float64]:
    """Numbers of the finest detail inside and outside leukocytes.

    Returns:
        (len(GRAIN_STATISTICS),) float64; NaN where a region is too small.
    """
    image, cell, lit = _middle(seen)
    picture = _prepared(image, finest_sigma(um_per_px))
    inside, outside = _shrunk(cell & lit, _INSIDE), _shrunk(lit & ~cell, _OUTSIDE)
    flat, flat_inside = _flattest(picture, outside), _flattest(picture, inside)
    across = _across(picture, outside, 3)
    of_outside = _of_region(across, outside, flat)
    of_inside = _of_region(
        _across(picture, inside, 1), inside, flat_inside, level_only=not np.isnan(of_outside[0])
    )
    return np.array(
        [
            *of_inside,
            *of_outside,
            *_octaves(across, flat),
            *_edges(picture, outside),
            of_inside[0] - of_outside[0],
            *_grid(picture, outside),
            *_beyond(picture, flat_inside, um_per_px),
            *_beyond(picture, flat, um_per_px),
        ],
        np.float64,
    )


def _middle(seen: Observation) -> tuple[NDArray[np.uint8], _Bool, _Bool]:
    """Image, leukocytes and lit pixels, of a large image those in its middle."""
    image, cell, lit = seen.image, seen.masks.cell, seen.lit
    if seen.bar is not None:
        lit = lit & ~seen.bar.mask
    height, width = cell.shape
    if height * width <= _LARGEST_PX:
        return image, cell, lit
    side = int(_LARGEST_PX**0.5)
    top = max(0, (height - side) // 2) // _BLOCK * _BLOCK  # keeps the grid of JPEG
    left = max(0, (width - side) // 2) // _BLOCK * _BLOCK
    cut = np.s_[top : top + side, left : left + side]
    return image[cut], cell[cut], lit[cut]


def _prepared(image: NDArray[np.uint8], sigma: float) -> _Picture:
    values = image.astype(np.float32)
    luma = np.asarray(cv2.transform(values, np.array([[0.299, 0.587, 0.114]])), np.float32)
    across, down = _slopes(_blur(luma, 2 * sigma))
    slope = np.asarray(np.abs(across) + np.abs(down), np.float32)
    density = np.asarray(cv2.LUT(image, _DENSITY), np.float32)
    smooth = _blur(values, 1.5)
    gains = np.square(1 / (smooth + 1))
    return _Picture(image, luma, density, smooth, gains, slope, sigma)


def _blur(values: _Float, sigma: float) -> _Float:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma), np.float32)


def _slopes(values: _Float) -> tuple[_Float, _Float]:
    return (
        np.asarray(cv2.Sobel(values, cv2.CV_32F, 1, 0, ksize=1), np.float32),
        np.asarray(cv2.Sobel(values, cv2.CV_32F, 0, 1, ksize=1), np.float32),
    )


def _shrunk(mask: _Bool, side: int) -> _Bool:
    """A mask away from its outline, but not from the border of the picture."""
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    return np.asarray(cv2.erode(framed, np.ones((side, side), np.uint8))[1:-1, 1:-1] > 0)


@dataclass(frozen=True)
class _Across:
    """The density across a region's plane of stains, ever smoother, and the unit it is read in."""

    steps: list[_Float]  # (H, W) each: as it is, then after one low-pass and another
    gain: _Float  # (H, W) what noise of one grey level in each channel gives

    def octave(self, number: int, where: _Places | slice = np.s_[:]) -> _Float:
        """What one low-pass takes away, in grey levels: however dark a pixel is."""
        fine, coarse = (self.steps[step][where] for step in (number, number + 1))
        return np.asarray((fine - coarse) / self.gain[where], np.float32)


def _across(picture: _Picture, region: _Bool, octaves: int) -> _Across | None:
    """The finest octaves across a region's plane of stains; None where it is too small."""
    plane = stain_plane(picture.smooth, region)
    if plane is None:
        return None
    across = np.asarray(cv2.transform(picture.density, plane.normal[None]), np.float32)
    gain = cv2.sqrt(cv2.transform(picture.gains, np.square(plane.normal)[None]))
    smoother = [_blur(across, picture.sigma * 2**k) for k in range(octaves)]
    return _Across([across, *smoother], np.asarray(gain, np.float32))


def _flattest(picture: _Picture, region: _Bool) -> _Places | None:
    """Rows and columns of the flattest pixels of a region, at most about 12,000."""
    inner = region.copy()
    inner[-2:] = False  # a pixel needs its neighbours
    inner[:, -2:] = False
    places, slope = np.flatnonzero(inner), picture.slope.ravel()
    if len(places) < 4 * _FEWEST:
        return None
    limit = quantile(slope[places[:: max(1, len(places) // _MOST)]], _FLAT)
    chosen = places[slope[places] <= limit]
    if len(chosen) < _FEWEST:
        return None
    rows, columns = np.divmod(chosen[:: max(1, len(chosen) // _MOST)], region.shape[1])
    return rows, columns


def _of_region(
    across: _Across | None, region: _Bool, places: _Places | None, *, level_only: bool = False
) -> list[float]:
    """The numbers of ``_PER_REGION``; of the level only, the others are NaN."""
    if across is None or places is None:
        return [np.nan] * len(_PER_REGION)
    band = across.octave(0)
    fine, size = band[places], np.abs(band[places])
    half = quantile(size, 0.5)
    found = dict.fromkeys(_PER_REGION, np.nan)
    found["noise"] = _log(half)
    hot = (np.abs(band) > _HOT * half + _HOT_LEVELS) & region
    found["outliers"] = float(np.log2(1 + 1e4 * np.count_nonzero(hot) / np.count_nonzero(region)))
    if level_only:
        return list(found.values())
    names = [name for name in _PER_REGION if name.startswith("correlation")]
    found |= dict(zip(names, _with_neighbours(band, fine, places, _NEAR), strict=True))
    found["tails"] = _log(quantile(size, 0.9)) - found["noise"]
    found["grid_x"], found["block_x"] = _steps(band, region)
    found["grid_y"], found["block_y"] = _steps(*_turned(band, region))
    return list(found.values())


def _log(level: float) -> float:
    return float(np.log2(level + _LEAST))


def _level(values: _Float) -> float:
    """log₂ of the median absolute value."""
    return _log(quantile(np.abs(values), 0.5))


def _with_neighbours(
    band: _Float, fine: _Float, places: _Places, away: Sequence[tuple[int, int]]
) -> list[float]:
    """Correlations of a residue at some places with its neighbours."""
    own, (rows, columns) = _clipped(fine), places
    return [_correlation(own, _clipped(band[rows + dy, columns + dx])) for dy, dx in away]


def _clipped(residue: _Float) -> _Float:
    """Extremes cut off so that no single edge decides a correlation."""
    limit = 4 * quantile(np.abs(residue), 0.5)
    return np.asarray(np.clip(residue, -limit, limit), np.float32)


def _correlation(a: _Float, b: _Float) -> float:
    """Of two residues of mean 0."""
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0


def _octaves(across: _Across | None, places: _Places | None) -> list[float]:
    if across is None or places is None:
        return [np.nan] * 2
    finest, middle, coarse = (_level(across.octave(number, places)) for number in range(3))
    return [middle - finest, coarse - finest]


def _edges(picture: _Picture, region: _Bool) -> list[float]:
    """Width of the steepest edges, and what overshoots beside them."""
    if np.count_nonzero(region) < 16 * _FEWEST:
        return [np.nan] * 3
    luma, slope = picture.luma, picture.slope.ravel()
    limit = quantile(slope[thinned_places(region, _MOST)], _EDGES)
    steep = np.flatnonzero(region & (picture.slope >= limit))

    def typical(values: _Float) -> float:
        return quantile(values.ravel()[steep], 0.5)

    coarse = typical(slope) + 0.25
    smooth = [_blur(luma, picture.sigma * scale) for scale in (1, 2)]
    fine, middle = (typical(np.add(*map(np.abs, _slopes(v)))) for v in (luma, smooth[0]))
    kernel = np.ones((5, 5), np.uint8)
    rise = np.asarray(cv2.dilate(luma, kernel)) - cv2.dilate(smooth[1], kernel)
    fall = np.asarray(cv2.erode(smooth[1], kernel)) - cv2.erode(luma, kernel)
    return [
        float(np.log2((fine + 0.25) / coarse)),
        float(np.log2((middle + 0.25) / coarse)),
        typical(rise + fall) / coarse,
    ]


def _turned(values: _Float, mask: _Bool) -> tuple[_Float, _Bool]:
    """Rows as columns."""
    return np.ascontiguousarray(values.T), np.ascontiguousarray(mask.T)


def _grid(picture: _Picture, region: _Bool) -> list[float]:
    """Steps of luma at multiples of 8, across and down."""
    across, down = (picture.luma, region), _turned(picture.luma, region)
    return [_steps(*across)[0], _steps(*down)[0]]


def _beyond(picture: _Picture, places: _Places | None, um_per_px: float | None) -> list[float]:
    """Residues of luma and of the channels that hold nothing the optics resolve."""
    unresolved = um_per_px is not None and RESOLUTION_UM / um_per_px >= _OVERSAMPLED
    if places is None or not unresolved:
        return [np.nan] * len(_BEYOND)
    residue = _sharp_residue(picture.luma, picture.sigma)
    octave = _sharp_residue(_blur(picture.luma, picture.sigma / 2), picture.sigma)
    fine = residue[places]
    half, high = (quantile(np.abs(fine), share) for share in (0.5, 0.9))
    values = [np.asarray(c, np.float32) for c in cv2.split(picture.image)]
    channels = [_sharp_residue(channel, picture.sigma) for channel in values]
    red, green, blue = (_clipped(channel[places]) for channel in channels)
    return [
        *_with_neighbours(residue, fine, places, _NEAR),
        _level(octave[places]) - _log(half),
        _log(high) - _log(half),
        _correlation(red, green),
        _correlation(blue, green),
        *(
            value
            for channel in channels
            for value in _with_neighbours(channel, channel[places], places, _NEAR[:2])
        ),
    ]


def _sharp_residue(values: _Float, sigma: float) -> _Float:
    """What a low-pass leaves out, three times over.

    Once would let through (π σ f)² · 2 of the strong contrasts at low frequencies f.
    """
    for _ in range(_TIMES):
        values = np.asarray(values - _blur(values, sigma), np.float32)
    return values


def _steps(values: _Float, inside: _Bool) -> tuple[float, float]:
    """Steps between columns beyond those beside them: at multiples of 8, and at the worst offset.

    Returns:
        Mean step at multiples of 8 minus the median of all offsets, in standard deviations, and
        log₂(1 + z) of the largest of the eight, in standard errors.
    """
    rise = np.asarray(cv2.absdiff(values[:, 1:], values[:, :-1]), np.float32)
    beyond = rise[:, 1:-1] - np.float32(0.5) * (rise[:, :-2] + rise[:, 2:])
    valid = inside[:, 1:-2] & inside[:, 2:-1]
    sample = np.abs(beyond.ravel()[thinned_places(valid, _MOST)])
    limit = 4 * (quantile(sample, 0.5) if len(sample) else 0.0) + _LEAST
    beyond = np.where(valid, np.clip(beyond, -limit, limit), np.float32(0))
    offsets = (np.arange(beyond.shape[1]) + 2) % _BLOCK  # the step between columns c − 1 and c
    sums, counts = (
        np.bincount(offsets, part.sum(axis=0, dtype=np.float64), minlength=_BLOCK)
        for part in (beyond, valid)
    )
    if counts.min() < _FEWEST / 2:
        return np.nan, np.nan
    means = sums / counts
    away = means - np.median(means)
    deviation = float(np.sqrt(cv2.norm(beyond, cv2.NORM_L2SQR) / counts.sum())) + 1e-6
    worst = float((away * np.sqrt(counts) / deviation).max())
    return float(away[0] / deviation), float(np.log2(1 + max(0.0, worst)))
