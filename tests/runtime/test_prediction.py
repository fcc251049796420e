from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukoscope.config.bundle import OperatingPoint, QualityLimits
from leukoscope.core.errors import ImageError
from leukoscope.core.known_classes import Role
from leukoscope.imaging.quality import QUALITY_MEASURES
from leukoscope.runtime import prediction
from leukoscope.runtime.prediction import Failure, decide, malignant_probability, quality_notes

FINE = {"brightness": 100.0}  # the tiny bundle knows 20 to 160, and distances up to 4


def test_one_class_a_near_image_and_good_quality_are_accepted(tiny: SimpleNamespace) -> None:
    assert decide(tiny.record(), ("pre_b",), 4.0, FINE) == ("accept", ())


def test_a_far_image_is_rejected(tiny: SimpleNamespace) -> None:
    decision, (reason,) = decide(tiny.record(), ("pre_b",), 4.01, FINE)
    assert decision == "reject"
    assert "unlike the images this model was trained on (distance 4.01, accepted up to 4)" in reason


def test_more_than_one_class_asks_for_review(tiny: SimpleNamespace) -> None:
    decision, (reason,) = decide(tiny.record(), ("benign", "pre_b"), 1.0, FINE)
    assert decision == "review"
    assert "at 90% confidence, between Benign (hematogones) and Pre-B ALL." in reason


def test_no_class_asks_for_review(tiny: SimpleNamespace) -> None:
    decision, (reason,) = decide(tiny.record(), ("pre_b",), 1.0, FINE, unsure=True)
    assert decision == "review"
    assert reason == "No class is probable enough for 90% confidence."


def test_the_flagged_side_of_an_operating_point_is_said(tiny: SimpleNamespace) -> None:
    words = "miss at most 2 % of malignant fields, with 95 % confidence"
    record = tiny.record(operating_point=OperatingPoint(words=words, threshold=0.1, n_cal=200))
    flagged = {"benign": 0.85, "pre_b": 0.1, "pro_b": 0.05}
    decision, (reason,) = decide(record, ("benign",), 1.0, FINE, probabilities=flagged)
    assert decision == "review"
    assert reason == f"P(malignant) 0.15 reaches 0.1, the limit chosen to “{words}”: flagged."
    malignant = {"benign": 0.05, "pre_b": 0.9, "pro_b": 0.05}
    assert decide(record, ("pre_b",), 1.0, FINE, probabilities=malignant)[0] == "accept"
    assert "flagged" in decide(record, ("pre_b",), 1.0, FINE, probabilities=malignant)[1][0]
    cleared = {"benign": 0.95, "pre_b": 0.04, "pro_b": 0.01}
    assert decide(record, ("benign",), 1.0, FINE, probabilities=cleared) == ("accept", ())
    refused = tiny.record(
        operating_point=OperatingPoint(words=words, threshold=None, n_cal=20, needed=149)
    )
    assert decide(refused, ("benign",), 1.0, FINE, probabilities=flagged)[1] == ()


@pytest.mark.parametrize(
    ("brightness", "decision", "word"),
    [
        (20.0, "accept", ""),
        (160.0, "accept", ""),
        (15.0, "review", "darker"),
        (170.0, "review", "brighter"),
        (4.9, "reject", "far darker"),
        (301.0, "reject", "far brighter"),
        (299.0, "review", "brighter"),
    ],
)
def test_quality_outside_the_limits(
    brightness: float, decision: str, word: str, tiny: SimpleNamespace
) -> None:
    found, reasons = decide(tiny.record(), ("pre_b",), 1.0, {"brightness": brightness})
    assert found == decision
    assert (f"The image is {word} than the training images" in " ".join(reasons)) == bool(word)


def test_all_reasons_are_told_and_the_gravest_decides(tiny: SimpleNamespace) -> None:
    decision, reasons = decide(tiny.record(), ("pre_b",), 9.0, {"brightness": 15.0}, unsure=True)
    assert decision == "reject"
    assert [reason.split()[0:3] for reason in reasons] == [
        ["The", "image", "is"],
        ["No", "class", "is"],
        ["The", "image", "is"],
    ]
    assert "unlike" in reasons[0]


def test_without_ood_statistics_and_limits_only_the_set_counts(tiny: SimpleNamespace) -> None:
    record = tiny.record(ood=None, quality=None)
    assert decide(record, ("pre_b",), None, {}) == ("accept", ())


@given(low=st.floats(-50, 100), width=st.floats(0.001, 100), value=st.floats(0, 1000))
def test_every_measure_has_words_and_one_note_at_most(
    low: float, width: float, value: float
) -> None:
    for name in QUALITY_MEASURES:
        limits = QualityLimits(low={name: low}, high={name: low + width})
        far, near = quality_notes({name: value}, limits)
        assert len(far) + len(near) == (0 if low <= value <= low + width else 1)


def test_the_words_cover_the_measures() -> None:
    assert set(prediction._TOO_LOW) == set(prediction._TOO_HIGH) == set(QUALITY_MEASURES)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ({"healthy": 0.75, "all": 0.25}, 0.25),
        ({"benign": 0.0, "pre_b": 0.7, "pro_b": 0.3 + 1e-16}, 1.0),
        ({"pre_b": 0.5, "pro_b": 0.5}, None),
        ({"healthy": 0.5, "benign": 0.5}, None),
        ({"benign": 0.5, "monocyte": 0.5}, None),
    ],
)
def test_malignant_probability(probabilities: dict[str, float], expected: float | None) -> None:
    assert malignant_probability(probabilities) == expected


def test_roles_of_the_users_own_classes_decide(tiny: SimpleNamespace) -> None:
    p = {"hairy_cell": 0.2, "thing": 0.8}
    assert malignant_probability(p) is None
    roles: dict[str, Role] = {"hairy_cell": "malignant", "thing": "other"}
    assert malignant_probability(p, roles) == 0.2
    words = "miss at most 2 % of malignant fields, with 95 % confidence"
    point = OperatingPoint(words=words, threshold=0.1, n_cal=200)
    record = tiny.record(class_names=("hairy_cell", "thing"), operating_point=point)
    assert decide(record, ("thing",), 1.0, FINE, probabilities=p) == ("accept", ())
    stated = record.model_copy(update={"roles": roles})
    assert decide(stated, ("thing",), 1.0, FINE, probabilities=p)[0] == "review"


def test_a_failure_becomes_an_exception() -> None:
    failure = Failure("a.png", "truncated", "ends early", "copy it again")
    error = failure.as_error()
    assert isinstance(error, ImageError)
    assert (error.path, error.reason, str(error)) == (Path("a.png"), "truncated", str(failure))
