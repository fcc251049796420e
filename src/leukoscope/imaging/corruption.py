"""Damage to pictures of smears between the slide and the file, in five severities or mild."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.config.preprocess import Macenko
from leukoscope.core.errors import UnknownNameError
from leukoscope.imaging.stain import estimate_stains, lit_pixels, optical_density

Image = NDArray[np.uint8]
_Float = NDArray[np.float64]
SIDE_PX = 224  # the picture in whose pixels lengths are given
_STAIN = Macenko()
_GRANULE = (62, 34, 82)  # RGB of precipitated Romanowsky dye
_MOST_GRANULES = 320


@dataclass(frozen=True)
class Corruption:
    """One kind of damage.

    Attributes:
        name: As it is typed.
        unit: What the levels count, in words.
        levels: One a severity, 1 first.
        apply: (image, level, random numbers) → image of the same shape.
        statistic: The measure of :mod:`leukoscope.imaging.quality` that shows it in a single
            picture; empty where none does.
        side: To which side it moves: ``low``, ``high``, or ``both`` by image.
    """

    name: str
    title: str
    unit: str
    levels: tuple[float, ...]
    apply: Callable[[Image, float, np.random.Generator], Image]
    statistic: str = ""
    side: Literal["low", "high", "both", ""] = ""


def corrupt(image: Image, name: str, level: float, *, key: str = "", seed: int = 0) -> Image:
    """Damage one picture.

    Args:
        image: (H, W, 3) uint8 RGB, before any preprocessing.
        name: A key of :data:`CORRUPTIONS`.
        level: In the corruption's unit, as in its ``levels``.
        key: Whatever tells the image from others, such as its id.
        seed: Another seed draws other directions, places and noise.

    Returns:
        (H, W, 3) uint8 RGB, never the input itself.

    Raises:
        UnknownNameError: There is no such corruption.
    """
    if name not in CORRUPTIONS:
        raise UnknownNameError("corruption", name, CORRUPTIONS)
    digest = hashlib.sha256(f"{seed}|{name}|{key}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return np.ascontiguousarray(CORRUPTIONS[name].apply(image.copy(), level, rng))


def _shift_stain(image: Image, level: float, rng: np.random.Generator) -> Image:
    """More of one stain and as much less of the other; which, is drawn."""
    change = level * float(rng.choice((-1.0, 1.0)))
    return _scale_stains(image, (1 + change, 1 - change))


def _fade_stain(image: Image, level: float, rng: np.random.Generator) -> Image:
    return _scale_stains(image, (1 - level, 1 - level))


def _scale_stains(image: Image, factors: tuple[float, float]) -> Image:
    """Multiply the amounts of the image's two stains, in optical density; the rest stays.

    The stains are the image's own (:func:`leukoscope.imaging.stain.estimate_stains`), those of a
    typical smear where it shows no two.
    """
    found = estimate_stains(image, _STAIN)
    vectors = np.asarray(_STAIN.stains) if found is None else found.vectors
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    density = optical_density(image, _STAIN.light)
    amounts = np.maximum(density @ np.linalg.pinv(vectors), 0)
    density += (amounts * (np.asarray(factors) - 1)) @ vectors
    return _outside_black(image, _STAIN.light * np.exp(-density) - 1)


def _defocus(image: Image, level: float, rng: np.random.Generator) -> Image:
    """A disc, the picture of a point out of focus."""
    radius = level * _px(image)
    reach = int(np.ceil(radius))
    fine = (np.arange(8 * (2 * reach + 1)) + 0.5) / 8 - reach - 0.5  # 8 samples a pixel
    disc = (fine[:, None] ** 2 + fine[None] ** 2 <= radius**2).astype(np.float64)
    kernel = disc.reshape(2 * reach + 1, 8, 2 * reach + 1, 8).sum(axis=(1, 3))
    return _filter(image, kernel)


def _motion(image: Image, level: float, rng: np.random.Generator) -> Image:
    """A straight line: the stage moved while the shutter was open."""
    length, angle = level * _px(image), rng.uniform(0, np.pi)
    reach = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for step in np.linspace(-length / 2, length / 2, 8 * reach + 1):
        y, x = reach + step * np.sin(angle), reach + step * np.cos(angle)
        row, column = int(y), int(x)
        dy, dx = y - row, x - column
        weights = np.outer((1 - dy, dy), (1 - dx, dx))
        kernel[row : row + 2, column : column + 2] += weights
    return _filter(image, kernel)


def _filter(image: Image, kernel: _Float) -> Image:
    blurred = cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(blurred, np.uint8)


def _uneven_light(image: Image, level: float, rng: np.random.Generator) -> Image:
    """Light falls off linearly from one edge to the other; the direction is drawn."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = _grid(image)
    ramp = x / x.max() * np.cos(angle) + y / y.max() * np.sin(angle)
    ramp = (ramp - ramp.min()) / np.ptp(ramp)
    return to_uint8(image * (1 - level * ramp)[:, :, None])


