"""DICOM pictures by pydicom, which is optional: one frame becomes 8-bit RGB."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.containers import BrokenImage, plausible_scale, read_header

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "PALETTE COLOR")
_GREYS = ("MONOCHROME1", "MONOCHROME2")
_BLOCK = 2**20


def decode_dicom(
    data: bytes, check_pixels: Callable[[int, int], None], *, max_inflated: int
) -> tuple[NDArray[np.uint8], list[str], float | None]:
    """Decode a single-frame DICOM file.

    Grey values are rescaled (slope and intercept) and windowed where the file says so (PS3.3
    C.11.1 and C.11.2, linear); without a window the whole range of the stored bits becomes 0 to
    255. ``MONOCHROME1`` is inverted, YBR and palettes become RGB.

    Args:
        check_pixels: Called with width and height before any pixel is decoded; raises where they
            are too many.
        max_inflated: Most bytes that the data set of a deflated file may hold.

    Returns:
        (H, W, 3) uint8 RGB, notes on what was changed, and µm per pixel where stated.

    Raises:
        BrokenImage: ``unsupported`` without pydicom, for another kind of picture, or for a
            compression that nothing here can read; ``too-large``, ``animated``,
            ``truncated``, ``corrupt``.
    """
    if find_spec("pydicom") is None:
        detail = "DICOM needs the optional dependencies [dicom], which are not installed"
        raise BrokenImage("unsupported", detail, "pip install 'leukoscope[dicom]'")
    import pydicom

    try:
        _check_inflated(BytesIO(data), max_inflated)
        file = pydicom.dcmread(BytesIO(data))
        width, height = int(file.Columns), int(file.Rows)
        frames = int(file.get("NumberOfFrames") or 1)
        kind = str(file.PhotometricInterpretation)
    except BrokenImage:
        raise
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
        _check_compressed(file, check_pixels)
        pixels = np.asarray(file.pixel_array)
    except BrokenImage:
        raise
    except Exception as error:
        raise _undecoded(error, file) from None
    image, notes = _to_rgb(pixels, file, kind)
    return image, notes, _scale(file)


def dicom_size(file: BinaryIO) -> tuple[int, int]:
    """Width and height by the tags; raises anything where they cannot be read."""
    import pydicom

    _check_inflated(file, _BLOCK)
    tags = pydicom.dcmread(file, specific_tags=["Columns", "Rows"], stop_before_pixels=True)
    return int(tags.Columns), int(tags.Rows)


def _check_inflated(file: BinaryIO, most: int) -> None:
    """Refuse a deflated data set of more than so many bytes; pydicom inflates it whole."""
    from pydicom.filereader import _read_file_meta_info, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    start = file.tell()
    read_preamble(file, force=False)
    meta = _read_file_meta_info(file)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        inflate, packed, found = zlib.decompressobj(-zlib.MAX_WBITS), file.read(), 0
        while packed and not inflate.eof:
            found += len(inflate.decompress(packed, _BLOCK))
            packed = inflate.unconsumed_tail
            if found > most:
                detail = f"expected a DICOM that inflates to at most {most:,} bytes, found more"
                raise BrokenImage("too-large", detail, "save it uncompressed, or as PNG")
    file.seek(start)


def _check_compressed(file: FileDataset, check_pixels: Callable[[int, int], None]) -> None:
    """Refuse compressed pixels of another size than the tags announce, before they are decoded."""
    from pydicom.encaps import generate_frames
    from pydicom.uid import JPEGLSTransferSyntaxes, JPEGTransferSyntaxes, RLELossless

    syntax = file.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return
    frame = next(generate_frames(file.PixelData, number_of_frames=1))
    if syntax == RLELossless:
        _check_rle(frame, int(file.Rows) * int(file.Columns))
    elif syntax in JPEGTransferSyntaxes:
        header = read_header(frame)
        check_pixels(header.width, header.height)
    elif syntax in JPEGLSTransferSyntaxes:
        check_pixels(*_size_behind(frame, b"\xff\xf7", ">3xHH")[::-1])
    else:  # JPEG 2000: in the main header a segment SIZ; with its offset and tiles (A.5.1)
        check_pixels(*_size_behind(frame, b"\xff\x4f\xff\x51", ">4xII"))


def _size_behind(frame: bytes, marker: bytes, layout: str) -> tuple[int, int]:
    """Two numbers of the first segment of this kind."""
    at = frame.find(marker)
    if at < 0:
        raise BrokenImage("corrupt", "expected a picture's header in the compressed DICOM pixels")
    first, second = struct.unpack_from(layout, frame, at + len(marker))
    return int(first), int(second)


def _check_rle(frame: bytes, plane: int) -> None:
    """Refuse run lengths that add up to more than one byte per pixel and segment (PS3.5 G)."""
    count, *offsets = struct.unpack_from("<16I", frame)
    ends = [*offsets[1:count], len(frame)]
    for start, end in zip(offsets[:count], ends, strict=False):
        at, found = start, 0
        while at < min(end, len(frame)):
            control = frame[at]
            found += control + 1 if control < 128 else (257 - control) % 129
            at += control + 2 if control < 128 else 2 - (control == 128)
            if found > plane + 1:  # one byte of padding
                detail = f"expected {plane:,} bytes in a run-length segment, found more"
                raise BrokenImage("corrupt", detail)


def _undecoded(error: Exception, file: FileDataset | None) -> BrokenImage:
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


def _to_rgb(
    pixels: NDArray[Any], file: FileDataset, kind: str
) -> tuple[NDArray[np.uint8], list[str]]:
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


def _scale(file: FileDataset) -> float | None:
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
