"""The scale of a picture as its file states it, in µm per pixel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# By their letters: of µ, which comes in many encodings, nothing is left, or ImageJ's \u00b5.
_UNITS = {"m": 1.0, "um": 1.0, "ubm": 1.0, "micron": 1.0, "microns": 1.0, "nm": 1e-3, "mm": 1e3,
          "cm": 1e4}  # fmt: skip
# Scanners and cameras that know no scale write that of a screen or of paper, 72 to 600 dpi.
_SMALLEST, _LARGEST = 0.005, 5.0
_DESCRIPTION, _X_RESOLUTION, _Y_RESOLUTION, _UNIT = 270, 282, 283, 296  # TIFF 6.0


def plausible(um_per_px: float | None) -> float | None:
    """The scale, or None where no light microscope has it.

    >>> plausible(0.1), plausible(25400 / 72)
    (0.1, None)
    """
    known = um_per_px is not None and _SMALLEST <= um_per_px <= _LARGEST
    return um_per_px if known else None


def tiff_scale(tags: Mapping[int, Any]) -> float | None:
    """µm per pixel by the tags of a TIFF: OME-XML, ImageJ's text, or the resolution.

    Args:
        tags: By number, as Pillow's ``tag_v2``.

    Returns:
        None where nothing is stated, where it is no scale of a microscope, or where the two
        directions differ by more than 2 %.

    >>> tiff_scale({282: 100_000.0, 283: 100_000.0, 296: 3})
    0.1
    """
    try:
        across, down = (float(tags[name]) for name in (_X_RESOLUTION, _Y_RESOLUTION))
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        across = down = 0.0
    text = str(tags.get(_DESCRIPTION, ""))
    if found := re.search(r'PhysicalSizeX="(\d*\.?\d+(?:[eE][+-]?\d+)?)"', text):
        unit = re.search(r'PhysicalSizeXUnit="([^"]+)"', text)
        factor = _unit(unit[1] if unit else "um")
        return plausible(float(found[1]) * factor) if factor else None
    if not (across > 0 and down > 0 and abs(across / down - 1) <= 0.02):
        return None
    if "ImageJ=" in text and (found := re.search(r"^unit=(\S+)", text, re.MULTILINE)):
        factor = _unit(found[1])
    else:
        factor = {2: 25_400.0, 3: 10_000.0}.get(int(tags.get(_UNIT, 2)))
    return plausible(factor / across) if factor else None


def _unit(text: str) -> float | None:
    """µm in a unit; None for an unknown one."""
    return _UNITS.get(re.sub(r"[^a-z]", "", text.lower()))
