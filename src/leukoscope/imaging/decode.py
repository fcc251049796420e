"""The one door through which every image comes in.

Each format has one decoder, so that the same file gives the same pixels everywhere: OpenCV for
ordinary JPEG and WebP (two to three times faster), Pillow for everything else. The container is
checked first (:mod:`leukoscope.imaging.containers`); ICC profiles are ignored.
"""

from __future__ import annotations

import errno
import re
import stat
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import ImageError
from leukoscope.imaging.containers import (
    BrokenImage,
    Header,
    count_tiff_pages,
    read_header,
    sniff,
    tiff_scale,
)

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 100_000_000
MAX_BYTES = 256 * 2**20

_SUFFIXES = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".dcm": "DICOM",
}
IMAGE_SUFFIXES: tuple[str, ...] = tuple(_SUFFIXES)

# Pillow and pydicom report oddities of tags as warnings. Python's filters belong to the process:
# one that stays needs no lock, with which one slow file would hold up all others.
_READERS_WARNINGS = re.compile(r"(PIL|pydicom)\.")
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF 6.0, section 15
_BAND_ROWS = 64
_SAVE_AS_8_BITS = "save it with 8 bits per channel"
_BITS, _CHANNELS, _KIND = 258, 277, 339  # BitsPerSample, SamplesPerPixel, SampleFormat
_KINDS = {2: "signed integers", 3: "floating point"}


@dataclass(frozen=True)
class Decoded:
    """A decoded image.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright, contiguous.
        format: The real format: ``JPEG``, ``PNG``, ``WEBP``, ``BMP``, ``GIF``, ``TIFF``, ``DICOM``.
        notes: What was changed or odd, in words.
        um_per_px: The pixel scale that the file states; None where it states none.
        pages: Number of pages of a TIFF, of which the first was read.
    """

    image: NDArray[np.uint8]
    format: str
    notes: tuple[str, ...] = ()
    um_per_px: float | None = None
    pages: int = 1

    @property
    def doubts(self) -> tuple[str, ...]:
        """What a person has to know before believing an answer, in sentences."""
        several = f"The file has {self.pages} pages; the first one was read."
        return (several,) if self.pages > 1 else ()


@dataclass(frozen=True)
class DecodedFile:
    """What a file held, for who already has it; ``sha256`` is that of the file's bytes."""

    decoded: Decoded
    sha256: str


def decode_image(
    source: Path | bytes,
    *,
    name: str = "",
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
) -> Decoded:
    """Decode a JPEG, PNG, WebP, BMP, TIFF, or single-frame GIF or DICOM to 8-bit RGB.

    Of a TIFF with several pages (a thumbnail, a pyramid, a stack) the first is read, and
    :attr:`Decoded.pages` says how many there are.

    Args:
        source: A file, or the bytes of one.
        name: What to call the image in messages; the path where it is empty.
        max_pixels: Largest width × height; checked before any pixel is decoded.

    Raises:
        ImageError: With the reason ``missing``, ``unreadable``, ``symlink-loop``, ``empty``,
            ``too-large``, ``not-an-image``, ``unsupported`` (a known other format or depth),
            ``truncated``, ``corrupt`` or ``animated``.
    """
    name = name or (str(source) if isinstance(source, Path) else "<bytes>")
    try:
        data = source if isinstance(source, bytes) else _read(source, max_bytes)
        if len(data) > max_bytes:
            raise _too_large(f"{len(data):,} bytes", f"{max_bytes:,}")
        header = read_header(data)
        if header.frames > 1:
            detail = f"expected one image, found {header.frames} frames"
            raise BrokenImage("animated", detail, "save the frame you mean as PNG")
        found = _decode(data, header, max_pixels)
    except BrokenImage as broken:
        raise ImageError(name, broken.reason, broken.detail, hint=broken.hint) from None
    suffix = Path(name).suffix
    if _SUFFIXES.get(suffix.lower(), header.format) != header.format:
        found = replace(found, notes=(*found.notes, f"named {suffix} but is {header.format}"))
    return found


def read_image_file(path: Path) -> bytes:
    """The bytes of an image file, for a caller that needs them beside the pixels.

    Raises:
        ImageError: It is missing, unreadable, no file, or too large.
    """
    try:
        return _read(path, MAX_BYTES)
    except BrokenImage as broken:
        raise ImageError(path, broken.reason, broken.detail, hint=broken.hint) from None


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "folder" if stat.S_ISDIR(status.st_mode) else "device or pipe"
            raise BrokenImage("unreadable", f"expected an image file, found a {kind}")
        if status.st_size > max_bytes:
            raise _too_large(f"{status.st_size:,} bytes", f"{max_bytes:,}")
        with path.open("rb") as handle:
            return handle.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        detail = "a link to a file that is missing" if path.is_symlink() else "no such file"
        raise BrokenImage("missing", detail) from None
    except ValueError:
        raise BrokenImage("missing", "the path holds a null character") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise BrokenImage("symlink-loop", "the symbolic link leads back to itself") from None
        detail = f"expected a readable file, but {error.strerror or error}"
        raise BrokenImage("unreadable", detail) from None


