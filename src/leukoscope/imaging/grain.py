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

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.observation import Observation
from leukoscope.imaging.stain_colours import stain_plane

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


@dataclass(frozen=True)
class _Picture:
    """An image in the forms that are read."""

    image: NDArray[np.uint8]  # (H, W, 3) uint8
    luma: _Float  # (H, W)
    smooth: _Float  # (H, W, 3) intensities without grain
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
    regions = {"inside": _shrunk(cell & lit, _INSIDE), "outside": _shrunk(lit & ~cell, _OUTSIDE)}
    bands = _across(picture, regions["outside"], 3)
    outside = _of_region(picture, bands, regions["outside"])
    inside = _of_region(
        picture, _across(picture, regions["inside"], 1), regions["inside"],
        level_only=not np.isnan(outside[0]),
    )  # fmt: skip
    return np.array(
        [
            *inside,
            *outside,
            *_octaves(picture, bands, regions["outside"]),
            *_edges(picture, regions["outside"]),
            inside[0] - outside[0],
            *_grid(picture, regions["outside"]),
            *(value for name in REGIONS for value in _beyond(picture, regions[name], um_per_px)),
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
    return _Picture(image, luma, _blur(values, 1.5), slope, sigma)


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


def _across(picture: _Picture, region: _Bool, octaves: int) -> list[_Float] | None:
    """The finest octaves of the density across a region's plane of stains, in grey levels.

    Divided by what noise of one grey level in each channel gives, so that they do not depend on how
    dark a pixel is.
    """
    plane = stain_plane(picture.smooth, region)
    if plane is None:
        return None
    table = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
    density = cv2.LUT(picture.image, table)
    across = np.asarray(cv2.transform(density, plane.normal[None]), np.float32)
    gains = plane.normal.astype(np.float32) / (picture.smooth + 1)
    gain = cv2.sqrt(cv2.transform(np.square(gains), np.ones((1, 3), np.float32)))
    steps = [across, *(_blur(across, picture.sigma * 2**k) for k in range(octaves))]
    return [np.asarray((steps[i] - steps[i + 1]) / gain, np.float32) for i in range(octaves)]


def _flattest(picture: _Picture, region: _Bool) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    inner = region.copy()
    inner[-2:] = False  # a pixel needs its neighbours
    inner[:, -2:] = False
    slopes = picture.slope[inner]
    if len(slopes) < 4 * _FEWEST:
        return None
    limit = np.quantile(slopes[:: max(1, len(slopes) // _MOST)], _FLAT)
    rows, columns = np.nonzero(inner & (picture.slope <= limit))
    step = max(1, len(rows) // _MOST)
    return (rows[::step], columns[::step]) if len(rows) >= _FEWEST else None


def _of_region(
    picture: _Picture, bands: list[_Float] | None, region: _Bool, *, level_only: bool = False
) -> list[float]:
    """The numbers of ``_PER_REGION``; of the level only, the others are NaN."""
    places = _flattest(picture, region)
    if bands is None or places is None:
        return [np.nan] * len(_PER_REGION)
    rows, columns = places
    fine = bands[0][rows, columns]
    half = float(np.quantile(np.abs(fine), 0.5))
    found = dict.fromkeys(_PER_REGION, np.nan)
    found["noise"] = _level(fine)
    hot = np.abs(bands[0][region]) > _HOT * half + _HOT_LEVELS
    found["outliers"] = float(np.log2(1 + 1e4 * hot.mean()))
    if level_only:
        return list(found.values())
    near = [bands[0][rows + dy, columns + dx] for dy, dx in ((0, 1), (1, 0), (1, 1), (0, 2))]
    high = float(np.quantile(np.abs(fine), 0.9))
    names = [name for name in _PER_REGION if name.startswith("correlation")]
    found |= {name: _correlation(fine, other) for name, other in zip(names, near, strict=True)}
    found["tails"] = float(np.log2((high + _LEAST) / (half + _LEAST)))
    found["grid_x"], found["block_x"] = _steps(bands[0], region)
    found["grid_y"], found["block_y"] = _steps(bands[0].T, region.T)
    return list(found.values())


def _level(values: _Float) -> float:
    """log₂ of the median absolute value."""
    return float(np.log2(np.median(np.abs(values)) + _LEAST))


def _correlation(first: _Float, second: _Float) -> float:
    """Of two residues of mean 0, their extremes cut off so that no single edge decides."""
    limits = [4 * float(np.median(np.abs(v))) for v in (first, second)]
    a, b = (np.clip(v, -limit, limit) for v, limit in zip((first, second), limits, strict=True))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0


def _octaves(picture: _Picture, bands: list[_Float] | None, region: _Bool) -> list[float]:
    places = _flattest(picture, region)
    if bands is None or places is None:
        return [np.nan] * 2
    levels = [_level(band[places]) for band in bands]
    return [levels[1] - levels[0], levels[2] - levels[0]]


def _edges(picture: _Picture, region: _Bool) -> list[float]:
    """Width of the steepest edges, and what overshoots beside them."""
    if region.sum() < 16 * _FEWEST:
        return [np.nan] * 3
    luma = picture.luma
    slopes = picture.slope[region]
    limit = np.quantile(slopes[:: max(1, len(slopes) // _MOST)], _EDGES)
    steep = region & (picture.slope >= limit)
    coarse = float(np.median(picture.slope[steep])) + 0.25
    smooth = [_blur(luma, picture.sigma * scale) for scale in (1, 2)]
    fine, middle = (
        float(np.median(np.add(*map(np.abs, _slopes(v)))[steep])) for v in (luma, smooth[0])
    )
    kernel = np.ones((5, 5), np.uint8)
    rise = np.asarray(cv2.dilate(luma, kernel)) - cv2.dilate(smooth[1], kernel)
    fall = np.asarray(cv2.erode(smooth[1], kernel)) - cv2.erode(luma, kernel)
    return [
        float(np.log2((fine + 0.25) / coarse)),
        float(np.log2((middle + 0.25) / coarse)),
        float(np.median((rise + fall)[steep]) / coarse),
    ]


def _grid(picture: _Picture, region: _Bool) -> list[float]:
    """Steps of luma at multiples of 8, across and down."""
    turned = ((picture.luma, region), (picture.luma.T, region.T))
    return [_steps(values, mask)[0] for values, mask in turned]


def _beyond(picture: _Picture, region: _Bool, um_per_px: float | None) -> list[float]:
    """Residues of luma and of the channels that hold nothing the optics resolve."""
    if um_per_px is None or RESOLUTION_UM / um_per_px < _OVERSAMPLED:
        return [np.nan] * len(_BEYOND)
    places = _flattest(picture, region)
    if places is None:
        return [np.nan] * len(_BEYOND)
    rows, columns = places
    residue = _sharp_residue(picture.luma, picture.sigma)
    octave = _sharp_residue(_blur(picture.luma, picture.sigma / 2), picture.sigma)
    fine = residue[rows, columns]
    absolute = np.abs(fine)
    high, half = np.quantile(absolute, [0.9, 0.5])
    values = [np.asarray(c, np.float32) for c in cv2.split(picture.image)]
    red, green, blue = (_sharp_residue(channel, picture.sigma) for channel in values)
    return [
        *(
            _correlation(fine, residue[rows + dy, columns + dx])
            for dy, dx in ((0, 1), (1, 0), (1, 1), (0, 2))
        ),
        _level(octave[rows, columns]) - _level(fine),
        float(np.log2((high + _LEAST) / (half + _LEAST))),
        _correlation(red[rows, columns], green[rows, columns]),
        _correlation(blue[rows, columns], green[rows, columns]),
        *(
            _correlation(one[rows, columns], one[rows + dy, columns + dx])
            for one in (red, green, blue)
            for dy, dx in ((0, 1), (1, 0))
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
    rise = np.abs(np.diff(values, axis=1))
    beyond = rise[:, 1:-1] - 0.5 * (rise[:, :-2] + rise[:, 2:])
    valid = inside[:, 1:-2] & inside[:, 2:-1]
    sample = np.abs(beyond[valid])
    usual = float(np.median(sample[:: max(1, len(sample) // _MOST)])) if len(sample) else 0.0
    limit = 4 * usual + _LEAST
    beyond = np.where(valid, np.clip(beyond, -limit, limit), 0)
    offsets = (np.arange(beyond.shape[1]) + 2) % _BLOCK  # the step between columns c − 1 and c
    sums, counts, squares = (
        np.bincount(offsets, part.sum(axis=0, dtype=np.float64), minlength=_BLOCK)
        for part in (beyond, valid, np.square(beyond))
    )
    if counts.min() < _FEWEST / 2:
        return np.nan, np.nan
    means = sums / counts
    away = means - np.median(means)
    deviation = float(np.sqrt(squares.sum() / counts.sum())) + 1e-6
    worst = float((away * np.sqrt(counts) / deviation).max())
    return float(away[0] / deviation), float(np.log2(1 + max(0.0, worst)))
