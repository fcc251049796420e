"""Whether red and blue were exchanged (BGR read as RGB), seen by the dye of the nuclei.

Romanowsky stains make nuclei purple: the darkest pixels hold more blue than red, and less where
the channels are exchanged. The sign says nothing of a picture without nuclei.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_SIDE = 112
_BLACK = 12  # brightest channel of the black ground around cut-out cells
_SHARE = 0.05


def nuclear_blue(image: NDArray[np.uint8]) -> float:
    """Mean of blue − red over the twentieth of the pixels with the least green, −255 to 255.

    Args:
        image: (H, W, 3) uint8 RGB; black pixels do not count, an all black image has 0.

    >>> violet = np.full((8, 8, 3), (90, 40, 130), np.uint8)
    >>> nuclear_blue(violet), nuclear_blue(violet[..., ::-1])
    (40.0, -40.0)
    """
    small = cv2.resize(np.ascontiguousarray(image), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    red, green, blue = cv2.split(small)
    lit = cv2.inRange(cv2.max(cv2.max(red, green), blue), _BLACK + 1, 255)
    total = cv2.countNonZero(lit)
    if not total:
        return 0.0
    count = max(1, round(_SHARE * total))
    below = np.cumsum(cv2.calcHist([green], [0], lit, [256], [0, 256]))
    level = int(np.searchsorted(below, count))
    # Of the pixels at the last level only some belong; all of them stand for these.
    found = 0.0
    for low, high, number in (
        (0, level - 1, below[level - 1] if level else 0),
        (level, level, count - (below[level - 1] if level else 0)),
    ):
        if number:
            inside = cv2.bitwise_and(lit, cv2.inRange(green, low, high))
            mean = cv2.mean(small, inside)
            found += number * (mean[2] - mean[0])
    return float(found / count)


def blue_range(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """First and 99th percentile over training images, where these have the sign of purple nuclei.

    Args:
        values: (n,) of :func:`nuclear_blue`.

    Returns:
        None where the range holds zero: an exchange could not be told.
    """
    low, high = (float(q) for q in np.quantile(values, (0.01, 0.99)))
    return (low, high) if low > 0 else None


def looks_exchanged(value: float, limits: tuple[float, float] | None) -> bool:
    """Whether an image is outside the range of the training images, and inside once exchanged.

    >>> looks_exchanged(-40.0, (20.0, 60.0)), looks_exchanged(30.0, (20.0, 60.0))
    (True, False)
    """
    return limits is not None and limits[0] <= -value <= limits[1]
