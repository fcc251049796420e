"""Small files that ask for far more memory or time than an image of the allowed size needs.

Made here, so that no such file lies in the repository. ``python tests/hostile_files.py FOLDER``
writes them. Each of them has to be refused from its header.
"""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

MAX_PIXELS = 25_000_000  # of the service


def _encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _grey(side: int = 8) -> Image.Image:
    return Image.fromarray(np.full((side, side), 90, np.uint8))


def _with_jpeg_size(data: bytes, width: int, height: int) -> bytes:
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def jpeg_hidden_frame(marker: int) -> bytes:
    """A marker without length before the true frame; who reads one skips into a harmless frame."""
    small = _encoded(_grey(), "JPEG")
    large = _with_jpeg_size(small, 30_000, 30_000)
    # A reader that believes the two bytes after the marker jumps over the large picture; the
    # decoder, which knows no length there, takes FF E0 for the next segment.
    hidden = large[2:-2]
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(hidden) % 7) + bytes(len(hidden) % 7)
    jump = bytes([0xFF, marker]) + comment + hidden
    return b"\xff\xd8" + jump + bytes(0xFFFE - len(jump) + 2) + small[2:]


def jpeg_of_many_scans(scans: int = 4000, side: int = 1500) -> bytes:
    """A progressive JPEG whose last scan comes again and again: each is a pass over all pixels."""
    data = _encoded(_grey(side), "JPEG", progressive=True)
    last = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + last * scans + b"\xff\xd9"


def jpeg_of_many_segments(segments: int = 8_000_000) -> bytes:
    """Empty segments before the first of a whole JPEG."""
    data = _encoded(_grey(), "JPEG")
    return data[:2] + b"\xff\xe5\0\2" * segments + data[2:]


def png_of_many_chunks(chunks: int = 2_500_000) -> bytes:
    """Empty chunks that no reader knows, behind the header of a whole PNG."""
    data = _encoded(_grey(), "PNG")
    empty = struct.pack(">I4sI", 0, b"abCd", zlib.crc32(b"abCd"))
    return data[:33] + empty * chunks + data[33:]


def webp_of_many_chunks(chunks: int = 4_000_000) -> bytes:
    """Empty chunks behind the picture of a whole WebP."""
    body = _encoded(_grey().convert("RGB"), "WEBP")[8:] + b"abcd\0\0\0\0" * chunks
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif_of_many_blocks(blocks: int = 16_000_000) -> bytes:
    """A comment in pieces of one byte before the picture of a whole GIF."""
    data = _encoded(_grey(), "GIF")
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    return data[:at] + b"!\xfe" + b"\1 " * blocks + b"\0" + data[at:]


def webp_of_two_sizes() -> bytes:
    """The frame of 16383 × 16383 comes first; a later VP8X, which no decoder reads, says 8 × 8."""
    body = _encoded(_grey().convert("RGB"), "WEBP", lossless=True)[12:]
    packed = struct.unpack_from("<I", body, 9)[0]
    large = (packed & ~0xFFFFFFF) | 16_382 | 16_382 << 14
    frame = body[:9] + struct.pack("<I", large) + body[13:]
    frame += bytes(len(frame) % 2)
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\7\0\0\7\0\0"
    return b"RIFF" + struct.pack("<I", 4 + len(frame) + 18) + b"WEBP" + frame + extended


def webp_without_chunks() -> bytes:
    """A naked VP8L stream of 16383 × 16383 behind the file's header."""
    packed = 16_382 | 16_382 << 14
    naked = b"\x2f" + struct.pack("<I", packed)
    # Taken for a chunk, the stream's first bytes lead to a whole small picture.
    small = _encoded(_grey().convert("RGB"), "WEBP", lossless=True)[12:]
    naked += struct.pack("<H", 0) + b"\0"
    length = struct.unpack_from("<I", naked, 4)[0]
    body = naked + bytes(min(length, 2**20)) + small
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def png_of_two_headers() -> bytes:
    """A second header chunk, which replaces the first."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    def header(side: int) -> bytes:
        return chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))

    rows = chunk(b"IDAT", zlib.compress(bytes(8 * 25)))
    return b"\x89PNG\r\n\x1a\n" + header(8) + header(40_000) + rows + chunk(b"IEND", b"")


def tiff_of_one_huge_tile() -> bytes:
    """10 × 10 pixels in a tile of 20,000 × 30,000."""
    tags = [
        (256, 4, 10), (257, 4, 10), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1),
        (322, 4, 20_000), (323, 4, 30_000), (324, 4, 0), (325, 4, 0),
    ]  # fmt: skip
    data = zlib.compress(bytes(20_000 * 3_000))
    start = 8 + 2 + 12 * len(tags) + 4
    tags[-2:] = [(324, 4, start), (325, 4, len(data))]
    return _tiff_page(tags) + data


def _tiff_page(tags: list[tuple[int, int, int]]) -> bytes:
    body = struct.pack("<H", len(tags))
    for tag, kind, value in tags:
        body += struct.pack("<HHII", tag, kind, 1, value)
    return b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", 0)


def tiff_of_many_pages(pages: int = 40_000) -> bytes:
    """A whole small TIFF, and behind it directories of one entry each."""
    data = bytearray(_encoded(_grey(), "TIFF"))
    data += bytes(len(data) % 2)
    entries = struct.unpack_from("<H", data, struct.unpack_from("<I", data, 4)[0])[0]
    link = struct.unpack_from("<I", data, 4)[0] + 2 + 12 * entries
    page = struct.pack("<HHHII", 1, 256, 3, 1, 8)
    for _ in range(pages):
        struct.pack_into("<I", data, link, len(data))
        link = len(data) + len(page)
        data += page + bytes(4)
    return bytes(data)


def tiff_of_many_strips(strips: int = 2_000_000) -> bytes:
    """A line of pixels, each in a strip of its own."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[278] = 1
    data = bytearray(_encoded(Image.new("L", (1, 4)), "TIFF", tiffinfo=tags))
    at = struct.unpack_from("<I", data, 4)[0]
    for entry in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", data, at)[0], 12):
        tag = struct.unpack_from("<H", data, entry)[0]
        if tag == 257:
            struct.pack_into("<HHII", data, entry, tag, 4, 1, strips)
        elif tag in (273, 279):
            struct.pack_into("<HHII", data, entry, tag, 3, strips, len(data))
    return bytes(data) + b"\1\0" * strips


