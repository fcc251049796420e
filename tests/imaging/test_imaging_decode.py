"""Every kind of broken, odd and ordinary file through the one door."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from leukoscope.core.errors import ImageError
from leukoscope.imaging.decode import decode_image


def picture(height: int = 40, width: int = 56) -> np.ndarray:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def encode(image: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture_ = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture_.save(buffer, kind, **options)
    return buffer.getvalue()


def reason(source: Path | bytes, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(source, **options)
    assert caught.value.detail
    return caught.value.reason


LOSSLESS = [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("TIFF", {})]


@pytest.mark.parametrize(("kind", "options"), LOSSLESS)
def test_lossless_formats_give_the_same_pixels(kind: str, options: dict[str, object]) -> None:
    decoded = decode_image(encode(picture(), kind, **options))
    assert decoded.format == kind
    assert decoded.notes == ()
    assert decoded.image.flags.c_contiguous
    np.testing.assert_array_equal(decoded.image, picture())


@pytest.mark.parametrize("options", [{"quality": 92}, {"quality": 80, "progressive": True}])
def test_jpeg_agrees_with_pillow(options: dict[str, object]) -> None:
    data = encode(picture(), "JPEG", **options)
    reference = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.int16)
    assert np.abs(decode_image(data).image - reference).max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_every_cut_is_refused(kind: str) -> None:
    data = encode(picture(), kind)
    for share in (0.2, 0.5, 0.9):
        assert reason(data[: int(len(data) * share)]) in ("truncated", "corrupt")
    if kind != "TIFF":
        assert reason(data[: len(data) // 2]) == "truncated"


def test_jpeg_without_its_last_marker_is_truncated() -> None:
    assert reason(encode(picture(), "JPEG")[:-2]) == "truncated"
    assert reason(encode(picture(), "JPEG")[:-2] + b"\0" * 500) == "truncated"


def test_jpeg_with_bytes_after_the_end_is_fine() -> None:
    decode_image(encode(picture(), "JPEG") + b"camera maker's trailer")


def test_png_without_its_end_is_truncated() -> None:
    assert reason(encode(picture(), "PNG")[:-12]) == "truncated"


def test_garbage_inside_is_corrupt() -> None:
    for kind in ("JPEG", "PNG"):
        data = bytearray(
            encode(picture(200, 200), kind, **({"quality": 95} if kind == "JPEG" else {}))
        )
        middle = len(data) // 2
        data[middle : middle + 900] = np.random.default_rng(1).bytes(900)
        assert reason(bytes(data)) == "corrupt"


def test_zero_bytes_and_other_files(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    assert reason(tmp_path / "empty.png") == "empty"
    assert reason(b"just some text, not pixels") == "not-an-image"
    assert reason(b"BM is how this sentence starts; it is no bitmap") == "not-an-image"
    assert reason(bytes(range(256))) == "not-an-image"
    assert reason(b"<!DOCTYPE html><title>404</title>") == "not-an-image"
    assert reason(b"\0" * 128 + b"DICM" + b"\0" * 50) == "corrupt"


def test_a_git_lfs_pointer_says_what_to_do() -> None:
    with pytest.raises(ImageError, match="git lfs pull"):
        decode_image(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    assert reason(tmp_path / "nowhere.png") == "missing"
    assert reason(tmp_path) == "unreadable"
    (tmp_path / "dangling.png").symlink_to(tmp_path / "gone.png")
    assert reason(tmp_path / "dangling.png") == "missing"
    (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    assert reason(tmp_path / "a.png") == "symlink-loop"
    os.mkfifo(tmp_path / "pipe.png")
    assert reason(tmp_path / "pipe.png") == "unreadable"


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encode(picture(), "PNG"))

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert reason(path) == "unreadable"


def test_too_large(tmp_path: Path) -> None:
    data = encode(picture(), "PNG")
    assert reason(data, max_bytes=100) == "too-large"
    (tmp_path / "large.png").write_bytes(data)
    assert reason(tmp_path / "large.png", max_bytes=100) == "too-large"
    for kind in ("PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP"):
        assert reason(encode(picture(), kind), max_pixels=40 * 56 - 1) == "too-large"
        decode_image(encode(picture(), kind), max_pixels=40 * 56)


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1_000_000)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )
    assert reason(bomb) == "too-large"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_are_refused(kind: str) -> None:
    frames = [Image.fromarray(picture()), Image.fromarray(picture()[::-1].copy())]
    assert reason(encode(frames[0], kind, save_all=True, append_images=frames[1:])) == "animated"


def test_a_still_gif_is_fine() -> None:
    flat = np.full((20, 30, 3), (10, 200, 90), np.uint8)
    decoded = decode_image(encode(Image.fromarray(flat), "GIF"))
    np.testing.assert_array_equal(decoded.image, flat)


def test_pages_of_a_tiff() -> None:
    pages = [Image.fromarray(picture()), Image.fromarray(picture()[::-1].copy())]
    decoded = decode_image(encode(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    np.testing.assert_array_equal(decoded.image, picture())
    assert decoded.notes == ("first of 2 pages",)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(picture(), kind, exif=exif, **options)
    from PIL import ImageOps

    with Image.open(io.BytesIO(data)) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"), np.int16)
    decoded = decode_image(data)
    assert decoded.image.shape == upright.shape
    assert np.abs(decoded.image - upright).max() <= 2


def test_sixteen_bits() -> None:
    ramp = np.linspace(0, 65535, 40 * 30).astype(np.uint16).reshape(30, 40)
    for kind in ("PNG", "TIFF"):
        decoded = decode_image(encode(Image.fromarray(ramp), kind))
        assert decoded.notes == ("16-bit scaled to 8",)
        np.testing.assert_array_equal(decoded.image[:, :, 1], ramp >> 8)
    colour = np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=2)
    decoded = decode_image(cv2.imencode(".png", colour[:, :, ::-1])[1].tobytes())
    assert decoded.notes == ("16-bit scaled to 8",)
    np.testing.assert_allclose(decoded.image, colour / 257, atol=1)


def test_grey_palette_and_one_bit() -> None:
    grey = picture()[:, :, 0]
    for kind in ("PNG", "TIFF", "BMP"):
        decoded = decode_image(encode(Image.fromarray(grey), kind))
        np.testing.assert_array_equal(decoded.image, np.repeat(grey[:, :, None], 3, axis=2))
    assert decode_image(encode(Image.fromarray(grey), "JPEG")).image.shape == (40, 56, 3)
    palette = Image.fromarray(picture()).quantize(16)
    np.testing.assert_array_equal(
        decode_image(encode(palette, "PNG")).image, np.asarray(palette.convert("RGB"))
    )
    bits = Image.fromarray(grey > 128)
    assert set(np.unique(decode_image(encode(bits, "PNG")).image)) == {0, 255}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_on_white(kind: str) -> None:
    rgba = np.zeros((10, 12, 4), np.uint8)
    rgba[:, :6] = (200, 100, 50, 255)
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode_image(encode(Image.fromarray(rgba), kind, **options))
    assert decoded.notes == ("alpha composited on white",)
    assert decoded.image[0, 0].tolist() == [200, 100, 50]
    assert decoded.image[0, 11].tolist() == [255, 255, 255]


def test_every_colour_and_alpha_is_rounded_as_its_formula_says() -> None:
    rgba = np.zeros((256, 256, 4), np.uint8)
    rgba[:, :, 1], rgba[:, :, 3] = np.arange(256), np.arange(256)[:, None]
    colour, alpha = rgba[:, :, 1].astype(int), rgba[:, :, 3].astype(int)
    exact = np.rint((colour * alpha + 255 * (255 - alpha)) / 255)
    decoded = decode_image(encode(Image.fromarray(rgba), "PNG"))
    np.testing.assert_array_equal(decoded.image[:, :, 1], exact)


def test_transparent_palette() -> None:
    palette = Image.fromarray(picture()).quantize(16)
    data = encode(palette, "PNG", transparency=bytes([0] * 16))
    assert (decode_image(data).image == 255).all()


def test_cmyk() -> None:
    cmyk = Image.fromarray(np.full((16, 16, 3), (250, 40, 40), np.uint8)).convert("CMYK")
    for kind in ("JPEG", "TIFF"):
        decoded = decode_image(encode(cmyk, kind))
        assert decoded.notes == ("CMYK converted",)
        assert np.abs(decoded.image[8, 8].astype(int) - (250, 40, 40)).max() < 12


def test_thirty_two_bits_are_unsupported() -> None:
    assert reason(encode(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF")) == "unsupported"
    for shape, kind, words in (
        ((9, 9, 3), np.float32, "3 channels of 32 bits each, floating point"),
        ((9, 9), np.float64, "1 channel of 64 bits, floating point"),
    ):
        data = cv2.imencode(".tiff", np.ones(shape, kind))[1].tobytes()
        assert reason(data) == "unsupported"
        with pytest.raises(ImageError, match=f"of 8 or 16 bits per channel, found {words}"):
            decode_image(data)


def test_names(tmp_path: Path) -> None:
    path = tmp_path / "naïve 画像 🩸.jpg"
    path.write_bytes(encode(picture(), "PNG"))
    decoded = decode_image(path)
    assert decoded.format == "PNG"
    assert decoded.notes == ("named .jpg but is PNG",)
    with pytest.raises(ImageError, match="upload 3"):
        decode_image(b"", name="upload 3")


@settings(max_examples=120, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]),
    at=st.floats(0, 1),
    noise=st.binary(min_size=1, max_size=40),
)
def test_damage_is_an_image_error_or_an_image(kind: str, at: float, noise: bytes) -> None:
    data = bytearray(encode(picture(20, 24), kind))
    start = int(at * len(data))
    data[start : start + len(noise)] = noise
    with contextlib.suppress(ImageError):
        assert decode_image(bytes(data), max_pixels=1_000_000).image.dtype == np.uint8
