"""Hostile files: each limit on pixels, pages, scans and inflated bytes holds before decoding.

The files are decoded in a process of its own, whose memory and time are the oracle.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from leukoscope.core.errors import ImageError
from leukoscope.imaging.containers import MAX_PAGES, MAX_SCANS
from leukoscope.imaging.decode import decode_image

ROOT = Path(__file__).parents[2]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hostile() -> ModuleType:
    return load(ROOT / "tests/hostile_files.py")


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    return load(ROOT / "benchmarks/fuzz_images.py")


@pytest.fixture(scope="module")
def results(fuzz: ModuleType) -> list[dict[str, Any]]:
    """The named files, then 300 mutated ones, decoded with bounded address space."""
    return fuzz.run(300, 0, timeout_s=240)


def test_each_named_file_is_refused_for_its_reason(
    results: list[dict[str, Any]], hostile: ModuleType
) -> None:
    outcomes = {result["kind"]: result["outcome"] for result in results}
    for name, (_, reason) in hostile.FILES.items():
        assert outcomes[name] == reason, name


def test_no_file_takes_more_memory_time_or_descriptors_than_allowed(
    results: list[dict[str, Any]], fuzz: ModuleType, hostile: ModuleType
) -> None:
    assert len(results) == 300 + len(hostile.FILES)
    broken = [(result, found) for result in results if (found := fuzz.faults(result, 30.0))]
    assert not broken


def test_a_whole_image_takes_at_most_32_bytes_a_pixel(fuzz: ModuleType) -> None:
    """Of every kind; 1,144 MB of 25 million transparent pixels were one small PNG's before."""
    large = [(kind, data) for kind, data in fuzz.seeds(1000, 1200) if kind != "DICOM"]
    list(fuzz.decode_all(iter(large[:1]), 2_000_000))  # what a first use loads does not count
    found = list(fuzz.decode_all(iter(large), 2_000_000))
    assert [result["outcome"] for result in found] == ["read"] * len(large)
    assert not [result for result in found if result["mb"] > 32 * 1.2]


def test_the_oracle_sees_memory(fuzz: ModuleType) -> None:
    large = io.BytesIO()
    Image.new("L", (8000, 8000)).save(large, "PNG", compress_level=1)
    found = list(fuzz.decode_all(iter([("large", large.getvalue())]), 100_000_000))
    assert found[0]["outcome"] == "read"
    assert "MB" in fuzz.faults(found[0], 30.0)


def encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_usual_numbers_of_scans_and_pages_are_read(hostile: ModuleType) -> None:
    progressive = hostile.jpeg_of_many_scans(scans=MAX_SCANS - 10, side=16)
    assert decode_image(progressive).image.shape == (16, 16, 3)
    assert decode_image(hostile.tiff_of_many_pages(MAX_PAGES - 1)).pages == MAX_PAGES
    with pytest.raises(ImageError, match="at most 1,000 pages"):
        decode_image(hostile.tiff_of_many_pages(MAX_PAGES))


def test_pages_in_a_circle_end(hostile: ModuleType) -> None:
    data = bytearray(hostile.tiff_of_many_pages(3))
    first = int.from_bytes(data[4:8], "little")
    data[-4:] = first.to_bytes(4, "little")
    assert decode_image(bytes(data)).pages == 4


def test_a_tile_may_be_larger_than_its_image(hostile: ModuleType) -> None:
    picture = Image.fromarray(np.full((10, 10), 7, np.uint8))
    tiled = encode(picture, "TIFF", tile=(16, 16), compression="tiff_lzw")
    np.testing.assert_array_equal(decode_image(tiled).image[:, :, 0], np.asarray(picture))


def test_deflated_dicom_within_its_limit_is_read(hostile: ModuleType) -> None:
    pytest.importorskip("pydicom")
    from pydicom.encaps import encapsulate
    from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit

    pixels = bytes(range(64))
    deflated = hostile._dicom(pixels, DeflatedExplicitVRLittleEndian)
    assert decode_image(deflated).image[:, :, 0].tobytes() == pixels
    inside = encode(Image.fromarray(np.full((8, 8), 90, np.uint8)), "JPEG")
    assert decode_image(hostile._dicom(encapsulate([inside]), JPEGBaseline8Bit)).image.max() == 90


def test_files_with_odd_tags_are_decoded_at_the_same_time_and_in_silence() -> None:
    """No lock over the process, and no warning of a reader's on the screen."""
    whole = encode(Image.new("L", (8, 8)), "TIFF")
    at = int.from_bytes(whole[4:8], "little")
    odd = bytearray(whole)
    odd[at + 6 : at + 10] = (2).to_bytes(4, "little")  # two widths, of which Pillow warns
    with warnings.catch_warnings(), ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("error")
        found = list(pool.map(_outcome, [whole, bytes(odd)] * 8))
    assert found[::2] == ["read"] * 8
    assert not any("Warning" in detail for detail in found)


def _outcome(data: bytes) -> str:
    try:
        decode_image(data)
    except ImageError as error:
        return error.detail
    return "read"