def _dicom(pixels: bytes, syntax: str, side: int = 8) -> bytes:
    import pydicom
    from pydicom.dataset import FileMetaDataset

    file = pydicom.Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = syntax
    file.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.2"
    file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.Rows = file.Columns = side
    file.SamplesPerPixel = 1
    file.PhotometricInterpretation = "MONOCHROME2"
    file.BitsAllocated = file.BitsStored = 8
    file.HighBit, file.PixelRepresentation = 7, 0
    file.PixelData = pixels
    if pydicom.uid.UID(syntax).is_encapsulated:
        file["PixelData"].VR = "OB"
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def dicom_that_inflates(megabytes: int = 220) -> bytes:
    """Deflated data of a thousandth of their size."""
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    whole = _dicom(bytes(64), "1.2.840.10008.1.2.1")
    plain = whole[whole.index(struct.pack("<HH", 0x28, 2)) :]
    end = plain.index(struct.pack("<HH", 0x7FE0, 0x10))
    large = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, megabytes * 2**20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(plain[:end] + large)
    for _ in range(megabytes):
        packed += packer.compress(bytes(2**20))
    packed += packer.flush()
    empty = _dicom(bytes(64), DeflatedExplicitVRLittleEndian)
    length = struct.unpack_from("<I", empty, 140)[0]  # of the file meta group
    return empty[: 144 + length] + packed


def dicom_of_a_large_jpeg() -> bytes:
    """8 × 8 by the tags; the JPEG inside says 12,000 × 12,000."""
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit

    inside = _with_jpeg_size(_encoded(_grey(), "JPEG"), 12_000, 12_000)
    return _dicom(encapsulate([inside]), JPEGBaseline8Bit)


def dicom_of_long_runs(megabytes: int = 8) -> bytes:
    """8 × 8 by the tags; run lengths of 64 times the file's size."""
    from pydicom.encaps import encapsulate
    from pydicom.uid import RLELossless

    frame = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * (megabytes * 2**19)
    return _dicom(encapsulate([frame]), RLELossless)


FILES: Mapping[str, tuple[Callable[[], bytes], str]] = {
    "hidden-tem.jpg": (lambda: jpeg_hidden_frame(0x01), "corrupt"),
    "hidden-rst0.jpg": (lambda: jpeg_hidden_frame(0xD0), "corrupt"),
    "hidden-rst7.jpg": (lambda: jpeg_hidden_frame(0xD7), "corrupt"),
    "scans.jpg": (jpeg_of_many_scans, "too-large"),
    "segments.jpg": (jpeg_of_many_segments, "too-large"),
    "chunks.png": (png_of_many_chunks, "too-large"),
    "chunks.webp": (webp_of_many_chunks, "too-large"),
    "blocks.gif": (gif_of_many_blocks, "too-large"),
    "two-sizes.webp": (webp_of_two_sizes, "corrupt"),
    "naked.webp": (webp_without_chunks, "corrupt"),
    "two-headers.png": (png_of_two_headers, "too-large"),
    "tile.tif": (tiff_of_one_huge_tile, "too-large"),
    "pages.tif": (tiff_of_many_pages, "too-large"),
    "strips.tif": (tiff_of_many_strips, "too-large"),
    "inflates.dcm": (dicom_that_inflates, "too-large"),
    "large-jpeg.dcm": (dicom_of_a_large_jpeg, "too-large"),
    "runs.dcm": (dicom_of_long_runs, "corrupt"),
}
"""Name → its bytes, and the reason for which it is refused."""


def write_hostile_files(folder: Path) -> Path:
    """Write one file of each kind."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (make, _) in FILES.items():
        (folder / name).write_bytes(make())
    return folder


if __name__ == "__main__":
    print(f"{len(FILES)} files:", write_hostile_files(Path(sys.argv[1])))
