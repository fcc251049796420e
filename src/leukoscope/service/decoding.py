"""Decoding that can be ended: files whose header does not bound the work go to other processes.

A JPEG of few scans, a PNG, a WebP or a plain BMP takes at most about two seconds for the pixels
that its header announces, and stays in the thread that goes on with it. What lies in a TIFF, a GIF,
a DICOM or a JPEG of many scans is for its decoder to find out: it does so in a process with bounded
memory, which is ended where it takes too long, and replaced.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import ImageError
from leukoscope.core.files import sha256_bytes
from leukoscope.core.threads import follow_parent, how_it_ended
from leukoscope.imaging.containers import is_quick
from leukoscope.imaging.decode import Decoded, DecodedFile, decode_image, load_readers

_CONTEXT = multiprocessing.get_context("spawn")  # threads of the networks do not survive a fork
_BASE_BYTES, _BYTES_A_PIXEL = 512 * 2**20, 64  # of memory for one file
_START_S = 60.0
_MOST_WORDS = 2**20
_HINT = "save it as PNG"
Decode = Callable[[str, bytes], Decoded]
"""From a name and the bytes of a file to its pixels."""


class Decoders:
    """Decodes files for a server, at most ``count`` at once in processes of their own.

    Args:
        count: Most processes; each starts when it is first needed.
        seconds: Longest time that one file may take.
        max_pixels: Largest width × height of an image.
    """

    def __init__(self, count: int, seconds: float, max_pixels: int) -> None:
        self._seconds, self._max_pixels = seconds, max_pixels
        # Who waits for an answer to such a file holds a slot, so that few large images wait for a
        # network at once.
        self.slots = asyncio.Semaphore(count)
        self._threads = ThreadPoolExecutor(count, "leukoscope-decode")
        self._idle: queue.LifoQueue[_Decoder] = queue.LifoQueue()
        self._all = [_Decoder(seconds, max_pixels) for _ in range(count)]
        for decoder in self._all:
            self._idle.put(decoder)

    def warm(self) -> None:
        """Start one process, beside what else is done, so that no user waits for it."""
        self._threads.submit(self._all[-1].start)

    def decode(self, name: str, data: bytes) -> Decoded:
        """Decode a file here or in a process; waits where all are at work.

        Raises:
            ImageError: As :func:`~leukoscope.imaging.decode.decode_image`; also ``too-slow``.
        """
        if is_quick(data):
            return decode_image(data, name=name, max_pixels=self._max_pixels)
        decoder = self._idle.get()
        try:
            return decoder.decode(name, data)
        finally:
            self._idle.put(decoder)

    async def decode_aside(self, name: str, data: bytes) -> DecodedFile:
        """Decode a file without holding up the event loop.

        Raises:
            ImageError: As :meth:`decode`.
        """
        loop = asyncio.get_running_loop()
        decoded = await loop.run_in_executor(self._threads, self.decode, name, data)
        return DecodedFile(decoded, sha256_bytes(data))

    def close(self) -> None:
        """End all processes, also those in the middle of a file."""
        for decoder in self._all:
            decoder.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Decoder:
    """One process, used by one thread at a time; :meth:`close` may come from any."""

    def __init__(self, seconds: float, max_pixels: int) -> None:
        self._seconds, self._max_pixels = seconds, max_pixels
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._changing = threading.Lock()
        self._closed = False

    def decode(self, name: str, data: bytes) -> Decoded:
        """Decode one file."""
        deadline = _Deadline(self._seconds, self._kill)
        try:
            pipe = self.start()
            with deadline:
                pipe.send_bytes(name.encode("utf-8", "surrogateescape"))
                pipe.send_bytes(data)
                # No pickle: a file may have taken over the process that it was decoded in.
                said = json.loads(pipe.recv_bytes(_MOST_WORDS))
                image = self._pixels(pipe, said.pop("shape")) if "shape" in said else None
        except (EOFError, OSError, ValueError):
            code = self._forget()
            if deadline.passed:
                detail = f"expected to decode it within {self._seconds:g} s; it was given up"
                raise ImageError(name, "too-slow", detail, hint=_HINT) from None
            detail = f"its decoder ended ({how_it_ended(code)})"
            raise ImageError(name, "corrupt", detail, hint=_HINT) from None
        if image is None:
            raise ImageError(name, said["reason"], said["detail"], hint=said["hint"])
        return Decoded(
            image, said["format"], tuple(said["notes"]), said["um_per_px"], said["pages"]
        )

    def start(self) -> Connection:
        """The pipe to the process, which is started where none lives.

        Raises:
            EOFError: It does not come, or the server is about to end.
        """
        with self._changing:
            if self._closed:
                raise EOFError
            if self._pipe is None:
                self._pipe, theirs = _CONTEXT.Pipe()
                arguments = (theirs, self._max_pixels)
                self._process = _CONTEXT.Process(target=_serve, args=arguments, daemon=True)
                self._process.start()
                theirs.close()  # so that the end of the process closes the pipe
                with _Deadline(_START_S, self._kill):
                    self._pipe.recv_bytes(_MOST_WORDS)  # its start is no part of a file's time
            return self._pipe

    def close(self) -> None:
        """End the process for good."""
        self._closed = True
        self._kill()

    def _pixels(self, pipe: Connection, shape: list[int]) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB as the process sends it, no more than was allowed."""
        height, width = shape
        if not 0 < height * width <= self._max_pixels:
            raise ValueError(f"expected at most {self._max_pixels} pixels, got {shape}")
        image = np.empty((height, width, 3), np.uint8)
        pipe.recv_bytes_into(image.data.cast("B"))
        return image

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _forget(self) -> int | None:
        """Clear the way for a new process; returns how the old one ended."""
        with self._changing:
            process, pipe, self._process, self._pipe = self._process, self._pipe, None, None
        if pipe is not None:
            pipe.close()
        if process is None:
            return None
        process.kill()
        process.join()
        return process.exitcode


