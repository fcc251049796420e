"""The size of a picture from the beginning of its file, without decoding it."""

from __future__ import annotations

import struct
from importlib.util import find_spec
from pathlib import Path

from leukoscope.imaging.containers import BrokenImage, sniff

_HEAD = 2**16
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG frame headers


def peek_size(path: Path) -> tuple[int, int] | None:
    """Width and height before any EXIF orientation; None where the file does not say at once."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        name = sniff(head)
        if name in ("TIFF", "DICOM"):
            return _tiff_size(path) if name == "TIFF" else _dicom_size(path)
        return _SIZES[name](head)
    except (OSError, ValueError, BrokenImage, struct.error, IndexError):
        return None


def _png_size(head: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", head, 16)
    return width, height


def _gif_size(head: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", head, 6)
    return width, height


def _bmp_size(head: bytes) -> tuple[int, int]:
    old = head[14:18] == b"\x0c\0\0\0"
    width, height = struct.unpack_from("<HH" if old else "<ii", head, 18)
    return width, abs(height)


def _webp_size(head: bytes) -> tuple[int, int] | None:
    kind, body = head[12:16], head[20:]
    if kind == b"VP8X":
        return (int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1)
    if kind == b"VP8L":
        packed = struct.unpack_from("<I", body, 1)[0]
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", body, 6)
    return width & 0x3FFF, height & 0x3FFF


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    at = 2
    while head[at] == 0xFF:
        marker = head[at + 1]
        if marker in _SOF:
            height, width = struct.unpack_from(">HH", head, at + 5)
            return width, height
        at += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", head, at + 2)[0]
    return None


def _tiff_size(path: Path) -> tuple[int, int] | None:
    import warnings

    from PIL import TiffImagePlugin

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with path.open("rb") as file:
                return TiffImagePlugin.TiffImageFile(file).size
        except Exception:  # a damaged file may raise anything; decoding says what is wrong
            return None


def _dicom_size(path: Path) -> tuple[int, int] | None:
    if find_spec("pydicom") is None:
        return None
    import pydicom

    try:
        file = pydicom.dcmread(path, specific_tags=["Columns", "Rows"], stop_before_pixels=True)
        return int(file.Columns), int(file.Rows)
    except Exception:  # likewise
        return None


_SIZES = {
    "PNG": _png_size,
    "GIF": _gif_size,
    "BMP": _bmp_size,
    "WEBP": _webp_size,
    "JPEG": _jpeg_size,
}
