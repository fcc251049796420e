"""Masks that were found are remembered, for work that looks at the same images several times."""

from __future__ import annotations

import hashlib
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np
from numpy.typing import NDArray

LIMIT_BYTES = 32 * 2**20  # of packed masks: a field of cells takes about 1 kB

_Masks = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class _Memory:
    """Pairs of masks by the picture that they were found in; the oldest are forgotten."""

    def __init__(self) -> None:
        self._packed: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def find(self, image: NDArray[np.uint8], search: Callable[[], _Masks]) -> _Masks:
        """The masks (H, W) uint8, 0 or 1, of a picture (H, W, 3); ``search`` finds new ones."""
        digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(image).data)
        key = digest.digest()
        with self._lock:
            packed = self._packed.get(key)
        if packed is not None:
            bits = np.unpackbits(np.frombuffer(zlib.decompress(packed), np.uint8))
            first, second = bits[: 2 * image[..., 0].size].reshape(2, *image.shape[:2])
            return first, second
        masks = search()
        self._keep(key, zlib.compress(np.packbits(np.stack(masks)).tobytes(), level=1))
        return masks

    def _keep(self, key: bytes, packed: bytes) -> None:
        with self._lock:
            if key in self._packed:  # another thread was sooner
                return
            self._packed[key] = packed
            self._bytes += len(packed)
            while self._bytes > LIMIT_BYTES:
                self._bytes -= len(self._packed.popitem(last=False)[1])


_memory: _Memory | None = None


@contextmanager
def remembered_masks() -> Iterator[None]:
    """Within it each picture is segmented once, in whatever thread; one inside another is one."""
    global _memory  # noqa: PLW0603  (threads that others start must see it)
    if _memory is not None:
        yield
        return
    _memory = _Memory()
    try:
        yield
    finally:
        _memory = None


def known_or_found(image: NDArray[np.uint8], search: Callable[[], _Masks]) -> _Masks:
    """Masks of a picture (H, W, 3) uint8, from memory where they are remembered."""
    memory = _memory
    return search() if memory is None else memory.find(image, search)
