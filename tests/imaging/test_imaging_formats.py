"""TIFF and DICOM as microscopes write them: depth, pages, photometric interpretation, scale."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image, TiffImagePlugin
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

from leukoscope.core.errors import ImageError
from leukoscope.imaging import dicom
from leukoscope.imaging.decode import decode_image

RNG = np.random.default_rng(5)
GREY = RNG.integers(0, 256, (12, 10), np.uint8)
RGB = RNG.integers(0, 256, (12, 10, 3), np.uint8)


def tiff(picture: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF", **options)
    return buffer.getvalue()


def dicom_bytes(pixels: np.ndarray, kind: str, *, bits: int = 8, **tags: Any) -> bytes:
    file = pydicom.Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = tags.pop("syntax", ExplicitVRLittleEndian)
    file.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.2"
    file.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["test"])
    colour = pixels.ndim >= 3 and pixels.shape[-1] == 3
    file.Rows, file.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    file.SamplesPerPixel = 3 if colour else 1
    if colour:
        file.PlanarConfiguration = 0
    file.PhotometricInterpretation = kind
    file.BitsAllocated = 8 * pixels.dtype.itemsize
    file.BitsStored, file.HighBit = bits, bits - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(file, name, value)
    file.PixelData = pixels.tobytes()
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data, name="x.dcm")
    return caught.value.reason


def test_white_is_zero_is_inverted_at_every_depth() -> None:
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    for picture in (deep, Image.fromarray(GREY)):
        plain, inverted = tiff(picture), tiff(picture, tiffinfo=tags)
        np.testing.assert_array_equal(decode_image(plain).image[:, :, 0], GREY)
        if picture is deep:  # at 8 bits Pillow turns the stored values too
            np.testing.assert_array_equal(decode_image(inverted).image[:, :, 0], 255 - GREY)


def test_a_tiff_says_its_pages_and_its_scale() -> None:
    picture = Image.fromarray(RGB)
    found = decode_image(tiff(picture, save_all=True, append_images=[picture, picture]))
    assert found.pages == 3
    assert decode_image(tiff(picture, resolution=254_000, resolution_unit=2)).um_per_px == 0.1
    assert decode_image(tiff(picture, resolution=72, resolution_unit=2)).um_per_px is None
    imagej = "ImageJ=1.53\nunit=micron\n"
    assert decode_image(tiff(picture, resolution=5.0, description=imagej)).um_per_px == 0.2
    ome = '<OME><Pixels PhysicalSizeX="0.25" PhysicalSizeXUnit="µm"/></OME>'
    assert decode_image(tiff(picture, description=ome)).um_per_px == 0.25
    assert decode_image(tiff(picture)).um_per_px is None


def test_dicom_colours() -> None:
    found = decode_image(dicom_bytes(RGB, "RGB", PixelSpacing=[0.0001, 0.0001]))
    np.testing.assert_array_equal(found.image, RGB)
    assert (found.format, found.um_per_px) == ("DICOM", pytest.approx(0.1))
    from pydicom.pixels import convert_color_space

    ybr = convert_color_space(RGB, "RGB", "YBR_FULL")
    near = decode_image(dicom_bytes(ybr, "YBR_FULL")).image
    assert np.abs(near.astype(int) - RGB).max() <= 3
    wide = decode_image(dicom_bytes(RGB.astype(np.uint16) * 257, "RGB", bits=16))
    np.testing.assert_array_equal(wide.image, RGB)
    assert wide.notes == ("16-bit scaled to 8",)


def test_dicom_greys() -> None:
    two = decode_image(dicom_bytes(GREY, "MONOCHROME2")).image
    one = decode_image(dicom_bytes(GREY, "MONOCHROME1")).image
    np.testing.assert_array_equal(two, np.repeat(GREY[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(one, 255 - two)
    deep = GREY.astype(np.uint16) * 16  # 12 of 16 bits
    found = decode_image(dicom_bytes(deep, "MONOCHROME2", bits=12)).image[:, :, 0]
    assert np.abs(found.astype(int) - np.round(deep / 4095 * 255)).max() <= 1
    signed = GREY.astype(np.int16) - 100
    window = {"WindowCenter": [28, 9], "WindowWidth": [256, 9], "RescaleSlope": 1}
    found = decode_image(
        dicom_bytes(signed, "MONOCHROME2", bits=16, RescaleIntercept=0, **window)
    ).image[:, :, 0]
    assert np.abs(found.astype(int) - GREY).max() <= 1


def test_dicom_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = dicom_bytes(RGB, "RGB")
    stack = np.stack([RGB, RGB])
    assert reason(dicom_bytes(stack, "RGB", NumberOfFrames=2)) == "animated"
    assert reason(dicom_bytes(RGB, "HSV")) == "unsupported"
    assert reason(whole[:-50]) == "truncated"
    assert reason(whole[:200]) == "corrupt"
    assert reason(dicom_bytes(RGB, "RGB", Rows=60_000, Columns=60_000)) == "too-large"
    wrapped = pydicom.dcmread(io.BytesIO(whole))
    wrapped.compress(pydicom.uid.RLELossless)
    wrapped.file_meta.TransferSyntaxUID = JPEG2000Lossless
    buffer = io.BytesIO()
    wrapped.save_as(buffer)
    assert reason(buffer.getvalue()) in ("unsupported", "corrupt")
    monkeypatch.setattr(dicom, "find_spec", lambda _: None)
    with pytest.raises(ImageError, match=r"\[dicom\]") as caught:
        decode_image(whole)
    assert "leukoscope[dicom]" in caught.value.hint
