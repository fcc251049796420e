"""Prediction of images larger than a training image, and the overlay of what was found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import BundleRecord
from leukoscope.core.program import DISCLAIMER
from leukoscope.imaging.decode import Decoded
from leukoscope.imaging.quality import measure_quality
from leukoscope.runtime.prediction import Decision, Failure, Prediction, malignant_probability
from leukoscope.runtime.tiling import Cutter, ImageScale, Part

NO_LEUKOCYTE = "No leukocyte was found in this image, which is larger than the training images."
_LONGEST_PX = 1600
_ROW_PX = 22
# Okabe & Ito 2008, told apart by colour-blind eyes, without black, grey and pale yellow.
_COLOURS = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233),
)  # fmt: skip
_REJECTED = (110, 110, 110)
PartResult = tuple[tuple[int, int, int, int], str, str]
Answered = list[tuple[Part, Prediction]]
_ORDER: tuple[Decision, ...] = ("accept", "review", "reject")


def draw_parts(
    image: NDArray[np.uint8], parts: Sequence[PartResult], class_names: Sequence[str]
) -> NDArray[np.uint8]:
    """Frame each part in the colour of its class (grey if rejected), with a legend below.

    Args:
        image: (H, W, 3) uint8 RGB; a large one is reduced.
        parts: Box (x, y, width, height), predicted class and decision of each part.
        class_names: In the order of the colours.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    scale = min(1.0, _LONGEST_PX / max(image.shape[:2]))
    width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
    shown = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    colour = {name: _COLOURS[k % len(_COLOURS)] for k, name in enumerate(class_names)}
    # Rejected ones first, so that no frame of a class is hidden under a grey one.
    for (x, y, wide, high), name, decision in sorted(parts, key=lambda part: part[2] != "reject"):
        inset = 2
        start = (round(x * scale) + inset, round(y * scale) + inset)
        end = (round((x + wide) * scale) - inset, round((y + high) * scale) - inset)
        ink = _REJECTED if decision == "reject" else colour[name]
        cv2.rectangle(shown, start, end, ink, 1 if decision == "reject" else 2, cv2.LINE_AA)
    counts = Counter(name for _, name, decision in parts if decision != "reject")
    rejected = sum(decision == "reject" for _, _, decision in parts)
    entries = [(f"{name} {counts[name]}", colour[name]) for name in class_names]
    return _with_legend(shown, [*entries, (f"rejected {rejected}", _REJECTED)])


def _with_legend(
    shown: NDArray[np.uint8], entries: Sequence[tuple[str, tuple[int, int, int]]]
) -> NDArray[np.uint8]:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=13)
    places: list[tuple[int, int]] = []
    x, y = 6, 0
    for text, _ in entries:
        wide = 22 + round(font.getlength(text)) + 16
        if x + wide > shown.shape[1] and x > 6:
            x, y = 6, y + _ROW_PX
        places.append((x, y))
        x += wide
    strip = Image.new("RGB", (shown.shape[1], y + 2 * _ROW_PX), "white")
    draw = ImageDraw.Draw(strip)
    for (text, ink), (left, top) in zip(entries, places, strict=True):
        draw.rectangle((left, top + 5, left + 14, top + 17), outline=ink, width=3)
        draw.text((left + 20, top + 3), text, fill=(0, 0, 0), font=font)
    draw.text((6, y + _ROW_PX + 3), DISCLAIMER, fill=(90, 90, 90), font=font)
    return np.concatenate([shown, np.asarray(strip, np.uint8)])


class PartsModel(Protocol):
    """The model that the parts of an image are given to."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the logits."""

    @property
    def record(self) -> BundleRecord:
        """What the bundle says of itself."""

    @property
    def model(self) -> str:
        """Name of the bundle and the first digits of its hash."""

    def predict_whole(self, images: Iterable[NDArray[np.uint8]]) -> Iterator[Prediction | Failure]:
        """One answer for each image, none of which is cut."""


@dataclass(frozen=True, eq=False)
class LargeAnswer:
    """What was said of an image that was cut.

    Attributes:
        prediction: Of the whole image, see :func:`summarise_parts`.
        parts: Each part and its prediction, in reading order.
        image: (H, W, 3) uint8 RGB.
    """

    prediction: Prediction
    parts: Answered
    image: NDArray[np.uint8]

    def drawn(self) -> NDArray[np.uint8]:
        """The image with a frame around each part, see :func:`draw_parts`."""
        boxes = [(part.box, said.predicted, said.decision) for part, said in self.parts]
        return draw_parts(self.image, boxes, tuple(self.prediction.probabilities))


