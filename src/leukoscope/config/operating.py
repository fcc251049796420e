"""The sentence that asks for an operating point, and what it means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

PATTERN: Final = "miss at most X % of malignant fields, with C % confidence"
_NUMBER = r"(\d+(?:\.\d+)?)"
_WORDS = re.compile(
    rf"miss at most {_NUMBER} ?% of malignant (fields|images|cells|patients),? "
    rf"with {_NUMBER} ?% confidence"
)


@dataclass(frozen=True)
class OperatingTarget:
    """What an operating point must keep.

    Attributes:
        words: As asked for.
        miss: Largest share of malignant images (or patients) that may be missed, in (0, 1).
        confidence: With which probability, in (0.5, 1).
        unit: ``image`` or ``patient``.
        noun: What the sentence calls them.
    """

    words: str
    miss: float
    confidence: float
    unit: str
    noun: str


def parse_operating_point(words: str) -> OperatingTarget:
    """Read a sentence such as ``miss at most 1 % of malignant fields, with 95 % confidence``.

    Nothing but this pattern is accepted: fields, images and cells mean images; a patient is
    missed where none of the patient's images is flagged.

    Raises:
        ValueError: Another wording, or a number out of range; says what is accepted.

    >>> parse_operating_point("miss at most 2.5 % of malignant cells, with 90 % confidence").miss
    0.025
    """
    found = _WORDS.fullmatch(words.strip())
    if found is None:
        raise ValueError(
            f"expected the words “{PATTERN}” (or images, cells, patients), got “{words}”"
        )
    miss, confidence = float(found[1]) / 100, float(found[3]) / 100
    if not (0 < miss < 0.5 and 0.5 < confidence < 1):
        raise ValueError(
            "expected a share of missed images between 0 and 50 % and a confidence between 50 and "
            f"100 %, got “{words}”"
        )
    unit = "patient" if found[2] == "patients" else "image"
    return OperatingTarget(words.strip(), miss, confidence, unit, found[2])
