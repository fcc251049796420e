"""What an image file says about itself, and its pixel size, before any pixel is decoded."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# By their letters: of µ, which comes in many encodings, nothing is left, or ImageJ's \u00b5.
_UNITS = {"m": 1.0, "um": 1.0, "ubm": 1.0, "micron": 1.0, "microns": 1.0, "nm": 1e-3, "mm": 1e3,
          "cm": 1e4}  # fmt: skip
# Scanners and cameras that know no scale write that of a screen or of paper, 72 to 600 dpi.
_SMALLEST, _LARGEST = 0.005, 5.0
_DESCRIPTION, _X_RESOLUTION, _Y_RESOLUTION, _UNIT = 270, 282, 283, 296  # TIFF 6.0
_OTHER_FORMATS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF", "PDF"),
    (0, b"PK\x03\x04", "ZIP"),
    (0, b"\x89HDF", "HDF5"),
)
# --- JPEG -----------------------------------------------------------------------------------

# Inside entropy-coded data a marker is FF followed by anything but 00, RST0–7 or fill bytes.
# One byte first: the search then runs as fast as memory; fill bytes before it are matched again.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_MARKER = re.compile(rb"\xff+([^\xff])", re.DOTALL)
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LEGAL_AFTER_SCAN = frozenset({0xC4, 0xCC, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)})
# All of these but the end of the image have a length. TEM (01) and RST0-7 have none: a reader that
# takes the bytes after them for a length walks past segments which the decoder obeys.
_LEGAL_BETWEEN_SEGMENTS = _LEGAL_AFTER_SCAN | _SOF
MAX_SCANS = 100
"""Most scans of a JPEG; each costs one pass over all pixels, and an encoder makes about ten."""
QUICK_SCANS = 4
MAX_PIECES = 100_000
"""Most segments or chunks of a file; each costs a step of an interpreter that others wait for."""
_BMP_HEADER_SIZES = frozenset(
    struct.pack("<I", size) for size in (12, 16, 40, 52, 56, 64, 108, 124)
)


def plausible_scale(um_per_px: float | None) -> float | None:
    """The scale, or None where no light microscope has it.

    >>> plausible_scale(0.1), plausible_scale(25400 / 72)
    (0.1, None)
    """
    known = um_per_px is not None and _SMALLEST <= um_per_px <= _LARGEST
    return um_per_px if known else None


def tiff_scale(tags: Mapping[int, str | float]) -> float | None:
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
        return plausible_scale(float(found[1]) * factor) if factor else None
    if not (across > 0 and down > 0 and abs(across / down - 1) <= 0.02):
        return None
    if "ImageJ=" in text and (found := re.search(r"^unit=(\S+)", text, re.MULTILINE)):
        factor = _unit(found[1])
    else:
        factor = {2: 25_400.0, 3: 10_000.0}.get(int(tags.get(_UNIT, 2)))
    return plausible_scale(factor / across) if factor else None


def _unit(text: str) -> float | None:
    """µm in a unit; None for an unknown one."""
    return _UNITS.get(re.sub(r"[^a-z]", "", text.lower()))


class BrokenImage(Exception):  # noqa: N818 - becomes an ImageError as soon as the file is known
    """The bytes are no readable image."""

    def __init__(self, reason: str, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.hint = hint


@dataclass(frozen=True)
class Header:
    """The facts that choose a decoder."""

    format: str  # ``JPEG``, ``PNG``, ``WEBP``, ``BMP``, ``GIF``, ``TIFF`` or ``DICOM``
    width: int  # width in pixels; 0 for TIFF and DICOM, whose decoders read the tags
    height: int  # height in pixels; 0 likewise
    frames: int = 1  # number of frames; more than one means an animation
    bits: int = 8
    plain: bool = True  # 8-bit grey or RGB without alpha or palette
    orientation: int = 1  # EXIF orientation, 1–8


def sniff(data: bytes) -> str:
    """The format that the first bytes show, whatever the file is called.

    Raises:
        BrokenImage: ``empty``, ``not-an-image``, or ``unsupported`` for a known other format.

    >>> sniff(b"GIF89a......")
    'GIF'
    """
    if not data:
        raise BrokenImage("empty", "expected an image, but the file holds no bytes")
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if data[:2] == b"BM" and data[14:18] in _BMP_HEADER_SIZES:
        return "BMP"
    if data[128:132] == b"DICM":
        return "DICOM"
    raise _not_an_image(data)


def is_quick(data: bytes) -> bool:
    """Whether an image takes at most about two seconds for all that its pixels may hold.

    So it is where the work grows with the number of pixels, which the header tells: JPEG of few
    scans, PNG, WebP, plain BMP. What is refused from its first bytes takes no time either.
    """
    try:
        name = sniff(data[:512])
    except BrokenImage:
        return True
    if name == "JPEG":  # a scan's marker never stands inside of pixel data
        return data.count(b"\xff\xda") <= QUICK_SCANS
    if name == "BMP":  # run lengths are followed by an interpreter
        return data[28:30] == b"\x18\0" and data[30:34] == bytes(4)
    return name in ("PNG", "WEBP")


def read_header(data: bytes) -> Header:
    """Sniff and walk the container.

    Raises:
        BrokenImage: With the reason ``empty``, ``not-an-image``, ``unsupported``,
            ``truncated`` or ``corrupt``.
    """
    name = sniff(data)
    if name not in _READERS:  # TIFF and DICOM: their decoders read the tags
        return Header(name, 0, 0, plain=False)
    try:
        header = _READERS[name](data)
    except (struct.error, IndexError):
        raise BrokenImage(
            "truncated", f"expected a complete {name} header, the file ends"
        ) from None
    if header.width <= 0 or header.height <= 0:
        raise BrokenImage(
            "corrupt", f"expected a positive size, found {header.width}×{header.height}"
        )
    return header


def exif_orientation(exif: bytes) -> int:
    """Orientation (1–8) of an EXIF block that starts with its TIFF header; 1 where unreadable."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        start = struct.unpack_from(order + "I", exif, 4)[0]
        for index in range(struct.unpack_from(order + "H", exif, start)[0]):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, start + 2 + 12 * index)
            if tag == 0x0112 and kind == 3 and 1 <= value <= 8:
                return int(value)
    except struct.error:
        pass
    return 1


