"""Training cases that resemble an image: what a bundle carries of them, and the search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from leukoscope.config.bundle import BundleRecord
from leukoscope.core.errors import BundleError, DataError
from leukoscope.core.files import read_json
from leukoscope.evaluation.ood import nearest_cases
from leukoscope.imaging.decode import decode_image
from leukoscope.runtime.output_fields import OutputField, json_values

TENSORS: Final = "similar.safetensors"
CAPTIONS: Final = "similar.json"
PICTURES: Final = "similar.jpg"
COLUMNS: Final = 20
"""Pictures in a row of ``similar.jpg``."""


@dataclass(frozen=True)
class SimilarCase:
    """One training case shown beside an image.

    Attributes:
        label: Its class in the training data.
        image_id: First digits of its file's SHA-256, as in the study's ``manifest.csv``.
        acquisition: Number of its acquisition cluster in the bundle; None if unknown.
        distance: Distance in the network's features, ≥ 0. 1 is the 95th percentile of the distance
            from a validation image to its nearest case.
        number: Its index in the bundle.
    """

    label: str
    image_id: str
    acquisition: int | None
    distance: float
    number: int

    def as_dict(self) -> dict[str, Any]:
        """The case as it is written to the output."""
        return json_values(CASE_FIELDS, self)


CASE_FIELDS: tuple[OutputField[SimilarCase], ...] = (
    OutputField("label", str, lambda case: case.label),
    OutputField(
        "image_id",
        str,
        lambda case: case.image_id,
        "First digits of the SHA-256 of the training file.",
    ),
    OutputField(
        "acquisition",
        int | None,
        lambda case: case.acquisition,
        "Number of its acquisition cluster.",
    ),
    OutputField(
        "distance",
        float,
        lambda case: round(case.distance, 4),
        "0 the same features; 1 as far from their nearest case as 95 % of the "
        "validation images at most are.",
    ),
)
"""What the output says of a similar case."""


@dataclass(frozen=True, eq=False)
class CaseLibrary:
    """The training cases that a bundle carries.

    Attributes:
        captions: Label, image id and acquisition cluster of each of the R cases.
        cases: (R, P) float32 of :func:`leukoscope.evaluation.ood.choose_cases`.
        basis: (D, P) float32, likewise.
        limit: The distance that counts as 1.
        sheet: ``similar.jpg``, or None if the pictures may not be shown.
        picture_px: Side of a picture in the sheet.
    """

    captions: Sequence[tuple[str, str, int | None]]
    cases: NDArray[np.float32]
    basis: NDArray[np.float32]
    limit: float
    sheet: Path | None
    picture_px: int

    def nearest(self, features: ArrayLike, k: int) -> list[tuple[SimilarCase, ...]]:
        """The k cases nearest to each row of features (n, D), nearest first."""
        found = nearest_cases(features, self.cases, self.basis, k)
        return [
            tuple(self._case(number, distance) for number, distance in zip(*pair, strict=True))
            for pair in zip(found[0].tolist(), found[1].tolist(), strict=True)
        ]

    def _case(self, number: int, distance: float) -> SimilarCase:
        label, image_id, acquisition = self.captions[number]
        return SimilarCase(label, image_id, acquisition, distance / self.limit, number)

    def picture(self, number: int) -> NDArray[np.uint8] | None:
        """(picture_px, picture_px, 3) uint8 RGB of a case, or None without a sheet."""
        if self._pixels is None:
            return None
        row, column = (self.picture_px * place for place in divmod(number, COLUMNS))
        found = self._pixels[row : row + self.picture_px, column : column + self.picture_px]
        return found if found.size == 3 * self.picture_px**2 else None

    @cached_property
    def _pixels(self) -> NDArray[np.uint8] | None:
        return None if self.sheet is None else decode_image(self.sheet).image


def load_cases(folder: Path, record: BundleRecord) -> CaseLibrary | None:
    """The training cases of a bundle, or None if it carries none.

    Raises:
        BundleError: The files do not fit together.
    """
    if record.similar is None:
        return None
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    n, px = record.similar.n, record.similar.picture_px
    try:
        tensors = load_file(folder / TENSORS)
        cases, basis = tensors["cases"], tensors["basis"]
        rows = read_json(folder / CAPTIONS)["cases"]
        captions = [(str(r["label"]), str(r["image_id"]), r["acquisition"]) for r in rows]
    except (SafetensorError, DataError, OSError, KeyError, TypeError) as error:
        raise BundleError(f"{folder}: expected the training cases, but {error!r}") from None
    if basis.shape[1:] != cases.shape[1:] or not len(cases) == len(captions) == n:
        raise BundleError(
            f"{folder}: expected features and captions of {n} training cases, found "
            f"{cases.shape} and {len(captions)}"
        )
    sheet = folder / PICTURES if px else None
    return CaseLibrary(captions, cases, basis, record.similar.limit, sheet, px or 0)


def contact_sheet(pictures: Iterable[NDArray[np.uint8]], side_px: int) -> bytes:
    """Encode ``similar.jpg``: the reduced central square of each (H, W, 3) uint8 RGB picture."""
    small = [_middle(picture, side_px) for picture in pictures]
    sheet = np.zeros((-(-len(small) // COLUMNS) * side_px, COLUMNS * side_px, 3), np.uint8)
    for number, picture in enumerate(small):
        y, x = (side_px * place for place in divmod(number, COLUMNS))
        sheet[y : y + side_px, x : x + side_px] = picture
    return bytes(cv2.imencode(".jpg", sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1])


def _middle(picture: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = picture[top : top + side, left : left + side]
    return np.asarray(cv2.resize(square, (side_px, side_px), interpolation=cv2.INTER_AREA))