def predict_parts(
    model: PartsModel,
    name: str,
    decoded: Decoded,
    sha256: str,
    cutter: Cutter,
    wanted: Callable[[], bool] = lambda: True,
) -> LargeAnswer | None:
    """Cut an image that is larger than a training image, and predict its parts.

    Args:
        model: Answers the parts.
        name: Of the image in the answer.
        decoded: The image.
        sha256: Of the file's bytes.
        cutter: Of the bundle.
        wanted: Asked before each part; where it says no, the rest is left out.

    Returns:
        None where the image shows no more than a training image and is to be predicted as it is.
        The prediction rejects an image in which no part shows a leukocyte.
    """
    scale = cutter.scale_of(decoded)
    if cutter.is_one(decoded, scale):
        return None
    places, parts = cutter.parts(decoded.image, scale)
    answered = _answered(model, takewhile(lambda _: wanted(), parts))
    if not answered:
        (answer,) = model.predict_whole([decoded.image])
        if isinstance(answer, Failure):
            return None
        reasons = (NO_LEUKOCYTE, *answer.reasons)
        rejected = replace(answer, image=name, sha256=sha256, decision="reject", reasons=reasons)
        return LargeAnswer(rejected, [], decoded.image)
    answer = summarise_parts(model, name, sha256, decoded, cutter, scale, places, answered)
    return LargeAnswer(answer, answered, decoded.image)


def _answered(model: PartsModel, parts: Iterable[Part]) -> Answered:
    """Yield each part with its prediction; its pixels are released after the network has run."""
    boxes: list[Part] = []

    def pixels() -> Iterator[NDArray[np.uint8]]:
        for part in parts:
            boxes.append(replace(part, pixels=np.empty((0, 0, 3), np.uint8)))
            yield part.pixels

    answers = model.predict_whole(pixels())
    return [
        (boxes[number], answer)
        for number, answer in enumerate(answers)
        if isinstance(answer, Prediction)
    ]


def summarise_parts(
    model: PartsModel,
    name: str,
    sha256: str,
    decoded: Decoded,
    cutter: Cutter,
    scale: ImageScale,
    places: int,
    answered: Answered,
) -> Prediction:
    """One answer for the image: the mean over its accepted and review parts, or over all parts."""
    answers = [answer for _, answer in answered]
    used = [answer for answer in answers if answer.decision != "reject"] or answers
    names = model.class_names
    mean = np.mean([list(answer.probabilities.values()) for answer in used], axis=0)
    p = dict(zip(names, mean.tolist(), strict=True))
    votes = Counter(answer.predicted for answer in used)
    decisions = Counter(answer.decision for answer in answers)
    word = "leukocytes" if cutter.field.shows == "cell" else "tiles"
    decision, reasons = _decide(answers, word, (*decoded.doubts, *filter(None, [scale.doubt])))
    distances = [answer.ood_score for answer in used if answer.ood_score is not None]
    return Prediction(
        image=name,
        sha256=sha256,
        predicted=max(p, key=lambda name: p[name]),
        probabilities=p,
        p_malignant=malignant_probability(p, model.record.roles),
        prediction_set=tuple(n for n in names if any(n in a.prediction_set for a in used)),
        decision=decision,
        reasons=reasons,
        ood_score=float(np.median(distances)) if distances else None,
        quality=measure_quality(decoded.image),
        model=model.model,
        tiles={
            "kind": word,
            "n": len(answers),
            "empty_or_cut": places - len(answers),
            **{name: decisions[name] for name in _ORDER},
            "worst": max((a.decision for a in answers), key=_ORDER.index),
            "share": {name: round(votes[name] / len(used), 4) for name in names},
            "um_per_px": None if scale.um_per_px is None else round(scale.um_per_px, 5),
            "scale_from": scale.source,
        },
    )


def _decide(
    answers: Sequence[Prediction], word: str, doubts: Sequence[str]
) -> tuple[Decision, tuple[str, ...]]:
    """Reject if every part is rejected, accept if every part is accepted, else review."""
    reasons = list(doubts)
    for decision in ("reject", "review"):
        stated = [answer.reasons for answer in answers if answer.decision == decision]
        if stated:
            # Without the numbers in brackets, which differ from part to part.
            first, n = Counter(re.sub(r" ?\([^)]*\d[^)]*\)", "", r[0]) for r in stated).most_common(
                1
            )[0]
            start = f"{len(stated)} of {len(answers)} {word}: {decision}"
            reasons.append(f"{start}, most often ({n}) because: {first}")
    found = {answer.decision for answer in answers}
    if found == {"reject"}:
        return "reject", tuple(reasons)
    return ("review" if doubts or found != {"accept"} else "accept"), tuple(reasons)
