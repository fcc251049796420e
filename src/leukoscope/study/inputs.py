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
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.imaging.probe_inputs import PROBE_INPUTS

INPUTS = PROBE_INPUTS
_Item = TypeVar("_Item")


def load_input(path: Path, variant: str, spec: PreprocessSpec) -> NDArray[np.uint8]:
    """One image as the model sees it.

    Args:
        path: The image file.
        variant: A key of :data:`INPUTS`.
        spec: Preprocessing, applied after the variant was made at full size.

    Returns:
        (S, S, 3) uint8 RGB.
    """
    return apply_preprocess(INPUTS[variant](decode_image(path).image), spec)


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
