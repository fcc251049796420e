"""Prediction of images larger than a training image, and the overlay of what was found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import ImageError
from leukoscope.core.files import sha256_file, write_bytes
from leukoscope.core.program import DISCLAIMER
from leukoscope.imaging.decode import Decoded, decode_image
from leukoscope.imaging.quality import measure_quality
from leukoscope.runtime.heatmap import encode_png
from leukoscope.runtime.prediction import Decision, Failure, Prediction, malignant_probability
from leukoscope.runtime.predictor import Predictor
from leukoscope.runtime.tiling import Cutter, ImageScale, Part

_LONGEST_PX = 1600
_ROW_PX = 22
# Okabe & Ito 2008, told apart by colour-blind eyes, without black, grey and pale yellow.
_COLOURS = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233),
)  # fmt: skip
_REJECTED = (110, 110, 110)
PartResult = tuple[tuple[int, int, int, int], str, str]
Answered = list[tuple[Part, Prediction]]
OnParts = Callable[[str, Answered], None]
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


def predict_any(
    predictor: Predictor,
    sources: Iterable[Path | Failure],
    cutter: Cutter | None,
    *,
    explain: Path | None = None,
    on_parts: OnParts | None = None,
) -> Iterator[Prediction | Failure]:
    """Predict images of any size, in their order, in constant memory.

    Args:
        predictor: The opened bundle.
        sources: Files, or failures that are passed on.
        cutter: Cuts images larger than a training image; None predicts every image as it is.
        explain: Folder for heat maps, and for overlays of the images that were cut.
        on_parts: Called with the name of each image that was cut and the results of its parts.

    Raises:
        UsageError: Heat maps are requested from a bundle that has none.
    """

    def is_large(source: Path | Failure) -> bool:
        return cutter is not None and isinstance(source, Path) and cutter.may_cut(source)

    for large, group in groupby(sources, is_large):
        if not large or cutter is None:
            yield from predictor.predict_stream(group, explain=explain)
            continue
        for path in group:
            assert isinstance(path, Path)
            yield _predict_large(predictor, path, cutter, explain, on_parts)


def _predict_large(
    predictor: Predictor, path: Path, cutter: Cutter, explain: Path | None, on_parts: OnParts | None
) -> Prediction | Failure:
    try:
        decoded = decode_image(path)
    except ImageError as error:
        return Failure(str(path), error.reason, error.detail, error.hint)
    scale = cutter.scale_of(decoded)
    if cutter.is_one(decoded, scale):
        (answer,) = predictor.predict([path], explain=explain, on_error="keep")
        return answer
    places, parts = cutter.parts(decoded.image, scale)
    answered = _answered(predictor, parts)
    if not answered:
        (answer,) = predictor.predict([path], on_error="keep")
        if isinstance(answer, Failure):
            return answer
        none = "No leukocyte was found in this image, which is larger than the training images."
        return replace(answer, decision="reject", reasons=(none, *answer.reasons))
    answer = _summary(predictor, path, decoded, cutter, scale, places, answered)
    if explain is not None:
        target = explain / f"{path.stem}-{answer.sha256[:12]}.png"
        shown = draw_parts(decoded.image, [(p.box, a.predicted, a.decision) for p, a in answered],
                           predictor.class_names)  # fmt: skip
        write_bytes(target, encode_png(shown))
        answer = replace(answer, heatmap=str(target))
    if on_parts is not None:
        on_parts(str(path), answered)
    return answer


def _answered(predictor: Predictor, parts: Iterator[Part]) -> Answered:
    """Yield each part with its prediction; its pixels are released after the network has run."""
    boxes: list[Part] = []

    def pixels() -> Iterator[Any]:
        for part in parts:
            boxes.append(replace(part, pixels=np.empty((0, 0, 3), np.uint8)))
            yield part.pixels

    answers = predictor.predict_stream(pixels())
    return [
        (boxes[number], answer)
        for number, answer in enumerate(answers)
        if isinstance(answer, Prediction)
    ]


def _summary(
    predictor: Predictor,
    path: Path,
    decoded: Decoded,
    cutter: Cutter,
    scale: ImageScale,
    places: int,
    answered: Answered,
) -> Prediction:
    """One answer for the image: the mean over its accepted and review parts, or over all parts."""
    answers = [answer for _, answer in answered]
    used = [answer for answer in answers if answer.decision != "reject"] or answers
    names = predictor.class_names
    mean = np.mean([list(answer.probabilities.values()) for answer in used], axis=0)
    p = dict(zip(names, mean.tolist(), strict=True))
    votes = Counter(answer.predicted for answer in used)
    decisions = Counter(answer.decision for answer in answers)
    word = "leukocytes" if cutter.field.shows == "cell" else "tiles"
    decision, reasons = _decide(answers, word, (*decoded.doubts, *filter(None, [scale.doubt])))
    distances = [answer.ood_score for answer in used if answer.ood_score is not None]
    return Prediction(
        image=str(path),
        sha256=sha256_file(path),
        predicted=max(p, key=lambda name: p[name]),
        probabilities=p,
        p_malignant=malignant_probability(p, predictor.record.roles),
        prediction_set=tuple(n for n in names if any(n in a.prediction_set for a in used)),
        decision=decision,
        reasons=reasons,
        ood_score=float(np.median(distances)) if distances else None,
        quality=measure_quality(decoded.image),
        model=predictor.model,
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
