"""What the templates show: answers in words, numbers as text, small pictures."""

from __future__ import annotations

import base64
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.config.bundle import BundleRecord
from leukoscope.core.known_classes import Roles
from leukoscope.core.labels import class_description, class_title, malignant_mask, role_of
from leukoscope.evaluation.statistics.hierarchy import split_levels
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.imaging.segment import segment_leukocytes
from leukoscope.runtime.by_patient import features_of
from leukoscope.runtime.cell_sheet import deciding_cells, for_and_against
from leukoscope.runtime.heatmap import colour_map
from leukoscope.runtime.prediction import Failure, Prediction
from leukoscope.runtime.predictor import Predictor
from leukoscope.service.decoding import Decode
from leukoscope.service.model_pool import ServedModel

_SHOWN_PX = 480
_THUMB_PX = 64
_BORDERLINE = 1.2  # times the largest accepted distance
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class Pictures:
    """Data URIs.

    Attributes:
        thumb: As sent, upright, very small.
        original: The same, larger.
        seen: What the network was given; None for an image that was cut.
        framed: An image that was cut, with a frame around each part; None for others.
        contours: The original with outlines of leukocytes.
        heat: Heat map alone, to be laid over ``seen``; None where the model gives none.
        leukocytes: Number of outlines.
    """

    thumb: str
    original: str
    seen: str | None
    framed: str | None
    contours: str
    heat: str | None
    leukocytes: int


def draw_pictures(
    predictor: Predictor, decode: Decode, upload: tuple[str, bytes], answer: Prediction
) -> Pictures:
    """Decode the image again and draw; runs in a thread.

    Args:
        predictor: The model that answered.
        decode: Decodes the image.
        upload: Its name and bytes.
        answer: With its heat, where there is one.
    """
    image = decode(*upload).image
    small = _fit(image)
    outlined, count = _outline(small)
    sent = _uri(_fit(small, _THUMB_PX)), _uri(small)
    if answer.tiles is not None:
        return Pictures(*sent, None, picture_uri(answer.framed), _uri(outlined), None, count)
    seen = apply_preprocess(image, predictor.record.preprocess)
    heat = None
    if answer.heat is not None:
        heat = _uri(colour_map(answer.heat, (seen.shape[0], seen.shape[1])))
    return Pictures(*sent, _uri(seen), None, _uri(outlined), heat, count)


def picture_uri(image: NDArray[np.uint8] | None) -> str | None:
    """A picture as it is, or None where there is none."""
    return None if image is None else _uri(image)


