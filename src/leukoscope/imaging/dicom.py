"""DICOM pictures by pydicom, which is optional: one frame becomes 8-bit RGB."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.containers import BrokenImage, plausible_scale

_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "PALETTE COLOR")
_GREYS = ("MONOCHROME1", "MONOCHROME2")


def decode_dicom(
    data: bytes, check_pixels: Callable[[int, int], None]
) -> tuple[NDArray[np.uint8], list[str], float | None]:
    """Decode a single-frame DICOM file.

    Grey values are rescaled (slope and intercept) and windowed where the file says so (PS3.3
    C.11.1 and C.11.2, linear); without a window the whole range of the stored bits becomes 0 to
    255. ``MONOCHROME1`` is inverted, YBR and palettes become RGB.

    Args:
        check_pixels: Called with width and height before any pixel is decoded; raises where they
            are too many.

    Returns:
        (H, W, 3) uint8 RGB, notes on what was changed, and µm per pixel where stated.

    Raises:
        BrokenImage: ``unsupported`` without pydicom, for another kind of picture, or for a
            compression that nothing here can read; ``animated``, ``truncated``, ``corrupt``.
    """
    if find_spec("pydicom") is None:
        detail = "DICOM needs the optional dependencies [dicom], which are not installed"
        raise BrokenImage("unsupported", detail, "pip install 'leukoscope[dicom]'")
    import pydicom

    try:
        file = pydicom.dcmread(BytesIO(data))
        width, height = int(file.Columns), int(file.Rows)
        frames = int(file.get("NumberOfFrames") or 1)
        kind = str(file.PhotometricInterpretation)
    except Exception as error:  # a damaged file may raise anything
        raise _undecoded(error, None) from None
    check_pixels(width, height)
    if frames > 1:
        detail = f"expected one image, found a DICOM of {frames} frames"
        raise BrokenImage("animated", detail, "save the frame you mean as PNG")
    if kind not in (*_COLOURS, *_GREYS):
        detail = f"expected a DICOM in {', '.join((*_COLOURS, *_GREYS))}; found {kind}"
        raise BrokenImage("unsupported", detail, "save it as RGB")
    try:
        pixels = np.asarray(file.pixel_array)
    except Exception as error:
        raise _undecoded(error, file) from None
    image, notes = _to_rgb(pixels, file, kind)
    return image, notes, _scale(file)


def dicom_size(file: BinaryIO) -> tuple[int, int]:
    """Width and height by the tags; raises anything where they cannot be read."""
    import pydicom

    tags = pydicom.dcmread(file, specific_tags=["Columns", "Rows"], stop_before_pixels=True)
    return int(tags.Columns), int(tags.Rows)


def _undecoded(error: Exception, file: Any) -> BrokenImage:
    text = " ".join(str(error).split()).partition(" - ")[0][:200]
    if isinstance(error, AttributeError):
        text = f"it holds no {error.name}"
    if file is not None and isinstance(error, (NotImplementedError, RuntimeError)):
        name = getattr(file.file_meta.get("TransferSyntaxUID"), "name", "unknown")
        hint = "save it uncompressed, or convert it to PNG"
        return BrokenImage("unsupported", f"the DICOM compression {name} cannot be read", hint)
    words = ("length", "less than expected", "truncated", "end of", "not enough", "unexpected end")
    cut = isinstance(error, EOFError) or any(word in text.lower() for word in words)
    reason = "truncated" if cut else "corrupt"
    what = "picture, but" if file is None else f"whose pixels can be read; they are {reason}:"
    return BrokenImage(reason, f"expected a DICOM {what} {text}")


def _to_rgb(pixels: NDArray[Any], file: Any, kind: str) -> tuple[NDArray[np.uint8], list[str]]:
    notes = []
    if kind == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        pixels = np.asarray(apply_color_lut(pixels, file))
        low, high = 0.0, float(np.iinfo(pixels.dtype).max)
    else:
        bits = int(file.BitsStored)
        signed = int(file.get("PixelRepresentation") or 0)
        low = float(-(2 ** (bits - 1))) if signed else 0.0
        high = low + 2**bits - 1
    values = pixels.astype(np.float32)
    if kind in _GREYS:
        slope = float(file.get("RescaleSlope") or 1)
        shift = float(file.get("RescaleIntercept") or 0)
        values = values * slope + shift
        low, high = sorted((low * slope + shift, high * slope + shift))
        centre, width = (_first(file.get(name)) for name in ("WindowCenter", "WindowWidth"))
        if centre is not None and width is not None and width > 1:
            low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
            notes.append("DICOM window applied")
    if (low, high) != (0.0, 255.0):
        values = (values - low) * (255 / (high - low))
        notes.append(f"{pixels.dtype.itemsize * 8}-bit scaled to 8")
    if kind == "MONOCHROME1":
        values = 255 - values
        notes.append("MONOCHROME1 inverted")
    image = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return (np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image), notes


def _first(value: Any) -> float | None:
    """A number, or the first of several."""
    if value is None or value == "":
        return None
    return float(value[0]) if not isinstance(value, (str, float, int)) else float(value)


def _scale(file: Any) -> float | None:
    """µm per pixel by PixelSpacing (mm), also where microscopes keep it (PS3.3 C.7.6.16.2.1)."""
    try:
        spacing = file.get("PixelSpacing")
        if spacing is None:
            groups = file.SharedFunctionalGroupsSequence[0]
            spacing = groups.PixelMeasuresSequence[0].PixelSpacing
        down, across = (1000 * float(value) for value in spacing)
    except (AttributeError, IndexError, TypeError, ValueError):
        return None
    return plausible_scale(across) if across > 0 and abs(down / across - 1) <= 0.02 else None