def _not_an_image(data: bytes) -> BrokenImage:
    for offset, magic, name in _OTHER_FORMATS:
        if data[offset : offset + len(magic)] == magic:
            hint = "convert it to PNG or TIFF"
            return BrokenImage("unsupported", f"expected an image format, found {name}", hint)
    start = data[:512].lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return BrokenImage("not-an-image", "found a Git LFS pointer, not the image", "git lfs pull")
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        hint = "a download that saved an error page?"
        return BrokenImage("not-an-image", "expected an image, found a web page or XML", hint)
    kind = "text" if _is_text(data[:512]) else "unknown binary data"
    return BrokenImage("not-an-image", f"expected an image, found {kind}")


def _count_piece(count: int) -> int:
    """One segment or chunk more.

    Raises:
        BrokenImage: There are more than any program writes.
    """
    if count == MAX_PIECES:
        detail = f"expected at most {MAX_PIECES:,} segments, found more"
        raise BrokenImage("too-large", detail, "save it again as PNG")
    return count + 1


def _is_text(data: bytes) -> bool:
    return not any(byte < 9 or 13 < byte < 32 for byte in data)


def _read_jpeg(data: bytes) -> Header:
    frame: tuple[int, int, int, int] | None = None
    orientation, scans, at, pieces = 1, 0, 2, 0
    while True:
        pieces = _count_piece(pieces)
        found = _MARKER.match(data, at)
        if found is None:
            _jpeg_ends(data, at, "a marker")
            raise BrokenImage("corrupt", f"expected a JPEG marker at byte {at}, found other data")
        marker, at = found[1][0], found.end()
        if marker == 0xD9:
            break
        if marker not in _LEGAL_BETWEEN_SEGMENTS:
            detail = f"found the illegal JPEG marker FF{marker:02X} before byte {at}"
            raise BrokenImage("corrupt", detail)
        length = _jpeg_length(data, at)
        body = data[at + 2 : at + length]
        if marker == 0xE1 and body[:6] == b"Exif\0\0":
            orientation = exif_orientation(body[6:])
        elif marker in _SOF:
            if frame is not None:
                raise BrokenImage("corrupt", f"found a second JPEG frame at byte {at}")
            frame = struct.unpack_from(">BHHB", body)
        at += length
        if marker == 0xDA:
            scans += 1
            if scans > MAX_SCANS:
                detail = f"expected a JPEG of at most {MAX_SCANS} scans, found more"
                raise BrokenImage("too-large", detail, "save it again as a JPEG or PNG")
            at = _skip_scan(data, at)
    if frame is None:
        raise BrokenImage("corrupt", "expected a JPEG frame header, found none")
    bits, height, width, channels = frame
    return Header("JPEG", width, height, 1, bits, channels in (1, 3), orientation)


