"""What a classifier is shown: the image, or a version of it with something taken away.

``background-only`` has every leukocyte inpainted and the scale bar masked; ``cells-only`` keeps
the leukocytes on a neutral ground. A score on the first is a score that needs no morphology.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from leukoscope.config.preprocess import PreprocessSpec
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.imaging.segment import keep_leukocytes, remove_leukocytes, segment_leukocytes

Image = NDArray[np.uint8]
_Item = TypeVar("_Item")


def _whole_image(image: Image) -> Image:
    return image


def _background_only(image: Image) -> Image:
    return remove_leukocytes(image, segment_leukocytes(image))


def _cells_only(image: Image) -> Image:
    return keep_leukocytes(image, segment_leukocytes(image))


INPUTS: Mapping[str, Callable[[Image], Image]] = MappingProxyType(
    {"image": _whole_image, "background-only": _background_only, "cells-only": _cells_only}
)


def load_input(path: Path, variant: str, spec: PreprocessSpec) -> Image:
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
