"""From an upload to answers: the way that the API and the page share."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import Request

from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.preprocess import apply_preprocess
from leukoscope.runtime.by_patient import PatientCollector
from leukoscope.runtime.heatmap import encode_png, overlay
from leukoscope.runtime.prediction import Failure
from leukoscope.service.batching import Answer, QueueFullError
from leukoscope.service.models import ServedModel
from leukoscope.service.problems import ProblemError
from leukoscope.service.settings import ServiceSettings
from leukoscope.service.uploads import Upload

ByPatient = Literal["one", "folder", "field"]


async def ask(
    request: Request,
    model: ServedModel,
    upload: Upload,
    settings: ServiceSettings,
    *,
    heat: bool,
    similar: int,
) -> list[Answer]:
    """Put the images into the model's queue and wait for the answers.

    Raises:
        ProblemError: Heat maps are asked of a model that has none, the queue is full, or the
            answers do not come in time.
    """
    if heat and not model.predictor.has_maps:
        raise ProblemError(422, f"explain: the model {model.name} gives no heat maps; ask without")
    try:
        answers = await model.batcher.submit(
            upload.files, heat=heat, similar=similar, timeout_s=settings.timeout_s
        )
    except QueueFullError as full:
        detail = f"{model.batcher.waiting} images wait already; none of yours was taken"
        raise ProblemError(429, detail, retry_after_s=full.retry_after_s) from None
    except TimeoutError:
        seconds = settings.timeout_s
        raise ProblemError(
            503, f"no answer within {seconds:g} s; dropped", retry_after_s=5
        ) from None
    unreadable = sum(isinstance(answer, Failure) for answer in answers)
    request.state.noted = {"images": len(answers), "unreadable": unreadable, "model": model.name}
    return answers


def rows(model: ServedModel, answers: Sequence[Answer]) -> tuple[list[Any], list[Any]]:
    """Predictions and errors as the API gives them."""
    good: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    for index, answer in enumerate(answers):
        row = {"index": index, **answer.as_dict()}
        if isinstance(answer, Failure):
            bad.append(row)
        else:
            known = answer.sha256 in model.predictor.trained_on_sha256
            good.append(row | {"seen_in_training": known})
    return good, bad


def by_patient(
    model: ServedModel, upload: Upload, answers: Sequence[Answer], how: ByPatient
) -> list[dict[str, Any]]:
    """One row a patient.

    Raises:
        ProblemError: It cannot be told which patient an image belongs to.
    """
    names = [name for name, _ in upload.files]
    if how == "one":
        patients = ["1"] * len(names)
    elif how == "folder":
        patients = [name.split("/")[0] if "/" in name else "" for name in names]
        if not all(patients):
            raise ProblemError(
                422, "by_patient=folder: expected file names such as patient/image.png"
            )
    else:
        patients = upload.patients
        if len(patients) != len(names) or not all(patients):
            raise ProblemError(
                422, f"by_patient=field: expected {len(names)} fields 'patient', one for each file "
                f"in order and none empty; got {len(patients)}"
            )  # fmt: skip
    turn = iter(patients)  # names may repeat, places do not
    predictor = model.predictor
    collector = PatientCollector(predictor.record, predictor.model, lambda _: next(turn))
    for answer in answers:
        collector.add(answer)
    return collector.rows()


def heat_uri(model: ServedModel, data: bytes, answer: Answer) -> str | None:
    """The heat map over what the model saw, as a PNG data URI; None where there is none."""
    if isinstance(answer, Failure) or answer.heat is None:
        return None
    seen = apply_preprocess(decode_image(data).image, model.predictor.record.preprocess)
    encoded = base64.b64encode(encode_png(overlay(seen, answer.heat))).decode()
    return f"data:image/png;base64,{encoded}"
