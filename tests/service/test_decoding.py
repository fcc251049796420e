"""Decoders that hang, die or ask for too much: they end, and nobody waits for them."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from starlette.testclient import TestClient

from leukoscope.core.errors import ImageError
from leukoscope.imaging.containers import is_quick
from leukoscope.imaging.decode import decode_image
from leukoscope.service.decoding import Decoders

posix = pytest.mark.skipif(os.name == "nt", reason="Windows cannot stop a process")


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    made = Decoders(2, 2.0, 10_000)
    yield made
    made.close()


def children(of: int | None = None) -> list[psutil.Process]:
    """The decoders of a process; multiprocessing has a tracker of its own."""
    every = psutil.Process(of).children()
    alive = [p for p in every if p.status() != psutil.STATUS_ZOMBIE]
    return [p for p in alive if "spawn_main" in " ".join(p.cmdline())]


@pytest.mark.parametrize(
    ("data", "quick"),
    [
        (encoded("PNG"), True),
        (encoded("PNG", "P"), True),
        (encoded("JPEG"), True),
        (encoded("WEBP"), True),
        (encoded("BMP"), True),
        (b"no image", True),
        (b"", True),
        (encoded("JPEG", progressive=True), False),
        (encoded("BMP", "P"), False),
        (encoded("GIF", "P"), False),
        (encoded("TIFF"), False),
        (bytes(128) + b"DICM", False),
    ],
)
def test_only_work_that_the_header_bounds_stays_in_the_servers_threads(
    data: bytes, quick: bool
) -> None:
    assert is_quick(data) is quick


def test_a_process_gives_what_the_decoder_gives(decoders: Decoders) -> None:
    data = encoded(
        "TIFF", save_all=True, append_images=[Image.new("L", (9, 9))], dpi=(254e3, 254e3)
    )
    there, here = decoders.decode("a.png", data), decode_image(data, name="a.png")
    np.testing.assert_array_equal(there.image, here.image)
    assert there.image.flags.writeable
    assert (there.format, there.notes, there.um_per_px, there.pages, there.doubts) == (
        here.format, here.notes, here.um_per_px, here.pages, here.doubts,
    )  # fmt: skip
    assert here.um_per_px == 0.1
    assert len(here.notes) == 2


def test_what_a_process_refuses_is_refused_in_its_words(decoders: Decoders) -> None:
    for data in (encoded("TIFF")[:100], encoded("GIF", "P")[:30]):
        with pytest.raises(ImageError) as here:
            decode_image(data, name="x", max_pixels=10_000)
        with pytest.raises(ImageError) as there:
            decoders.decode("x", data)
        assert str(there.value) == str(here.value)
        assert there.value.reason == here.value.reason
    large = io.BytesIO()
    Image.new("L", (200, 200)).save(large, "TIFF")
    with pytest.raises(ImageError, match="at most 10,000 pixels, found 200×200 pixels"):
        decoders.decode("x", large.getvalue())


@posix
def test_a_decoder_that_hangs_is_ended_and_replaced(decoders: Decoders) -> None:
    data = encoded("TIFF")
    decoders.decode("fine", data)
    (process,) = children()
    process.suspend()
    started = time.monotonic()
    with pytest.raises(ImageError, match=r"within 2 s; it was given up") as error:
        decoders.decode("slow", data)
    assert error.value.reason == "too-slow"
    assert time.monotonic() - started < 10
    assert not process.is_running()
    assert decoders.decode("next", data).image.shape == (40, 50, 3)


@posix
def test_a_decoder_that_dies_is_told_and_replaced(decoders: Decoders) -> None:
    data = encoded("TIFF")
    decoders.decode("fine", data)
    (process,) = children()
    process.kill()
    with pytest.raises(ImageError, match=r"its decoder ended \(SIGKILL"):
        decoders.decode("deadly", data)
    assert decoders.decode("next", data).image.shape == (40, 50, 3)


def test_a_closed_server_leaves_no_process(decoders: Decoders) -> None:
    decoders.decode("fine", encoded("TIFF"))
    (process,) = children()
    decoders.close()
    with pytest.raises(ImageError, match="its decoder ended"):
        decoders.decode("late", encoded("TIFF"))
    psutil.wait_procs([process], 5)
    assert not process.is_running()
    assert not children()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems bound no address space")
def test_memory_is_bounded() -> None:
    code = (
        "from leukoscope.service.decoding import _limit_memory\n"
        "_limit_memory(2**27)\nbytearray(2**26)\n"
        "try: bytearray(2**28)\nexcept MemoryError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"


@posix
def test_others_are_answered_while_all_decoders_hang(
    app_with: Callable[..., AbstractContextManager[TestClient]], red: bytes
) -> None:
    with app_with(decode_s=2.0, threads=1) as client:
        tiff = [("files", ("a.tif", encoded("TIFF")))]
        assert client.post("/v1/predict", files=tiff).status_code == 200
        for process in children():
            process.suspend()
        found: list[Any] = []
        hung = threading.Thread(target=lambda: found.append(client.post("/v1/predict", files=tiff)))
        hung.start()
        time.sleep(0.2)
        started = time.monotonic()
        answer = client.post("/v1/predict", files=[("files", ("red.png", red))])
        assert answer.status_code == 200
        assert time.monotonic() - started < 1.5
        assert client.get("/readyz").status_code == 200
        hung.join(20)
        assert found[0].status_code == 422
        assert "too-slow" in found[0].text
        assert 'unreadable_total{reason="too-slow"} 1.0' in client.get("/metrics").text
        assert client.app.state.models.waiting == 0  # type: ignore[attr-defined]
        assert client.post("/v1/predict", files=tiff).status_code == 200


@posix
def test_a_request_that_is_given_up_frees_its_place(
    app_with: Callable[..., AbstractContextManager[TestClient]],
) -> None:
    with app_with(decode_s=1.0, timeout_s=0.3, threads=1) as client:
        models = client.app.state.models  # type: ignore[attr-defined]
        models.decoders.decode("first", encoded("TIFF"))
        for process in children():
            process.suspend()
        files = [("files", (f"{n}.tif", encoded("TIFF"))) for n in range(5)]
        assert client.post("/v1/predict", files=files).status_code == 503
        assert models.waiting == 0


@posix
def test_a_hanging_decoder_does_not_outlive_the_server(
    serving: Callable[..., AbstractContextManager[SimpleNamespace]], bundle: Any
) -> None:
    with serving("--bundle", str(bundle), "--timeout", "1") as server:
        body = (
            b'--edge\r\nContent-Disposition: form-data; name="files"; filename="a.tif"\r\n\r\n'
            + encoded("TIFF")
            + b"\r\n--edge--\r\n"
        )
        kind = {"Content-Type": "multipart/form-data; boundary=edge"}
        request = urllib.request.Request(f"{server.address}/v1/predict", body, kind)
        for _ in range(200):
            try:
                assert urllib.request.urlopen(request, timeout=20).status == 200
                break
            except OSError:
                time.sleep(0.05)
        decoders = children(server.process.pid)
        assert decoders
        for process in decoders:
            process.suspend()
            process.send_signal(signal.SIGTERM)  # what a supervisor sends to all
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(request, timeout=30)
        started = time.monotonic()
        server.process.terminate()
        assert server.process.wait(30) == 0
        assert time.monotonic() - started < 8  # the file would have had nine seconds more
        psutil.wait_procs(decoders, 5)
        assert not any(process.is_running() for process in decoders)
