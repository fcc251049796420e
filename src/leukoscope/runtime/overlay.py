"""Which part of a large image was taken for what, drawn over the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.program import DISCLAIMER

_LONGEST_PX = 1600
_ROW_PX = 22
# Okabe & Ito 2008, told apart by colour-blind eyes, without black, grey and pale yellow.
_COLOURS = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233),
)  # fmt: skip
_REJECTED = (110, 110, 110)

Said = tuple[tuple[int, int, int, int], str, str]


def draw_parts(
    image: NDArray[np.uint8], parts: Sequence[Said], class_names: Sequence[str]
) -> NDArray[np.uint8]:
    """Frames in the colour of the predicted class, grey where rejected, with a legend below.

    Args:
        image: (H, W, 3) uint8 RGB; a large one is drawn smaller.
        parts: Box (x, y, width, height), predicted class and decision of each.
        class_names: In the order of the colours.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    scale = min(1.0, _LONGEST_PX / max(image.shape[:2]))
    width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
    shown = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    colour = {name: _COLOURS[k % len(_COLOURS)] for k, name in enumerate(class_names)}
    # Rejected ones first, so that no frame of a class is hidden under a grey one.
    for (x, y, wide, high), name, decision in sorted(parts, key=lambda part: part[2] != "reject"):
        inset = 2
        start = (round(x * scale) + inset, round(y * scale) + inset)
        end = (round((x + wide) * scale) - inset, round((y + high) * scale) - inset)
        ink = _REJECTED if decision == "reject" else colour[name]
        cv2.rectangle(shown, start, end, ink, 1 if decision == "reject" else 2, cv2.LINE_AA)
    counts = Counter(name for _, name, decision in parts if decision != "reject")
    rejected = sum(decision == "reject" for _, _, decision in parts)
    entries = [(f"{name} {counts[name]}", colour[name]) for name in class_names]
    return _with_legend(shown, [*entries, (f"rejected {rejected}", _REJECTED)])


def _with_legend(
    shown: NDArray[np.uint8], entries: Sequence[tuple[str, tuple[int, int, int]]]
) -> NDArray[np.uint8]:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=13)
    places: list[tuple[int, int]] = []
    x, y = 6, 0
    for text, _ in entries:
        wide = 22 + round(font.getlength(text)) + 16
        if x + wide > shown.shape[1] and x > 6:
            x, y = 6, y + _ROW_PX
        places.append((x, y))
        x += wide
    strip = Image.new("RGB", (shown.shape[1], y + 2 * _ROW_PX), "white")
    draw = ImageDraw.Draw(strip)
    for (text, ink), (left, top) in zip(entries, places, strict=True):
        draw.rectangle((left, top + 5, left + 14, top + 17), outline=ink, width=3)
        draw.text((left + 20, top + 3), text, fill=(0, 0, 0), font=font)
    draw.text((6, y + _ROW_PX + 3), DISCLAIMER, fill=(90, 90, 90), font=font)
    return np.concatenate([shown, np.asarray(strip, np.uint8)])