def _jpeg_length(data: bytes, at: int) -> int:
    if at + 2 > len(data):
        _jpeg_ends(data, len(data), "a segment")
    length = int(struct.unpack_from(">H", data, at)[0])
    if length < 2:
        raise BrokenImage("corrupt", f"found a JPEG segment of length {length} at byte {at}")
    if at + length > len(data):
        _jpeg_ends(data, len(data), "the rest of a segment")
    return length


def _skip_scan(data: bytes, at: int) -> int:
    found = _NEXT_MARKER.search(data, at)
    if found is None:
        _jpeg_ends(data, len(data), "the end-of-image marker")
    assert found is not None
    marker = data[found.end() - 1]
    if marker not in _LEGAL_AFTER_SCAN:
        raise BrokenImage(
            "corrupt",
            f"found the illegal marker FF{marker:02X} inside pixel data at {found.start()}",
        )
    return found.start()


def _jpeg_ends(data: bytes, at: int, expected: str) -> None:
    if data.endswith(b"\xff\xd9"):  # the end is there, so what is missing was overwritten
        raise BrokenImage("corrupt", f"expected {expected} before the end of the JPEG data")
    # Interrupted downloads may be padded with zeros.
    if at >= len(data.rstrip(b"\0\xff")):
        raise BrokenImage("truncated", f"expected {expected}, the JPEG data ends at byte {at}")


# --- PNG ------------------------------------------------------------------------------------


def _read_png(data: bytes) -> Header:
    at, frames, orientation, transparent, pieces = 8, 1, 1, False, 0
    if data[12:16] != b"IHDR" and len(data) >= 16:
        raise BrokenImage("corrupt", "expected the PNG header chunk IHDR first")
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    while True:
        pieces = _count_piece(pieces)
        if at + 12 > len(data):
            raise BrokenImage("truncated", "expected the PNG end chunk IEND, the file ends")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise BrokenImage("truncated", f"chunk at byte {at} needs {end - len(data)} more bytes")
        body = data[at + 8 : end - 4]
        # Lower-case names are ancillary; damage there does not reach the pixels.
        if kind[:1].isupper() and zlib.crc32(data[at + 4 : end - 4]) != _big(data[end - 4 : end]):
            raise BrokenImage("corrupt", f"the checksum of the PNG chunk at byte {at} is wrong")
        if kind == b"acTL":
            frames = max(1, _big(body[:4]))
        elif kind == b"eXIf":
            orientation = exif_orientation(body)
        elif kind == b"tRNS":
            transparent = True
        elif kind == b"IEND":
            break
        at = end
    plain = bits == 8 and colour in (0, 2) and not transparent
    return Header("PNG", width, height, frames, bits, plain, orientation)


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


# --- WebP, BMP, GIF ---------------------------------------------------------------------------


