"""Images that a data set holds in another form, written once as PNG beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import DataError
from leukoscope.core.files import read_json, write_json

MANIFEST = "manifest.csv"
_RECORD = "unpacked.json"


def write_once(out: Path, source: str, write: Callable[[Path], Mapping[str, Any]]) -> None:
    """Fill a folder that is complete or absent.

    Args:
        out: The folder; it must not be there.
        source: Name of what it is made of, for messages.
        write: Writes the images and their manifest into the folder that it is given, and returns
            by what the source is known again.

    Raises:
        DataError: It cannot be written.
    """
    part = out.with_name(f"{out.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
        part.mkdir()
        write_json(part / _RECORD, write(part))
        part.rename(out)
    except OSError as error:
        raise DataError(
            f"{out}: the images of {source} cannot be written beside it "
            f"({error.strerror or error})",
            hint="copy the data to a folder that can be written to, with room for its images",
        ) from None


def recorded(out: Path) -> dict[str, Any]:
    """By what the source of a folder was known; empty where it does not say."""
    path = out / _RECORD
    return dict(read_json(path)) if path.is_file() else {}


def write_png(file: Path, image: NDArray[np.uint8]) -> None:
    """Write an image, (H, W, 3) RGB or (H, W) grey uint8, as PNG."""
    file.parent.mkdir(parents=True, exist_ok=True)
    done, encoded = cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)
    if not done:
        raise DataError(f"{file}: the image cannot be written as PNG")
    file.write_bytes(encoded.tobytes())
