"""Scale bars as microscope cameras burn them in, in the lower right corner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import UnknownNameError

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Style:
    """Sizes in px of a 224 px field; the margin is that to the right and the lower edge."""

    width: int
    height: int
    margin: tuple[int, int]
    ink: tuple[int, int, int]
    label: bool
    thickness: int
    text: str
    text_scale: float


_STYLES: Mapping[str, _Style | None] = {
    "none": None,
    "red": _Style(24, 12, (4, 4), (220, 20, 30), False, 1, "20 um", 0.22),
    "small-label": _Style(24, 12, (4, 4), (20, 20, 20), True, 1, "20 um", 0.22),
    "large-label": _Style(40, 22, (0, 3), (10, 10, 10), True, 2, "200 px", 0.34),
}
BAR_STYLES = tuple(_STYLES)
"""No bar; red ink on the picture; black ink on a small or on a large white label."""


def draw_scale_bar(image: NDArray[np.uint8], style: str) -> Box | None:
    """Burn a scale bar into an image, in place.

    Args:
        image: (H, W, 3) uint8 RGB.
        style: One of :data:`BAR_STYLES`.

    Returns:
        ``(x0, y0, x1, y1)`` of the bar with its text, upper limits excluded; None without a bar.

    Raises:
        UnknownNameError: There is no such style.
    """
    if style not in _STYLES:
        raise UnknownNameError("scale-bar style", style, _STYLES)
    look = _STYLES[style]
    if look is None:
        return None
    height, width = image.shape[:2]
    unit = max(1, round(width / 224))
    x1, y1 = width - look.margin[0] * unit, height - look.margin[1] * unit
    x0, y0 = x1 - look.width * unit, y1 - look.height * unit
    # Drawn on a copy of the box alone, so that nothing leaves the box that is reported.
    part = np.full_like(image[y0:y1, x0:x1], 255) if look.label else image[y0:y1, x0:x1].copy()
    inset, thick = 2 * unit, look.thickness * unit
    foot = part.shape[0] - 2 * unit - thick
    part[foot : foot + thick, inset:-inset] = look.ink
    for tick in (inset, part.shape[1] - inset - unit):
        part[foot - unit : foot + thick + unit, tick : tick + unit] = look.ink
    scale = look.text_scale * unit
    (across, _), _ = cv2.getTextSize(look.text, cv2.FONT_HERSHEY_SIMPLEX, scale, unit)
    origin = (max(0, (part.shape[1] - across) // 2), foot - 2 * unit)
    cv2.putText(
        part, look.text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, look.ink, unit, cv2.LINE_AA
    )
    image[y0:y1, x0:x1] = part
    return x0, y0, x1, y1