def _bubble(image: Image, level: float, rng: np.random.Generator) -> Image:
    """An air bubble under the cover slip: a dark rim, inside it pale and out of focus."""
    y, x = _grid(image)
    radius = level * min(image.shape[:2])
    centre = rng.uniform(-0.6, 0.6, 2)
    away = np.hypot(y - centre[0] * y.max(), x - centre[1] * x.max())
    inside = np.clip((radius - away) / (0.06 * radius) + 0.5, 0, 1)[:, :, None]
    rim = np.exp(-(((away - radius) / (0.09 * radius)) ** 2))[:, :, None]
    pale = 0.6 * cv2.GaussianBlur(image, (0, 0), max(1.0, 0.08 * radius)) + 0.4 * 235.0
    return _outside_black(image, (image + inside * (pale - image)) * (1 - 0.75 * rim))


def _deposit(image: Image, level: float, rng: np.random.Generator) -> Image:
    """Granules of precipitated stain, of radius 0.8 to 2.2 px."""
    height, width = image.shape[:2]
    places = rng.random((_MOST_GRANULES, 3))  # always as many, so that each severity adds some
    cover = np.zeros((height, width), np.uint8)
    for x, y, size in places[: round(level)]:
        radius = (0.8 + 1.4 * size) * _px(image)
        centre = (round(16 * x * width), round(16 * y * height))  # in sixteenths of a pixel
        cv2.circle(cover, centre, round(16 * radius), 255, -1, cv2.LINE_AA, shift=4)
    share = (0.92 / 255) * cover[:, :, None]
    return _outside_black(image, image + share * (np.asarray(_GRANULE) - image.astype(np.float64)))


def _jpeg(image: Image, level: float, rng: np.random.Generator) -> Image:
    options = [cv2.IMWRITE_JPEG_QUALITY, round(level)]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def _sensor_noise(image: Image, level: float, rng: np.random.Generator) -> Image:
    """Photon and read noise: variance grows with the light; the level holds at half of white."""
    noise = rng.standard_normal(image.shape, np.float32)
    return _outside_black(image, image + 255 * level * np.sqrt(0.5 + image / 255) * noise)


def _gaussian_noise(image: Image, level: float, rng: np.random.Generator) -> Image:
    return to_uint8(image + 255 * level * rng.standard_normal(image.shape, np.float32))


def _brightness(image: Image, level: float, rng: np.random.Generator) -> Image:
    return brightened(image, level)


def _rescale(image: Image, level: float, rng: np.random.Generator) -> Image:
    """Another magnification, larger or smaller by the same factor; what is missing is mirrored."""
    return _warp(image, 0.0, float(level ** rng.choice((-1, 1))))


def _rotate(image: Image, level: float, rng: np.random.Generator) -> Image:
    return _warp(image, level * float(rng.choice((-1, 1))), 1.0)


def _warp(image: Image, degrees: float, factor: float) -> Image:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, factor)
    moved = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(moved, np.uint8)


def _px(image: Image) -> float:
    """Pixels of this image for one of a picture of 224 px."""
    return float(min(image.shape[:2])) / SIDE_PX


