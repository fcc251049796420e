"""Broken uploads against the service: never a 5xx, never a crash, memory bounded.

python benchmarks/fuzz_service.py BUNDLE --count 10000

Truncated, mutated, spliced and random files, polyglots, bombs and hostile names, as whole requests,
some with a broken form. The server runs in a process of its own; the command ends with 1 where a
request gets a 5xx or no answer at all.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import io
import random
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = (
    "a.png", "../../etc/passwd", "..\\..\\boot.ini", "\x00.png", "a" * 5000, "con",
    "/dev/zero", "\u202egnp.exe", "<script>alert(1)</script>.png", "file:///etc/passwd", "",
    "%2e%2e%2f", "é😀.jpg",
)  # fmt: skip
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")


def seeds() -> list[bytes]:
    """One small whole image of each format, in several modes."""
    pixels = np.random.default_rng(1).integers(0, 255, (48, 40, 3), np.uint8)
    found = []
    for mode in ("RGB", "L", "P"):
        for kind in FORMATS:
            out = io.BytesIO()
            picture = Image.fromarray(pixels).convert(mode)
            if kind == "WEBP":
                picture = picture.convert("RGB")
            if kind != "JPEG" or mode != "P":
                picture.save(out, kind)
                found.append(out.getvalue())
    return found


def bomb(rng: random.Random) -> bytes:
    """A PNG whose header promises far more pixels than it holds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    side = rng.choice((20_000, 60_000, 2**31 - 1))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * rng.choice((100, 2_000_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def broken_files(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Kind and bytes of files that a server may be sent.

    Args:
        count: How many.
        seed: Of the random choices.
    """
    rng, whole = random.Random(seed), seeds()

    def truncated(data: bytes) -> bytes:
        return data[: rng.randrange(len(data))]

    def mutated(data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(rng.choice((1, 3, 20, 200))):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)

    def head_mutated(data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(rng.choice((1, 4))):
            changed[rng.randrange(min(64, len(changed)))] = rng.choice((0, 1, 127, 255))
        return bytes(changed)

    def spliced(data: bytes) -> bytes:
        other = rng.choice(whole)
        return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]

    def polyglot(data: bytes) -> bytes:
        text = rng.choice(
            (b"<html><script>1</script>", b"PK\x03\x04", b"%PDF-1.7\n", b"#!/bin/sh\n")
        )
        return rng.choice((text + data, data + text, data[:8] + text + data[8:]))

    kinds = {
        "truncated": truncated,
        "mutated": mutated,
        "mutated head": head_mutated,
        "spliced": spliced,
        "polyglot": polyglot,
        "random": lambda _: rng.randbytes(rng.choice((0, 1, 10, 1000, 50_000))),
        "bomb": lambda _: bomb(rng),
        "whole": lambda data: data,
    }
    for number in range(count):
        kind = list(kinds)[number % len(kinds)]
        yield kind, kinds[kind](rng.choice(whole))


def requests_of(count: int, seed: int = 0) -> Iterator[tuple[str, bytes, str]]:
    """Kind, body and content type of requests; one form in ten is broken itself."""
    rng = random.Random(seed + 1)
    for kind, data in broken_files(count, seed):
        name = rng.choice(NAMES).encode()
        body = (
            b'--edge\r\nContent-Disposition: form-data; name="files"; filename="' + name
            + b'"\r\n\r\n' + data + b"\r\n--edge--\r\n"
        )  # fmt: skip
        kind_of_form = "multipart/form-data; boundary=edge"
        if rng.random() < 0.1:
            kind += ", broken form"
            body = rng.choice((body[: rng.randrange(len(body))], rng.randbytes(300), b""))
            kind_of_form = rng.choice((kind_of_form, "multipart/form-data", "text/plain", ""))
        yield kind, body, kind_of_form


def main(options: argparse.Namespace) -> int:
    sys.path.insert(0, str(Path(__file__).parent))
    from service import free_port, memory_mb, start, stop

    port = free_port()
    command = [sys.executable, "-m", "leukoscope", "serve", "--bundle", options.bundle]
    process = start([*command, "--engine", options.engine], port, "/readyz")
    statuses: collections.Counter[int] = collections.Counter()
    failed, first_mb = [], 0.0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    queries = ("", "?explain=true", "?by_patient=one", "?by_patient=folder", "?model=none")
    for number, (kind, body, form) in enumerate(requests_of(options.count, options.seed)):
        path = "/answers" if number % 20 == 7 else "/v1/predict" + queries[number % len(queries)]
        try:
            connection.request("POST", path, body, {"Content-Type": form})
            answer = connection.getresponse()
            answer.read()
            statuses[answer.status] += 1
            if answer.status >= 500:
                failed.append((number, kind, answer.status))
        except (OSError, http.client.HTTPException) as error:
            failed.append((number, kind, repr(error)))
            connection.close()
        if number == options.count // 5:
            first_mb = memory_mb(process)
    last_mb, alive = memory_mb(process), process.poll() is None
    stop(process)
    print(f"{options.count} inputs, seed {options.seed}: statuses {dict(sorted(statuses.items()))}")
    print(f"memory {first_mb:.0f} MiB after a fifth, {last_mb:.0f} MiB at the end")
    print(f"failed: {len(failed)} {failed[:5]}; server alive: {alive}")
    return int(bool(failed) or not alive)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", default="auto")
    sys.exit(main(parser.parse_args()))
