"""Prediction of images that are larger than a training image: cut, predict, put together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from leukoscope.core.errors import ImageError
from leukoscope.core.files import sha256_file, write_bytes
from leukoscope.imaging.decode import Decoded, decode_image
from leukoscope.imaging.quality import measure_quality
from leukoscope.runtime.cutting import Cutter, Part, Scale
from leukoscope.runtime.heatmap import encode_png
from leukoscope.runtime.overlay import draw_parts
from leukoscope.runtime.prediction import Decision, Failure, Prediction, malignant_probability
from leukoscope.runtime.predictor import Predictor

Answered = list[tuple[Part, Prediction]]
OnParts = Callable[[str, Answered], None]
_ORDER: tuple[Decision, ...] = ("accept", "review", "reject")


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
        predictor: A bundle at work.
        sources: Files, or failures that pass in their places.
        cutter: Cuts what is larger than a training image; None predicts every image as it is.
        explain: Folder for heat maps, and for overlays of the images that were cut.
        on_parts: Called with the name of each image that was cut and what was said of its parts.

    Raises:
        UsageError: Heat maps are asked of a bundle that has none.
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
    """Each part with its prediction; the pixels are let go as soon as the network has seen them."""
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
    scale: Scale,
    places: int,
    answered: Answered,
) -> Prediction:
    """One answer for the image: the mean over the parts that are not rejected, or over all."""
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
        p_malignant=malignant_probability(p),
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
    """Reject where every part is rejected; accept where every part is accepted; else review."""
    reasons = list(doubts)
    for decision in ("reject", "review"):
        said = [answer.reasons for answer in answers if answer.decision == decision]
        if said:
            # Without the numbers in brackets, which differ from part to part.
            first, n = Counter(re.sub(r" ?\([^)]*\d[^)]*\)", "", r[0]) for r in said).most_common(
                1
            )[0]
            start = f"{len(said)} of {len(answers)} {word}: {decision}"
            reasons.append(f"{start}, most often ({n}) because: {first}")
    found = {answer.decision for answer in answers}
    if found == {"reject"}:
        return "reject", tuple(reasons)
    return ("review" if doubts or found != {"accept"} else "accept"), tuple(reasons)
