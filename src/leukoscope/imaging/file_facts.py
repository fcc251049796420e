"""What a file tells beside its pixels: size, format, compression, metadata."""

from __future__ import annotations

import struct
from datetime import datetime
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.containers import sniff
from leukoscope.imaging.decode import open_header
from leukoscope.imaging.observation import Observation

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "DICOM")
_SOFTWARE, _DATE, _ORIGINAL, _EXIF = 305, 306, 36867, 0x8769  # tags of TIFF 6.0 and EXIF 2.32
_SAME_MARGINS = 3  # px by which the margins of a frame that follows its cell differ at most

FILE_FACTS: tuple[str, ...] = (
    "width", "height", "aspect", "mode_channels", "palette", "alpha", "bits",
    *(f"is_{name.lower()}" for name in _FORMATS),
    "bytes_ratio", "tables", "table_mean", "table_low", "table_high", "table_chroma",
    "subsampling", "progressive", "deflate_level", "chunks",
    "dpi_x", "dpi_y", "exif_tags", "software", "profile_bytes", "follows_cell",
)  # fmt: skip
"""Names, in order, of what :func:`file_facts` returns.

* ``bytes_ratio``: of a JPEG, log₂ of its size over that of the same pixels written again with its
  own tables, to one decimal: how, not what, was compressed. The size of other files, or bytes by
  pixel, would be how much of the picture a cell covers.
* ``tables``, ``table_*``: number of JPEG quantisation tables, log₂ of mean steps: all, the lowest
  and highest frequencies of luma, chroma. ``subsampling``: 0 for 4:4:4, 1 for 4:2:2, 2 for 4:2:0.
* ``deflate_level``, ``chunks``: of a PNG, the level that its stream states (RFC 1950), and how
  many chunks it has beside those of pixels.
* ``software``: a number made of EXIF's name of the software; ``profile_bytes``: of an ICC profile.
* ``follows_cell``: whether the frame was drawn around a cut-out cell (equal margins on all sides).
"""

SIZE_FACTS = ("width", "height", "aspect")
"""Those that are a cell's own size where most frames were drawn around it."""

_ZERO = (0.0,) * len(FILE_FACTS)


def file_facts(seen: Observation) -> NDArray[np.float64]:
    """Numbers of the file that an image was read from.

    Args:
        seen: The image with the bytes of its file.

    Returns:
        (len(FILE_FACTS),) float64, finite.
    """
    facts = dict(zip(FILE_FACTS, _ZERO, strict=True))
    height, width = seen.image.shape[:2]
    facts |= {"width": width, "height": height, "aspect": round(width / height, 3)}
    facts["follows_cell"] = float(_follows_cell(seen))
    name = sniff(seen.data[:512]) if seen.data else ""
    if name in _FORMATS:
        facts[f"is_{name.lower()}"] = 1.0
    header = open_header(seen.data)
    if header is not None:
        facts |= _of_header(header)
    if name == "PNG":
        facts |= _of_png(seen.data)
    if facts["tables"] and header is not None:
        again = _written_again(seen.image, header)
        facts["bytes_ratio"] = round(float(np.log2(len(seen.data) / again)), 1)
    return np.array([float(facts[name]) for name in FILE_FACTS], np.float64)


def taken_at(data: bytes) -> float | None:
    """Seconds at which EXIF says that a picture was taken; None where it does not say."""
    header = open_header(data)
    tags = {} if header is None else _exif(header)
    for tag in (_ORIGINAL, _DATE):
        try:
            return datetime.strptime(str(tags[tag])[:19], "%Y:%m:%d %H:%M:%S").timestamp()
        except (KeyError, ValueError):
            continue
    return None


def _of_header(header: Image) -> dict[str, float]:
    """Facts of a file that Pillow has opened without reading its pixels."""
    info = header.info
    tags = _exif(header)
    software = str(tags.get(_SOFTWARE, "") or info.get("Software", ""))
    dpi = info.get("dpi") or info.get("jfif_density") or (0, 0)
    facts = {
        "mode_channels": len(header.getbands()),
        "palette": header.mode == "P",
        "alpha": "A" in header.mode or "transparency" in info,
        "bits": 16 if "16" in header.mode else 1 if header.mode == "1" else 8,
        "progressive": bool(info.get("progressive") or info.get("interlace")),
        "dpi_x": float(dpi[0]),
        "dpi_y": float(dpi[1]),
        "exif_tags": len(tags),
        "software": float(sum(software.encode()) % 997 if software else 0),
        "profile_bytes": len(info.get("icc_profile") or b""),
    }
    return facts | _of_tables(header)


def _of_tables(header: Image) -> dict[str, float]:
    """Quantisation and subsampling of a JPEG; nothing for other formats."""
    tables = getattr(header, "quantization", None)
    if not tables:
        return {}
    from PIL.JpegImagePlugin import get_sampling

    luma = np.asarray(tables[min(tables)], np.float64)
    chroma = np.asarray(tables[max(tables)], np.float64)
    return {
        "tables": len(tables),
        "table_mean": round(float(np.log2(luma.mean())), 3),
        "table_low": round(float(np.log2(luma[:6].mean())), 3),
        "table_high": round(float(np.log2(luma[-16:].mean())), 3),
        "table_chroma": round(float(np.log2(chroma.mean())), 3),
        "subsampling": get_sampling(header),
    }


def _exif(header: Image) -> dict[int, object]:
    from PIL.Image import Image

    try:
        tags = Image.getexif(header)  # that of PNG would decode the pixels first
        return {**tags, **tags.get_ifd(_EXIF)}
    except Exception:  # damaged metadata may raise anything; the pixels are sound
        return {}


def _of_png(data: bytes) -> dict[str, float]:
    """How a PNG was compressed, and its chunks (PNG specification, 5.3)."""
    at, level, chunks = len(b"\x89PNG\r\n\x1a\n"), 0.0, 0
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"IDAT":
            level = level or 1.0 + (data[at + 9] >> 6 if length > 1 else 0)
        else:
            chunks += 1
        at += length + 12
    return {"deflate_level": level, "chunks": chunks}


def _written_again(image: NDArray[np.uint8], header: Image) -> int:
    """Bytes of the same pixels as JPEG with a file's own tables."""
    from PIL.Image import fromarray
    from PIL.JpegImagePlugin import get_sampling

    out = BytesIO()
    sampling = max(0, get_sampling(header))
    fromarray(image).save(
        out, "JPEG", qtables=getattr(header, "quantization", None), subsampling=sampling
    )
    return len(out.getvalue())


def _follows_cell(seen: Observation) -> bool:
    """Whether a cut-out cell fills its frame up to margins that are equal on all sides."""
    if not seen.cut_out:
        return False
    rows = np.flatnonzero(seen.lit.any(axis=1))
    columns = np.flatnonzero(seen.lit.any(axis=0))
    if not len(rows):
        return False
    height, width = seen.lit.shape
    margins = (rows[0], height - 1 - rows[-1], columns[0], width - 1 - columns[-1])
    return bool(max(margins) - min(margins) <= _SAME_MARGINS)
