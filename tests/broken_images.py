"""Twenty kinds of files that a folder of images may hold, and what must become of each."""

from __future__ import annotations

import io
import struct
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
    "sixteen-bit.png": "",
    "grey.png": "",
    "alpha.png": "",
    "cmyk.jpg": "",
    "palette.png": "",
    "rotated.jpg": "",
    "wrong-name.jpg": "",
    "täglich ünïcode.webp": "",
}


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
        "sixteen-bit.png": _sixteen_bit(rng),
        "grey.png": encoded(image.convert("L"), "PNG"),
        "alpha.png": encoded(image.convert("RGBA"), "PNG"),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG", quality=95),
        "palette.png": encoded(image.convert("P"), "PNG"),
        "rotated.jpg": encoded(image, "JPEG", quality=95, exif=exif),
        "wrong-name.jpg": png,
        "täglich ünïcode.webp": encoded(image, "WEBP", lossless=True),
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


def _sixteen_bit(rng: np.random.Generator) -> bytes:
    import cv2

    grey = (_smear_like(rng).mean(axis=2) * 257).astype(np.uint16)
    return cv2.imencode(".png", grey)[1].tobytes()
