"""A sheet of the cells that decided about a patient, those for the answer and those against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.labels import class_title
from leukoscope.core.program import DISCLAIMER
from leukoscope.evaluation.patient_heads import PatientHead, contributions

COLUMNS = 6
FOR, AGAINST = 12, 6
"""So many cells at most that spoke for the answer, and against it."""
TILE_PX = 112
_GAP, _LINE, _HEAD = 6, 18, 22
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class DecidingCell:
    """One image of a patient and its part in the answer.

    Attributes:
        row: Its place among the patient's images.
        weight: Of the image in the mean, 0 to 1.
        contribution: What it adds to the log odds of the predicted class.
    """

    row: int
    weight: float
    contribution: float

    @property
    def caption(self) -> str:
        """Below its picture."""
        return f"{self.contribution:+.2g}, weight {100 * self.weight:.2g} %"


def deciding_cells(
    head: PatientHead, X: NDArray[np.floating], predicted: int
) -> list[DecidingCell]:
    """All images of a patient, those that spoke most for the answer first.

    Args:
        head: What answered.
        X: (n, D) features of the images.
        predicted: Index of the class that was answered.
    """
    added, weights = contributions(head, X)[:, predicted], head.weights(X)
    order = np.argsort(-added, kind="stable")
    return [DecidingCell(int(row), float(weights[row]), float(added[row])) for row in order]


def for_and_against(
    cells: Sequence[DecidingCell],
) -> tuple[list[DecidingCell], list[DecidingCell]]:
    """Those of :func:`deciding_cells` that spoke most for the answer, and most against it."""
    speaking = [cell for cell in cells if cell.contribution > 0][:FOR]
    against = [cell for cell in reversed(cells) if cell.contribution < 0][:AGAINST]
    return speaking, against


def cell_sheet(
    title: str, predicted: str, cells: Sequence[DecidingCell], picture: Callable[[int], Image]
) -> Image:
    """Draw the sheet of one patient.

    Args:
        title: About the patient, one line.
        predicted: Class that was answered.
        cells: Of :func:`deciding_cells`.
        picture: Row of an image → (H, W, 3) uint8 RGB.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    name = class_title(predicted)
    speaking, against = for_and_against(cells)
    blocks = [(f"Cells for {name}", speaking), (f"Cells against {name}", against)]
    if not speaking and not against:
        blocks = [("Cells that all say the same", list(cells[:FOR]))]
    rows = [(words, own, i) for words, own in blocks for i in range(0, len(own), COLUMNS)]
    headings = sum(i == 0 for _, _, i in rows)
    height = (2 + headings) * _HEAD + len(rows) * (TILE_PX + _LINE + _GAP)
    canvas = np.full((height, COLUMNS * (TILE_PX + _GAP) + _GAP, 3), 255, np.uint8)
    texts = [(_GAP, 3, title), (_GAP, height - _HEAD + 4, DISCLAIMER)]
    top = _HEAD
    for words, own, start in rows:
        if start == 0:
            texts.append((_GAP, top + 3, words))
            top += _HEAD
        for column, cell in enumerate(own[start : start + COLUMNS]):
            left = _GAP + column * (TILE_PX + _GAP)
            tile = cv2.resize(picture(cell.row), (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA)
            canvas[top : top + TILE_PX, left : left + TILE_PX] = tile
            texts.append((left, top + TILE_PX + 1, cell.caption))
        top += TILE_PX + _LINE + _GAP
    return _written(canvas, texts)


def _written(canvas: Image, texts: Sequence[tuple[int, int, str]]) -> Image:
    """The canvas with texts at (left, top)."""
    from PIL import Image as Pictures
    from PIL import ImageDraw, ImageFont

    picture = Pictures.fromarray(canvas)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=11)
    for left, top, text in texts:
        draw.text((left, top), text, fill=(0, 0, 0), font=font)
    return np.asarray(picture, np.uint8)