def _too_large(came: str, limit: str) -> BrokenImage:
    hint = "tile or shrink the image; whole slides are read by other tools"
    return BrokenImage("too-large", f"expected at most {limit}, found {came}", hint)


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise _too_large(f"{width}×{height} pixels", f"{max_pixels:,} pixels")


def _decode(data: bytes, header: Header, max_pixels: int) -> Decoded:
    _check_pixels(header.width, header.height, max_pixels)
    if header.format == "JPEG" and header.bits != 8:
        raise BrokenImage("unsupported", f"expected an 8-bit JPEG, found {header.bits} bits")
    scale, pages = None, 1
    if header.plain and header.format in ("JPEG", "WEBP"):
        image, notes = _decode_opencv(data, header)
    elif header.format == "DICOM":
        from leukoscope.imaging.dicom import decode_dicom

        _ignore_warnings()
        image, notes, scale = decode_dicom(
            data,
            lambda width, height: _check_pixels(width, height, max_pixels),
            max_inflated=min(MAX_BYTES, 8 * max_pixels + 2**20),
        )
    else:
        image, notes, scale, pages = _decode_pillow(data, header, max_pixels)
    if header.orientation != 1:
        image = _upright(image, header.orientation)
        notes.append(f"EXIF orientation {header.orientation} applied")
    return Decoded(np.ascontiguousarray(image), header.format, tuple(notes), scale, pages)


def _decode_opencv(data: bytes, header: Header) -> tuple[NDArray[np.uint8], list[str]]:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None or image.shape[:2] != (header.height, header.width):
        raise BrokenImage("corrupt", f"the pixel data of this {header.format} cannot be decoded")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8), []


def _decode_pillow(
    data: bytes, header: Header, max_pixels: int
) -> tuple[NDArray[np.uint8], list[str], float | None, int]:
    # The plugin is opened directly: Image.open would try other formats and warn of its own limit.
    from PIL import UnidentifiedImageError

    try:
        pages = count_tiff_pages(data) if header.format == "TIFF" else 1
        notes = [f"first of {pages} pages"] if pages > 1 else []
        scale = None
        with _open_pillow(BytesIO(data), header.format) as picture:
            _check_pixels(picture.width, picture.height, max_pixels)
            if header.format == "TIFF":
                across = _tiff_tag(picture, _TILE_WIDTH, 1)
                down = _tiff_tag(picture, _TILE_LENGTH, 1)
                _check_pixels(across, down, max_pixels)  # a tile may be larger than its image
                scale = tiff_scale(getattr(picture, "tag_v2", {}))
            picture.load()
            image, more = _to_rgb(picture, header)
            return image, notes + more, scale, pages
    except (SyntaxError, UnidentifiedImageError) as error:
        if header.format == "TIFF" and (found := _tiff_samples(data)):
            detail = f"expected grey or RGB of 8 or 16 bits per channel, found {found}"
            raise BrokenImage("unsupported", detail, _SAVE_AS_8_BITS) from None
        raise BrokenImage("corrupt", f"expected a valid {header.format}, but {error}") from None
    except MemoryError:
        raise _too_large("more than the memory holds", f"{max_pixels:,} pixels") from None
    except (OSError, EOFError) as error:
        cut = any(word in str(error).lower() for word in ("truncated", "not enough", "end of file"))
        reason = "truncated" if cut else "corrupt"
        raise BrokenImage(reason, f"the {header.format} data are {reason}: {error}") from None
    except BrokenImage:
        raise
    except Exception as error:  # a damaged file may raise anything inside a plugin
        detail = f"the {header.format} cannot be decoded: {type(error).__name__}: {error}"
        raise BrokenImage("corrupt", detail) from None


def _ignore_warnings() -> None:
    """Silence what Pillow and pydicom say of a file's tags, for the rest of the process."""
    known = ("ignore", None, Warning, _READERS_WARNINGS, 0)
    if known not in warnings.filters:
        warnings.filterwarnings("ignore", module=_READERS_WARNINGS.pattern)


_PLUGINS = {
    "JPEG": "Jpeg",
    "PNG": "Png",
    "WEBP": "WebP",
    "BMP": "Bmp",
    "GIF": "Gif",
    "TIFF": "Tiff",
}


def load_readers() -> None:
    """Import the readers of all formats, so that the first file takes no longer than the next."""
    for plugin in _PLUGINS.values():
        import_module(f"PIL.{plugin}ImagePlugin")
    with suppress(ImportError):
        import_module("pydicom.pixels")


