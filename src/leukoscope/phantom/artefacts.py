"""Traces of microscope, camera and file that can be planted into an image, in three strengths.

They carry no morphology: a classifier that tells two groups of patients apart by one of them has
learnt how the images were made. :mod:`leukoscope.phantom.render` ties one to a class, and
``benchmarks/adversaries.py`` asks whether a study's verdict notices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import ConfigError, UnknownNameError
from leukoscope.imaging.corruption import blurred, compressed, to_uint8
from leukoscope.phantom.session import draw_scale_bar

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Plant = Callable[[Image, float, np.random.Generator, Mask], Image]

STRENGTHS: Final = (1, 2, 3)
_SENSOR_SEED = 20  # a sensor's dead pixels are always the same ones


@dataclass(frozen=True)
class Artefact:
    """One kind of trace.

    Attributes:
        name: As it is typed.
        unit: What the levels count, in words.
        levels: One a strength, the weakest first.
        plant: (image, level, random numbers, leukocytes) → image. None where it is no matter of
            pixels: the file's compression, or its place in the list of names.
        fields: Whether it makes sense in whole fields.
        cells: Whether it makes sense in single cells cut out on black.
        after: In cells, planted after the cutting out; all others are planted into the field.
    """

    name: str
    title: str
    unit: str
    levels: tuple[float, float, float]
    plant: Plant | None
    fields: bool = True
    cells: bool = True
    after: bool = False


def plant_artefact(
    image: Image, name: str, strength: int, *, rng: np.random.Generator, cells: Mask
) -> Image:
    """Plant one trace into an image.

    Args:
        name: A key of :data:`ARTEFACTS` that is a matter of pixels.
        strength: 1 to 3.
        rng: Draws noise; other traces are the same for every image.
        cells: (H, W) bool, leukocytes. Of a cell that was cut out: what is not black.

    Returns:
        (H', W', 3) uint8 RGB of the same size, but for ``size``.

    Raises:
        UnknownNameError: There is no such artefact.
        ConfigError: No such strength, or the artefact is no matter of pixels.
    """
    artefact, level = artefact_level(name, strength)
    if artefact.plant is None:
        raise ConfigError(
            f"artefact {name}: {artefact.title} is no matter of pixels",
            hint="write the file so, or name it so",
        )
    return np.ascontiguousarray(artefact.plant(image.copy(), level, rng, cells))


def artefact_level(name: str, strength: int) -> tuple[Artefact, float]:
    """An artefact by its name, and its level at a strength.

    Raises:
        UnknownNameError: There is no such artefact.
        ConfigError: The strength is not 1, 2 or 3.
    """
    if name not in ARTEFACTS:
        raise UnknownNameError("artefact", name, ARTEFACTS)
    if strength not in STRENGTHS:
        raise ConfigError(f"strength: expected 1, 2 or 3, got {strength}")
    return ARTEFACTS[name], ARTEFACTS[name].levels[strength - 1]


def _jpeg(image: Image, level: float, rng: np.random.Generator, cells: Mask) -> Image:
    return compressed(image, round(level))


def _rim(image: Image, level: float, rng: np.random.Generator, cells: Mask) -> Image:
    """The outermost two pixels of a cut-out are darker, as where a mask was feathered."""
    inner = cv2.erode(cells.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    return np.where(
        (cells & ~inner)[:, :, None], to_uint8(_unrounded(image, rng) * (1 - level)), image
    )


def _vignette(image: Image, level: float, rng: np.random.Generator, cells: Mask) -> Image:
    height, width = image.shape[:2]
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    return to_uint8(_unrounded(image, rng) * (1 - level * (x**2 + y**2) / 2)[:, :, None])


def _blur(image: Image, level: float, rng: np.random.Generator, cells: Mask) -> Image:
    return blurred(image, level)


def _sharpen(image: Image, level: float, rng: np.random.Generator, cells: Mask) -> Image:
    """Unsharp mask of radius 1 px."""
    values = image.astype(np.float32)
    return to_uint8(values + level * (values - cv2.GaussianBlur(values, (0, 0), 1.0)))


def _resample(image: Image, level: float, rng: np.random.Generator, cells: Mask) -> Image:
    height, width = image.shape[:2]
    smaller = (max(1, round(width * level)), max(1, round(height * level)))
    small = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def _noise_inside(image: Image, level: float, rng: np.random.Generator, cells: Mask) -> Image:
    return _noise(image, level, rng, cells)


def _noise_outside(image: Image, level: float, rng: np.random.Generator, cells: Mask) -> Image:
    return _noise(image, level, rng, ~cells)


def _noise(image: Image, level: float, rng: np.random.Generator, where: Mask) -> Image:
    noisy = to_uint8(image + level * rng.standard_normal(image.shape, np.float32))
    return np.where(where[:, :, None], noisy, image)


def _white_balance(image: Image, level: float, rng: np.random.Generator, cells: Mask) -> Image:
    """More red, less blue, in the light and in the cells alike."""
    return to_uint8(_unrounded(image, rng) * np.array([1 + level, 1.0, 1 - level]))


def _hot_pixels(image: Image, level: float, rng: np.random.Generator, cells: Mask) -> Image:
    """Single bright pixels, always at the same places of the sensor."""
    height, width = image.shape[:2]
    places = np.random.default_rng(_SENSOR_SEED).random((round(level), 2))
    rows, columns = (places * (height, width)).astype(int).T
    image[rows, columns] = (255, 80, 80)
    return image


def _size(image: Image, level: float, rng: np.random.Generator, cells: Mask) -> Image:
    """Rows and columns are missing at the right and lower edge; nothing is resampled."""
    return image[: -round(level), : -round(level)]


def _stain(image: Image, level: float, rng: np.random.Generator, cells: Mask) -> Image:
    """The dyes absorb more red and less blue light; the empty ground hardly changes."""
    density = -np.log((_unrounded(image, rng) + 1) / 256)
    return to_uint8(256 * np.exp(-density * np.array([1 + level, 1.0, 1 - level])) - 1)


def _scale_bar(image: Image, level: float, rng: np.random.Generator, cells: Mask) -> Image:
    """A bar in so many of 100 images."""
    if rng.random() < level:
        draw_scale_bar(image, "small-label")
    return image


def _unrounded(image: Image, rng: np.random.Generator) -> NDArray[np.float64]:
    """Light as it may have been before the camera rounded it.

    A factor on whole numbers leaves gaps in their histogram, by which any probe would notice the
    planting instead of what was planted.
    """
    values = image + rng.uniform(-0.5, 0.5, image.shape)
    return np.asarray(np.clip(values, 0, 255), np.float64)


_ALL = (
    Artefact("jpeg", "JPEG, before cutting out", "quality", (95, 85, 70), _jpeg),
    Artefact("jpeg-cut", "JPEG, after cutting out", "quality", (95, 85, 70), _jpeg,
             fields=False, after=True),
    Artefact("jpeg-file", "JPEG as the format of the file", "quality, others 98",
             (95, 85, 70), None),
    Artefact("rim", "darker rim of the cut-out", "share of light lost", (0.05, 0.1, 0.2), _rim,
             fields=False, after=True),
    Artefact("vignette", "vignette", "share of light lost in the corners", (0.03, 0.06, 0.12),
             _vignette, cells=False),
    Artefact("blur", "blur", "σ in px", (0.4, 0.6, 0.9), _blur),
    Artefact("sharpening", "sharpening", "amount of the unsharp mask", (0.2, 0.4, 0.8), _sharpen),
    Artefact("resampling", "resampling", "size in between", (0.9, 0.75, 0.6), _resample),
    Artefact("noise-inside", "sensor noise inside cells", "σ in grey levels", (1.5, 3, 6),
             _noise_inside),
    Artefact("noise-outside", "sensor noise outside cells", "σ in grey levels", (1.5, 3, 6),
             _noise_outside, cells=False),
    Artefact("white-balance", "white balance", "gain of red, loss of blue", (0.05, 0.1, 0.2),
             _white_balance),
    Artefact("hot-pixels", "hot pixels", "number in the field", (1, 3, 10), _hot_pixels,
             after=True),
    Artefact("size", "size in px", "px missing", (2, 5, 10), _size, after=True),
    Artefact("order", "order of the files", "share of names that follow the label",
             (0.5, 0.75, 1.0), None),
    Artefact("stain", "stain", "shift from blue to red light absorbed", (0.1, 0.2, 0.4),
             _stain),
    Artefact("scale-bar", "scale bar", "share of images that have one", (0.3, 0.6, 1.0),
             _scale_bar, cells=False),
)  # fmt: skip
ARTEFACTS: Mapping[str, Artefact] = MappingProxyType({one.name: one for one in _ALL})
"""By name."""
PIXEL_ARTEFACTS: tuple[str, ...] = tuple(
    one.name for one in _ALL if one.plant is not None and one.fields and one.name != "size"
)
"""Those that can be planted into whole fields without another size."""