class _Deadline:
    """A context that calls ``end`` once where it is not left within so many seconds."""

    def __init__(self, seconds: float, end: Callable[[], None]) -> None:
        self.passed = False
        self._end, self._left = end, False
        self._turn = threading.Lock()
        self._timer = threading.Timer(seconds, self._pass)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._turn:  # from here on the process may be at the next file
            self._left = True

    def _pass(self) -> None:
        with self._turn:
            if not self._left:
                self.passed = True
                self._end()


def _serve(pipe: Connection, max_pixels: int) -> None:
    """The life of a process: bytes in, an image or the reason against it out."""
    import cv2

    follow_parent()
    for name in ("SIGTERM", "SIGHUP"):  # meant for the server, which ends its processes itself
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    cv2.setNumThreads(1)
    load_readers()
    _limit_memory(_BASE_BYTES + _BYTES_A_PIXEL * max_pixels)
    with suppress(EOFError, OSError):
        pipe.send_bytes(b"ready")
        while True:
            name = pipe.recv_bytes().decode("utf-8", "surrogateescape")
            said, image = _decode(pipe.recv_bytes(), name, max_pixels)
            pipe.send_bytes(json.dumps(said).encode())
            if image is not None:
                pipe.send_bytes(image.data.cast("B"))


def _decode(
    data: bytes, name: str, max_pixels: int
) -> tuple[dict[str, Any], NDArray[np.uint8] | None]:
    """What is said of a file, and its pixels where there are any."""
    try:
        found = decode_image(data, name=name, max_pixels=max_pixels)
    except ImageError as error:
        return {"reason": error.reason, "detail": error.detail, "hint": error.hint}, None
    except MemoryError:
        detail = "expected an image that fits into the memory of its decoder"
        return {"reason": "too-large", "detail": detail, "hint": _HINT}, None
    about = {
        "shape": found.image.shape[:2],
        "format": found.format,
        "notes": found.notes,
        "um_per_px": found.um_per_px,
        "pages": found.pages,
    }
    return about, found.image


def _limit_memory(more: int) -> None:
    """Bound the address space of this process, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    used = 0
    with suppress(OSError):  # Linux tells
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, used + more))
