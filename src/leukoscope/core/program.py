"""What the program says of itself: its version, and what stands with every prediction."""

from __future__ import annotations

import shlex
from typing import Final

__version__ = "0.1.0"

DISCLAIMER: Final = "Research software, not a medical device."


def typed(*words: object) -> str:
    """A command of the program as a shell takes it, whatever blanks and signs its paths have.

    >>> typed("predict", "IMAGES", "--bundle", "my run (1)/bundle")
    "leukoscope predict IMAGES --bundle 'my run (1)/bundle'"
    """
    return shlex.join(["leukoscope", *map(str, words)])