def _fit(image: NDArray[np.uint8], most_px: int = _SHOWN_PX) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = min(1.0, most_px / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _outline(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
    """White under black, so that the line is seen on any ground."""
    cells = segment_leukocytes(image).cell.astype(np.uint8)
    outlines, _ = cv2.findContours(cells, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn = image.copy()
    for colour, width in (((255, 255, 255), 4), ((0, 60, 90), 2)):
        cv2.drawContours(drawn, outlines, -1, colour, width, cv2.LINE_AA)
    return drawn, len(outlines)


def _uri(image: NDArray[np.uint8]) -> str:
    flags = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags)
    return f"data:image/jpeg;base64,{base64.b64encode(bytes(data)).decode()}"


@cache
def texts() -> dict[str, dict[str, Any]]:
    """All sentences of the page, by section and name."""
    return tomllib.loads(files(__package__).joinpath("texts.toml").read_text(encoding="utf-8"))


def percent(share: float) -> str:
    """A share; never 0 or 100 % where it is not.

    >>> percent(0.1234), percent(0.99999), percent(0.0001), percent(0.0)
    ('12.3 %', '> 99.9 %', '< 0.1 %', '0.0 %')
    """
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return "> 99.9 %" if 0.9995 <= share < 1 else f"{100 * share:.1f} %"


def probability(p: float) -> str:
    """A model's probability: no model is certain, so one that was rounded to 0 or 1 is neither.

    >>> probability(0.1234), probability(0.99999), probability(1.0), probability(0.0)
    ('12.3 %', '> 99.9 %', '> 99.9 %', '< 0.1 %')
    """
    least = 1e-6
    return percent(min(max(p, least), 1 - least))


def card(
    model: ServedModel, index: int, answer: Prediction, pictures: Pictures
) -> dict[str, object]:
    """One readable image."""
    record = model.predictor.record
    t = texts()
    return {
        "number": index + 1,
        "name": answer.image,
        "sha256": answer.sha256,
        "decision": answer.decision,
        "sentence": _sentence(answer, record),
        "reasons": answer.reasons,
        "class": answer.predicted,
        "predicted": class_title(answer.predicted),
        "p": answer.probabilities[answer.predicted],
        "p_malignant": answer.p_malignant,
        "probability": probability(answer.probabilities[answer.predicted]),
        "bars": [
            _bar(name, p, name in answer.prediction_set) for name, p in answer.probabilities.items()
        ],
        "set": [class_title(name) for name in answer.prediction_set],
        "coverage": f"{record.conformal.coverage:.0%}",
        "promise": promise(record),
        "parts": _parts(answer),
        "malignant": None if answer.p_malignant is None else probability(answer.p_malignant),
        "subtypes": _subtypes(answer, record.roles),
        "quality": _quality(answer.quality, record),
        "ood": None
        if answer.ood_score is None or record.ood is None
        else t["card"]["ood"].format(
            score=f"{answer.ood_score:.3g}", limit=f"{record.ood.threshold:.3g}"
        ),
        "similar": _similar(model, answer),
        "seen_in_training": answer.sha256 in model.predictor.trained_on_sha256,
        "pictures": pictures,
        "size_px": record.preprocess.size_px,
    }


def _sentence(answer: Prediction, record: BundleRecord) -> str:
    """The decision in words; a rejection by distance says how far the image is."""
    words = texts()["decision"]
    if record.ood is None or answer.ood_score is None or answer.ood_score <= record.ood.threshold:
        return str(words[answer.decision])
    limit = record.ood.threshold
    if answer.ood_score > _BORDERLINE * limit:
        return str(words["unlike"])
    return str(words["borderline"].format(score=f"{answer.ood_score:.3g}", limit=f"{limit:.3g}"))


def _parts(answer: Prediction) -> str | None:
    """How many parts of an image that was cut were used, and what they say."""
    if answer.tiles is None:
        return None
    shares = ", ".join(
        f"{class_title(name)} {share:.0%}" for name, share in answer.tiles["share"].items() if share
    )
    kind = answer.tiles["kind"]
    return str(texts()["card"]["parts"].format(n=answer.tiles["n"], kind=kind, shares=shares))


def promise(record: BundleRecord) -> str:
    """For which new images a model is calibrated, and what was measured of that."""
    t, made = texts()["promise"], record.promise
    if made is None:
        return str(t["none"])
    kind = {"patient": "patient", "image": "image"}.get(made.unit, "cluster")
    share = f"{100 * made.coverage:g} %"
    words = [t[kind].format(coverage=share, n=made.n_groups, unit=made.unit)]
    found = made.measured
    if found is not None:
        limits = found.low, found.high
        values = {"what": t[f"{kind}s"], "value": percent(found.value)}
        if limits[0] is None or limits[1] is None:
            words.append(t["point"].format(**values))
        else:
            words.append(
                t["measured"].format(**values, low=percent(limits[0]), high=percent(limits[1]))
            )
        words += [] if found.reliable else [t["few"]]
    return " ".join(words)


def _bar(name: str, p: float, inside: bool) -> dict[str, object]:
    return {
        "title": class_title(name),
        "text": probability(p),
        "width": f"{100 * p:.2f}%",
        "inside": inside,
    }


def _similar(model: ServedModel, answer: Prediction) -> dict[str, object] | None:
    """The training cases nearest to an image; None where the bundle carries none."""
    record, library, t = model.predictor.record.similar, model.predictor.cases, texts()["similar"]
    if record is None or library is None:
        return None
    found = answer.similar or ()
    cases = [
        {
            "title": class_title(case.label),
            "distance": t["distance"].format(score=f"{case.distance:.2g}"),
            "caption": t["caption"].format(id=case.image_id),
            "source": t["source"].format(n=case.acquisition) if case.acquisition else "",
            "picture": picture_uri(library.picture(case.number)),
        }
        for case in found
    ]
    far = bool(found) and found[0].distance > 1
    return {
        "cases": cases,
        "scale": t["scale"].format(n=record.n, word=t["far" if far else "usual"]),
    }


def _subtypes(answer: Prediction, roles: Roles) -> list[dict[str, object]]:
    """P(subtype | malignant); nothing where there is one malignant class, or no hierarchy."""
    if answer.p_malignant is None:
        return []
    p = answer.probabilities
    _, shares, names = split_levels([list(p.values())], [*p], roles)
    if len(names) < 2:
        return []
    return [_bar(name, float(p), False) for name, p in zip(names, shares[0], strict=True)]


def _quality(quality: Mapping[str, float], record: BundleRecord) -> list[dict[str, object]]:
    t, limits = texts(), record.quality
    rows = []
    for name, value in quality.items():
        row: dict[str, object] = {"name": t["quality"].get(name, name), "value": f"{value:.3g}"}
        if limits is not None and name in limits.low:
            low, high = limits.low[name], limits.high[name]
            row["ok"] = low <= value <= high
            row["limits"] = t["card"]["limits"].format(low=f"{low:.3g}", high=f"{high:.3g}")
        rows.append(row)
    return rows


def deciding(
    model: ServedModel, answers: Sequence[Prediction | Failure], predicted: str | None
) -> list[dict[str, object]]:
    """The images that moved the answer for a patient most, for it and against it.

    Args:
        model: That answered.
        answers: For the images, in the order of the upload.
        predicted: Class of the patient; None where no image could be used.

    Returns:
        Groups with a heading and their images; none where there is no choice of images, or where
        the answers for images are put together.
    """
    head, t = model.predictor.patient_head, texts()["patient"]
    used = [
        (place, answer)
        for place, answer in enumerate(answers)
        if isinstance(answer, Prediction) and answer.decision != "reject"
    ]
    if head is None or predicted is None or len(used) < 2:
        return []
    best = model.predictor.class_names.index(predicted)
    cells = deciding_cells(head, features_of([answer for _, answer in used]), best)
    return [
        {
            "heading": t[words].format(title=class_title(predicted)),
            "cells": [{"place": used[cell.row][0], "caption": cell.caption} for cell in found],
        }
        for words, found in zip(("for", "against"), for_and_against(cells), strict=True)
        if found
    ]


def patient(row: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """The images of one patient put together; without a usable image only why there is none."""
    t = texts()["patient"]
    decision = row.get("decision") or ""
    found = {
        "decision": decision,
        "decided": t[decision] if decision else "",
        "reasons": row.get("reasons") or "",
    }
    if not row["predicted"]:
        return found | {"sentence": t["none"], "bars": [], "agreement": "", "reasons": ""}
    uses = t["uses"].format(
        n=row["n_images"],
        method=row["method"],
        rejected=row["n_rejected"],
        unreadable=row["n_unreadable"],
    )
    chosen = (row.get("prediction_set") or "").split()
    interval = ""
    if row["low"] is not None:
        interval = t["interval"].format(low=percent(row["low"]), high=percent(row["high"]))
    return found | {
        "sentence": uses,
        "predicted": class_title(row["predicted"]),
        "interval": interval,
        "agreement": ""
        if row["agreement"] is None or row["n_images"] == 1
        else t["agreement"].format(share=percent(row["agreement"])),
        "bars": [_bar(name, row[f"p_{name}"], name in chosen) for name in class_names],
        "malignant": None if row["p_malignant"] is None else probability(row["p_malignant"]),
    }


def about(model: ServedModel) -> dict[str, object]:
    """A model and its classes."""
    record, t = model.predictor.record, texts()["about"]
    classes = []
    for name in record.class_names:
        role = role_of(name, record.roles)
        branch = t["malignant" if role == "malignant" else "other" if role else "unstated"]
        meaning = class_description(name) or t["unknown"]
        classes.append(
            {"name": name, "title": class_title(name), "meaning": meaning, "branch": branch}
        )
    return {
        "name": model.name,
        "model": model.predictor.model,
        "sha256": model.predictor.bundle.sha256,
        "trained_on": record.trained_on,
        "licence": record.licence,
        "promise": promise(record),
        "verdict": "" if record.verdict is None else record.verdict.headline,
        "warning": record.warning,
        "classes": classes,
        "two_sides": malignant_mask(record.class_names, record.roles) is not None,
        "hematogones": "benign" in record.class_names,
        "has_card": bool(model.card),
        "knows_phantoms": record.phantoms,
        "by_patient": record.patient is not None,
        "examples": sorted(model.examples),
    }
