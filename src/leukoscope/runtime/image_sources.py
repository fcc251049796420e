"""What an image to predict may be given as, and how each kind is read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import ImageError
from leukoscope.core.files import sha256_bytes
from leukoscope.imaging.decode import Decoded, DecodedFile, decode_image, read_image_file
from leukoscope.runtime.prediction import Failure

# A failure that was found earlier (`runtime.input_files`) passes through in its place.
ImageSource = Path | str | bytes | NDArray[np.uint8] | Failure
Readable = Path | bytes | NDArray[np.uint8] | DecodedFile
CANNOT_BE_READ = (ImageError, OSError, MemoryError, cv2.error)
"""What reading and measuring one image may raise; the others are predicted all the same."""


def named_source(
    number: int, item: Path | str | bytes | NDArray[np.uint8]
) -> tuple[str, Path | bytes | NDArray[np.uint8]]:
    """The name of an image in its answer, and what it is read from.

    >>> named_source(2, b"...")
    ('image-2', b'...')
    """
    source = Path(item) if isinstance(item, str) else item
    return str(source) if isinstance(source, Path) else f"image-{number}", source


def load_source(source: Readable, name: str, max_pixels: int) -> tuple[Decoded, str]:
    """Read an image, and the SHA-256 of its source.

    Args:
        source: A file, its bytes, what was decoded of it, or (H, W, 3) uint8 RGB.
        name: Name of the image in the answer.
        max_pixels: Largest width × height of an encoded image.

    Raises:
        ImageError: It is none of these, or cannot be decoded.
    """
    if isinstance(source, DecodedFile):
        return source.decoded, source.sha256
    if isinstance(source, (bytes, Path)):
        data = source if isinstance(source, bytes) else read_image_file(source)
        return decode_image(data, name=name, max_pixels=max_pixels), sha256_bytes(data)
    if not isinstance(source, np.ndarray):
        detail = f"expected a path, bytes or an array, got {type(source).__name__}"
        raise ImageError(name, "not-an-image", detail)
    if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
        raise ImageError(
            name,
            "not-an-image",
            f"expected an array (H, W, 3) uint8 RGB, got {source.shape} {source.dtype}",
        )
    image = np.ascontiguousarray(source)
    return Decoded(image, "array"), sha256_bytes(image.tobytes())
