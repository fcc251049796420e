"""Twenty kinds of files that cannot be read as images, nine unusual ones that can.

``python tests/broken_images.py FOLDER`` writes them; ``leukoscope predict FOLDER`` names the twenty
and ends with exit code 3.
"""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

# File name → reason code in the manifest; an empty one means the image must be read.
EXPECTED = {
    "truncated.jpg": "truncated",
    "truncated.png": "truncated",
    "empty.jpg": "empty",
    "text.png": "not-an-image",
    "html.jpg": "not-an-image",
    "zeros.bmp": "not-an-image",
    "corrupt.png": "corrupt",
    "bomb.png": "too-large",
    "animated.gif": "animated",
    "animated.webp": "animated",
    "report.pdf": "unsupported",
    "notes.txt": "not-an-image",
    "lfs.png": "not-an-image",
    "photo.heic": "unsupported",
    "truncated.webp": "truncated",
    "truncated.tif": "truncated",
    "float.tif": "unsupported",
    "truncated.dcm": "truncated",
    "frames.dcm": "animated",
    "no-picture.dcm": "corrupt",
    "sixteen-bit.png": "",
    "grey.png": "",
    "alpha.png": "",
    "cmyk.jpg": "",
    "palette.png": "",
    "rotated.jpg": "",
    "wrong-name.jpg": "",
    "täglich ünïcode.webp": "",
    "pages.tif": "",
}
BROKEN = [name for name, reason in EXPECTED.items() if reason]
assert len(BROKEN) == 20


def write_broken_images(folder: Path, seed: int = 0) -> Path:
    """Write one file of each kind."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    image = Image.fromarray(_smear_like(rng))

    def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        return buffer.getvalue()

    jpeg, png = encoded(image, "JPEG", quality=95), encoded(image, "PNG")
    tiff, webp = encoded(image, "TIFF"), encoded(image, "WEBP", lossless=True)
    rgb = np.asarray(image)
    frames = {"save_all": True, "append_images": [image.rotate(9)], "duration": 50}
    exif = Image.Exif()
    exif[274] = 6
    files = {
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "truncated.png": png[: len(png) // 2],
        "empty.jpg": b"",
        "text.png": b"this is no image\n",
        "html.jpg": b"<!doctype html><html><body>404</body></html>",
        "zeros.bmp": bytes(4096),
        "corrupt.png": _with_damaged_data(png),
        "bomb.png": _bomb(),
        "animated.gif": encoded(image.convert("P"), "GIF", **frames),
        "animated.webp": encoded(image, "WEBP", **frames),
        "report.pdf": b"%PDF-1.7\n" + bytes(500),
        "notes.txt": "Dr. Müller: stain 3 is pale\n".encode(),
        "lfs.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "photo.heic": b"\0\0\0\x18ftypheic" + bytes(200),
        "truncated.webp": webp[: len(webp) // 2],
        "truncated.tif": tiff[: len(tiff) // 2],
        "float.tif": encoded(Image.fromarray(rgb[:, :, 0].astype(np.float32)), "TIFF"),
        "truncated.dcm": _dicom(rgb)[:-2000],
        "frames.dcm": _dicom(rgb, frames=2),
        "no-picture.dcm": bytes(128) + b"DICM",
        "sixteen-bit.png": _sixteen_bit(rng),
        "grey.png": encoded(image.convert("L"), "PNG"),
        "alpha.png": encoded(image.convert("RGBA"), "PNG"),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG", quality=95),
        "palette.png": encoded(image.convert("P"), "PNG"),
        "rotated.jpg": encoded(image, "JPEG", quality=95, exif=exif),
        "wrong-name.jpg": png,
        "täglich ünïcode.webp": webp,
        "pages.tif": encoded(image, "TIFF", save_all=True, append_images=[image.rotate(9)]),
    }
    assert set(files) == set(EXPECTED)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def _smear_like(rng: np.random.Generator) -> np.ndarray:
    field = np.full((96, 112, 3), (225, 215, 222), dtype=np.float64)
    y, x = np.mgrid[:96, :112]
    for _ in range(4):
        centre = rng.uniform(20, 80, 2)
        inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 13**2
        field[inside] = (95, 60, 150)
    return np.clip(field + rng.normal(0, 4, field.shape), 0, 255).astype(np.uint8)


def _chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def _bomb() -> bytes:
    """A PNG that promises 40,000 × 40,000 pixels in a few hundred bytes."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(bytes(10_000)))
        + _chunk(b"IEND", b"")
    )


def _with_damaged_data(png: bytes) -> bytes:
    start = png.index(b"IDAT") + 40
    return png[:start] + bytes(255 - byte for byte in png[start : start + 60]) + png[start + 60 :]


def _dicom(rgb: np.ndarray, frames: int = 1) -> bytes:
    """An uncompressed RGB picture, explicit VR little endian (DICOM PS3.5, section 7.1)."""

    def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        long = kind in (b"OB", b"OW")
        size = struct.pack("<HI" if long else "<H", *((0, len(value)) if long else (len(value),)))
        return struct.pack("<HH", group, number) + kind + size + value

    def short(number: int, value: int) -> bytes:
        return element(0x28, number, b"US", struct.pack("<H", value))

    syntax = element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1")
    meta = element(2, 0, b"UL", struct.pack("<I", len(syntax))) + syntax
    height, width = rgb.shape[:2]
    body = short(2, 3) + element(0x28, 4, b"CS", b"RGB ") + short(6, 0)
    if frames > 1:
        body += element(0x28, 8, b"IS", str(frames).encode().ljust(2))
    body += short(0x10, height) + short(0x11, width)
    body += short(0x100, 8) + short(0x101, 8) + short(0x102, 7) + short(0x103, 0)
    pixels = element(0x7FE0, 0x10, b"OB", rgb.tobytes() * frames)
    return bytes(128) + b"DICM" + meta + body + pixels


def _sixteen_bit(rng: np.random.Generator) -> bytes:
    import cv2

    grey = (_smear_like(rng).mean(axis=2) * 257).astype(np.uint16)
    return cv2.imencode(".png", grey)[1].tobytes()


if __name__ == "__main__":
    print(f"{len(EXPECTED)} files, {len(BROKEN)} of them broken:",
          write_broken_images(Path(sys.argv[1])))  # fmt: skip
