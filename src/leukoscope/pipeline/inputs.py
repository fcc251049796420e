"""What a classifier is shown: the image, or a version with something taken away or swapped."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.core.records import ImageRecord
from leukoscope.imaging.corruption import DEGRADATIONS
from leukoscope.imaging.decode import decode_image, read_image_file
from leukoscope.imaging.observation import OBSERVED_INPUTS, PROBE_INPUTS, Observation
from leukoscope.imaging.preprocess import apply_preprocess

INPUTS = PROBE_INPUTS
GROUND = "ground-only"
_NEAREST = 8  # partners are drawn from so many images of a class that came before
_PACKED_PX = 128  # longer side at which removal masks are kept
Rows = NDArray[np.int64]
Packed = tuple[tuple[int, int], bytes]


def load_input(path: Path, variant: str, spec: PreprocessSpec) -> NDArray[np.uint8]:
    """One image as the model sees it.

    Args:
        path: The image file.
        variant: A key of :data:`INPUTS`, or of
            :data:`~leukoscope.imaging.corruption.DEGRADATIONS`.
        spec: Preprocessing, applied after the variant was made at full size.

    Returns:
        (S, S, 3) uint8 RGB.
    """
    return apply_preprocess(make_input(Observation(decode_image(path).image), variant), spec)


def make_input(seen: Observation, variant: str) -> NDArray[np.uint8]:
    """One version of an image at full size, see :func:`load_input`."""
    if variant in DEGRADATIONS:
        return DEGRADATIONS[variant](seen.image)
    return OBSERVED_INPUTS[variant](seen)


def observe(path: Path) -> Observation:
    """A file's pixels, bytes and scale.

    Raises:
        ImageError: The file cannot be read.
    """
    data = read_image_file(path)
    decoded = decode_image(data, name=str(path))
    return Observation(decoded.image, um_per_px=decoded.um_per_px, data=data)


def reading_order(records: Sequence[ImageRecord]) -> Rows:
    """(n,) rows in the order in which a study reads its files: that of their hashes.

    It has nothing to do with names, classes or time.
    """
    keys = [(record.sha256, record.image_id) for record in records]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def partner_rows(
    records: Sequence[ImageRecord], y: NDArray[np.int64], classes: int, seed: int
) -> Rows:
    """(n,) row of each image's partner of another class.

    The class is drawn first, each of the others with equal probability, so that the pairs (a, b)
    and (b, a) have holes of the same distribution; then one of the eight images of that class that
    come before in the order of hashes, going round at its start. So nearly every partner was read
    before its image, and no fold takes part. An image without a partner is its own.

    Args:
        records: The images.
        y: (n,) their classes.
        classes: Number of classes.
        seed: Of the draws.
    """
    order = reading_order(records)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    members = [np.sort(place[y == k]) for k in range(classes)]
    partners = np.arange(len(records))
    for row, record in enumerate(records):
        others = [k for k in range(classes) if k != y[row] and len(members[k])]
        if not others:
            continue
        rng = _rng(seed, record)
        own = members[others[int(rng.integers(len(others)))]]
        back = 1 + int(rng.integers(min(_NEAREST, len(own))))
        before = int(np.searchsorted(own, place[row])) - back
        partners[row] = order[own[before % len(own)]]
    return partners


def _rng(seed: int, record: ImageRecord) -> np.random.Generator:
    text = f"{seed}:{record.sha256}:{record.image_id}"
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


def pack_mask(mask: NDArray[np.bool_]) -> Packed:
    """A mask at 128 px, eight pixels a byte: those of all images stay in memory."""
    height, width = mask.shape
    scale = min(1.0, _PACKED_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA)
    return (size[1], size[0]), np.packbits(np.asarray(small) > 127).tobytes()


def unpack_mask(packed: Packed) -> NDArray[np.bool_]:
    """The mask of :func:`pack_mask`, (h, w) bool."""
    (height, width), data = packed
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=height * width)
    return bits.reshape(height, width).astype(np.bool_)