def _grid(image: Image) -> tuple[_Float, _Float]:
    """Row and column of each pixel, from the middle; at least half a pixel away."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float64)
    return y - (height - 1) / 2 + 1e-9, x - (width - 1) / 2 + 1e-9


def _outside_black(image: Image, changed: NDArray[np.floating]) -> Image:
    """The changed values as an image, but for what was black."""
    lit = lit_pixels(image)[:, :, None]
    return np.asarray(np.where(lit, to_uint8(changed), image), np.uint8)


def to_uint8(values: NDArray[np.floating]) -> Image:
    """Values rounded to whole levels from 0 to 255."""
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


_KINDS = (
    Corruption("stain-shift", "stain shift", "share by which one stain grows and the other shrinks",
               (0.1, 0.2, 0.35, 0.5, 0.7), _shift_stain, "stain_balance", "both"),
    Corruption("stain-fading", "stain fading", "share of both stains that is gone",
               (0.15, 0.3, 0.45, 0.6, 0.75), _fade_stain, "stain_strength", "low"),
    Corruption("defocus", "defocus", "radius of the disc, px at 224",
               (0.75, 1.25, 2, 3, 4.5), _defocus, "sharpness", "low"),
    Corruption("motion", "motion", "length of the smear, px at 224",
               (2.5, 4, 6, 9, 14), _motion, "sharpness", "low"),
    Corruption("uneven-light", "uneven illumination", "share of the light lost at the dark edge",
               (0.15, 0.3, 0.45, 0.6, 0.75), _uneven_light, "unevenness", "high"),
    Corruption("bubble", "bubble", "radius, share of the short side",
               (0.06, 0.1, 0.15, 0.21, 0.28), _bubble),
    Corruption("deposit", "stain deposit", "granules in the field",
               (10, 25, 60, 130, 280), _deposit, "sharpness", "high"),
    Corruption("jpeg", "JPEG", "quality of the encoder",
               (60, 40, 25, 15, 8), _jpeg, "blockiness", "high"),
    Corruption("noise", "sensor noise", "standard deviation at half of white, share of white",
               (0.02, 0.04, 0.07, 0.11, 0.16), _sensor_noise, "snr", "low"),
    Corruption("darker", "too dark", "factor on the light",
               (0.85, 0.7, 0.55, 0.4, 0.28), _brightness, "brightness", "low"),
    Corruption("brighter", "too bright", "factor on the light",
               (1.1, 1.2, 1.35, 1.5, 1.75), _brightness, "brightness", "high"),
    Corruption("scale", "magnification", "factor, larger or smaller",
               (1.1, 1.2, 1.35, 1.5, 1.75), _rescale),
    Corruption("rotation", "rotation", "degrees, either way",
               (9, 18, 27, 36, 45), _rotate),
)  # fmt: skip
_S1_KINDS = (
    Corruption("s1-noise", "noise (study S1)", "standard deviation, share of white",
               (0.01, 0.05, 0.1, 0.15, 0.2), _gaussian_noise),
    Corruption("s1-brightness", "brightness (study S1)", "factor on the light",
               (0.5, 0.75, 1.0, 1.25, 1.5), _brightness),
)  # fmt: skip
HAEMATOLOGY: tuple[str, ...] = tuple(kind.name for kind in _KINDS)
"""The corruptions that a model is measured with unless others are named."""


STUDY_S1: tuple[str, ...] = tuple(kind.name for kind in _S1_KINDS)
"""Study S1's own grid; it names the ends of both ranges, the levels between are evenly spaced."""


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {kind.name: kind for kind in (*_KINDS, *_S1_KINDS)}
)
"""By name."""


def blurred(image: Image, sigma_px: float) -> Image:
    """Gaussian blur with a standard deviation in pixels of the file."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px), np.uint8)


def compressed(image: Image, quality: int) -> Image:
    """Written as JPEG (4:2:0) of a quality and read again."""
    done, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    again = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert done
    assert again is not None
    return np.ascontiguousarray(np.asarray(again, np.uint8)[:, :, ::-1])


def scaled(image: Image, share: float) -> Image:
    """Resized by a factor: averaged when smaller, linear when larger."""
    height, width = (max(1, round(side * share)) for side in image.shape[:2])
    how = cv2.INTER_AREA if share < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)


def resampled(image: Image, share: float = 0.8) -> Image:
    """Resized by a factor and back."""
    height, width = image.shape[:2]
    small = scaled(image, share)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def brightened(image: Image, factor: float) -> Image:
    """More or less light, by a factor."""
    return to_uint8(image * factor)


def noisy(image: Image, share: float = 0.015) -> Image:
    """Sensor noise with a standard deviation at half of white, as a share of white."""
    digest = hashlib.sha256(image.tobytes()).digest()
    return _sensor_noise(image, share, np.random.default_rng(int.from_bytes(digest[:8], "big")))


DEGRADATIONS: Mapping[str, Callable[[Image], Image]] = MappingProxyType(
    {
        "blur-0.5": partial(blurred, sigma_px=0.5),
        "blur-1": partial(blurred, sigma_px=1.0),
        "blur-1.5": partial(blurred, sigma_px=1.5),
        "jpeg-95": partial(compressed, quality=95),
        "jpeg-85": partial(compressed, quality=85),
        "jpeg-70": partial(compressed, quality=70),
        "size-80": partial(scaled, share=0.8),
        "size-90": partial(scaled, share=0.9),
        "size-110": partial(scaled, share=1.1),
        "size-125": partial(scaled, share=1.25),
        "resampled": resampled,
        "noise": noisy,
        "stain-less": partial(_scale_stains, factors=(0.85, 1.1)),
        "stain-more": partial(_scale_stains, factors=(1.15, 0.9)),
        "darker": partial(brightened, factor=0.9),
        "brighter": partial(brightened, factor=1.08),
    }
)
"""Name of each :data:`~leukoscope.config.training.Degradation` → what does it. A study applies its
models to those of :data:`leukoscope.config.study.DEGRADED`; recipes may train on any."""
