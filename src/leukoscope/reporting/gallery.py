"""Figures on their way to disk and into the page, and thumbnails of the data's images."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import DataError
from leukoscope.core.files import write_text
from leukoscope.core.run_folder import RunFolder
from leukoscope.reporting.content import Picture
from leukoscope.reporting.figures.style import (
    CSS_PX_PER_IN,
    figure_svg,
    house_style,
    photo_uri,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Gallery:
    """Draws figures into a study's folder.

    Args:
        run: The folder; SVG files go to its ``figures``.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def draw(
        self,
        name: str,
        make: Callable[[], Figure],
        *,
        caption: str,
        alt: str,
    ) -> Picture:
        """Make one chart, write ``figures/<name>.svg`` and return it ready for the page.

        Args:
            name: Stem of the file.
            make: Makes the figure; called inside the house style.
            caption: With the sample size.
            alt: For readers who cannot see it.
        """
        with house_style():
            figure = make()
            svg = figure_svg(figure, name)
        width, height = figure.get_size_inches()
        write_text(self.run.figures / f"{name}.svg", svg)
        return Picture(
            file=f"figures/{name}.svg",
            caption=caption,
            alt=alt,
            width=round(CSS_PX_PER_IN * width),
            height=round(CSS_PX_PER_IN * height),
            svg=svg,
        )

    def stored(self, path: Path, *, caption: str, alt: str, most_px: int = 960) -> Picture | None:
        """A picture that an earlier step wrote; None where it is missing or damaged.

        Args:
            path: PNG or JPEG file below the study's folder.
            caption: With the sample size.
            alt: For readers who cannot see it.
            most_px: Largest width in the page's copy.
        """
        try:
            data = path.read_bytes()
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
            if image is None:
                return None
            uri = photo_uri(data, max_width_px=most_px)
        except (OSError, DataError):
            return None
        height, width = image.shape[:2]
        shown = min(width, most_px // 2)
        return Picture(
            file=path.relative_to(self.run.path).as_posix(),
            caption=caption,
            alt=alt,
            uri=uri,
            width=shown,
            height=round(height * shown / width),
        )


def thumb_uri(image: NDArray[np.uint8], most_px: int, quality: int) -> str:
    """A ``data:`` URI of an image as JPEG.

    Args:
        image: (H, W, 3) uint8 RGB.
        most_px: Largest side; a smaller image keeps its size.
        quality: Of the JPEG, 1 to 100.
    """
    height, width = image.shape[:2]
    scale = min(1.0, most_px / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    _, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
