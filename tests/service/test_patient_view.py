"""What the page says of the images of one patient."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from leukoscope.evaluation.patient_heads import MeanProbabilityHead
from leukoscope.runtime.prediction import Failure
from leukoscope.runtime.predictor import load_bundle
from leukoscope.service import views


def _answers(bundle: Any, red: bytes, features: list[list[float]]) -> list[Any]:
    """The answer for one image as often as there are features, not rejected."""
    image = cv2.imdecode(np.frombuffer(red, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    (answer,) = load_bundle(bundle).predict([np.ascontiguousarray(image)])
    return [
        replace(answer, decision="review", features=np.array(row, np.float32)) for row in features
    ]


def _model(head: object) -> Any:
    predictor = SimpleNamespace(patient_head=head, class_names=("aml", "apl"))
    return SimpleNamespace(predictor=predictor)


def test_the_images_that_decided_are_named_by_their_place(bundle: Any, red: bytes) -> None:
    head = MeanProbabilityHead(np.eye(2), np.zeros(2))
    answers = _answers(bundle, red, [[3.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    answers[2] = replace(answers[2], decision="reject")
    broken = Failure("x.png", "truncated", "the file ends too early")
    found = views.deciding(_model(head), [broken, *answers], "aml")
    speaking, against = found
    assert speaking["heading"] == "Images that spoke most for AML"
    assert [cell["place"] for cell in speaking["cells"]] == [1]
    assert [cell["place"] for cell in against["cells"]] == [2]
    assert speaking["cells"][0]["caption"].startswith("+")
    assert "weight 50 %" in speaking["cells"][0]["caption"]


def test_nothing_decided_where_there_is_no_choice(bundle: Any, red: bytes) -> None:
    head = MeanProbabilityHead(np.eye(2), np.zeros(2))
    answers = _answers(bundle, red, [[3.0, 0.0], [0.0, 2.0]])
    assert views.deciding(_model(None), answers, "aml") == []  # answers for images put together
    assert views.deciding(_model(head), answers[:1], "aml") == []
    assert views.deciding(_model(head), answers, None) == []
