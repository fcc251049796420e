"""What a classifier is shown: the image, or a version with something taken away or swapped."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.core.errors import DataError, ImageError
from leukoscope.core.files import sha256_bytes
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.core.threads import ordered_map
from leukoscope.imaging.corruption import DEGRADATIONS
from leukoscope.imaging.decode import decode_image, read_image_file
from leukoscope.imaging.observation import OBSERVED_INPUTS, Observation
from leukoscope.imaging.preprocess import apply_preprocess

GROUND = "ground-only"
_NEAREST = 8  # partners are drawn from so many images of a class that came before
_PACKED_PX = 128  # longer side at which removal masks are kept
_CHANGED_HINT = (
    "put the files back as they were, or start a new study with another --out: audit, splits and "
    "models of this one are not of the new files"
)
Rows = NDArray[np.int64]
Packed = tuple[tuple[int, int], bytes]


def read_unchanged(path: Path, sha256: str) -> bytes:
    """The bytes of an image file, which must be those that were audited.

    Args:
        path: The file.
        sha256: Of its bytes in the manifest; empty where none is known.

    Raises:
        DataError: The file is another one by now.
        ImageError: It cannot be read.
    """
    data = read_image_file(path)
    if sha256 and (found := sha256_bytes(data)) != sha256:
        raise DataError(
            f"{path}: expected the image that was audited (SHA-256 {sha256[:12]}…), found another "
            f"({found[:12]}…)",
            hint=_CHANGED_HINT,
        )
    return data


def check_unchanged(manifest: Manifest) -> None:
    """Compare every usable image with its hash in the manifest.

    Raises:
        DataError: Images were changed or removed since the audit; names the first of them.
    """
    records = manifest.usable

    def as_audited(record: ImageRecord) -> bool:
        try:
            read_unchanged(manifest.path_of(record), record.sha256)
        except (DataError, ImageError):
            return False
        return True

    found = zip(records, ordered_map(as_audited, records), strict=True)
    changed = [record.path for record, same in found if not same]
    if changed:
        named = ", ".join(changed[:3]) + (" …" if len(changed) > 3 else "")
        raise DataError(
            f"{manifest.root}: expected the images that were audited, but {len(changed)} of "
            f"{len(records)} were changed or removed since: {named}",
            hint=_CHANGED_HINT,
        )


def load_input(
    path: Path, variant: str, spec: PreprocessSpec, *, sha256: str = ""
) -> NDArray[np.uint8]:
    """One image as the model sees it.

    Args:
        path: The image file.
        variant: A key of :data:`~leukoscope.imaging.observation.PROBE_INPUTS`, or of
            :data:`~leukoscope.imaging.corruption.DEGRADATIONS`.
        spec: Preprocessing, applied after the variant was made at full size.
        sha256: See :func:`read_unchanged`.

    Returns:
        (S, S, 3) uint8 RGB.
    """
    image = decode_image(read_unchanged(path, sha256), name=str(path)).image
    return apply_preprocess(make_input(Observation(image), variant), spec)


def make_input(seen: Observation, variant: str) -> NDArray[np.uint8]:
    """One version of an image at full size, see :func:`load_input`."""
    if variant in DEGRADATIONS:
        return DEGRADATIONS[variant](seen.image)
    return OBSERVED_INPUTS[variant](seen)


def observe(path: Path, sha256: str = "") -> Observation:
    """A file's pixels, bytes and scale; ``sha256`` as in :func:`read_unchanged`.

    Raises:
        DataError: The file is another one than that of the hash.
        ImageError: The file cannot be read.
    """
    data = read_unchanged(path, sha256)
    decoded = decode_image(data, name=str(path))
    return Observation(decoded.image, um_per_px=decoded.um_per_px, data=data)


def reading_order(records: Sequence[ImageRecord]) -> Rows:
    """(n,) rows in the order in which a study reads its files: that of their hashes.

    It has nothing to do with names, classes or time.
    """
    keys = [(record.sha256, record.image_id) for record in records]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def partner_rows(
    records: Sequence[ImageRecord],
    y: NDArray[np.int64],
    classes: int,
    seed: int,
    *,
    of_patients: bool = False,
    own_class: bool = False,
) -> Rows:
    """(n,) row of each image's partner of another class, or another one of its own.

    The class is drawn first, each of the others with equal probability, so that the pairs (a, b)
    and (b, a) have holes of the same distribution; then one of the eight images of that class that
    come before in the order of hashes, going round at its start. So nearly every partner was read
    before its image, and no fold takes part. An image without a partner is its own.

    Args:
        records: The images.
        y: (n,) their classes.
        classes: Number of classes.
        seed: Of the draws.
        of_patients: Draw the class once for all images of a patient.
        own_class: Partners of the same class, for the control.
    """
    order = reading_order(records)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    members = [np.sort(place[y == k]) for k in range(classes)]
    partners = np.arange(len(records))
    for row, record in enumerate(records):
        others = [k for k in range(classes) if (k == y[row]) == own_class and len(members[k])]
        if not others or (own_class and len(members[y[row]]) == 1):
            continue
        rng = _rng(seed, record)
        draw = _rng_of(f"{seed}:{record.patient_id}") if of_patients else rng
        own = members[others[int(draw.integers(len(others)))]]
        back = 1 + int(rng.integers(min(_NEAREST, len(own) - own_class)))
        before = int(np.searchsorted(own, place[row])) - back
        partners[row] = order[own[before % len(own)]]
    return partners


def _rng(seed: int, record: ImageRecord) -> np.random.Generator:
    return _rng_of(f"{seed}:{record.sha256}:{record.image_id}")


def _rng_of(text: str) -> np.random.Generator:
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