def _read_webp(data: bytes) -> Header:
    end = _little(data[4:8]) + 8
    if end > len(data):
        raise BrokenImage("truncated", f"expected {end} bytes of WebP, the file has {len(data)}")
    frames, alpha, orientation, at, pieces = 0, False, 1, 12, 0
    sizes: list[tuple[int, int]] = []  # the decoder believes one of them: all have to be allowed
    while at + 8 <= end:
        pieces = _count_piece(pieces)
        kind, length = data[at : at + 4], _little(data[at + 4 : at + 8])
        body = data[at + 8 : at + 8 + length]
        if at == 12 and kind not in (b"VP8X", b"VP8 ", b"VP8L"):
            raise BrokenImage("corrupt", "expected a WebP image or VP8X as the first chunk")
        if kind == b"VP8X":
            alpha = bool(body[0] & 0x10)
            sizes.append((_little(body[4:7]) + 1, _little(body[7:10]) + 1))
        elif kind == b"VP8 ":
            frames += 1
            across, down = struct.unpack_from("<HH", body, 6)
            sizes.append((across & 0x3FFF, down & 0x3FFF))
        elif kind == b"VP8L":
            frames += 1
            packed = struct.unpack_from("<I", body, 1)[0]
            alpha = alpha or bool(packed >> 28 & 1)
            sizes.append(((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1))
        elif kind == b"ANMF":
            frames += 1
        elif kind == b"EXIF":
            orientation = exif_orientation(body.removeprefix(b"Exif\0\0"))
        at += 8 + length + length % 2
    if not frames:
        raise BrokenImage("corrupt", "expected a WebP image chunk, found none")
    if frames == 1 and len(set(sizes)) > 1:
        shown = ", ".join(f"{across}×{down}" for across, down in sizes[:3])
        raise BrokenImage("corrupt", f"expected one size in this WebP, found {shown}")
    width, height = sizes[0] if sizes else (0, 0)
    return Header("WEBP", width, height, frames, 8, not alpha, orientation)


def _read_bmp(data: bytes) -> Header:
    offset, size = struct.unpack_from("<II", data, 10)
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        packing = 0
    else:
        width, height, _, bits, packing = struct.unpack_from("<iiHHI", data, 18)
    needed = offset + (width * bits + 31) // 32 * 4 * abs(height)
    if packing in (0, 3) and needed > len(data):
        raise BrokenImage("truncated", f"expected {needed} bytes of BMP, the file has {len(data)}")
    return Header("BMP", width, abs(height), plain=bits == 24)


def _read_gif(data: bytes) -> Header:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    frames = pieces = 0
    while (block := data[at]) != 0x3B:
        pieces = _count_piece(pieces)
        if block == 0x2C:
            left, top, wide, high, flags = struct.unpack_from("<HHHHB", data, at + 1)
            width, height = max(width, left + wide), max(height, top + high)
            at += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
            frames += 1
        elif block == 0x21:
            at += 2
        else:
            raise BrokenImage("corrupt", f"found the illegal GIF block {block:02X} at byte {at}")
        while data[at]:
            at += data[at] + 1
            pieces = _count_piece(pieces)
        at += 1
    if not frames:
        raise BrokenImage("corrupt", "expected a GIF image block, found none")
    return Header("GIF", width, height, frames, plain=False)


# --- TIFF -------------------------------------------------------------------------------------

MAX_PAGES = 1_000
MAX_STRIPS = 100_000
_STRIP_LISTS = (273, 279, 324, 325)  # offsets and lengths of the strips or tiles


def count_tiff_pages(data: bytes) -> int:
    """Number of pages by the chain of directories, read once and no pixel of it.

    Raises:
        BrokenImage: ``too-large`` above :data:`MAX_PAGES` pages or :data:`MAX_STRIPS` strips or
            tiles of the first page; ``truncated`` where the chain leaves the file.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    address, number = (order + "Q", order + "Q") if big else (order + "I", order + "H")
    entry_bytes = 20 if big else 12
    seen: set[int] = set()
    try:
        at = struct.unpack_from(address, data, 8 if big else 4)[0]
        while at and at not in seen:
            if len(seen) == MAX_PAGES:
                detail = f"expected a TIFF of at most {MAX_PAGES:,} pages, found more"
                raise BrokenImage("too-large", detail, "save the page you mean as PNG")
            entries = struct.unpack_from(number, data, at)[0]
            first = at + struct.calcsize(number)
            if not seen:
                _check_strips(data[first : first + entries * entry_bytes], order, entry_bytes)
            seen.add(at)
            at = struct.unpack_from(address, data, first + entries * entry_bytes)[0]
    except struct.error:
        detail = f"page {len(seen) + 1} of this TIFF begins behind the end of the file"
        raise BrokenImage("truncated", detail) from None
    return max(1, len(seen))


def _check_strips(entries: bytes, order: str, entry_bytes: int) -> None:
    """Refuse a page of more strips or tiles than any program writes."""
    count_as = order + ("HHQ" if entry_bytes == 20 else "HHI")
    for at in range(0, len(entries) - entry_bytes + 1, entry_bytes):
        tag, _, count = struct.unpack_from(count_as, entries, at)
        if tag in _STRIP_LISTS and count > MAX_STRIPS:
            detail = f"expected at most {MAX_STRIPS:,} strips or tiles, found {count:,}"
            raise BrokenImage("too-large", detail, "save it as PNG")


_READERS: Mapping[str, Callable[[bytes], Header]] = {
    "JPEG": _read_jpeg,
    "PNG": _read_png,
    "WEBP": _read_webp,
    "BMP": _read_bmp,
    "GIF": _read_gif,
}
