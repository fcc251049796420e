"""What a classifier is shown: the image, or a version of it with something taken away."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.imaging.decode import decode_image, read_image_file
from leukoscope.imaging.degrade import DEGRADATIONS
from leukoscope.imaging.observation import Observation
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.imaging.probe_inputs import OBSERVED_INPUTS, PROBE_INPUTS

INPUTS = PROBE_INPUTS
_Item = TypeVar("_Item")


def load_input(path: Path, variant: str, spec: PreprocessSpec) -> NDArray[np.uint8]:
    """One image as the model sees it.

    Args:
        path: The image file.
        variant: A key of :data:`INPUTS`, or of
            :data:`~leukoscope.imaging.degrade.DEGRADATIONS`.
        spec: Preprocessing, applied after the variant was made at full size.

    Returns:
        (S, S, 3) uint8 RGB.
    """
    return apply_preprocess(make_input(Observation(decode_image(path).image), variant), spec)


def make_input(seen: Observation, variant: str) -> NDArray[np.uint8]:
    """One version of an image at full size, see :func:`load_input`."""
    if variant in DEGRADATIONS:
        return DEGRADATIONS[variant](seen.image)
    return OBSERVED_INPUTS[variant](seen)


def observe(path: Path) -> Observation:
    """A file's pixels, bytes and scale.

    Raises:
        ImageError: The file cannot be read.
    """
    data = read_image_file(path)
    decoded = decode_image(data, name=str(path))
    return Observation(decoded.image, um_per_px=decoded.um_per_px, data=data)


def stream(
    function: Callable[[_Item], Any], items: Sequence[_Item], *, threads: int = 2, ahead: int = 64
) -> Iterator[Any]:
    """``map`` in threads, in order, with at most ``ahead`` results waiting."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Any]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
