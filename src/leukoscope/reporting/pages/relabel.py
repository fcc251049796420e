"""The pages on which a person goes through a relabel queue or a patient's cells.

They open offline and send nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.relabel_queue import ListName, Queue
from leukoscope.core.errors import ImageError
from leukoscope.core.files import write_text
from leukoscope.core.labels import class_title
from leukoscope.core.records import Manifest
from leukoscope.imaging.decode import decode_image
from leukoscope.reporting.gallery import thumb_uri
from leukoscope.reporting.markup import embedded_json, render_page

PICTURE_PX = 288
QUALITY = 82
LISTS: Mapping[ListName, str] = {
    "label": "likely errors and conflicts",
    "uncertain": "least certain",
    "ood": "unlike the others",
}
CELL_PX = 96
CELL_QUALITY = 80


def write_relabel_page(
    path: Path, queue: Queue, manifest: Manifest, tell: Callable[[int, int], None]
) -> list[str]:
    """Write the page, every image inside as a small JPEG.

    Args:
        path: The HTML file.
        queue: The images, in order.
        manifest: Where the images lie; one that is gone or broken is named as such in the page.
        tell: Told (done, total) as images are read.

    Returns:
        Paths of the images that could not be read.
    """
    places = {record.image_id: manifest.path_of(record) for record in manifest.images}
    rows = []
    missing = []
    for row in queue.rows:
        picture = picture_uri(places.get(row.image_id))
        rows.append({**row.model_dump(mode="json", by_alias=True), "picture": picture})
        if not picture:
            missing.append(row.path)
        tell(len(rows), len(queue.rows))
    classes = [{"name": name, "title": class_title(name)} for name in queue.class_names]
    data = {"sha256": queue.sha256, "classes": classes, "rows": rows}
    absent = queue.lists["ood"].absent
    page = render_page(
        "relabel.html.j2",
        ("corrections.js", "relabel.js"),
        title=f"Labels to check: {queue.run}",
        queue=queue,
        lists=[(key, text, queue.lists[key].shown) for key, text in LISTS.items()],
        absent=f"No list of images unlike the others: {absent}." if absent else "",
        data=embedded_json(data),
    )
    write_text(path, page)
    return missing


def picture_uri(path: Path | None) -> str:
    """A ``data:`` URI of an image as JPEG, at most 288 px wide or high; empty where unreadable."""
    try:
        image = decode_image(path).image if path is not None else None
    except ImageError:
        image = None
    return "" if image is None else thumb_uri(image, PICTURE_PX, QUALITY)


class SheetCell(TypedDict):
    """A cell of a sheet, as a model saw it and as a person may have corrected it."""

    image_id: str
    path: str
    box: tuple[int, int, int, int] | None
    predicted: str
    p: float
    decision: str
    corrected: str | None
    excluded: bool


class Sheet(TypedDict):
    """What the sheet of a patient holds."""

    patient: str
    sha256: str
    model: str
    class_names: list[str]
    unreadable: list[dict[str, str]]
    cells: list[SheetCell]


def write_cell_sheet(path: Path, sheet: Sheet) -> None:
    """Write the sheet of one patient, every cell inside as a small JPEG.

    Args:
        path: The HTML file.
        sheet: What it holds; pictures are read from the paths of its cells.
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


def _pictures(cells: Sequence[SheetCell]) -> list[str]:
    """A ``data:`` URI of each cell, in order; an image with several cells is decoded once."""
    made, last, image = [], "", None
    for cell in cells:
        if cell["path"] != last:
            last, image = cell["path"], _decoded(cell["path"])
        cut = None if image is None else _cut(image, cell["box"])
        made.append("" if cut is None or not cut.size else thumb_uri(cut, CELL_PX, CELL_QUALITY))
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
