"""The pictures of one answer, for the page: small JPEGs as data URIs."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.imaging.segment import segment_leukocytes
from leukoscope.runtime.heatmap import colour_map
from leukoscope.runtime.prediction import Prediction
from leukoscope.runtime.predictor import Predictor

_SHOWN_PX = 480
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class Pictures:
    """Data URIs.

    Attributes:
        original: As sent, upright, made smaller.
        seen: What the network was given.
        contours: The original with outlines of leukocytes.
        heat: Heat map alone, to be laid over ``seen``; None where the model gives none.
        leukocytes: Number of outlines.
    """

    original: str
    seen: str
    contours: str
    heat: str | None
    leukocytes: int


def draw_pictures(predictor: Predictor, data: bytes, answer: Prediction) -> Pictures:
    """Decode the image again and draw; runs in a thread.

    Args:
        predictor: The model that answered.
        data: The encoded image.
        answer: With its heat, where there is one.
    """
    image = decode_image(data).image
    seen = apply_preprocess(image, predictor.record.preprocess)
    small = _fit(image)
    outlined, count = _outline(small)
    heat = None
    if answer.heat is not None:
        heat = _uri(colour_map(answer.heat, (seen.shape[0], seen.shape[1])))
    return Pictures(_uri(small), _uri(seen), _uri(outlined), heat, count)


def picture_uri(image: NDArray[np.uint8] | None) -> str | None:
    """A picture as it is, or None where there is none."""
    return None if image is None else _uri(image)


def _fit(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = min(1.0, _SHOWN_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _outline(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
    """White under black, so that the line is seen on any ground."""
    cells = segment_leukocytes(image).cell.astype(np.uint8)
    outlines, _ = cv2.findContours(cells, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn = image.copy()
    for colour, width in (((255, 255, 255), 4), ((0, 60, 90), 2)):
        cv2.drawContours(drawn, outlines, -1, colour, width, cv2.LINE_AA)
    return drawn, len(outlines)


def _uri(image: NDArray[np.uint8]) -> str:
    flags = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags)
    return f"data:image/jpeg;base64,{base64.b64encode(bytes(data)).decode()}"
