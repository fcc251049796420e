"""Hostile image files against the decoder: bounded memory, time and file descriptors.

python benchmarks/fuzz_images.py --count 10000

Every format, with mutated sizes, repeated and moved pieces, stray markers and cut ends, beside the
files of ``tests/hostile_files.py``. A process of its own decodes them with a limit on its address
space. The command ends with 1 where a file takes more memory or time than an image of the allowed
size needs, leaves a file open, raises anything but an ImageError, or ends the process.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import random
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

MAX_PIXELS = 1_000_000
MAX_MB = 64  # beyond what the process has at its start: 64 bytes a pixel
MAX_SECONDS = 10.0
EXTREMES = (0, 1, 2, 7, 8, 255, 256, 16_383, 32_767, 65_535, 2**24 - 1, 2**31 - 1, 2**32 - 1)


def _hostile_files():  # type: ignore[no-untyped-def]
    path = Path(__file__).parents[1] / "tests/hostile_files.py"
    spec = importlib.util.spec_from_file_location("hostile_files", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seeds(height: int = 40, width: int = 48) -> list[tuple[str, bytes]]:
    """One whole image of each format and kind of container, of this size in pixels."""
    pixels = np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)
    picture = Image.fromarray(pixels)
    alpha = picture.convert("RGBA")
    alpha.putalpha(128)
    kinds: list[tuple[str, Image.Image, dict[str, object]]] = [
        ("JPEG", picture, {}),
        ("JPEG", picture, {"progressive": True}),
        ("JPEG", picture.convert("CMYK"), {}),
        ("PNG", picture, {}),
        ("PNG", picture.convert("P"), {}),
        ("PNG", alpha, {}),
        ("PNG", Image.fromarray(pixels[:, :, 0] * np.uint16(257)), {}),
        ("WEBP", picture, {}),
        ("WEBP", alpha, {}),
        ("WEBP", alpha, {"lossless": True}),
        ("BMP", picture, {}),
        ("GIF", picture.convert("P"), {}),
        ("TIFF", picture, {}),
        ("TIFF", picture, {"compression": "tiff_lzw"}),
        ("TIFF", alpha, {"compression": "tiff_lzw"}),
        ("TIFF", picture, {"compression": "tiff_adobe_deflate"}),
        ("TIFF", picture, {"compression": "jpeg"}),
        ("TIFF", picture, {"save_all": True, "append_images": [picture]}),
    ]
    found = []
    for kind, image, options in kinds:
        out = io.BytesIO()
        image.save(out, kind, **options)
        found.append((kind, out.getvalue()))
    try:
        hostile = _hostile_files()
        found.append(("DICOM", hostile._dicom(bytes(64), "1.2.840.10008.1.2.1")))
        found.append(("DICOM", hostile.dicom_of_long_runs(0)))
    except ImportError:  # pydicom is optional
        pass
    return found


def _with_sums(png: bytes) -> bytes:
    """A PNG whose checksums fit again, as far as its chunks can be followed."""
    data, at = bytearray(png), 8
    while at + 12 <= len(data):
        end = at + 12 + struct.unpack_from(">I", data, at)[0]
        if end > len(data):
            break
        struct.pack_into(">I", data, end - 4, zlib.crc32(data[at + 4 : end - 4]))
        at = end
    return bytes(data)


def files(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """What was done, and the bytes.

    Args:
        count: How many files.
        seed: Of the random choices.
    """
    rng, whole = random.Random(seed), seeds()

    def sized(data: bytes) -> bytes:
        if len(data) < 9:
            return data
        changed = bytearray(data)
        for _ in range(rng.choice((1, 2, 4))):
            kind = rng.choice(("<H", ">H", "<I", ">I", "<Q"))
            at = rng.randrange(max(1, min(len(changed), 1200) - 8))
            limit = 256 ** struct.calcsize(kind)
            struct.pack_into(kind, changed, at, min(rng.choice(EXTREMES), limit - 1))
        return bytes(changed)

    def repeated(data: bytes) -> bytes:
        start = rng.randrange(len(data))
        piece = data[start : start + rng.choice((4, 12, 40, 400))]
        return data[:start] + piece * rng.choice((2, 9, 2000)) + data[start:]

    def flooded(data: bytes) -> bytes:
        start = rng.randrange(len(data))
        piece = data[start : start + rng.choice((2, 4, 8, 12))]
        return data[:start] + piece * (2**19 // len(piece)) + data[start:]

    def moved(data: bytes) -> bytes:
        first, second, third = sorted(rng.randrange(len(data)) for _ in range(3))
        return data[:first] + data[second:third] + data[first:second] + data[third:]

    def marked(data: bytes) -> bytes:
        at = rng.randrange(2, min(len(data), 700))
        return data[:at] + bytes([0xFF, rng.randrange(256)]) + data[at:]

    def spliced(data: bytes) -> bytes:
        other = rng.choice(whole)[1]
        return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]

    ways = {
        "sized": sized, "repeated": repeated, "flooded": flooded, "moved": moved,
        "marked": marked, "spliced": spliced, "cut": lambda data: data[: rng.randrange(len(data))],
    }  # fmt: skip
    for number in range(count):
        kind, data = whole[number % len(whole)]
        way = list(ways)[number // len(whole) % len(ways)]
        changed = ways[way](data)
        if rng.random() < 0.3:
            changed = sized(changed)
        yield f"{kind} {way}", _with_sums(changed) if kind == "PNG" else changed


def _status_mb(name: str) -> float:
    with Path("/proc/self/status").open(encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def decode_all(source: Iterator[tuple[str, bytes]], max_pixels: int) -> Iterator[dict[str, object]]:
    """Decode in this process: for each file its outcome, seconds, MB and newly open files."""
    from leukoscope.core.errors import ImageError
    from leukoscope.imaging.decode import decode_image

    for number, (kind, data) in enumerate(source):
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before, opened = _status_mb("VmRSS"), _open_files()
        started = time.process_time()  # a busy machine is no fault of a file
        try:
            decode_image(data, max_pixels=max_pixels)
            outcome = "read"
        except ImageError as error:
            outcome = error.reason
        except BaseException as error:
            outcome = f"raised {type(error).__name__}: {error}"
        yield {
            "number": number,
            "kind": kind,
            "outcome": outcome,
            "s": round(time.process_time() - started, 3),
            "mb": round(_status_mb("VmHWM") - before, 1),
            "fds": _open_files() - opened,
        }


def limit_memory(mb: int) -> None:
    """Let the address space of this process grow by so much at most."""
    import cv2

    cv2.setNumThreads(1)
    most = int((_status_mb("VmSize") + mb) * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def faults(result: dict[str, object], seconds: float = MAX_SECONDS) -> str:
    """What is wrong with an outcome; empty where all limits hold."""
    if str(result["outcome"]).startswith("raised"):
        return str(result["outcome"])
    if float(str(result["mb"])) > MAX_MB:
        return f"took {result['mb']} MB"
    if float(str(result["s"])) > seconds:
        return f"took {result['s']} s"
    return f"left {result['fds']} files open" if result["fds"] else ""


def run(count: int, seed: int, timeout_s: float) -> list[dict[str, object]]:
    """Outcomes of all files, from a process of its own.

    Raises:
        subprocess.CalledProcessError: A file ended it; the last line of output says which.
        subprocess.TimeoutExpired: It did not end in time.
    """
    command = [sys.executable, __file__, "--child", "--count", str(count), "--seed", str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=timeout_s, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def child(count: int, seed: int) -> None:
    """The named hostile files, then the random ones, one line of JSON each."""
    from leukoscope.imaging import dicom  # noqa: F401

    named = ((name, make()) for name, (make, _) in _hostile_files().FILES.items())
    list(decode_all(iter(seeds()), MAX_PIXELS))  # what a first use loads does not count
    limit_memory(1500)
    for result in decode_all(named, 25_000_000):
        print(json.dumps(result), flush=True)
    for result in decode_all(files(count, seed), MAX_PIXELS):
        print(json.dumps(result), flush=True)


def main() -> int:
    """Run, and say what broke a limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.count, options.seed)
        return 0
    results = run(options.count, options.seed, 60 + options.count)
    broken = [(result, found) for result in results if (found := faults(result))]
    outcomes = Counter(str(result["outcome"]) for result in results)
    print(f"{len(results)} files:", ", ".join(f"{n} {what}" for what, n in outcomes.most_common()))
    print("most memory:", max(float(str(result["mb"])) for result in results), "MB; longest:",
          max(float(str(result["s"])) for result in results), "s")  # fmt: skip
    for result, found in broken:
        print(f"number {result['number']}, {result['kind']}: {found}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
