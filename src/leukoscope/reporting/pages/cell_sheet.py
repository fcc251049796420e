"""The page on which a person corrects the classes of a patient's cells; it sends nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import ImageError
from leukoscope.core.files import write_text
from leukoscope.core.labels import class_title
from leukoscope.imaging.decode import decode_image
from leukoscope.reporting.gallery import thumb_uri
from leukoscope.reporting.markup import embedded_json, render_page

PICTURE_PX = 96
QUALITY = 80


def write_cell_sheet(path: Path, sheet: Mapping[str, Any]) -> None:
    """Write the sheet of one patient, every cell inside as a small JPEG.

    Args:
        path: The HTML file.
        sheet: ``patient``, ``sha256``, ``model``, ``class_names``, ``unreadable`` and ``cells``
            with ``image_id``, ``path``, ``box``, ``predicted``, ``p``, ``decision``, ``corrected``
            and ``excluded``.
    """
    pictures = _pictures(sheet["cells"])
    cells = [
        {**cell, "path": Path(cell["path"]).name, "picture": picture}
        for cell, picture in zip(sheet["cells"], pictures, strict=True)
    ]
    classes = [{"name": name, "title": class_title(name)} for name in sheet["class_names"]]
    data = {"sha256": sheet["sha256"], "patient": sheet["patient"], "classes": classes,
            "cells": cells}  # fmt: skip
    page = render_page(
        "cells.html.j2",
        ("corrections.js", "cells.js"),
        title=f"Cells of {sheet['patient']}",
        sheet=sheet,
        data=embedded_json(data),
    )
    write_text(path, page)


def _pictures(cells: list[Mapping[str, Any]]) -> list[str]:
    """A ``data:`` URI of each cell, in order; an image with several cells is decoded once."""
    made, last, image = [], "", None
    for cell in cells:
        if cell["path"] != last:
            last, image = cell["path"], _decoded(cell["path"])
        cut = None if image is None else _cut(image, cell["box"])
        made.append("" if cut is None or not cut.size else thumb_uri(cut, PICTURE_PX, QUALITY))
    return made


def _decoded(path: str) -> NDArray[np.uint8] | None:
    try:
        return decode_image(Path(path)).image
    except ImageError:
        return None


def _cut(image: NDArray[np.uint8], box: tuple[int, int, int, int] | None) -> NDArray[np.uint8]:
    """The box of the image, as far as it lies inside."""
    if box is None:
        return image
    x, y, width, height = box
    return image[max(0, y) : y + height, max(0, x) : x + width]
