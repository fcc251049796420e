"""Pictures that a smear classifier must decline: some to choose the gate with, others to test it.

:data:`SYNTHETIC` are made of the data set's own images and choose which scores decide;
:data:`CHALLENGES` measure the finished gate and are used for nothing else. No kind is in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Rng = np.random.Generator
MakeOutlier = Callable[[Image, Image, Rng], Image]


def _shuffled(image: Image, other: Image, rng: Rng) -> Image:
    """Seven by seven tiles in random order."""
    rows = [np.array_split(row, 7, axis=1) for row in np.array_split(image, 7)]
    height, width = rows[-1][-1].shape[:2]  # the smallest
    tiles = [tile[:height, :width] for row in rows for tile in row]
    order = rng.permutation(49).reshape(7, 7)
    mixed = np.vstack([np.hstack([tiles[i] for i in row]) for row in order])
    return _resized(mixed, image.shape)


def _channels(image: Image, other: Image, rng: Rng) -> Image:
    """Red, green and blue exchanged."""
    order = ((2, 1, 0), (1, 2, 0), (2, 0, 1))[rng.integers(3)]
    return np.ascontiguousarray(image[:, :, order])


def _hue(image: Image, other: Image, rng: Rng) -> Image:
    """The hue turned by 70 to 290 degrees."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    turn = int(rng.integers(35, 146))
    hsv[:, :, 0] = ((hsv[:, :, 0].astype(int) + turn) % 180).astype(np.uint8)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def _double(image: Image, other: Image, rng: Rng) -> Image:
    """Two images exposed on one another, one of them turned and enlarged."""
    size = image.shape[1], image.shape[0]
    turn = cv2.getRotationMatrix2D((size[0] / 2, size[1] / 2), float(rng.uniform(20, 340)), 1.6)
    turned = cv2.warpAffine(other, turn, size, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(cv2.addWeighted(image, 0.5, turned, 0.5, 0), np.uint8)


def _pasted(image: Image, other: Image, rng: Rng) -> Image:
    """A half or more covered with stripes or squares of two colours."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    period = rng.integers(max(2, width // 20), max(4, width // 6))
    first = ((x + y if rng.random() < 0.5 else x) // period) % 2
    second = (y // period) % 2 if rng.random() < 0.5 else np.zeros_like(y)
    colours = rng.integers(0, 256, (2, 3)).astype(np.uint8)
    out, top = image.copy(), int(rng.integers(0, height // 2))
    out[top : top + height // 2 + 1] = colours[first ^ second][top : top + height // 2 + 1]
    return out


def _posterised(image: Image, other: Image, rng: Rng) -> Image:
    """Three levels a channel."""
    return (np.minimum(image // 86, 2) * 127).astype(np.uint8)


def _swirled(image: Image, other: Image, rng: Rng) -> Image:
    """Turned about the middle by up to two full turns, most at the middle."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    dy, dx = y - height / 2, x - width / 2
    radius = np.hypot(dy, dx)
    angle = float(rng.choice([-1, 1]) * rng.uniform(2, 4)) * np.pi * np.exp(-4 * radius / width)
    map_x = (width / 2 + dx * np.cos(angle) - dy * np.sin(angle)).astype(np.float32)
    map_y = (height / 2 + dx * np.sin(angle) + dy * np.cos(angle)).astype(np.float32)
    found = cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(found, np.uint8)


def _tiled(image: Image, other: Image, rng: Rng) -> Image:
    """The whole image four times side by side, four times below one another."""
    height, width = image.shape[:2]
    small = _resized(image, (-(-height // 4), -(-width // 4)))
    return np.ascontiguousarray(np.tile(small, (4, 4, 1))[:height, :width])


SYNTHETIC: Mapping[str, MakeOutlier] = MappingProxyType(
    {
        "shuffled": _shuffled,
        "channels": _channels,
        "hue": _hue,
        "double": _double,
        "pasted": _pasted,
        "posterised": _posterised,
        "swirled": _swirled,
        "tiled": _tiled,
    }
)


def synthetic_outliers(images: NDArray[np.uint8], seed: int) -> Iterator[tuple[int, str, Image]]:
    """Each image in each of the ways of :data:`SYNTHETIC`.

    Args:
        images: (n, H, W, 3) uint8 RGB.

    Yields:
        Row of the image, name of the way, and the outlier (H, W, 3) uint8.
    """
    rng = np.random.default_rng(seed)
    for row, image in enumerate(images):
        other = images[(row + 1) % len(images)]
        for kind, make in SYNTHETIC.items():
            yield row, kind, make(image, other, rng)


def _inverted(image: Image, rng: Rng) -> Image:
    return np.asarray(255 - image, np.uint8)


def _blurred(image: Image, rng: Rng) -> Image:
    """Gaussian, its standard deviation a 30th of the side."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), image.shape[1] / 30), np.uint8)


def _plain(colour: tuple[int, int, int] | None) -> Callable[[Image, Rng], Image]:
    def make(image: Image, rng: Rng) -> Image:
        chosen = rng.integers(0, 256, 3) if colour is None else np.array(colour)
        return np.broadcast_to(chosen.astype(np.uint8), image.shape).copy()

    return make


def _spectral_noise(image: Image, rng: Rng) -> Image:
    """Noise whose amplitude falls with frequency as 1/f, like that of photographs (Field 1987)."""
    fields = [_field(image.shape[:2], rng, 1.0) for _ in range(3)]
    mixed = np.stack(fields, axis=2) @ rng.normal(size=(3, 3)).clip(-1, 1)
    level = mixed * rng.uniform(25, 60) + rng.uniform(70, 185, 3)
    return np.asarray(level.clip(0, 255), np.uint8)


def _texture(image: Image, rng: Rng) -> Image:
    """Patches like foliage or stone: smooth noise cut at levels, a colour each, and shading."""
    levels = np.digitize(_field(image.shape[:2], rng, 1.6), np.sort(rng.normal(size=4)))
    shade = 1 + 0.2 * _field(image.shape[:2], rng, 0.7)[:, :, None]
    colours = rng.integers(20, 236, (5, 3))
    return (colours[levels] * shade).clip(0, 255).astype(np.uint8)


def _field(shape: tuple[int, int], rng: Rng, slope: float) -> NDArray[np.float64]:
    """Random field of unit variance with amplitude f^−slope."""
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=shape)) * frequency**-slope
    field = np.fft.irfft2(spectrum, shape)
    return np.asarray(field / max(1e-12, field.std()))


CHALLENGES: Mapping[str, Callable[[Image, Rng], Image]] = MappingProxyType(
    {
        "inverted": _inverted,
        "blurred": _blurred,
        "1/f noise": _spectral_noise,
        "texture": _texture,
        "white": _plain((255, 255, 255)),
        "black": _plain((0, 0, 0)),
        "one colour": _plain(None),
    }
)
"""What the finished gate is measured on; takes an image, which some only ask for its size."""


def _resized(image: Image, shape: tuple[int, ...]) -> Image:
    size = shape[1], shape[0]
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