def _open_pillow(file: BinaryIO, name: str) -> Image.Image:
    _ignore_warnings()
    plugin = import_module(f"PIL.{_PLUGINS[name]}ImagePlugin")
    return cast("Image.Image", getattr(plugin, f"{_PLUGINS[name]}ImageFile")(file))


def open_header(data: bytes) -> Image.Image | None:
    """A file's header and metadata as Pillow reads them, without the pixels.

    Returns:
        None where the bytes are no format that Pillow reads, or are damaged.
    """
    try:
        name = sniff(data[:512])
        return _open_pillow(BytesIO(data), name)
    except Exception:  # a damaged file may raise anything
        return None


def peek_size(source: Path | bytes) -> tuple[int, int] | None:
    """Width and height before any EXIF orientation, without decoding the pixels.

    Args:
        source: A file, or its bytes.

    Returns:
        None where the file does not say; decoding it tells what is wrong.
    """
    if isinstance(source, Path) and not source.is_file():
        return None  # to open a pipe would wait for whoever writes into it
    try:
        with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            name = sniff(file.read(512))
            file.seek(0)
            if name == "DICOM":
                from leukoscope.imaging.dicom import dicom_size

                _ignore_warnings()
                return dicom_size(file)
            if name == "TIFF":
                return _open_pillow(file, name).size
            header = read_header(file.read(MAX_BYTES))
            return header.width, header.height
    except Exception:  # a damaged file may raise anything
        return None


def _to_rgb(picture: Image.Image, header: Header) -> tuple[NDArray[np.uint8], list[str]]:
    notes = []
    if picture.mode.startswith("I;16"):
        bits = _tiff_tag(picture, 258, 16)  # BitsPerSample; 12 are stored as they are
        high = (np.asarray(picture).astype(np.uint16) >> (bits - 8)).astype(np.uint8)
        if _tiff_tag(picture, 262, 1) == 0:  # WhiteIsZero, which Pillow inverts at 8 bits only
            high = 255 - high
        return np.repeat(high[:, :, None], 3, axis=2), [f"{bits}-bit scaled to 8"]
    if picture.mode in ("I", "F"):
        detail = "expected 8 or 16 bits per channel, found 32"
        raise BrokenImage("unsupported", detail, _SAVE_AS_8_BITS)
    if header.bits == 16 or _tiff_tag(picture, 258, 8) == 16:
        notes.append("16-bit scaled to 8")  # Pillow keeps the high byte
    if picture.mode == "CMYK":
        notes.append("CMYK converted")
    if picture.has_transparency_data:
        rgba = np.asarray(picture.convert("RGBA"))
        image, composited = _on_white(rgba)
        return image, notes + (["alpha composited on white"] if composited else [])
    return np.asarray(picture.convert("RGB"), np.uint8), notes


def _tiff_samples(data: bytes) -> str:
    """What the samples of a TIFF are that Pillow has no mode for; empty where it cannot be told."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        tags = ImageFileDirectory_v2(data[:16] if 43 in data[2:4] else data[:8])
        file = BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        bits, kind = (tags.get(number, (1,)) for number in (_BITS, _KIND))
        channels = int(tags.get(_CHANNELS, 1))
    except Exception:  # a damaged file may raise anything
        return ""
    first = int(bits[0] if isinstance(bits, tuple) else bits)
    of = int(kind[0] if isinstance(kind, tuple) else kind)
    each = f"{first} bits each" if channels > 1 else f"{first} bits"
    named = f", {_KINDS[of]}" if of in _KINDS else ""
    return f"{channels} channel{'s' if channels > 1 else ''} of {each}{named}"


def _tiff_tag(picture: Image.Image, number: int, default: int) -> int:
    """A tag (TIFF 6.0), its first value where it has several."""
    value = getattr(picture, "tag_v2", {}).get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _on_white(rgba: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], bool]:
    """Colours over a white ground, and whether anything was transparent."""
    if (rgba[:, :, 3] == 255).all():
        return rgba[:, :, :3], False
    image = np.empty((*rgba.shape[:2], 3), np.uint8)
    # Rows by rows: wider numbers for the whole of a large image would take many times its memory.
    for start in range(0, len(rgba), _BAND_ROWS):
        band = rgba[start : start + _BAND_ROWS].astype(np.uint16)
        colours, alpha = band[:, :, :3], band[:, :, 3:]
        mixed = colours * alpha + 255 * (255 - alpha)  # at most 255 squared
        image[start : start + _BAND_ROWS] = (mixed + 127) // 255
    return image, True


def _upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo an EXIF orientation (EXIF 2.32, tag 0x0112)."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image
